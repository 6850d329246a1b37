"""What a stream has told, kept by number: exact, fenced, and gone in time."""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from typing import Any

from django.utils import timezone

from conversations import lanes
from conversations.events import ContentDelta, TurnRunning, encode_events
from conversations.models import ChatTurn, RecordedEvents
from conversations.store import records
from conversations.store.records import Recording
from conversations.tests import factories
from conversations.tests.turns_helpers import abandon, ask, say, told


def recording(first_number: int, *words: str) -> Recording:
    last_number = first_number + len(words) - 1
    return Recording(first_number, last_number, encode_events(map(ContentDelta, words)))


async def record(ticket: Any, *recordings: Recording) -> set[Any]:
    work = [(ticket.started.lease, each) for each in recordings]
    return await lanes.write(partial(records.record, recordings=work))


async def read_after(ticket: Any, number: int) -> list[tuple[int, Any]]:
    turn_id = ticket.turn_id
    return await lanes.read(partial(records.read_after, turn_id=turn_id, after=number))


async def test_it_is_read_again_from_any_number_on(session):
    ticket = await abandon(session, "Hello")
    assert await record(ticket, recording(1, "a", "b"), recording(3, "c", "d", "e")) == set()
    everything = list(enumerate(map(ContentDelta, "abcde"), start=1))
    for number in range(7):
        assert await read_after(ticket, number) == everything[number:]


async def test_a_record_that_was_stored_unheard_is_stored_again_with_more(session):
    ticket = await abandon(session, "Hello")
    await record(ticket, recording(1, "a", "b"))
    await record(ticket, recording(1, "a", "b", "c"))
    assert [event.text for _, event in await read_after(ticket, 0)] == ["a", "b", "c"]


async def test_of_several_turns_only_the_lost_one_is_told(session, user):
    lost = await abandon(session, "Hello")
    other = await lanes.call(lambda: factories.ChatSessionFactory(owner=user))
    kept = await abandon(other, "Hello")
    await ask(session, "the next one closes what was lost")
    both = [(ticket.started.lease, recording(1, "a")) for ticket in (lost, kept)]
    assert await lanes.write(partial(records.record, recordings=both)) == {lost.turn_id}
    assert await read_after(lost, 0) == []
    assert await read_after(kept, 0) == [(1, ContentDelta("a"))]


async def test_what_follows_a_gap_or_a_damaged_record_is_not_told_out_of_order(session):
    ticket = await abandon(session, "Hello")
    await record(ticket, recording(1, "a"), recording(2, "b"), recording(4, "d"))
    assert [number for number, _ in await read_after(ticket, 0)] == [1, 2]
    damaged = RecordedEvents.objects.filter(turn_id=ticket.turn_id, first_number=2)
    await lanes.call(damaged.update, events="{")
    assert [number for number, _ in await read_after(ticket, 0)] == [1]


async def test_a_finished_turn_is_recorded_to_its_last_word(session):
    turn = await say(session)
    events = await told(turn)
    found = await lanes.read(partial(records.read_after, turn_id=turn.id, after=0))
    assert found == list(enumerate(events[:-1], start=1))
    assert (await lanes.call(ChatTurn.objects.get)).event_count == len(events)


async def test_records_go_when_their_turn_ended_long_enough_ago(session):
    first, second = await say(session, "1"), await say(session, "2")
    for turn in (first, second):
        await told(turn)
    now = timezone.now() + timedelta(hours=1)
    just_now = ChatTurn.objects.filter(id=second.id)
    await lanes.call(just_now.update, finished_at=now - timedelta(minutes=9))
    open_one = await abandon(session, "3", recorded="so far")
    forget = partial(records.forget_ended, ended_before=now - timedelta(minutes=10), limit=10)
    assert await lanes.write(forget) == 1
    assert await lanes.write(forget) == 0

    async def last(turn_id: Any) -> int:
        return await lanes.read(partial(records.last_recorded, turn_id=turn_id))

    assert await last(first.id) == 0
    assert await last(second.id) > 0
    assert await last(open_one.turn_id) > 0
    ((number, event),) = (await read_after(open_one, 0))[:1]
    assert (number, event) == (1, TurnRunning(open_one.turn_id))


async def test_records_of_turns_that_began_since_are_not_even_looked_at(session):
    turn = await say(session)
    await told(turn)
    long_ago = timezone.now() - timedelta(days=1)  # as no turn can have: it ended before it began
    await lanes.call(ChatTurn.objects.filter(id=turn.id).update, finished_at=long_ago)
    recent = partial(records.forget_ended, ended_before=long_ago + timedelta(hours=1), limit=10)
    assert await lanes.write(recent) == 0
