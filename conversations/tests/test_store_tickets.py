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
    StoreError,
    ThreadClosed,
    ThreadNotFound,
)
from conversations.events import Usage
from conversations.ids import new_id
from conversations.items import Row, row_from_item
from conversations.models import ChatMessage, ChatSession, ChatTurn
from conversations.store import log, repeats, tickets
from conversations.store.tickets import Result, Started, Ticket
from conversations.tests.turns_helpers import counters_fit, shown, stored

NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)
LEASE = timedelta(seconds=15)


def after(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


async def submit(session: Any, text: str = "Hello", **changes: Any) -> Any:
    now = changes.pop("now", NOON)
    options: dict[str, Any] = {
        "session_id": session.id,
        "owner_id": session.owner_id,
        "text": text,
        "idempotency_key": None,
        "process": "here",
        "expires_at": now + LEASE,
        "now": now,
        "max_queued": 5,
    }
    return await lanes.write(partial(tickets.submit, **options | changes))


async def begin(session: Any, text: str = "Hello", **changes: Any) -> Started:
    ticket = await submit(session, text, **changes)
    assert ticket.started is not None
    return ticket.started


async def start(ticket: Ticket, *, now: datetime = NOON) -> Started | None:
    return await lanes.write(partial(tickets.start, ticket=ticket, expires_at=now + LEASE, now=now))


async def is_first(ticket: Ticket, *, now: datetime = NOON) -> bool:
    return await lanes.read(partial(tickets.is_first, ticket=ticket, now=now))


async def checkpoint(started: Started, text: str) -> None:
    await lanes.write(partial(tickets.checkpoint, lease=started.lease, text=text))


async def append(started: Started, *said: Row, **options: Any) -> None:
    batch = log.Batch(rows=said, **options)
    await lanes.write(partial(log.append_for_turn, lease=started.lease, batch=batch, now=NOON))


async def finish(started: Started, *, now: datetime = NOON, **result: Any) -> UUID | None:
    return await lanes.write(
        partial(
            tickets.finish,
            lease=started.lease,
            result=Result(**{"status": "completed"} | result),
            now=now,
        )
    )


async def give_up(ticket: Ticket, *, status: str = "cancelled") -> UUID | None:
    return await lanes.write(
        partial(tickets.give_up, turn_id=ticket.turn_id, status=status, error_code="", now=NOON)
    )


async def turn_of(ticket: Any) -> ChatTurn:
    turn_id = ticket.turn_id if hasattr(ticket, "turn_id") else ticket.lease.turn_id
    return await lanes.call(lambda: ChatTurn.objects.get(id=turn_id))


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
    assert (turn.lease_expires_at, turn.started_at) == (NOON + LEASE, NOON)
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
        assert not await is_first(ticket)
        assert await start(ticket) is None
    await finish(first.started)
    assert await is_first(second)
    assert not await is_first(third)
    assert await start(third) is None
    started = await start(second)
    assert started is not None
    assert started.lease.fence > first.started.lease.fence
    assert not await is_first(third)
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


async def test_dead_turns_take_no_place_in_the_line(session):
    for n in range(3):
        await submit(session, f"{n}", max_queued=2)
    late = await submit(session, "late", max_queued=2, now=after(60))
    assert late.started is not None


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
    assert await start(second) is not None


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
    later = after(60)
    kept = await lanes.write(partial(tickets.renew, process="here", turn_ids=ids, expires_at=later))
    assert kept == {mine.turn_id, waiting.turn_id}
    assert (await turn_of(mine)).lease_expires_at == later
    assert (await turn_of(waiting)).lease_expires_at == later
    assert (await turn_of(forgotten)).lease_expires_at == NOON + LEASE
    assert (await turn_of(theirs)).lease_expires_at == NOON + LEASE


async def test_a_turn_that_ended_is_not_renewed(session):
    ticket = await submit(session)
    await finish(ticket.started)
    renew = partial(tickets.renew, process="here", expires_at=after(60))
    assert await lanes.write(partial(renew, turn_ids=[ticket.turn_id])) == set()
    assert await lanes.write(partial(renew, turn_ids=[])) == set()


async def test_a_dead_running_turn_is_closed_by_the_next_one(session):
    dead = await submit(session, "Tell me", process="gone")
    await checkpoint(dead.started, "Once upon a")
    waiting = await submit(session, "Hello?", now=after(10))
    assert not await is_first(waiting, now=after(14))
    assert await is_first(waiting, now=after(15))
    assert await start(waiting, now=after(15)) is not None
    assert await shown(session) == [
        ("user", "Tell me"),
        ("assistant", "Once upon a…"),
        ("user", "Hello?"),
    ]
    turn = await turn_of(dead)
    assert (turn.status, turn.error_code, turn.partial) == ("interrupted", "interrupted", "")
    assert turn.finished_at == after(15)
    assert turn.answer_message_id is not None
    await counters_fit(session)


async def test_a_dead_turn_without_a_word_leaves_only_the_question(session):
    dead = await submit(session, "Tell me", process="gone")
    await begin(session, "Hello?", now=after(20))
    assert await shown(session) == [("user", "Tell me"), ("user", "Hello?")]
    assert (await turn_of(dead)).answer_message_id is None


async def test_dead_waiters_do_not_block_the_line_and_their_words_stay(session):
    await submit(session, "1", process="gone")
    queued = await submit(session, "2", process="gone")
    started = await begin(session, "3", now=after(20))
    assert await shown(session) == [("user", "1"), ("user", "2"), ("user", "3")]
    turn = await turn_of(queued)
    assert (turn.status, turn.input, turn.started_at) == ("interrupted", "", None)
    assert turn.user_message_id is not None
    await finish(started)
    await counters_fit(session)


async def test_a_dead_waiter_between_two_living_turns_is_passed_over(session):
    alive = await submit(session, "1", expires_at=after(60))
    await submit(session, "2", process="gone")
    third = await submit(session, "3", now=after(20))
    assert (third.ahead, third.started) == (1, None)
    assert await start(third, now=after(20)) is None
    await finish(alive.started)
    assert await start(third, now=after(20)) is not None
    assert await shown(session) == [("user", "1"), ("user", "2"), ("user", "3")]
    await counters_fit(session)


async def test_a_sweep_closes_what_nobody_speaks_behind(session):
    dead = await submit(session, "Tell me", process="gone")
    await checkpoint(dead.started, "Once")
    look = partial(tickets.find_abandoned)
    assert await lanes.read(partial(look, expired_before=after(14))) == []
    assert await lanes.read(partial(look, expired_before=after(15))) == [session.id]
    recover = partial(tickets.recover, now=after(30), expired_before=after(15))
    await lanes.write(partial(recover, session_id=session.id))
    await lanes.write(partial(recover, session_id=session.id))
    await lanes.write(partial(recover, session_id=uuid4()))
    assert await shown(session) == [("user", "Tell me"), ("assistant", "Once…")]
    assert await lanes.read(partial(look, expired_before=after(99))) == []
    await counters_fit(session)


async def test_a_sweep_leaves_the_living_alone(session):
    alive = await submit(session, "1", expires_at=after(60))
    waiting = await submit(session, "2")
    await lanes.write(
        partial(tickets.recover, session_id=session.id, expired_before=after(20), now=after(20))
    )
    assert (await turn_of(alive)).status == "running"
    assert (await turn_of(waiting)).status == "interrupted"


# --- What a cut answer leaves ---------------------------------------------------------------


async def test_a_checkpoint_older_than_the_stored_answer_does_not_replace_it(session):
    dead = await begin(session, "Tell me")
    await checkpoint(dead, "Once")
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
    await checkpoint(dead, "Let me look. It is")
    await begin(session, "Hello?", now=after(20))
    assert await shown(session) == [
        ("user", "Tell me"),
        ("assistant", "Let me look. It is…"),
        ("user", "Hello?"),
    ]
    found = await lanes.call(lambda: ChatMessage.objects.get(session=session, text="Let me look. "))
    assert not found.shown
    assert found.agent_item is not None
    await counters_fit(session)


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
    await checkpoint(stale, "so far")
    fresh = await begin(session, "2", now=after(20))
    before = await shown(session)
    with pytest.raises(LeaseLost):
        await append(stale, answer("too late"))
    with pytest.raises(LeaseLost):
        await checkpoint(stale, "too late")
    with pytest.raises(LeaseLost):
        await finish(stale)
    await finish(stale, status="interrupted", partial_row=spoken("too late"))  # it is already
    assert await shown(session) == before
    assert (await turn_of(stale)).status == "interrupted"
    await finish(fresh)
    await counters_fit(session)


async def test_a_turn_that_has_ended_can_write_no_more(session):
    ended = await begin(session)
    await finish(ended)
    with pytest.raises(LeaseLost):
        await append(ended, answer("too late"))
    with pytest.raises(LeaseLost):
        await checkpoint(ended, "too late")
    assert await shown(session) == [("user", "Hello")]


async def test_a_paused_waiter_learns_that_its_ticket_was_given_up(session):
    await submit(session, "1")
    paused = await submit(session, "2", process="paused")
    await begin(session, "3", now=after(20))
    with pytest.raises(LeaseLost):
        await start(paused, now=after(21))
    assert await give_up(paused) is not None
    assert (await turn_of(paused)).status == "interrupted"


@pytest.mark.parametrize("running", [True, False])
async def test_a_deleted_conversation_is_never_revived(session, running):
    first, waiting = await submit(session, "1"), await submit(session, "2")
    await lanes.call(ChatSession.objects.filter(id=session.id).delete)
    started = first.started
    if running:
        with pytest.raises(LeaseLost):
            await append(started, answer("Hi"))
        with pytest.raises(LeaseLost):
            await checkpoint(started, "Hi")
        with pytest.raises(LeaseLost):
            await finish(started, partial_row=spoken("Hi"))
    else:
        with pytest.raises(LeaseLost):
            await start(waiting)
        assert await give_up(waiting) is None
        await lanes.write(partial(tickets.interrupt_all, session_id=session.id, now=NOON))
    assert not await lanes.call(ChatSession.objects.exists)
    assert not await lanes.call(ChatMessage.objects.exists)
    assert not await lanes.call(ChatTurn.objects.exists)


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
        partial_row=piece,
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
    result = {"status": status, "usage": Usage(1, 10, 5), "partial_row": spoken("Hi")}
    first = await finish(started, **result)
    result["partial_row"] = spoken("Hi")
    assert await finish(started, **result) == first
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
        answer_text="Let me look. It is",
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
    await checkpoint(first.started, "One")
    second = await submit(session, "2")
    await lanes.write(partial(tickets.interrupt_all, session_id=session.id, now=NOON))
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
    assert tickets.title_from(text) == title


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
    look = partial(repeats.find_ending, turn_id=new_id(), now=NOON)
    assert await lanes.read(look) is None


# --- Damage -------------------------------------------------------------------------------


async def test_a_memory_that_cannot_be_read_does_not_stop_the_turn(session, monkeypatch):
    def damaged(*_: Any, **__: Any) -> None:
        raise StoreDamaged

    monkeypatch.setattr(tickets, "load_window", damaged)
    if await lanes.read(lambda db: db.is_sqlite):
        assert (await begin(session)).window is None
        assert await shown(session) == [("user", "Hello")]
    else:  # the server has undone all of it
        with pytest.raises(StoreError):
            await submit(session)
        assert await shown(session) == []


async def test_a_fault_of_our_own_is_not_taken_for_damage(session, monkeypatch):
    def mistaken(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(tickets, "load_window", mistaken)
    with pytest.raises(ZeroDivisionError):
        await submit(session)
    assert await shown(session) == []
