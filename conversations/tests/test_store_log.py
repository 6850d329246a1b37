"""The ordered log: positions, counters, what a lease may write, what is forgotten."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
from django.db import IntegrityError
from django.forms import model_to_dict

from conversations import lanes
from conversations.errors import LeaseLost
from conversations.events import Usage
from conversations.items import Memory, Row, row_from_item
from conversations.models import ChatMessage, ChatSession, ChatTurn, RecordedEvents
from conversations.store import log, recall
from conversations.tests.factories import ChatSessionFactory

pytestmark = pytest.mark.django_db(transaction=True)

NOW = datetime(2026, 11, 23, 12, 0, 0, 123456, tzinfo=UTC)
LATER = NOW + timedelta(minutes=1)


def said(text: str, role: str = "user") -> Row:
    return row_from_item({"role": role, "content": text})


def call(name: str) -> Row:
    return row_from_item({"type": "function_call", "call_id": name})


async def append(name: str, *rows: Row, now: datetime = NOW, usage: Usage | None = None) -> None:
    job = partial(log.append, agent_session_id=name, rows=rows, usage=usage or Usage(), now=now)
    await lanes.write(job)


async def load(name: str, limit: int | None = None) -> list[Any]:
    memory = await lanes.read(partial(recall.load, agent_session_id=name, limit=limit))
    return memory.items


async def rows(**where: Any) -> list[ChatMessage]:
    return await lanes.call(lambda: list(ChatMessage.objects.filter(**where).order_by("position")))


async def session_named(name: str) -> ChatSession:
    return await lanes.call(ChatSession.objects.get, agent_session_id=name)


# Appending


async def test_the_first_batch_begins_the_session_and_the_next_goes_on():
    await append("s", said("one"), call("c"))
    await append("s", said("two", "assistant"), now=LATER)
    assert [row.position for row in await rows()] == [1, 2, 3]
    session = await session_named("s")
    assert (session.last_position, session.remembered_count, session.message_count) == (3, 3, 2)
    assert (session.created_at, session.last_active_at, session.updated_at) == (NOW, LATER, LATER)


async def test_a_row_is_stored_as_it_was_made():
    row = Row(
        kind="message",
        role="assistant",
        call_id="c1",
        text="Hello",
        shown=True,
        agent_item=None,
        thread_item='{"a":1}',
        incomplete=True,
    )
    await append("s", row)
    (stored,) = await rows()
    assert stored.id == row.id
    assert stored.created_at == NOW
    for name in ("kind", "role", "call_id", "text", "shown", "agent_item", "thread_item"):
        assert getattr(stored, name) == getattr(row, name)
    assert stored.incomplete
    assert stored.quarantined_at is None
    assert (await session_named("s")).remembered_count == 0  # the model never saw it


async def test_a_session_begun_by_code_is_like_one_begun_by_a_form():
    await append("s", said("one"))
    by_code = await session_named("s")
    by_form = await lanes.call(lambda: ChatSession.objects.create(agent_session_id="other"))
    changed = {"id", "agent_session_id", "last_position"}
    changed |= {"remembered_count", "message_count", "item_count"}
    names = {field.name for field in ChatSession._meta.fields if field.editable} - changed
    assert model_to_dict(by_code, names) == model_to_dict(by_form, names)


async def test_beginning_a_session_that_is_there_changes_nothing(user):
    begin = partial(log.create_session, agent_session_id="s", now=NOW)
    await lanes.write(partial(begin, owner_id=user.pk, title="mine", metadata_json='{"a": 1}'))
    await lanes.write(partial(begin, title="other"))
    session = await session_named("s")
    assert (session.title, session.owner_id, session.metadata) == ("mine", user.pk, {"a": 1})


async def test_a_batch_that_fails_takes_no_position():
    one = said("one")
    await append("s", one)
    with pytest.raises(IntegrityError):
        await append("s", said("two"), replace(said("three"), id=one.id))
    await append("s", said("four"))
    assert [(row.position, row.text) for row in await rows()] == [(1, "one"), (2, "four")]
    assert (await session_named("s")).last_position == 2


async def test_many_that_begin_one_session_begin_one():
    await asyncio.gather(*[append("s", said(str(number)), call("c")) for number in range(20)])
    stored = await rows()
    assert [row.position for row in stored] == list(range(1, 41))
    assert [row.kind for row in stored] == ["message", "function_call"] * 20
    assert await lanes.call(ChatSession.objects.count) == 1


async def test_tokens_add_up():
    await append("s", said("one"), usage=Usage(1, 10, 5))
    await append("s", said("two"), usage=Usage(1, 7, 3))
    session = await session_named("s")
    assert (session.input_tokens, session.output_tokens) == (17, 8)


# Reading


@pytest.mark.parametrize(
    ("limit", "expected"),
    [(None, "abcd"), (-1, ""), (0, ""), (1, "d"), (3, "bcd"), (4, "abcd"), (9, "abcd")],
)
async def test_the_latest_are_read_oldest_first(limit, expected):
    await append("s", *map(said, "abcd"))
    await append("other", said("x"))
    assert "".join(item["content"] for item in await load("s", limit)) == expected


async def test_rows_the_model_does_not_see_do_not_count_in_a_limit():
    await append("s", said("a"), said("b"), Row("message", "assistant", text="partial", shown=True))
    await lanes.call(ChatMessage.objects.filter(position=2).update, quarantined_at=NOW)
    assert [item["content"] for item in await load("s", 1)] == ["a"]
    assert [item["content"] for item in await load("s")] == ["a"]


async def test_a_window_is_read_by_the_sessions_id(session):
    await append(session.agent_session_id, said("a"))
    memory = await lanes.read(partial(recall.load_window, session_id=session.id))
    assert [item["content"] for item in memory.items] == ["a"]
    empty = await lanes.read(partial(recall.load_window, session_id=uuid.uuid4()))
    assert empty == Memory([])


def test_a_failure_that_is_not_of_the_text_is_not_tried_again():
    class Broken(lanes.Database):
        is_sqlite = True
        asked = 0

        def all(self, sql: str, params: Any = ()) -> list[Any]:
            self.asked += 1
            raise ZeroDivisionError

    broken = Broken()
    with pytest.raises(ZeroDivisionError):
        recall.load(broken, agent_session_id="s")
    assert broken.asked == 1


async def test_setting_aside_nothing_asks_the_database_nothing():
    recall.quarantine(None, agent_session_id="a", memory=Memory([]), now=NOW)


# Forgetting


async def test_pop_takes_what_people_read_from_their_count_too():
    await append("s", said("one"), call("c"))
    pop = partial(recall.pop, agent_session_id="s", now=LATER)
    assert (await lanes.write(pop))["type"] == "function_call"
    assert (await session_named("s")).message_count == 1
    assert (await lanes.write(pop))["content"] == "one"
    session = await session_named("s")
    assert (session.message_count, session.remembered_count) == (0, 0)
    assert (session.last_position, session.last_active_at) == (2, LATER)
    assert await lanes.write(pop) is None


async def test_pop_and_clear_of_a_session_that_is_not_there_make_none():
    assert await lanes.write(partial(recall.pop, agent_session_id="s", now=NOW)) is None
    assert await lanes.write(partial(log.clear, agent_session_id="s", now=NOW)) == 0
    assert await lanes.call(ChatSession.objects.count) == 0


async def test_clear_keeps_what_turns_cost_and_nothing_that_was_said(session):
    name = session.agent_session_id
    await append(name, said("one"), said("two", "assistant"), call("c"), usage=Usage(1, 10, 5))
    turn = await lanes.call(
        lambda: ChatTurn.objects.create(
            session=session,
            number=1,
            status="interrupted",
            input_tokens=10,
            user_message_id=uuid.uuid4(),
            answer_message_id=uuid.uuid4(),
        )
    )
    told = RecordedEvents(turn=turn, first_number=1, last_number=1, events='["one"]')
    await lanes.call(told.save, force_insert=True)
    assert await lanes.write(partial(log.clear, agent_session_id=name, now=LATER)) == 2
    assert await rows() == []
    assert not await lanes.call(RecordedEvents.objects.exists)
    await lanes.call(turn.refresh_from_db)
    assert (turn.user_message_id, turn.answer_message_id) == (None, None)
    assert turn.input_tokens == 10
    cleared = await session_named(name)
    assert (cleared.message_count, cleared.remembered_count) == (0, 0)
    assert (cleared.input_tokens, cleared.last_position) == (
        10,
        3,
    )  # positions are never used again


# What a lease may write


@pytest.fixture
def lease(session: Any) -> log.Lease:
    """A running turn with its user's row, under fence 1."""
    turn = ChatTurn.objects.create(session=session, number=1, status="running", lease_until=0)
    ChatSession.objects.filter(id=session.id).update(fence=1, last_position=1, message_count=1)
    ChatMessage.objects.create(
        session=session, turn=turn, position=1, kind="message", role="user", text="Hi", shown=True
    )
    return log.Lease(session.id, turn.id, 1)


@pytest.fixture
def append_for_turn(lease: log.Lease) -> Callable[..., Any]:
    async def add(*rows: Row, fence: int = 1, **more: Any) -> None:
        current, batch = replace(lease, fence=fence), log.Batch(rows, **more)
        await lanes.write(partial(log.append_for_turn, lease=current, batch=batch, now=NOW))

    return add


async def test_a_turns_rows_belong_to_it(append_for_turn, lease):
    await append_for_turn(call("c"), said("Hello", "assistant"), usage=Usage(2, 20, 10))
    assert [(row.position, row.turn_id) for row in await rows()] == [
        (position, lease.turn_id) for position in (1, 2, 3)
    ]
    session = await lanes.call(ChatSession.objects.get, id=lease.session_id)
    assert (session.remembered_count, session.message_count) == (2, 2)
    assert session.input_tokens == 0  # what a turn costs is added when it ends
    turn = await lanes.call(ChatTurn.objects.get, id=lease.turn_id)
    assert (turn.requests, turn.input_tokens, turn.output_tokens) == (2, 20, 10)


async def test_the_users_row_is_adopted_in_its_place(append_for_turn, lease):
    (user_row,) = await rows()
    await append_for_turn(adopt=(user_row.id, said("Hi")))
    (adopted,) = await rows()
    assert (adopted.id, adopted.position, adopted.text) == (user_row.id, 1, "Hi")
    assert adopted.agent_item == said("Hi").agent_item
    session = await lanes.call(ChatSession.objects.get, id=lease.session_id)
    assert (session.remembered_count, session.message_count, session.last_position) == (1, 1, 1)


async def test_a_longer_answer_takes_the_place_of_its_beginning(append_for_turn, lease):
    beginning = said("Let me look.", "assistant")
    await append_for_turn(beginning)
    rest = replace(said("Found it.", "assistant"), text="", shown=False)
    whole = {"answer_id": beginning.id, "answer_text": "Let me look. Found it."}
    await append_for_turn(rest, extends=True, **whole)
    shown = [row.text for row in await rows(shown=True)]
    assert shown == ["Hi", "Let me look. Found it."]
    session = await lanes.call(ChatSession.objects.get, id=lease.session_id)
    assert (session.message_count, session.remembered_count) == (2, 2)


@pytest.mark.parametrize("fence", [0, 2])
async def test_who_lost_the_lease_writes_nothing_at_all(append_for_turn, lease, fence):
    (user_row,) = await rows()
    before = await lanes.call(ChatSession.objects.values().get, id=lease.session_id)
    with pytest.raises(LeaseLost):
        await append_for_turn(
            said("late", "assistant"),
            fence=fence,
            adopt=(user_row.id, said("Hi")),
            usage=Usage(1, 1, 1),
        )
    (untouched,) = await rows()
    assert untouched.agent_item is None
    assert await lanes.call(ChatSession.objects.values().get, id=lease.session_id) == before
    assert (await lanes.call(ChatTurn.objects.get, id=lease.turn_id)).requests == 0


async def test_a_conversation_that_is_gone_takes_no_more_rows(append_for_turn, lease):
    await lanes.call(ChatSession.objects.filter(id=lease.session_id).delete)
    with pytest.raises(LeaseLost):
        await append_for_turn(said("late", "assistant"))
    assert await rows() == []


async def test_nothing_done_in_one_session_moves_another():
    other = await lanes.call(ChatSessionFactory)
    await append(other.agent_session_id, said("theirs"))
    before = await lanes.call(ChatSession.objects.values().get, id=other.id)
    await append("s", said("one"), said("two"))
    await lanes.write(partial(recall.pop, agent_session_id="s", now=NOW))
    await lanes.write(partial(log.clear, agent_session_id="s", now=NOW))
    assert await lanes.call(ChatSession.objects.values().get, id=other.id) == before
    assert [row.text for row in await rows()] == ["theirs"]
