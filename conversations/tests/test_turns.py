"""What happens when someone speaks: acknowledged, answered in order, whoever listens or leaves."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
import weakref
from collections.abc import AsyncIterator
from functools import partial
from itertools import pairwise, product
from typing import Any

import pytest
from django.utils import timezone

from conversations import lanes, turns
from conversations.errors import (
    LeaseLost,
    QueueFull,
    ShuttingDown,
    StoreBusy,
    StoreDamaged,
    ThreadClosed,
    ThreadNotFound,
)
from conversations.events import (
    NOT_SAVED,
    TurnCompleted,
    TurnFailed,
    TurnQueued,
    TurnRunning,
)
from conversations.models import ChatSession, ChatTurn
from conversations.store import closing, finishing, leases, line, records, stops, tickets
from conversations.store import log as store_log
from conversations.store.closing import STOPPED
from conversations.tests import factories, scripted
from conversations.tests.scripted import Call, Say
from conversations.tests.turns_helpers import (
    abandon,
    ask,
    counters_fit,
    log,
    recorded,
    row,
    rows,
    say,
    shown,
    stored,
    told,
    until,
    until_recorded,
    until_said,
    warnings,
    words,
)
from conversations.turns import hooks, life
from conversations.turns.admission import Said
from conversations.turns.desk import Desk, desk

NOW = timezone.now()


@pytest.fixture
def gate() -> asyncio.Event:
    """Holds a scripted answer after its first piece."""
    return asyncio.Event()


@pytest.fixture
def short_lease(settings: Any) -> None:
    settings.CHAT_LEASE_SECONDS = 0.6


@pytest.fixture
async def other_desk() -> AsyncIterator[Desk]:
    """The desk of another process, as far as the database can tell."""
    other = Desk()
    yield other
    await other.drain(0)


async def say_at(place: Desk, session: Any, text: str = "Hello", **options: Any) -> Any:
    return await place.send(Said(session.id, session.owner_id, text, **options))


def refuse(monkeypatch: pytest.MonkeyPatch, module: Any, name: str, error: Exception) -> None:
    def refusing(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(module, name, refusing)


# --- The conversation ---------------------------------------------------------------------


async def test_a_message_is_answered_and_stored(session, script):
    script(Say("Hello you!"))
    turn = await say(session, "Hi")
    events = await told(turn)
    assert events[0] == TurnRunning(turn.id)
    assert words(events) == "Hello you!"
    done = events[-1]
    assert isinstance(done, TurnCompleted)
    assert (done.status, done.warning, done.usage.input_tokens) == ("completed", "", 10)
    user_row, answer_row = await log(session)
    assert (done.user_message_id, done.message_id) == (user_row.id, answer_row.id)
    assert await shown(session) == [("user", "Hi"), ("assistant", "Hello you!")]
    found = await row(turn)
    assert (found.status, found.model, found.error_code) == ("completed", "scripted", "")
    assert found.queued_at <= found.started_at <= found.first_token_at <= found.finished_at
    assert (await stored(session)).title == "Hi"
    await counters_fit(session)


async def test_context_carries_from_message_to_message(session):
    await ask(session, "My name is Ada")
    await ask(session, "I like tea")
    events = await ask(session, "Who am I?")
    assert words(events) == "I remember: My name is Ada | I like tea | Who am I?"
    await counters_fit(session)


async def test_what_the_store_refuses_is_told_before_anything_is_stored(session, stranger):
    with pytest.raises(ThreadNotFound):
        await turns.send(session_id=session.id, owner_id=stranger.pk, text="Hi")
    await lanes.call(ChatSession.objects.filter(id=session.id).update, status="closed")
    with pytest.raises(ThreadClosed):
        await say(session)
    assert await rows(session) == []
    assert scripted.SCRIPT.inputs == []


async def test_too_many_waiting_messages_are_refused(session, script, gate, settings):
    settings.CHAT_MAX_QUEUED_TURNS = 1
    script(Say("a b", gate=gate))
    first, second = await say(session, "1"), await say(session, "2")
    with pytest.raises(QueueFull):
        await say(session, "3")
    gate.set()
    await told(first)
    await told(second)
    assert len(await rows(session)) == 2


async def test_done_is_announced_only_after_the_commit(session, script, monkeypatch):
    script(Say("Hello you!"))
    seen = []
    turn = await say(session)
    emit = turn.emit

    def look_first(event: Any) -> None:
        if isinstance(event, TurnCompleted):
            seen.append(asyncio.ensure_future(row(turn)))
            seen.append(asyncio.ensure_future(shown(session)))
        emit(event)

    monkeypatch.setattr(turn, "emit", look_first)
    await told(turn)
    found, transcript = await asyncio.gather(*seen)
    assert found.status == "completed"
    assert transcript[-1] == ("assistant", "Hello you!")


# --- The line -----------------------------------------------------------------------------


async def test_ten_messages_at_once_are_answered_one_after_the_other(session, settings):
    settings.CHAT_MAX_QUEUED_TURNS = 10
    live = await asyncio.gather(*(say(session, f"number {n}") for n in range(10)))
    by_ticket = sorted(live, key=lambda turn: turn.ticket.number)
    assert [turn.ticket.number for turn in by_ticket] == list(range(1, 11))
    stories = [await told(turn) for turn in by_ticket]
    said = [turn.text for turn in by_ticket]
    for index, events in enumerate(stories):
        assert words(events) == "I remember: " + " | ".join(said[: index + 1])
    expected = [
        pair
        for text, events in zip(said, stories, strict=True)
        for pair in (("user", text), ("assistant", words(events)))
    ]
    assert await shown(session) == expected
    found = await rows(session)
    for earlier, later in pairwise(found):
        assert earlier.finished_at <= later.started_at
    await counters_fit(session)


async def test_who_waits_is_told_how_many_come_first(session, script, gate):
    script(Say("a b", gate=gate))
    first, second, third = [await say(session, f"{n}") for n in range(3)]
    await until_said(first, "a ")
    assert second.events == [TurnQueued(second.id, 1)]
    assert third.events == [TurnQueued(third.id, 2)]
    gate.set()
    assert (await told(third))[1] == TurnRunning(third.id)


async def test_two_conversations_are_answered_at_the_same_time(session, user, script, gate):
    other = await lanes.call(lambda: factories.ChatSessionFactory(owner=user))
    script(Say("a b", gate=gate), Say("quick"))
    held = await say(session)
    await until_said(held, "a ")
    assert words(await ask(other)) == "quick"
    assert not held.closed
    gate.set()
    await told(held)


async def test_a_turn_elsewhere_is_waited_for(session, script, gate, other_desk):
    script(Say("a b", gate=gate))
    theirs = await say_at(other_desk, session, "1")
    await until_said(theirs, "a ")
    ours = await say(session, "2")
    assert not ours.said
    gate.set()
    assert words(await told(ours)) == "I remember: 1 | 2"
    assert theirs.closed


async def test_waiting_survives_a_store_that_is_away(session, script, gate, monkeypatch):
    script(Say("a b", gate=gate))
    first, second = await say(session, "1"), await say(session, "2")
    await until_said(first, "a ")
    with monkeypatch.context() as away:
        refuse(away, line, "look_ahead", StoreBusy())
        gate.set()
        await told(first)
        await asyncio.sleep(0.05)
        assert second.events == [TurnQueued(second.id, 1)]
    assert words(await told(second)) == "I remember: 1 | 2"


async def test_a_start_that_breaks_ends_in_one_error(session, script, gate, monkeypatch):
    script(Say("a b", gate=gate))
    first, second = await say(session, "1"), await say(session, "2")
    with monkeypatch.context() as broken:
        refuse(broken, line, "look_ahead", ZeroDivisionError())
        gate.set()
        events = await told(second)
    await told(first)
    assert events[1:] == [TurnFailed(second.id, events[-1].message, "interrupted", True)]
    assert (await row(second)).status == "interrupted"
    assert ("user", "2") in await shown(session)
    assert words(await ask(session, "3"))


async def test_a_fault_of_our_own_closes_the_turn_too(session, monkeypatch):
    with monkeypatch.context() as broken:
        refuse(broken, life, "AgentRun", ZeroDivisionError())
        turn = await say(session, "1")
        events = await told(turn)
    assert [type(event) for event in events] == [TurnRunning, TurnFailed]
    assert (await row(turn)).status == events[-1].code == "interrupted"
    assert words(await ask(session, "2"))


# --- Whoever leaves -----------------------------------------------------------------------


async def test_the_answer_is_stored_although_nobody_listens(session, script):
    script(Say("Hello you!"))
    turn = await say(session)
    listener = turn.listen()
    await anext(listener)
    await listener.aclose()
    await turns.settled(session.id)
    assert await shown(session) == [("user", "Hello"), ("assistant", "Hello you!")]


async def test_a_sender_that_is_cancelled_is_answered_or_was_never_heard(user):
    """Wherever the cancellation strikes: no ticket without a turn that answers it."""
    outcomes = set()
    for steps in range(8):
        session = await lanes.call(lambda: factories.ChatSessionFactory(owner=user))
        sending = asyncio.create_task(say(session))
        for _ in range(steps):
            await asyncio.sleep(0)
        sending.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await sending
        await until(partial(_all_admitted, desk()))
        await turns.settled(session.id)
        outcomes.add(tuple(turn.status for turn in await rows(session)))
        assert words(await ask(session, "Next"))
    assert outcomes == {(), ("completed",)}


async def _all_admitted(place: Desk) -> bool:
    return not place._admissions


async def test_a_refusal_nobody_hears_is_quiet(session, caplog):
    await lanes.call(ChatSession.objects.filter(id=session.id).update, status="closed")
    sending = asyncio.create_task(say(session))
    await asyncio.sleep(0)
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    await until(partial(_all_admitted, desk()))
    gc.collect()
    assert "never retrieved" not in caplog.text


# --- Stopping -----------------------------------------------------------------------------


async def test_a_stopped_answer_keeps_what_was_said_marked(session, script, gate):
    script(Say("Once upon a time", gate=gate))
    turn = await say(session)
    await until_said(turn, "Once ")
    await turns.stop_session(session.id)
    events = await told(turn)
    assert isinstance(events[-1], TurnCompleted)
    assert events[-1].status == "cancelled"
    cut = next(message for message in await log(session) if message.incomplete)
    assert events[-1].message_id == cut.id
    assert await shown(session) == [("user", "Hello"), ("assistant", "Once …")]
    assert (await row(turn)).status == "cancelled"
    await counters_fit(session)
    assert words(await ask(session, "Again")) == "I remember: Hello | Again"
    assert [(item["role"], item["content"]) for item in scripted.SCRIPT.inputs[-1]] == [
        ("user", "Hello"),
        ("assistant", "Once "),
        ("system", STOPPED),
        ("user", "Again"),
    ]


async def test_a_stopped_answer_is_whole_with_what_was_said_before_a_tool(session, script, gate):
    script(Call("look_up", say="Let me look. "), Say("It is here", gate=gate))
    turn = await say(session)
    await until_said(turn, "Let me look. It ")
    await turns.stop_session(session.id)
    await told(turn)
    assert await shown(session) == [("user", "Hello"), ("assistant", "Let me look. It …")]
    found = await row(turn)
    assert (found.input_tokens, found.requests) == (10, 1)
    await counters_fit(session)


async def test_stopping_ends_those_who_wait_too_and_keeps_their_words(session, script, gate):
    script(Say("a b", gate=gate))
    first, second = await say(session, "1"), await say(session, "2")
    await until_said(first, "a ")
    await turns.stop_session(session.id)
    events = await told(second)
    assert [type(event) for event in events] == [TurnQueued, TurnCompleted]
    assert events[-1].status == "cancelled"
    assert (await row(second)).status == "cancelled"
    assert events[-1].user_message_id == (await row(second)).user_message_id
    assert sorted(await shown(session)) == [("assistant", "a …"), ("user", "1"), ("user", "2")]
    await counters_fit(session)


async def test_a_stop_at_any_moment_closes_the_turn(user, script):
    """From before its task began to after its last word: one closing event, no open row."""
    outcomes = set()
    for heard, steps in product(range(11), (0, 1, 4)):
        session = await lanes.call(lambda: factories.ChatSessionFactory(owner=user))
        scripted.SCRIPT.clear()
        script(Call("look_up", say="Let me look. "), Say("It is here"))
        turn = await say(session)
        listener = turn.listen()
        while len(turn.events) < heard and not turn.closed:
            await anext(listener)
        for _ in range(steps):
            await asyncio.sleep(0)
        await turns.stop_session(session.id)
        events = await told(turn)
        closing = [event for event in events if isinstance(event, TurnCompleted | TurnFailed)]
        assert closing == [events[-1]]
        assert events[-1].status == (await row(turn)).status
        said = [text.rstrip("…") for role, text in await shown(session) if role == "assistant"]
        assert said == ([words(events)] if words(events) else [])
        await counters_fit(session)
        assert desk()._turns == {}
        scripted.SCRIPT.clear()
        assert words(await ask(session, "Next"))
        outcomes.add((events[-1].status, words(events)))
    assert {("cancelled", ""), ("completed", "Let me look. It is here")} < outcomes


async def test_a_stop_before_the_first_step_does_not_block_the_line(session):
    turn = await desk()._admission.admit(Said(session.id, session.owner_id, "1"))
    assert not turn.has_begun
    turn.stop("stopped")
    events = await told(turn)
    assert [type(event) for event in events] == [TurnCompleted]
    assert (await row(turn)).status == "cancelled"
    assert await shown(session) == [("user", "1")]
    assert words(await ask(session, "2"))


async def test_a_stop_while_the_start_is_committed_closes_the_turn(
    session, script, gate, monkeypatch
):
    script(Say("a b", gate=gate))
    first, second = await say(session, "1"), await say(session, "2")
    await until_said(first, "a ")
    started = asyncio.Event()
    loop, start = asyncio.get_running_loop(), tickets.start

    def start_and_tell(*arguments: Any, **options: Any) -> Any:
        found = start(*arguments, **options)
        loop.call_soon_threadsafe(started.set)
        return found

    monkeypatch.setattr(tickets, "start", start_and_tell)
    write = lanes.write

    async def write_and_wait(job: Any, **options: Any) -> Any:
        result = await write(job, **options)
        if started.is_set():
            await asyncio.sleep(0)  # the commit is through, its result not yet looked at
        return result

    monkeypatch.setattr(lanes, "write", write_and_wait)
    gate.set()
    await started.wait()
    await turns.stop_session(session.id)
    events = await told(second)
    assert events[-1].status == (await row(second)).status == "cancelled"
    await counters_fit(session)


async def test_stopping_twice_is_stopping_once(session, script, gate):
    script(Say("a b", gate=gate))
    turn = await say(session)
    await until_said(turn, "a ")
    await asyncio.gather(turns.stop_session(session.id), turns.stop_session(session.id))
    turn.stop("shutdown")
    assert (await told(turn))[-1].status == "cancelled"
    await turns.stop_session(session.id)  # nothing runs: nothing happens


async def test_a_cancellation_while_it_settles_changes_nothing(session, script, gate, monkeypatch):
    script(Say("a b", gate=gate))
    turn = await say(session)
    await until_said(turn, "a ")
    finish = finishing.finish

    def finish_and_cancel(*arguments: Any, **options: Any) -> Any:
        turn.task.get_loop().call_soon_threadsafe(turn.task.cancel)
        return finish(*arguments, **options)

    monkeypatch.setattr(finishing, "finish", finish_and_cancel)
    turn.stop("stopped")
    events = await told(turn)
    assert (await row(turn)).status == events[-1].status == "cancelled"
    assert await shown(session) == [("user", "Hello"), ("assistant", "a …")]


async def test_a_cancellation_nobody_asked_for_is_no_stop_of_the_persons(session, script, gate):
    script(Say("a b", gate=gate))
    turn = await say(session)
    await until_said(turn, "a ")
    turn.task.cancel()
    events = await told(turn)
    assert events[-1].code == (await row(turn)).status == "interrupted"
    assert await shown(session) == [("user", "Hello"), ("assistant", "a …")]


async def test_a_deleted_conversation_ends_its_turns_and_stays_deleted(session, script, gate):
    script(Say("a b", gate=gate))
    first, second = await say(session, "1"), await say(session, "2")
    await until_said(first, "a ")
    await lanes.call(ChatSession.objects.filter(id=session.id).delete)
    gate.set()
    for turn in (first, second):
        events = await told(turn)
        assert events[-1].code == "interrupted"
    await turns.stop_session(session.id, reason="deleted")
    assert not await lanes.call(ChatSession.objects.exists)
    assert not await lanes.call(ChatTurn.objects.exists)


async def test_what_is_deleted_while_it_runs_is_cancelled(session, script, gate):
    script(Say("a b", gate=gate))
    first, second = await say(session, "1"), await say(session, "2")
    await until_said(first, "a ")
    await turns.stop_session(session.id, reason="deleted")
    assert {(await told(turn))[-1].status for turn in (first, second)} == {"cancelled"}


# --- Shutting down ------------------------------------------------------------------------


async def test_a_drain_lets_running_and_waiting_turns_finish(session, script, gate):
    script(Say("a b", gate=gate))
    first, second = await say(session, "1"), await say(session, "2")
    await until_said(first, "a ")
    draining = asyncio.create_task(turns.drain(20))
    await asyncio.sleep(0)
    with pytest.raises(ShuttingDown):
        await say(session, "3")
    gate.set()
    await draining
    assert words(first.events) == "a b"
    assert words(second.events) == "I remember: 1 | 2"
    assert [turn.status for turn in await rows(session)] == ["completed", "completed"]


async def test_a_drain_keeps_the_parts_of_what_does_not_finish(session, script, gate):
    script(Say("a b", gate=gate))
    first, second = await say(session, "1"), await say(session, "2")
    await until_said(first, "a ")
    await turns.drain(0.05)
    for turn in (first, second):
        assert isinstance(turn.events[-1], TurnFailed)
        assert (turn.events[-1].code, turn.events[-1].retryable) == ("interrupted", True)
        assert (await row(turn)).status == "interrupted"
    assert sorted(await shown(session)) == [("assistant", "a …"), ("user", "1"), ("user", "2")]
    await counters_fit(session)


async def test_a_drain_keeps_what_waited_in_the_order_it_was_said(session, script, gate):
    script(Say("a b", gate=gate))
    first = await say(session, "1")
    await until_said(first, "a ")
    for text in "234":
        await say(session, text)
    await turns.drain(0)
    assert await shown(session) == [
        ("user", "1"),
        ("assistant", "a …"),
        ("user", "2"),
        ("user", "3"),
        ("user", "4"),
    ]


async def test_a_drain_does_not_forget_a_message_that_is_being_taken(session):
    sending = asyncio.create_task(say(session))
    await asyncio.sleep(0)
    await turns.drain(0)
    turn = await sending
    assert turn.closed
    assert (await row(turn)).status == "interrupted"
    assert await shown(session) == [("user", "Hello")]


async def test_a_drain_of_nothing_is_quick(session):
    await ask(session)
    await turns.drain(20)
    with pytest.raises(ShuttingDown):
        await say(session)


# --- Signs of life ------------------------------------------------------------------------


async def test_a_long_answer_keeps_its_lease_and_its_waiters(session, script, gate, short_lease):
    script(Say("a b", gate=gate))
    first, second = await say(session, "1"), await say(session, "2")
    begun = [(await row(turn)).lease_until for turn in (first, second)]

    async def renewed() -> bool:
        found = [(await row(turn)).lease_until for turn in (first, second)]
        return all(new > old for new, old in zip(found, begun, strict=True))

    await until(renewed)
    gate.set()
    assert words(await told(second)) == "I remember: 1 | 2"


async def test_the_answer_so_far_is_kept_while_it_is_written(session, script, gate, short_lease):
    script(Say("a b", gate=gate))
    turn = await say(session)

    await until_recorded(turn, "a ")
    gate.set()
    await told(turn)
    assert await recorded(turn) == "a b"


@pytest.mark.parametrize("error", [StoreBusy(), ZeroDivisionError(), UnicodeError()])
@pytest.mark.parametrize(
    ("module", "name"),
    [(leases, "renew"), (records, "record"), (stops, "find_stops"), (leases, "find_abandoned")],
)
async def test_no_failure_ends_the_signs_of_life(session, short_lease, script, module, name, error):
    gate = asyncio.Event()
    script(Say("a b", gate=gate))
    with pytest.MonkeyPatch.context() as broken:
        calls: list[int] = []

        def failing(*_: Any, **__: Any) -> None:
            calls.append(1)
            raise error

        broken.setattr(module, name, failing)
        turn = await say(session)

        async def has_failed() -> bool:
            return len(calls) >= 2

        await until(has_failed)
    begun = (await row(turn)).lease_until

    async def lives() -> bool:
        return (await row(turn)).lease_until > begun and await recorded(turn) == "a "

    await until(lives)
    gate.set()
    assert words(await told(turn)) == "a b"


async def test_a_turn_that_was_overtaken_ends_with_one_error(session, script, gate, short_lease):
    script(Say("a b", gate=gate))
    first, second = await say(session, "1"), await say(session, "2")
    await until_said(first, "a ")
    await lanes.write(partial(closing.interrupt_all, session_id=session.id, now=timezone.now()))
    for turn in (first, second):
        events = await told(turn)
        assert isinstance(events[-1], TurnFailed)
        assert events[-1].code == "interrupted"
        assert (await row(turn)).status == "interrupted"
    await counters_fit(session)


@pytest.mark.parametrize("moment", ["while it speaks", "at the end", "while it waits"])
async def test_an_overtaken_turn_writes_nothing_whenever_it_notices(
    session, script, gate, monkeypatch, moment
):
    """The heartbeat is far away here: the store itself refuses."""
    script(Say("a b", gate=gate))
    turn = await say(session, "1")
    if moment == "while it waits":
        turn, running = await say(session, "2"), turn
    await until_said(running if moment == "while it waits" else turn, "a ")
    if moment == "at the end":
        refuse(monkeypatch, finishing, "finish", LeaseLost())
    else:
        job = partial(closing.interrupt_all, session_id=session.id, now=timezone.now())
        await lanes.write(job)
    before = await shown(session)
    gate.set()
    events = await told(turn)
    assert [e for e in events if isinstance(e, TurnCompleted | TurnFailed)] == [events[-1]]
    assert events[-1].code == "interrupted"
    if moment != "at the end":
        assert await shown(session) == before


async def test_an_overtaken_turn_asks_the_model_no_further(session, script, monkeypatch):
    script(Call("look_up", say="Let me look. "), Say("Here."))
    with monkeypatch.context() as overtaken:
        refuse(overtaken, store_log, "append_for_turn", LeaseLost())
        events = await ask(session)
    assert isinstance(events[-1], TurnFailed)
    assert events[-1].code == "interrupted"
    assert "Here" not in words(events)
    assert len(scripted.SCRIPT.inputs) == 1


@pytest.mark.parametrize("before", ["the model", "a tool"])
async def test_a_process_that_wakes_up_too_late_uses_neither_model_nor_tools(
    session, script, monkeypatch, before
):
    """Paused between its start and the model, or while the model called a tool."""
    script(Call("look_up"), Say("Here."))
    taken: list[int] = []

    def take_over(*_: Any, **__: Any) -> int:
        """The clock of a process that slept: meanwhile the turn was taken from it."""
        if len(taken) == (0 if before == "the model" else 1):
            asyncio.get_running_loop()  # the hook runs on the loop
            _interrupt_by_hand(session)
        taken.append(1)
        return 2**62

    monkeypatch.setattr(hooks, "steady_milliseconds", take_over)
    events = await ask(session)
    assert isinstance(events[-1], TurnFailed)
    assert events[-1].code == "interrupted"
    assert len(scripted.SCRIPT.inputs) == (0 if before == "the model" else 1)
    assert scripted.SCRIPT.tool_calls == 0
    assert (await rows(session))[0].status == "interrupted"
    await counters_fit(session)


def _interrupt_by_hand(session: Any) -> None:
    """Another process takes the conversation away, while this loop stands still."""

    def work() -> None:
        asyncio.run(lanes.write(partial(closing.interrupt_all, session_id=session.id, now=NOW)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


@pytest.mark.parametrize("while_somebody_speaks_elsewhere", [True, False])
async def test_abandoned_turns_are_closed_although_nobody_speaks_there(
    session, user, script, gate, short_lease, while_somebody_speaks_elsewhere
):
    """Also after a restart, when no turn lives in the new process."""
    abandoned = await lanes.call(lambda: factories.ChatSessionFactory(owner=user))
    await abandon(abandoned, "Tell me", recorded="Once")
    script(Say("a b", gate=gate))
    turn = await say(session) if while_somebody_speaks_elsewhere else None
    if turn is None:
        await turns.look_after_abandoned()

    async def closed() -> bool:
        return (await rows(abandoned))[0].status == "interrupted"

    await until(closed)
    gate.set()
    if turn is not None:
        await told(turn)
    assert await shown(abandoned) == [("user", "Tell me"), ("assistant", "Once…")]


async def test_nothing_of_a_turn_or_its_loop_is_left_behind(session):
    turn = await say(session)
    await told(turn)
    await turns.settled(session.id)
    assert desk()._turns == {}
    gone = weakref.ref(turn)
    del turn

    async def collected() -> bool:
        gc.collect()
        return gone() is None

    await until(collected)

    def in_a_loop_of_its_own() -> weakref.ref[Any]:
        async def talk() -> weakref.ref[Any]:
            await ask(session)
            return weakref.ref(asyncio.get_running_loop())

        return asyncio.run(talk())

    loop = await asyncio.to_thread(in_a_loop_of_its_own)

    async def loop_collected() -> bool:
        # Every lane remembers its last job until its next one.
        await asyncio.gather(*(lanes.write(lambda db: db.one("SELECT 1")) for _ in range(20)))
        await asyncio.gather(*(lanes.read(lambda db: db.one("SELECT 1")) for _ in range(20)))
        gc.collect()
        return loop() is None

    await until(loop_collected)


# --- When the store fails -------------------------------------------------------------------


async def test_an_answer_that_cannot_be_saved_is_still_given(session, script, monkeypatch):
    script(Say("Hello you!"), Say("Again"))
    with monkeypatch.context() as away:
        refuse(away, store_log, "append_for_turn", StoreBusy())
        refuse(away, finishing, "finish", StoreBusy())
        away.setattr(life, "FINISH_PAUSE_SECONDS", 0.5)
        turn = await say(session)
        events = await told(turn)
        assert words(events) == "Hello you!"
        assert warnings(events) == [NOT_SAVED]
        assert isinstance(events[-1], TurnCompleted)
        assert (events[-1].message_id, events[-1].warning) == (None, NOT_SAVED)
        assert (await row(turn)).status == "running"
        await turns.settled(session.id)

    async def closed() -> bool:
        return (await row(turn)).status == "completed"

    await until(closed)  # the store is back: saved after all, before the next one starts
    assert words(await ask(session)) == "Again"
    assert await shown(session) == [
        ("user", "Hello"),
        ("assistant", "Hello you!"),
        ("user", "Hello"),
        ("assistant", "Again"),
    ]
    await counters_fit(session)


@pytest.mark.parametrize("also_the_end", [True, False])
async def test_what_could_not_be_saved_at_first_is_saved_before_the_end(
    session, script, monkeypatch, also_the_end
):
    script(Call("look_up", say="Let me look. "), Say("Here."))
    attempts: list[int] = []

    def refusing(*_: Any, **__: Any) -> None:
        attempts.append(1)
        raise StoreBusy

    async def tried_often() -> bool:
        return len(attempts) > 12

    with monkeypatch.context() as away:
        away.setattr(store_log, "append_for_turn", refusing)
        if also_the_end:
            away.setattr(finishing, "finish", refusing)
        turn = await say(session)
        await until(tried_often)
        assert not turn.closed
    events = await told(turn)
    assert words(events) == "Let me look. Here."
    assert warnings(events) == [NOT_SAVED]  # it rode on the first words
    assert (await row(turn)).warning == ""
    assert await shown(session) == [("user", "Hello"), ("assistant", "Let me look. Here.")]
    kinds = [message.kind for message in await log(session) if message.agent_item is not None]
    assert kinds == ["message", "message", "function_call", "function_call_output", "message"]
    await counters_fit(session)


async def test_an_answer_the_memory_does_not_take_is_shown_and_told_of(
    session, script, settings, monkeypatch
):
    settings.CHAT_STORE_BUDGET_SECONDS = 0.2
    script(Say("Hello you!"))
    with monkeypatch.context() as away:
        refuse(away, store_log, "append_for_turn", StoreDamaged())
        events = await ask(session)
    assert warnings(events) == [NOT_SAVED]
    assert isinstance(events[-1], TurnCompleted)
    assert await shown(session) == [("user", "Hello"), ("assistant", "Hello you!")]
    await counters_fit(session)
    assert words(await ask(session, "Next")) == "I remember: Next"


async def test_an_end_the_store_mistakes_is_one_closing_event(session, script, monkeypatch):
    script(Say("Hello you!"))
    refuse(monkeypatch, finishing, "finish", ZeroDivisionError())
    events = await ask(session)
    assert warnings(events) == [NOT_SAVED]
    assert isinstance(events[-1], TurnCompleted)


async def test_a_ticket_that_cannot_be_given_up_is_closed_later(
    session, short_lease, script, gate, monkeypatch
):
    script(Say("a b", gate=gate))
    first, second = await say(session, "1"), await say(session, "2")
    await until_said(first, "a ")
    attempts: list[int] = []

    def refusing(*_: Any, **__: Any) -> None:
        attempts.append(1)
        raise StoreBusy

    async def tried_again() -> bool:
        return len(attempts) > 4

    with monkeypatch.context() as away:
        away.setattr(closing, "give_up", refusing)
        second.stop("stopped")
        assert isinstance((await told(second))[-1], TurnCompleted)
        await until(tried_again)
        assert (await row(second)).status == "queued"
    gate.set()
    await told(first)

    async def closed() -> bool:
        return (await row(second)).status == "cancelled"

    await until(closed)
    assert await shown(session) == [("user", "1"), ("assistant", "a b"), ("user", "2")]


async def test_a_late_closing_gives_way_to_whoever_was_faster(session, script, monkeypatch):
    script(Say("Hello you!"))
    with monkeypatch.context() as away:
        refuse(away, finishing, "finish", StoreBusy())
        turn = await say(session)
        await told(turn)
    job = partial(closing.interrupt_all, session_id=session.id, now=timezone.now())
    await lanes.write(job)

    async def forgotten() -> bool:
        return not desk()._heartbeat._unclosed

    await until(forgotten)
    assert (await row(turn)).status == "interrupted"
    assert await shown(session) == [("user", "Hello"), ("assistant", "Hello you!…")]
    await counters_fit(session)
