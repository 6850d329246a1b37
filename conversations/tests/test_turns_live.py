"""A turn's events: the same for every listener, and told again to who repeats a message."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import pytest
from django.utils import timezone

from conversations import lanes, turns
from conversations.errors import IdempotencyConflict, StoreBusy
from conversations.events import (
    SESSION_CORRUPTED,
    ContentDelta,
    TurnCompleted,
    TurnEvent,
    TurnFailed,
    TurnRunning,
)
from conversations.ids import new_id
from conversations.models import ChatMessage, ChatSession, ChatTurn
from conversations.store import log as store_log
from conversations.store.line import Ticket
from conversations.tests.scripted import SCRIPT, Say
from conversations.tests.turns_helpers import (
    abandon,
    ask,
    row,
    rows,
    say,
    shown,
    told,
    until_said,
    warnings,
    words,
)
from conversations.turns import follow
from conversations.turns.admission import Said
from conversations.turns.desk import Desk, desk
from conversations.turns.follow import FollowedTurn
from conversations.turns.live import LiveTurn


@pytest.fixture
def gate() -> asyncio.Event:
    return asyncio.Event()


@pytest.fixture
async def other_desk() -> AsyncIterator[Desk]:
    """The desk of another process, as far as the database can tell."""
    other = Desk()
    yield other
    await other.drain(0)


def live() -> LiveTurn:
    ticket = Ticket(new_id(), new_id(), number=1, ahead=0, started=None)
    return LiveTurn(ticket, owner_id=1, text="Hello")


def done(turn: LiveTurn) -> TurnCompleted:
    return TurnCompleted(turn.id, "completed", None, None)


async def numbered(turn: LiveTurn, **options: Any) -> list[tuple[int, TurnEvent]]:
    return [pair async for batch in turn.listen(**options) for pair in batch]


# --- Listening ----------------------------------------------------------------------------


async def test_all_listeners_hear_the_same_numbered_events():
    turn = live()
    first = asyncio.create_task(numbered(turn))
    await asyncio.sleep(0)
    turn.emit(TurnRunning(turn.id))
    await asyncio.sleep(0)
    second = asyncio.create_task(numbered(turn))
    turn.emit(ContentDelta("Hello"))
    await asyncio.sleep(0)
    turn.emit(done(turn))
    heard = [await first, await second, await numbered(turn)]
    assert heard[0] == heard[1] == heard[2]
    assert [number for number, _ in heard[0]] == [1, 2, 3]


async def test_who_comes_back_hears_only_what_is_new():
    turn = live()
    for event in (TurnRunning(turn.id), ContentDelta("a"), done(turn)):
        turn.emit(event)
    assert await numbered(turn, after=2) == [(3, done(turn))]
    assert await numbered(turn, after=3) == []
    assert await numbered(turn, after=99) == []


@pytest.mark.parametrize("after", [0, 99])
async def test_silence_is_told_now_and_then(after):
    turn = live()
    listener = turn.listen(after=after, heartbeat=0.01)
    assert [await anext(listener), await anext(listener)] == [[], []]
    await listener.aclose()
    assert turn._listeners == set()


async def test_a_listener_that_leaves_is_forgotten():
    turn = live()
    listening = asyncio.create_task(numbered(turn))
    await asyncio.sleep(0)
    assert len(turn._listeners) == 1
    listening.cancel()
    await asyncio.wait({listening})
    assert turn._listeners == set()
    turn.emit(done(turn))


async def test_a_listener_that_is_cancelled_as_news_come_disturbs_nobody():
    turn = live()
    listening = asyncio.create_task(numbered(turn))
    await asyncio.sleep(0)
    listening.cancel()
    turn.emit(done(turn))
    await asyncio.wait({listening})
    assert await numbered(turn) == [(1, done(turn))]


def test_the_first_words_make_the_first_token():
    turn = live()
    turn.emit(ContentDelta("", "a warning"))
    assert turn.first_token_at is None
    turn.emit(ContentDelta("Hello"))
    at = turn.first_token_at
    assert at is not None
    turn.emit(ContentDelta(" you"))
    assert (turn.first_token_at, turn.said) == (at, "Hello you")


def test_a_turn_without_a_task_cannot_be_stopped():
    turn = live()
    turn.stop("stopped")
    assert turn.stop_reason == ""


# --- The same message again -----------------------------------------------------------------


async def test_a_repeated_message_gets_the_turn_that_runs(session, script, gate):
    script(Say("Hello you!", gate=gate))
    first = await say(session, "Hi", idempotency_key="a")
    await until_said(first, "Hello ")
    second = await say(session, "Hi", idempotency_key="a")
    assert second is first
    gate.set()
    assert words(await told(second)) == "Hello you!"
    assert len(SCRIPT.inputs) == len(await rows(session)) == 1


async def test_a_repeated_message_is_answered_from_what_is_stored(session, script):
    script(Say("Hello you!"))
    first = await say(session, "Hi", idempotency_key="a")
    events = await told(first)
    await turns.settled(session.id)
    again = await say(session, "Hi", idempotency_key="a")
    assert again is not first
    assert again.id == first.id
    assert await numbered(again) == list(enumerate(events, start=1))
    assert len(SCRIPT.inputs) == 1
    assert await shown(session) == [("user", "Hi"), ("assistant", "Hello you!")]
    assert len(await rows(session)) == 1


async def test_two_at_once_with_one_key_are_one_turn(session, script):
    script(Say("Hello you!"))
    both = await asyncio.gather(*(say(session, "Hi", idempotency_key="a") for _ in range(2)))
    assert [words(await told(turn)) for turn in both] == ["Hello you!", "Hello you!"]
    assert len(await rows(session)) == 1


async def test_a_repeated_message_waits_for_the_turn_of_another_process(
    session, script, gate, other_desk
):
    script(Say("Hello you!", gate=gate))
    theirs = await other_desk.send(Said(session.id, session.owner_id, "Hi", "a"))
    await until_said(theirs, "Hello ")
    ours = await say(session, "Hi", idempotency_key="a")
    assert (ours.id, type(ours)) == (theirs.id, FollowedTurn)
    gate.set()
    assert await numbered(ours) == await numbered(theirs)
    assert len(await rows(session)) == 1


async def test_a_repeated_message_closes_a_turn_whose_process_is_gone(session):
    await abandon(session, "Hi", recorded="Hel", key="a")
    events = await ask(session, "Hi", idempotency_key="a")
    assert words(events) == "Hel"
    assert isinstance(events[-1], TurnFailed)
    assert (events[-1].code, events[-1].retryable) == ("interrupted", True)
    assert await shown(session) == [("user", "Hi"), ("assistant", "Hel…")]
    assert SCRIPT.inputs == []


async def test_a_failure_is_told_again_as_it_was(session, script):
    script(Say("Hel", then=RuntimeError("secret")))
    first = await ask(session, "Hi", idempotency_key="a")
    await turns.settled(session.id)
    again = await ask(session, "Hi", idempotency_key="a")
    assert again == [TurnRunning(first[-1].turn_id), ContentDelta("Hel"), first[-1]]
    assert isinstance(again[-1], TurnFailed)
    assert again[-1].code == "assistant_failed"


async def test_a_failure_of_a_kind_nobody_knows_is_still_a_failure(session, script):
    script(RuntimeError("secret"))
    first = await ask(session, "Hi", idempotency_key="a")
    await turns.settled(session.id)
    await lanes.call(ChatTurn.objects.filter(session=session).update, error_code="of old")
    assert (await ask(session, "Hi", idempotency_key="a"))[-1] == first[-1]


async def test_a_stop_and_a_warning_are_told_again(session, script, gate):
    await ask(session, "1")
    await lanes.call(
        ChatMessage.objects.filter(session=session, role="user").update, agent_item="{"
    )
    script(Say("a b", gate=gate))
    turn = await say(session, "2", idempotency_key="a")
    await until_said(turn, "a ")
    await turns.stop_session(session.id)
    again = await ask(session, "2", idempotency_key="a")
    assert again[-1] == turn.events[-1]
    assert again[-1].status == "cancelled"
    assert (words(again), warnings(again)) == ("a ", [SESSION_CORRUPTED])


async def test_a_turn_that_never_started_is_told_again_without_a_start(session, script, gate):
    script(Say("a b", gate=gate))
    first = await say(session, "1")
    second = await say(session, "2", idempotency_key="a")
    await until_said(first, "a ")
    await turns.stop_session(session.id)
    assert await ask(session, "2", idempotency_key="a") == [second.events[-1]]


async def test_other_words_with_the_same_key_are_refused(session, script, gate):
    script(Say("a b", gate=gate))
    first = await say(session, "1", idempotency_key="a")
    second = await say(session, "2", idempotency_key="b")
    for key in ("a", "b"):
        with pytest.raises(IdempotencyConflict):
            await say(session, "other", idempotency_key=key)
    gate.set()
    await told(first)
    await told(second)
    with pytest.raises(IdempotencyConflict):
        await say(session, "other", idempotency_key="a")
    assert len(await rows(session)) == 2


async def test_after_a_clear_only_the_end_is_told_again(session):
    await ask(session, "1", idempotency_key="a")
    name = session.agent_session_id
    await lanes.write(partial(store_log.clear, agent_session_id=name, now=timezone.now()))
    events = await ask(session, "1", idempotency_key="a")
    assert (words(events), events[-1].status) == ("", "completed")
    assert events[-1].message_id is events[-1].user_message_id is None


@pytest.fixture
async def ended(session: Any) -> Any:
    """A turn that another process finished."""
    turn = await say(session, "Hi", idempotency_key="a")
    await told(turn)
    await turns.settled(session.id)
    return turn


@pytest.mark.parametrize(
    ("error", "code"),
    [(StoreBusy(), "store_unavailable"), (ZeroDivisionError(), "assistant_failed")],
)
async def test_a_turn_that_cannot_be_read_again_ends_in_one_error(
    session, ended, settings, monkeypatch, error, code
):
    settings.CHAT_LEASE_SECONDS = 0.5

    def failing(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(follow, "find_ending", failing)
    events = await ask(session, "Hi", idempotency_key="a")
    assert [(type(event), event.code) for event in events] == [(TurnFailed, code)]


async def test_a_turn_deleted_while_it_is_waited_for_ends_in_one_error(
    session, script, gate, other_desk
):
    script(Say("a b", gate=gate))
    await other_desk.send(Said(session.id, session.owner_id, "Hi", "a"))
    ours = await say(session, "Hi", idempotency_key="a")
    await lanes.call(ChatSession.objects.filter(id=session.id).delete)
    assert [event.code for event in await told(ours)] == ["thread_not_found"]
    gate.set()


@pytest.mark.parametrize("grace", [0, 0.05])
async def test_a_shutdown_ends_those_who_wait_for_another_process(
    session, script, gate, other_desk, grace
):
    script(Say("a b", gate=gate))
    await other_desk.send(Said(session.id, session.owner_id, "Hi", "a"))
    ours = await say(session, "Hi", idempotency_key="a")
    await turns.drain(grace)
    assert [(event.code, event.retryable) for event in await told(ours)] == [
        ("store_unavailable", True)
    ]
    assert desk()._listened() == []
    gate.set()


async def test_a_turn_told_again_does_not_stand_in_the_line(session, ended):
    again = await say(session, "Hi", idempotency_key="a")
    await turns.stop_session(session.id)
    assert (await told(again))[-1].status == "completed"
    assert (await row(again)).status == "completed"
