"""The store comes back while the end of a turn is being stored, whenever that is."""

from __future__ import annotations

from typing import Any

import pytest

from conversations import lanes, turns
from conversations.errors import StoreError
from conversations.models import ChatMessage, ChatTurn
from conversations.tests.scripted import Say
from conversations.tests.turns_helpers import ask, shown, until


@pytest.mark.parametrize("refused", [1, 3, 8, 12])
@pytest.mark.django_db(transaction=True)
async def test_a_store_that_returns_between_two_writes_of_an_end_loses_no_memory(
    session, script, settings, monkeypatch, refused
):
    settings.CHAT_STORE_BUDGET_SECONDS = 0.2
    script(Say("One."))
    write, refusals = lanes.write, 0

    async def away_for_a_while(job: Any, **options: Any) -> Any:
        nonlocal refusals
        name = getattr(getattr(job, "func", job), "__qualname__", "")
        if ("flush" in name or name == "finish") and refusals < refused:
            refusals += 1
            raise StoreError
        return await write(job, **options)

    monkeypatch.setattr(lanes, "write", away_for_a_while)
    await ask(session, "First")
    await turns.settled(session.id)

    async def is_closed() -> bool:
        return not await lanes.call(
            ChatTurn.objects.filter(session=session, finished_at=None).exists
        )

    await until(is_closed)
    assert refusals == refused
    assert await shown(session) == [("user", "First"), ("assistant", "One.")]
    remembered = ChatMessage.objects.filter(session=session, agent_item__isnull=False)
    assert await lanes.call(remembered.count) == 2
