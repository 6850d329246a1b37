"""The memory of one turn: what of it is stored when, and that it never fails the run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest
from agents import RunContextWrapper, Usage

from conversations import lanes
from conversations.agents_session import AgentSession
from conversations.errors import LeaseLost, StoreReadOnly
from conversations.items import Memory, encode_item
from conversations.models import ChatMessage, ChatSession
from conversations.store import log
from conversations.tests.agents_session_helpers import (
    CALL,
    RESULT,
    answer,
    log_of,
    numbered,
    row_of,
    said,
)
from conversations.turns.session import TurnSession


@pytest.fixture
def turn_session(session: Any) -> Callable[..., TurnSession]:
    """The memory of a turn that has just begun: the user's row is stored and not remembered yet."""
    session.turns.create(id=(turn_id := uuid4()), number=1, status="running", lease_until=0)
    user_row = ChatMessage.objects.create(
        session=session, position=1, kind="message", role="user", text="Hi", shown=True
    )
    ChatSession.objects.filter(id=session.id).update(last_position=1, message_count=1, fence=1)

    def build(*, window: Memory | None = None, fence: int = 1) -> TurnSession:
        return TurnSession(
            session.agent_session_id,
            lease=log.Lease(session.id, turn_id, fence),
            window=window or Memory([]),
            user_message_id=user_row.id,
        )

    return build


async def test_a_turns_window_is_read_once_and_then_the_store(turn_session):
    memory = turn_session(window=Memory(numbered(1)))
    assert await memory.get_items() == numbered(1)
    assert await memory.get_items() == []


async def test_a_turn_that_asks_for_a_limit_reads_the_store(turn_session, session):
    await AgentSession(session.agent_session_id).add_items(numbered(1, 2))
    assert await turn_session(window=Memory(numbered(9))).get_items(limit=1) == numbered(2)


async def test_what_was_only_said_waits_for_what_follows_and_what_tools_did_does_not(
    turn_session, session
):
    memory, stored = turn_session(), AgentSession(session.agent_session_id)
    await memory.add_items([said("Hi")])
    assert await stored.get_items() == []
    await memory.add_items([answer("Let me look. "), CALL, RESULT])
    assert await stored.get_items() == [said("Hi"), answer("Let me look. "), CALL, RESULT]
    await memory.add_items([answer("Found it.")])
    assert len(await stored.get_items()) == 4
    await memory.flush()
    assert len(await stored.get_items()) == 5


async def test_a_turn_that_reads_its_memory_finds_what_it_has_said(turn_session):
    memory = turn_session()
    assert await memory.get_items() == []  # the window it began with
    await memory.add_items([said("Hi")])
    assert await memory.get_items() == [said("Hi")]


async def test_a_turn_that_has_lost_its_lease_stores_nothing(turn_session, session):
    with pytest.raises(LeaseLost):
        await turn_session(fence=0).add_items([said("Hi"), CALL])
    assert await AgentSession(session.agent_session_id).get_items() == []


async def test_the_first_batch_adopts_the_users_row(turn_session, session):
    memory = turn_session()
    await memory.add_items([said("Hi")])
    await memory.flush()
    rows = await log_of(session.agent_session_id)
    assert rows == [(1, encode_item(said("Hi")))]
    row = await row_of(session.agent_session_id)
    assert (row.remembered_count, row.message_count, row.last_position) == (1, 1, 1)


async def test_what_the_store_did_not_take_goes_with_the_next_batch(
    turn_session, session, monkeypatch
):
    memory, write = turn_session(), lanes.write

    async def refuse(_job: Any) -> None:
        raise StoreReadOnly

    monkeypatch.setattr(lanes, "write", refuse)
    await memory.add_items([said("Hi"), CALL])
    assert memory.warnings == ["This answer could not be saved"]
    monkeypatch.setattr(lanes, "write", write)
    await memory.add_items([RESULT])
    assert memory.warnings == []
    stored = AgentSession(session.agent_session_id)
    assert await stored.get_items() == [said("Hi"), CALL, RESULT]


async def test_a_turn_that_cannot_read_goes_on_without_context(turn_session, monkeypatch):
    async def refuse(_job: Any) -> None:
        raise StoreReadOnly

    memory = turn_session()
    monkeypatch.setattr(lanes, "read", refuse)
    assert await memory.get_items(limit=5) == []
    assert memory.warnings[0].startswith("Context unavailable")


@pytest.mark.parametrize("writable", [True, False])
async def test_a_turn_tells_that_rows_were_left_out(turn_session, monkeypatch, writable):
    async def refuse(_job: Any) -> None:
        raise StoreReadOnly

    memory = turn_session(window=Memory(numbered(1), unreadable={7: "unreadable"}))
    if not writable:
        monkeypatch.setattr(lanes, "write", refuse)
    assert await memory.get_items() == numbered(1)
    assert memory.warnings[0].startswith("Session data corrupted")


async def test_a_turn_that_asks_for_a_limit_tells_of_rows_left_out_too(turn_session, session):
    await AgentSession(session.agent_session_id).add_items([*numbered(1, 2), said("three")])
    await lanes.call(ChatMessage.objects.filter(position=3).update, agent_item="{")
    memory = turn_session()
    assert await memory.get_items(limit=2) == [{"n": 1}, said("three")]
    assert memory.warnings[0].startswith("Session data corrupted")


async def test_a_turn_keeps_what_its_run_has_used(turn_session, session):
    memory = turn_session()
    await memory.flush()  # nothing to store yet
    used = RunContextWrapper(None, usage=Usage(requests=2, input_tokens=20, output_tokens=10))
    await memory.add_items([said("Hi"), {"type": "function_call", "call_id": "c"}], wrapper=used)
    turn = await lanes.call(session.turns.get)
    assert (turn.requests, turn.input_tokens, turn.output_tokens) == (2, 20, 10)


async def test_an_answer_over_a_tool_is_one_shown_row(turn_session, session):
    memory = turn_session()
    items = [said("Hi"), answer("Let me look. "), CALL, RESULT, answer("Found "), answer("it.")]
    for item in items:
        await memory.add_items([item])
    await memory.flush()
    shown = ChatMessage.objects.filter(session=session, shown=True).order_by("position")
    assert await lanes.call(lambda: list(shown.values_list("role", "text"))) == [
        ("user", "Hi"),
        ("assistant", "Let me look. Found it."),
    ]
    row = await row_of(session.agent_session_id)
    assert (row.message_count, row.remembered_count) == (2, 6)
    assert await AgentSession(session.agent_session_id).get_items() == items
