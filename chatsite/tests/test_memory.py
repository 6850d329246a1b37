"""A long conversation with tool calls: what the assistant still knows, it knows well."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from agents.run_internal.session_persistence import prepare_input_with_session
from django.contrib.auth import get_user_model

from conversations import lanes, threads, turns
from conversations.agents_session import AgentSession
from conversations.events import ContentDelta, ToolCalled
from conversations.models import ChatSession
from conversations.store import recall

FRUITS = ("apples", "pears", "plums", "figs", "dates", "limes", "melons", "cherries", "grapes")


@pytest.fixture(scope="session", autouse=True)
def _lanes_end_before_the_database(django_db_setup: None) -> Iterator[None]:
    yield
    lanes.close()


@pytest.fixture
def ada(transactional_db: None) -> Any:
    return get_user_model().objects.create_user("ada")


@pytest.mark.parametrize(
    ("messages", "budget"), [(70, 50), pytest.param(300, 200, marks=pytest.mark.long)]
)
async def test_many_messages_later_the_memory_is_valid_and_honest(ada, settings, messages, budget):
    settings.CONVERSATIONS_AGENT = "chatsite.todo.agent.build_agent"
    settings.AGENT_SESSION_MAX_MESSAGES = budget
    exchanges = messages // 2
    thread = await threads.create_thread(owner_id=ada.pk)
    tool_calls = 0

    async def say(text: str) -> str:
        nonlocal tool_calls
        turn = await turns.send(session_id=thread.id, owner_id=ada.pk, text=text)
        events = [event async for batch in turn.listen() for _, event in batch]
        tool_calls += sum(isinstance(e, ToolCalled) and e.status == "done" for e in events)
        return "".join(event.text for event in events if isinstance(event, ContentDelta))

    first = "Create a task: buy flour"
    await say(first)
    assert first in await say("What was the first thing I asked you to do?")
    for number in range(exchanges - 3):
        await say(f"Create a task: buy {FRUITS[number % len(FRUITS)]} number {number}")
    last = "Create a task: buy apples number 999"
    assert "apples number 999" in await say(last)
    assert tool_calls == exchanges - 1

    session = await lanes.call(ChatSession.objects.get, id=thread.id)
    memory = await lanes.read(partial(recall.load_window, session_id=thread.id))
    assert session.message_count == messages
    assert budget - 4 < session.remembered_count == len(memory.items) <= budget
    assert session.pruned_count == tool_calls * 4 + 2 - len(memory.items)
    assert not memory.unreadable
    assert memory.items[0]["role"] == "user"
    given, _ = await prepare_input_with_session(
        "And now?", AgentSession(session.agent_session_id), None
    )
    assert len(given) == len(memory.items) + 1  # the SDK finds nothing to leave out

    assert f"“{last}”" in await say("What did I say last?")
    memory = await lanes.read(partial(recall.load_window, session_id=thread.id))
    honest = await say("What was the first thing I asked you to do?")
    assert first not in honest
    assert "no longer remember the beginning" in honest
    assert f"“{memory.items[0]['content']}”" in honest
