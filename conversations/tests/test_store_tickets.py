"""The life of a turn in the database: one line per conversation, a lease, a fence."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import pytest

from conversations import lanes
from conversations.errors import (
    IdempotencyConflict,
    LeaseLost,
    QueueFull,
    StoreDamaged,
    ThreadClosed,
    ThreadNotFound,
)
from conversations.events import ContentDelta, Usage, encode_events
from conversations.ids import new_id
from conversations.items import Row, row_from_item
from conversations.models import ChatMessage, ChatSession, ChatTurn, RecordedEvents
from conversations.store import (
    closing,
    finishing,
    leases,
    line,
    log,
    recall,
    records,
    repeats,
    tickets,
    titles,
)
from conversations.store.closing import CUT_SHORT, STOPPED
from conversations.store.finishing import Result
from conversations.store.leases import Holder
from conversations.store.line import Orphan, Started, Ticket
from conversations.store.records import Recording
from conversations.tests.turns_helpers import counters_fit, shown, stored

NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)
LEASE = 15_000


def after(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def ticks(moment: datetime) -> int:
    """The lease clock at that moment; it begins with the wall clock, and is another one."""
    return round((moment - NOON).total_seconds() * 1000)


def holder(process: str = "here", *, now: datetime = NOON, lease: float = 15) -> Holder:
    return Holder(process, round(lease * 1000), clock=lambda _: ticks(now))


async def submit(session: Any, text: str = "Hello", **changes: Any) -> Any:
    now = changes.pop("now", NOON)
    taker = {name: changes.pop(name) for name in ("process", "lease") if name in changes}
    options: dict[str, Any] = {
        "holder": holder(**taker, now=now),
        "session_id": session.id,
        "owner_id": session.owner_id,
        "turn_id": new_id(),
        "text": text,
        "idempotency_key": None,
        "now": now,
        "max_queued": 5,
    }
    return await lanes.write(partial(tickets.submit, **options | changes))


async def begin(session: Any, text: str = "Hello", **changes: Any) -> Started:
    ticket = await submit(session, text, **changes)
    assert ticket.started is not None
    return ticket.started


async def start(
    ticket: Ticket, *, now: datetime = NOON, process: str = "here"
) -> Started | list[Orphan]:
    taker = holder(process, now=now)
    return await lanes.write(partial(tickets.start, ticket=ticket, holder=taker, now=now))


async def ahead_of(ticket: Ticket, *, now: datetime = NOON) -> str:
    look = partial(line.look_ahead, ticket=ticket, holder=holder(now=now))
    return await lanes.read(look)


async def recover(session: Any, *, now: datetime, adopts: bool = True) -> list[Orphan]:
    return await lanes.write(
        partial(line.recover, session_id=session.id, holder=holder(now=now), now=now, adopts=adopts)
    )


async def record(started: Started, *said: str, first_number: int = 1) -> set[UUID]:
    events = encode_events(map(ContentDelta, said))
    recording = Recording(first_number, first_number + len(said) - 1, events)
    return await lanes.write(partial(records.record, recordings=[(started.lease, recording)]))


async def append(started: Started, *said: Row, **options: Any) -> None:
    batch = log.Batch(rows=said, **options)
    await lanes.write(partial(log.append_for_turn, lease=started.lease, batch=batch, now=NOON))


async def finish(started: Started, *, now: datetime = NOON, **result: Any) -> UUID | None:
    return await lanes.write(
        partial(
            finishing.finish,
            lease=started.lease,
            result=Result(**{"status": "completed"} | result),
            now=now,
        )
    )


async def give_up(
    ticket: Ticket, *, status: str = "cancelled", process: str = "here"
) -> UUID | None:
    return await lanes.write(
        partial(
            closing.give_up,
            turn_id=ticket.turn_id,
            process=process,
            status=status,
            error_code="",
            now=NOON,
        )
    )


async def turn_of(ticket: Any) -> ChatTurn:
    turn_id = ticket.turn_id if hasattr(ticket, "turn_id") else ticket.lease.turn_id
    return await lanes.call(lambda: ChatTurn.objects.get(id=turn_id))


async def remembered(session: Any) -> list[tuple[str, str]]:
    """What the model is given: (role, text)."""
    items = (await lanes.read(partial(recall.load_window, session_id=session.id))).items
    return [(item["role"], item["content"]) for item in items]


def answer(text: str) -> Row:
    return row_from_item({"type": "message", "role": "assistant", "content": text})


def spoken(text: str, *, incomplete: bool = False) -> Row:
    """What the turn stores for people alone."""
    return Row(kind="message", role="assistant", text=text, shown=True, incomplete=incomplete)


# --- The line -----------------------------------------------------------------------------


async def test_the_first_message_of_a_quiet_conversation_starts_at_once(session):
    ticket = await submit(session, "Hello")
    assert (ticket.number, ticket.ahead) == (1, 0)
    assert ticket.started.window.items == []
    assert ticket.started.agent_session_id == session.agent_session_id
    turn = await turn_of(ticket)
    assert (turn.status, turn.input, turn.lease_owner) == ("running", "", "here")
    assert (turn.lease_until, turn.started_at) == (LEASE, NOON)
    assert turn.user_message_id == ticket.started.user_message_id
    assert await shown(session) == [("user", "Hello")]
    await counters_fit(session)


async def test_messages_behind_it_wait_in_order_and_keep_their_words(session):
    found = [await submit(session, f"number {n}") for n in (1, 2, 3)]
    assert [(ticket.number, ticket.ahead) for ticket in found] == [(1, 0), (2, 1), (3, 2)]
    assert [ticket.started is None for ticket in found] == [False, True, True]
    assert (await turn_of(found[2])).input == "number 3"
    assert await shown(session) == [("user", "number 1")]
    await counters_fit(session)


async def test_nobody_starts_out_of_order(session):
    first, second, third = [await submit(session, f"{n}") for n in (1, 2, 3)]
    for ticket in (second, third):
        assert await ahead_of(ticket) == "somebody"
        assert await start(ticket) == []
    await finish(first.started)
    assert await ahead_of(second) == "nobody"
    assert await ahead_of(third) == "somebody"
    assert await start(third) == []
    started = await start(second)
    assert isinstance(started, Started)
    assert started.lease.fence > first.started.lease.fence
    assert await ahead_of(third) == "somebody"
    assert await shown(session) == [("user", "1"), ("user", "2")]


async def test_a_turn_that_starts_remembers_what_was_said_before(session):
    first = await begin(session, "Hello")
    item = {"role": "user", "content": "Hello"}
    await append(first, answer("Hi!"), adopt=(first.user_message_id, row_from_item(item)))
    await finish(first)
    window = (await begin(session, "Again")).window
    assert window is not None
    assert [item["content"] for item in window.items] == ["Hello", "Hi!"]


async def test_a_line_that_is_full_refuses_and_stores_nothing(session):
    for n in range(3):
        await submit(session, f"{n}", max_queued=2)
    with pytest.raises(QueueFull):
        await submit(session, "too many", max_queued=2)
    assert (await stored(session)).last_turn_number == 3
    assert await submit(session, "one more place", max_queued=3)


async def test_of_dead_turns_only_those_that_waited_keep_their_place_in_the_line(session):
    for n in range(3):
        await submit(session, f"{n}", max_queued=2)
    late = await submit(session, "late", max_queued=2, now=after(60))
    assert (late.ahead, late.started) == (2, None)
    with pytest.raises(QueueFull):
        await submit(session, "too many", max_queued=2, now=after(60))


@pytest.mark.parametrize("status", ["closed", "locked"])
async def test_a_closed_or_locked_conversation_takes_no_message(session, status):
    await lanes.call(ChatSession.objects.filter(id=session.id).update, status=status)
    with pytest.raises(ThreadClosed):
        await submit(session)
    assert await shown(session) == []


async def test_a_message_taken_before_the_conversation_closed_is_answered(session):
    first, second = await submit(session, "1"), await submit(session, "2")
    await lanes.call(ChatSession.objects.filter(id=session.id).update, status="closed")
    await finish(first.started)
    assert isinstance(await start(second), Started)


async def test_a_strangers_conversation_looks_like_a_missing_one(session, stranger):
    with pytest.raises(ThreadNotFound):
        await submit(session, owner_id=stranger.pk)
    with pytest.raises(ThreadNotFound):
        await submit(session, session_id=uuid4())


async def test_conversations_do_not_wait_for_each_other(session, user):
    other = await lanes.call(
        lambda: ChatSession.objects.create(owner=user, agent_session_id="other")
    )
    await begin(session)
    assert (await submit(other)).started is not None


# --- Leases -------------------------------------------------------------------------------


async def test_a_sign_of_life_renews_only_these_turns_and_only_ones_own(session, user):
    other = await lanes.call(
        lambda: ChatSession.objects.create(owner=user, agent_session_id="other")
    )
    mine, waiting = await submit(session, "1"), await submit(session, "2")
    forgotten = await submit(session, "3")
    theirs = await submit(other, process="elsewhere")
    ids = [mine.turn_id, waiting.turn_id, theirs.turn_id, uuid4()]
    later = holder(now=after(60))
    kept = await lanes.write(partial(leases.renew, holder=later, turn_ids=ids))
    assert kept == {mine.turn_id, waiting.turn_id}
    assert (await turn_of(mine)).lease_until == 60_000 + LEASE
    assert (await turn_of(waiting)).lease_until == 60_000 + LEASE
    assert (await turn_of(forgotten)).lease_until == LEASE
    assert (await turn_of(theirs)).lease_until == LEASE


async def test_a_turn_that_ended_is_not_renewed(session):
    ticket = await submit(session)
    await finish(ticket.started)
    renew = partial(leases.renew, holder=holder(now=after(60)))
    assert await lanes.write(partial(renew, turn_ids=[ticket.turn_id])) == set()
    assert await lanes.write(partial(renew, turn_ids=[])) == set()


async def test_a_dead_running_turn_is_closed_by_the_next_one(session):
    dead = await submit(session, "Tell me", process="gone")
    await record(dead.started, "Once ", "upon a")
    waiting = await submit(session, "Hello?", now=after(10))
    assert await ahead_of(waiting, now=after(14)) == "somebody"
    assert await ahead_of(waiting, now=after(15)) == "abandoned"
    assert isinstance(await start(waiting, now=after(15)), Started)
    assert await shown(session) == [
        ("user", "Tell me"),
        ("assistant", "Once upon a…"),
        ("user", "Hello?"),
    ]
    turn = await turn_of(dead)
    assert (turn.status, turn.error_code) == ("interrupted", "interrupted")
    assert (turn.finished_at, turn.event_count) == (after(15), 3)
    assert turn.answer_message_id is not None
    await counters_fit(session)


async def test_a_process_that_is_gone_is_not_waited_for(session, gone):
    """Its lease has not run out; the next process sees that nobody holds it any more."""
    dead = await submit(session, "1", process=gone)
    assert await lanes.read(partial(leases.find_abandoned, holder=holder())) == [session.id]
    assert (await submit(session, "2")).started is not None
    assert (await turn_of(dead)).status == "interrupted"


async def test_a_dead_turn_without_a_word_leaves_only_the_question(session):
    dead = await submit(session, "Tell me", process="gone")
    await begin(session, "Hello?", now=after(20))
    assert await shown(session) == [("user", "Tell me"), ("user", "Hello?")]
    assert (await turn_of(dead)).answer_message_id is None
    assert await remembered(session) == [("user", "Tell me")]


async def test_what_waited_in_a_dead_process_is_adopted_before_what_came_later(session):
    await submit(session, "1", process="gone")
    second = await submit(session, "2", process="gone")
    third = await submit(session, "3", process="gone", now=after(1))
    late = await submit(session, "4", now=after(20))
    assert (late.ahead, late.started) == (2, None)
    assert await ahead_of(late, now=after(20)) == "abandoned"
    adopted = await start(late, now=after(20))
    assert [(orphan.ticket.turn_id, orphan.text) for orphan in adopted] == [
        (second.turn_id, "2"),
        (third.turn_id, "3"),
    ]
    assert [orphan.owner_id for orphan in adopted] == [session.owner_id] * 2
    assert await start(late, now=after(20)) == []
    for orphan in adopted:
        started = await start(orphan.ticket, now=after(20))
        assert isinstance(started, Started)
        await finish(started)
    assert isinstance(await start(late, now=after(20)), Started)
    assert await shown(session) == [("user", text) for text in "1234"]
    await counters_fit(session)


async def test_an_adopted_ticket_is_no_longer_its_first_process_own(session):
    """It was only paused."""
    first = await submit(session, "1", lease=60)
    paused = await submit(session, "2", process="paused")
    (orphan,) = await recover(session, now=after(20))
    assert orphan.ticket.turn_id == paused.turn_id
    with pytest.raises(LeaseLost):
        await start(paused, now=after(21), process="paused")
    assert await give_up(paused, process="paused") is None
    renewed = partial(leases.renew, holder=holder("paused"), turn_ids=[paused.turn_id])
    assert await lanes.write(renewed) == set()
    await finish(first.started)
    assert isinstance(await start(orphan.ticket, now=after(21)), Started)


async def test_what_waited_too_long_for_a_process_is_kept_but_answered_no_more(session):
    await submit(session, "1", process="gone")
    queued = await submit(session, "2", process="gone")
    started = await begin(session, "3", now=after(3600))
    assert await shown(session) == [("user", "1"), ("user", "2"), ("user", "3")]
    turn = await turn_of(queued)
    assert (turn.status, turn.input, turn.started_at) == ("interrupted", "", None)
    assert (turn.user_message_id is not None, turn.event_count) == (True, 2)
    await finish(started)
    await counters_fit(session)


async def test_a_dead_waiter_between_two_living_turns_keeps_its_place(session):
    alive = await submit(session, "1", lease=60)
    await submit(session, "2", process="gone")
    third = await submit(session, "3", now=after(20))
    assert (third.ahead, third.started) == (2, None)
    (orphan,) = await start(third, now=after(20))
    await finish(alive.started)
    second = await start(orphan.ticket, now=after(20))
    assert await start(third, now=after(20)) == []
    await finish(second)
    assert isinstance(await start(third, now=after(20)), Started)
    assert await shown(session) == [("user", "1"), ("user", "2"), ("user", "3")]
    await counters_fit(session)


async def test_a_sweep_closes_what_nobody_speaks_behind(session):
    dead = await submit(session, "Tell me", process="gone")
    await record(dead.started, "Once")

    async def abandoned(seconds: float) -> list[UUID]:
        return await lanes.read(partial(leases.find_abandoned, holder=holder(now=after(seconds))))

    assert await abandoned(14) == []
    assert await abandoned(15) == [session.id]
    for _ in range(2):
        assert await recover(session, now=after(15)) == []
    assert await shown(session) == [("user", "Tell me"), ("assistant", "Once…")]
    assert (await stored(session)).title == "Tell me"
    assert await abandoned(99) == []
    session.id = uuid4()
    assert await recover(session, now=after(99)) == []


async def test_a_sweep_leaves_the_living_alone_and_what_waits_to_a_process_that_answers(session):
    alive = await submit(session, "1", lease=60)
    waiting = await submit(session, "2")
    assert await recover(session, now=after(20), adopts=False) == []
    assert (await turn_of(alive)).status == "running"
    turn = await turn_of(waiting)
    assert (turn.status, turn.lease_until) == ("queued", LEASE)
    (orphan,) = await recover(session, now=after(20))
    assert (orphan.ticket.turn_id, orphan.text) == (waiting.turn_id, "2")
    assert (await turn_of(waiting)).lease_until == 20_000 + LEASE


# --- What a cut answer leaves ---------------------------------------------------------------


async def test_a_record_older_than_the_stored_answer_does_not_replace_it(session):
    dead = await begin(session, "Tell me")
    await record(dead, "Once")
    await append(dead, answer("Once upon a time."))
    await begin(session, "Hello?", now=after(20))
    assert await shown(session) == [
        ("user", "Tell me"),
        ("assistant", "Once upon a time.…"),
        ("user", "Hello?"),
    ]
    assert (await turn_of(dead)).answer_message_id is not None
    await counters_fit(session)


async def test_words_before_a_tool_are_not_shown_twice(session):
    dead = await begin(session, "Tell me")
    await append(dead, answer("Let me look. "))
    await record(dead, "Let me ", "look. ", "It is")
    await begin(session, "Hello?", now=after(20))
    assert await shown(session) == [
        ("user", "Tell me"),
        ("assistant", "Let me look. It is…"),
        ("user", "Hello?"),
    ]
    assert await remembered(session) == [
        ("user", "Tell me"),
        ("assistant", "Let me look. "),
        ("assistant", "It is"),
        ("system", CUT_SHORT),
    ]
    await counters_fit(session)


async def test_the_part_of_a_cut_answer_is_remembered_and_that_it_was_cut(session):
    dead = await begin(session, "Tell me")
    await record(dead, "Once", " upon")
    await begin(session, "Hello?", now=after(20))
    assert await remembered(session) == [
        ("user", "Tell me"),
        ("assistant", "Once upon"),
        ("system", CUT_SHORT),
    ]
    await counters_fit(session)


async def test_a_stop_that_another_process_finds_undone_is_told_to_the_model_as_one(session):
    stopped = await submit(session, "Tell me")
    await record(stopped.started, "Once")
    await give_up(stopped)
    assert (await remembered(session))[-1] == ("system", STOPPED)


async def test_the_tokens_of_a_dead_turn_are_counted_once(session):
    dead = await begin(session)
    await append(dead, answer("a"), usage=Usage(1, 10, 5))
    await append(dead, answer("b"), usage=Usage(2, 30, 7))
    assert (await stored(session)).input_tokens == 0
    await finish(await begin(session, now=after(20)), usage=Usage(1, 1, 1))
    found = await stored(session)
    assert (found.input_tokens, found.output_tokens) == (31, 8)


# --- The fence ----------------------------------------------------------------------------


async def test_who_was_overtaken_can_write_no_more(session):
    stale = await begin(session, "1", process="paused")
    await record(stale, "so far")
    fresh = await begin(session, "2", now=after(20))
    before = await shown(session)
    with pytest.raises(LeaseLost):
        await append(stale, answer("too late"))
    assert await record(stale, "too late", first_number=2) == {stale.lease.turn_id}
    with pytest.raises(LeaseLost):
        await finish(stale)
    await finish(stale, status="interrupted", rows=[spoken("too late")])  # it is already
    assert await shown(session) == before
    assert (await turn_of(stale)).status == "interrupted"
    await finish(fresh)
    await counters_fit(session)


async def test_a_turn_that_has_ended_can_write_no_more(session):
    ended = await begin(session)
    await finish(ended)
    with pytest.raises(LeaseLost):
        await append(ended, answer("too late"))
    assert await record(ended, "too late") == {ended.lease.turn_id}
    assert await shown(session) == [("user", "Hello")]


@pytest.mark.parametrize("running", [True, False])
async def test_a_deleted_conversation_is_never_revived(session, running):
    first, waiting = await submit(session, "1"), await submit(session, "2")
    await lanes.call(ChatSession.objects.filter(id=session.id).delete)
    started = first.started
    if running:
        with pytest.raises(LeaseLost):
            await append(started, answer("Hi"))
        assert await record(started, "Hi") == {started.lease.turn_id}
        with pytest.raises(LeaseLost):
            await finish(started, rows=[spoken("Hi")])
    else:
        with pytest.raises(LeaseLost):
            await start(waiting)
        assert await give_up(waiting) is None
        await lanes.write(partial(closing.interrupt_all, session_id=session.id, now=NOON))
    assert not await lanes.call(ChatSession.objects.exists)
    assert not await lanes.call(ChatMessage.objects.exists)
    assert not await lanes.call(ChatTurn.objects.exists)
    assert not await lanes.call(RecordedEvents.objects.exists)


# --- The end ------------------------------------------------------------------------------


async def test_the_result_is_stored_with_what_remains_of_the_answer(session):
    started = await begin(session)
    piece = spoken("Hel", incomplete=True)
    answer_id = await finish(
        started,
        now=after(3),
        status="failed",
        error_code="model_unavailable",
        warning="a warning",
        model="m" * 300,
        usage=Usage(2, 30, 4),
        rows=[piece],
        answer_id=piece.id,
        incomplete=True,
        first_token_at=after(1),
    )
    turn = await turn_of(started)
    assert answer_id == piece.id == turn.answer_message_id
    assert (turn.status, turn.error_code, turn.warning) == (
        "failed",
        "model_unavailable",
        "a warning",
    )
    assert (turn.model, turn.requests, turn.input_tokens, turn.output_tokens) == (
        "m" * 200,
        2,
        30,
        4,
    )
    assert (turn.first_token_at, turn.finished_at) == (after(1), after(3))
    assert await shown(session) == [("user", "Hello"), ("assistant", "Hel…")]
    assert (await stored(session)).last_active_at == after(3)
    await counters_fit(session)


@pytest.mark.parametrize("status", ["completed", "failed", "cancelled"])
async def test_ending_twice_counts_and_stores_once(session, status):
    """The first commit may have succeeded without the process hearing of it."""
    started = await begin(session)
    result = {"status": status, "usage": Usage(1, 10, 5)}
    first, second = spoken("Hi"), spoken("Hi")
    assert await finish(started, rows=[first], answer_id=first.id, **result) == first.id
    assert await finish(started, rows=[second], answer_id=second.id, **result) == first.id
    assert await shown(session) == [("user", "Hello"), ("assistant", "Hi")]
    await counters_fit(session)


async def test_ending_twice_without_an_answer_is_the_same(session):
    started = await begin(session)
    assert await finish(started) is None
    assert await finish(started) is None


async def test_an_answer_stored_before_a_tool_is_completed_and_marked(session):
    started = await begin(session)
    piece = answer("Let me look. ")
    await append(started, piece)
    await finish(
        started,
        status="cancelled",
        answer_id=piece.id,
        corrected="Let me look. It is",
        incomplete=True,
    )
    assert await shown(session) == [("user", "Hello"), ("assistant", "Let me look. It is…")]
    await counters_fit(session)


async def test_what_was_said_is_marked_as_cut_although_nothing_came_after(session):
    started = await begin(session)
    piece = answer("Let me look. ")
    await append(started, piece)
    await finish(started, status="failed", answer_id=piece.id, incomplete=True)
    assert await shown(session) == [("user", "Hello"), ("assistant", "Let me look. …")]


async def test_a_ticket_that_is_given_up_keeps_the_words(session):
    await submit(session, "1")
    waiting = await submit(session, "2")
    message_id = await give_up(waiting)
    turn = await turn_of(waiting)
    assert (turn.status, turn.input, turn.finished_at) == ("cancelled", "", NOON)
    assert message_id == turn.user_message_id
    assert await shown(session) == [("user", "1"), ("user", "2")]
    assert await give_up(waiting, status="interrupted") == message_id
    assert (await turn_of(waiting)).status == "cancelled"
    await counters_fit(session)


async def test_a_turn_that_started_unheard_is_given_up_too(session):
    """The start was committed when its process stopped waiting for it."""
    started = await submit(session, "1")
    assert await give_up(started) == started.started.user_message_id
    assert (await turn_of(started)).status == "cancelled"
    with pytest.raises(LeaseLost):
        await append(started.started, answer("too late"))
    assert (await submit(session, "2")).started is not None
    await counters_fit(session)


async def test_all_turns_of_a_conversation_can_be_taken_away(session):
    first = await submit(session, "1", process="elsewhere")
    await record(first.started, "One")
    second = await submit(session, "2")
    await lanes.write(partial(closing.interrupt_all, session_id=session.id, now=NOON))
    assert await shown(session) == [("user", "1"), ("assistant", "One…"), ("user", "2")]
    with pytest.raises(LeaseLost):
        await finish(first.started)
    with pytest.raises(LeaseLost):
        await start(second)
    await counters_fit(session)


# --- Titles -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("Buy milk", "Buy milk"),
        ("x" * 50, "x" * 50),
        ("x" * 51, "x" * 50 + "..."),
        ("  two\n lines\t here ", "two lines here"),
        ("ü" * 60, "ü" * 50 + "..."),
    ],
)
def test_a_title_is_the_first_fifty_characters(text, title):
    assert titles.title_from(text) == title


async def test_an_untitled_conversation_takes_its_title_from_its_first_message(session):
    await finish(await begin(session, "Buy milk"))
    assert (await stored(session)).title == "Buy milk"
    await finish(await begin(session, "And bread"))
    assert (await stored(session)).title == "Buy milk"


async def test_a_failed_first_turn_gives_the_title_too(session):
    await finish(await begin(session, "Buy milk"), status="failed", error_code="assistant_failed")
    assert (await stored(session)).title == "Buy milk"


async def test_a_title_given_by_a_person_stays(session):
    started = await begin(session, "Buy milk")
    await lanes.call(ChatSession.objects.filter(id=session.id).update, title="Mine")
    await finish(started)
    assert (await stored(session)).title == "Mine"


async def test_a_conversation_cleared_while_it_answered_stays_untitled(session):
    started = await begin(session, "Buy milk")
    await lanes.call(ChatMessage.objects.filter(session_id=session.id).delete)
    await finish(started)
    assert (await stored(session)).title == ""


# --- The same message again -----------------------------------------------------------------


async def test_the_same_key_is_the_same_turn(session):
    running = await submit(session, "1", idempotency_key="a")
    waiting = await submit(session, "2", idempotency_key="b")
    assert await submit(session, "1", idempotency_key="a") == repeats.Repeat(
        running.turn_id, session.id, 1
    )
    assert (await submit(session, "2", idempotency_key="b")).turn_id == waiting.turn_id
    assert (await stored(session)).last_turn_number == 2


async def test_the_same_key_for_other_words_is_refused(session):
    await submit(session, "1", idempotency_key="a")
    await submit(session, "2", idempotency_key="b")
    for key in ("a", "b"):
        with pytest.raises(IdempotencyConflict):
            await submit(session, "other", idempotency_key=key)


async def test_a_repeated_message_is_found_also_when_the_line_is_full_or_closed(session):
    first = await submit(session, "1", idempotency_key="a", max_queued=0)
    assert (await submit(session, "1", idempotency_key="a", max_queued=0)).turn_id == first.turn_id
    await lanes.call(ChatSession.objects.filter(id=session.id).update, status="closed")
    assert (await submit(session, "1", idempotency_key="a")).turn_id == first.turn_id


async def test_a_key_may_be_used_again_after_a_day(session):
    first = await submit(session, "1", idempotency_key="a")
    await finish(first.started)
    almost = NOON + timedelta(hours=24) - timedelta(microseconds=1)
    assert isinstance(await submit(session, "1", idempotency_key="a", now=almost), repeats.Repeat)
    second = await submit(session, "2", idempotency_key="a", now=NOON + timedelta(hours=24))
    assert second.number == 2
    assert (await turn_of(first)).idempotency_key is None


async def test_a_key_belongs_to_one_conversation(session, user):
    other = await lanes.call(
        lambda: ChatSession.objects.create(owner=user, agent_session_id="other")
    )
    first = await submit(session, "1", idempotency_key="a")
    assert (await submit(other, "2", idempotency_key="a")).turn_id != first.turn_id


async def test_a_cleared_message_is_still_the_same_message(session):
    first = await submit(session, "1", idempotency_key="a")
    await finish(first.started)
    name = session.agent_session_id
    await lanes.write(partial(log.clear, agent_session_id=name, now=NOON))
    assert (await submit(session, "1", idempotency_key="a")).turn_id == first.turn_id


async def test_a_turn_that_is_gone_has_no_ending(session):
    assert await lanes.read(partial(repeats.find_ending, turn_id=new_id())) is None


# --- Damage -------------------------------------------------------------------------------


async def test_a_memory_that_cannot_be_read_stops_the_turn_only_until_it_goes_without(
    session, monkeypatch
):
    def damaged(*_: Any, **__: Any) -> None:
        raise StoreDamaged

    monkeypatch.setattr(tickets, "load_window", damaged)
    with pytest.raises(StoreDamaged):
        await submit(session)
    assert await shown(session) == []
    assert (await begin(session, with_memory=False)).window is None
    assert await shown(session) == [("user", "Hello")]


async def test_a_fault_of_our_own_is_not_taken_for_damage(session, monkeypatch):
    def mistaken(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(tickets, "load_window", mistaken)
    with pytest.raises(ZeroDivisionError):
        await submit(session)
    assert await shown(session) == []
