"""When the store takes nothing, there is an answer all the same, and the person is told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest
from django.db import transaction

from conversations import lanes, turns
from conversations.agents_session import StoredSession
from conversations.errors import (
    IdempotencyConflict,
    QueueFull,
    StoreBusy,
    StoreError,
    StoreReadOnly,
    ThreadClosed,
    ThreadNotFound,
    Unauthenticated,
)
from conversations.events import (
    CONTEXT_UNAVAILABLE,
    NOT_SAVED,
    TurnCompleted,
    TurnFailed,
    TurnQueued,
    TurnRunning,
)
from conversations.ids import new_id
from conversations.models import ChatSession, ChatTurn
from conversations.store.stops import Stop
from conversations.tests import scripted
from conversations.tests.scripted import Call, Say
from conversations.tests.turns_helpers import (
    ask,
    counters_fit,
    log,
    rows,
    say,
    shown,
    told,
    tools,
    until,
    until_said,
    warnings,
    words,
)
from conversations.turns import admission, life
from conversations.turns.desk import desk
from conversations.turns.live import LiveTurn, Unsaved
from conversations.turns.unsaved import UnsavedSession, build_unsaved_turn

BOTH = [CONTEXT_UNAVAILABLE, NOT_SAVED]


@pytest.fixture
def gate() -> asyncio.Event:
    return asyncio.Event()


Away = Callable[..., Any]


async def nobody() -> None:
    """Their token was revoked meanwhile."""
    raise Unauthenticated


async def until_saved(session: Any) -> None:
    """Wait until nothing that was answered is kept for the store only here."""

    async def saved() -> bool:
        live = await lanes.call(
            ChatTurn.objects.filter(session=session, status__in=["queued", "running"]).exists
        )
        return not live and not desk()._admission.kept and not desk()._turns

    await until(saved)


@pytest.fixture
def away(monkeypatch: pytest.MonkeyPatch) -> Iterator[Away]:
    """`away("write")`: the store cannot be written any more; `away("write", "read")`: nor read."""

    def begin(*ways: str, error: StoreError | None = None) -> None:
        async def refuse(*_: Any, **__: Any) -> None:
            raise error or StoreReadOnly()

        for way in ways:
            monkeypatch.setattr(lanes, way, refuse)

    yield begin
    monkeypatch.undo()


async def test_what_can_be_read_is_the_context_of_an_answer_that_cannot_be_saved(session, away):
    await ask(session, "1")
    away("write")
    events = await ask(session, "2")
    assert words(events) == "I remember: 1 | 2"
    assert warnings(events) == [NOT_SAVED]
    assert events[0] == TurnRunning(events[-1].turn_id)
    done = events[-1]
    assert isinstance(done, TurnCompleted)
    assert (done.status, done.message_id, done.user_message_id) == ("completed", None, None)
    assert (done.warning, done.usage.input_tokens) == (NOT_SAVED, 10)


async def test_it_is_saved_once_the_store_is_back(session, script, away, monkeypatch):
    script(Call("look_up", '{"word": "it"}', say="Let me look. "), Say("It is here."))
    away("write")
    turn = await say(session, "1", idempotency_key="k")
    events = await told(turn)
    assert await rows(session) == []
    monkeypatch.undo()
    await until_saved(session)
    (stored_turn,) = await rows(session)
    assert (stored_turn.id, stored_turn.status, stored_turn.number) == (turn.id, "completed", 1)
    assert (stored_turn.warning, stored_turn.input_tokens) == ("", 20)
    assert await shown(session) == [("user", "1"), ("assistant", "Let me look. It is here.")]
    kinds = [message.kind for message in await log(session)]
    assert kinds == ["message", "message", "function_call", "function_call_output", "message"]
    await counters_fit(session)
    again = await say(session, "1", idempotency_key="k")
    assert await told(again) == [*events[:-1], again_closing(events[-1], stored_turn)]
    assert words(await ask(session, "2")) == "I remember: 1 | 2"


def again_closing(closing: TurnCompleted, turn: Any) -> TurnCompleted:
    """The closing event as the row tells it: with the ids it has got."""
    return replace(
        closing,
        message_id=turn.answer_message_id,
        user_message_id=turn.user_message_id,
        warning="",
    )


async def test_what_waits_to_be_saved_comes_behind_what_was_said_meanwhile(
    session, script, gate, away, monkeypatch
):
    script(Say("Away."), Say("a b", gate=gate))
    away("write")
    await ask(session, "1")
    monkeypatch.undo()
    second = await say(session, "2")
    await until_said(second, "a ")
    gate.set()
    await told(second)
    await until_saved(session)
    assert sorted(await shown(session)) == sorted(
        [("user", "1"), ("assistant", "Away."), ("user", "2"), ("assistant", "a b")]
    )
    assert [turn.number for turn in await rows(session)] == [1, 2]
    await counters_fit(session)


@pytest.mark.parametrize("how", ["stopped", "failed"])
async def test_how_it_ended_is_saved_too(session, script, gate, away, monkeypatch, how):
    script(Say("a b", gate=gate, then=RuntimeError() if how == "failed" else None))
    away("write")
    turn = await say(session, "1")
    await until_said(turn, "a ")
    if how == "stopped":
        turn.stop("stopped")
    gate.set()
    await told(turn)
    monkeypatch.undo()
    await until_saved(session)
    (saved,) = await rows(session)
    assert saved.status == ("cancelled" if how == "stopped" else "failed")
    assert await shown(session) == [
        ("user", "1"),
        ("assistant", "a …" if how == "stopped" else "a b…"),
    ]
    await counters_fit(session)


async def test_what_was_said_meanwhile_is_context_too(session, away):
    await ask(session, "1")
    away("write")
    assert words(await ask(session, "2")) == "I remember: 1 | 2"
    await turns.settled(session.id)
    assert words(await ask(session, "3")) == "I remember: 1 | 2 | 3"


async def test_a_message_sent_again_before_it_is_saved_is_not_answered_again(
    session, away, monkeypatch
):
    away("write")
    turn = await say(session, "1", idempotency_key="k")
    await told(turn)
    await turns.settled(session.id)
    monkeypatch.undo()  # the store is back, and does not know of it yet
    assert await say(session, "1", idempotency_key="k") is turn
    await until_saved(session)
    assert len(await rows(session)) == len(scripted.SCRIPT.inputs) == 1


@transaction.atomic
def delete(session: Any) -> None:
    """As people do, under its lock: what is saved late is saved before, or not at all."""
    ChatSession.objects.select_for_update().get(id=session.id).delete()


async def test_a_conversation_that_was_deleted_meanwhile_stays_deleted(session, away, monkeypatch):
    away("write")
    await ask(session, "1")
    monkeypatch.undo()
    await lanes.call(delete, session)
    await until_saved(session)
    assert not await lanes.call(ChatTurn.objects.exists)


async def test_what_was_answered_without_the_store_is_not_answered_twice(
    session, away, monkeypatch
):
    away("write")
    turn = await say(session, "1", idempotency_key="k")
    events = await told(turn)
    await turns.settled(session.id)
    assert await ask(session, "1", idempotency_key="k") == events
    monkeypatch.undo()
    await until_saved(session)
    assert len(await rows(session)) == len(scripted.SCRIPT.inputs) == 1


async def test_a_drain_saves_it_if_it_can(session, away, monkeypatch):
    away("write")
    await ask(session, "1")
    monkeypatch.undo()
    await turns.drain(0)
    assert [turn.status for turn in await rows(session)] == ["completed"]


async def test_more_than_can_be_kept_is_let_go(session, away, monkeypatch):
    monkeypatch.setattr(admission, "MAX_KEPT", 1)
    away("write")
    for text in ("1", "2"):
        await ask(session, text)
    monkeypatch.undo()
    await until_saved(session)
    assert await shown(session) == [("user", "1"), ("assistant", "I remember: 1")]


async def test_without_the_store_there_is_an_answer_without_context(session, away):
    await ask(session, "1")
    away("write", "read")
    events = await ask(session, "2")
    assert words(events) == "I remember: 2"
    assert warnings(events) == BOTH
    assert events[1].warning == CONTEXT_UNAVAILABLE  # with the first words


async def test_who_was_not_verified_gets_no_context_although_the_store_is_back(session, stranger):
    await ask(session, "a secret")
    for owner_id in (session.owner_id, stranger.pk):
        turn = await turns.send(session_id=session.id, owner_id=owner_id, text="2", verify=nobody)
        events = await told(turn)
        assert words(events) == "I remember: 2"
        assert warnings(events) == BOTH
    await until_saved(session)  # or given up: they are nobody
    assert len(await rows(session)) == 1


async def test_who_was_not_verified_stands_in_nobodys_line(session, stranger, script, gate):
    script(Say("a b", gate=gate))
    first = await say(session, "1")
    await until_said(first, "a ")
    theirs = await turns.send(session_id=session.id, owner_id=stranger.pk, text="2", verify=nobody)
    assert words(await told(theirs)) == "I remember: 2"
    assert not any(isinstance(event, TurnQueued) for event in theirs.events)
    gate.set()
    assert words(await told(first)) == "a b"


async def test_tools_still_work(session, script, away):
    script(Call("look_up", '{"word": "it"}', say="Let me look. "), Say("It is here."))
    away("write")
    events = await ask(session)
    assert words(events) == "Let me look. It is here."
    assert tools(events) == [("look_up", "called"), ("look_up", "done")]
    kinds = [item.get("type", "message") for item in scripted.SCRIPT.inputs[-1]]
    assert kinds == ["message", "message", "function_call", "function_call_output"]


async def test_the_messages_of_one_conversation_still_come_one_after_the_other(
    session, script, gate, away
):
    script(Say("a b", gate=gate))
    away("write")
    first, second = await say(session, "1"), await say(session, "2")
    await until_said(first, "a ")
    assert [type(event) for event in second.events] == [TurnQueued]
    gate.set()
    assert words(await told(first)) == "a b"
    assert (await told(second))[1] == TurnRunning(second.id)
    assert isinstance((await told(second))[-1], TurnCompleted)


async def test_too_many_that_wait_are_refused(session, script, gate, away, settings):
    settings.CHAT_MAX_QUEUED_TURNS = 1
    script(Say("a b", gate=gate))
    away("write")
    waiting = [await say(session, text) for text in ("1", "2")]
    with pytest.raises(QueueFull):
        await say(session, "3")
    gate.set()
    for turn in waiting:
        await told(turn)


async def test_the_same_key_is_the_same_turn_while_it_is_answered(session, script, gate, away):
    script(Say("a b", gate=gate))
    away("write")
    first = await say(session, "1", idempotency_key="k")
    assert await say(session, "1", idempotency_key="k") is first
    with pytest.raises(IdempotencyConflict):
        await say(session, "other", idempotency_key="k")
    gate.set()
    assert words(await told(first)) == "a b"
    assert len(scripted.SCRIPT.inputs) == 1


async def test_a_message_that_was_saved_before_is_told_again_from_what_can_be_read(session, away):
    first = await ask(session, "1", idempotency_key="k")
    await turns.settled(session.id)
    away("write")
    assert await ask(session, "1", idempotency_key="k") == first
    with pytest.raises(IdempotencyConflict):
        await say(session, "other", idempotency_key="k")
    assert len(scripted.SCRIPT.inputs) == 1


async def test_what_can_be_read_still_refuses(session, stranger, away):
    await lanes.call(ChatSession.objects.filter(id=session.id).update, status="closed")
    away("write")
    with pytest.raises(ThreadClosed):
        await say(session)
    with pytest.raises(ThreadNotFound):
        await turns.send(session_id=session.id, owner_id=stranger.pk, text="x")
    with pytest.raises(ThreadNotFound):
        await turns.send(session_id=uuid4(), owner_id=session.owner_id, text="x")


async def test_it_can_be_stopped_and_its_failures_are_told(session, script, gate, away):
    script(Say("a b", gate=gate), RuntimeError("secret"))
    away("write")
    first = await say(session, "1")
    await until_said(first, "a ")
    stop = await turns.stop(
        session_id=session.id, owner_id=session.owner_id, turn_id=first.id, is_verified=False
    )
    assert (stop.status, stop.had_ended) == ("running", False)
    assert (await told(first))[-1].status == "cancelled"
    failed = await ask(session, "2")
    assert warnings(failed) == [NOT_SAVED]
    assert isinstance(failed[-1], TurnFailed)
    assert failed[-1].code == "assistant_failed"


async def test_a_stop_while_it_waits_ends_it(session, script, gate, away):
    script(Say("a b", gate=gate))
    away("write")
    first, second = await say(session, "1"), await say(session, "2")
    await until_said(first, "a ")
    second.stop("stopped")
    assert (await told(second))[-1].status == "cancelled"
    gate.set()
    await told(first)


async def test_it_is_picked_up_again_where_it_lives(session, script, gate, away):
    script(Say("a b", gate=gate))
    away("write")
    turn = await say(session)
    await until_said(turn, "a ")
    mine = {"session_id": session.id, "owner_id": session.owner_id, "turn_id": turn.id}
    assert await turns.pick_up(**mine, after=2, is_verified=False) == (turn, 2)
    gate.set()
    await told(turn)
    await turns.settled(session.id)
    assert await turns.pick_up(**mine, after=2, is_verified=False) == (turn, 2)
    assert await turns.stop(**mine, is_verified=False) == Stop("completed", had_ended=True)
    with pytest.raises(StoreError):
        await turns.pick_up(**mine | {"turn_id": uuid4()}, after=2, is_verified=False)


async def test_a_drain_ends_it_like_any_other(session, script, gate, away):
    script(Say("a b", gate=gate))
    away("write", "read")
    turn = await say(session)
    await until_said(turn, "a ")
    await turns.drain(0)
    assert turn.events[-1].code == "interrupted"
    assert desk()._turns == {}


async def test_a_message_that_waits_while_the_store_goes_away_is_told_in_time(
    session, script, gate, away, settings, monkeypatch
):
    """It has a ticket: answering it without the store might answer it twice."""
    settings.CHAT_LEASE_SECONDS = 0.5
    script(Say("a b", gate=gate))
    first, second = await say(session, "1"), await say(session, "2")
    await until_said(first, "a ")
    monkeypatch.setattr(life, "FINISH_PAUSE_SECONDS", 0.5)
    away("write", "read", error=StoreBusy())
    gate.set()
    assert warnings(await told(first)) == [NOT_SAVED]
    events = await told(second)
    assert (events[-1].code, events[-1].retryable) == ("interrupted", True)
    monkeypatch.undo()
    await turns.drain(0)
    assert [turn.status for turn in await rows(session)] == ["completed", "interrupted"]


async def test_its_session_is_one_of_the_sdks(session):
    turn = build_unsaved_turn(
        turn_id=new_id(),
        session_id=session.id,
        owner_id=1,
        text="Hi",
        line=[],
        unsaved=Unsaved(None),
    )
    memory = UnsavedSession(turn, Unsaved(None))
    assert isinstance(memory, StoredSession)
    items: list[Any] = [{"role": "user", "content": text} for text in "abc"]
    await memory.add_items(items)
    await memory.flush()
    assert memory.unsaved() is None
    assert await memory.get_items() == items
    assert await memory.get_items(2) == items[1:]
    assert await memory.get_items(9) == items
    assert await memory.get_items(0) == []
    assert await memory.pop_item() == items[2]
    await memory.clear_session()
    assert await memory.get_items() == []
    assert await memory.pop_item() is None
    assert not await lanes.call(ChatTurn.objects.exists)
    assert isinstance(turn, LiveTurn)
