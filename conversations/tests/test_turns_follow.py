"""A stream picked up again: from any number, from any process, while it runs and after."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from functools import partial
from typing import Any
from uuid import uuid4

import pytest
from django.utils import timezone

from conversations import lanes, turns
from conversations.errors import (
    EventsGone,
    Invalid,
    StoreBusy,
    StoreError,
    ThreadNotFound,
    TurnNotFound,
)
from conversations.events import (
    ContentDelta,
    TurnCompleted,
    TurnFailed,
    TurnQueued,
    TurnRunning,
    encode_events,
)
from conversations.models import ChatTurn, RecordedEvents
from conversations.store import records
from conversations.tests.scripted import Call, Say
from conversations.tests.turns_helpers import (
    abandon,
    say,
    shown,
    stored,
    told,
    until,
    until_recorded,
    until_said,
    words,
)
from conversations.turns import follow
from conversations.turns.admission import Said
from conversations.turns.desk import Desk
from conversations.turns.follow import FollowedTurn


@pytest.fixture
def gate() -> asyncio.Event:
    return asyncio.Event()


@pytest.fixture
async def elsewhere() -> AsyncIterator[Desk]:
    """The desk of another process, as far as the database can tell."""
    other = Desk()
    yield other
    await other.drain(0)


async def pick_up(session: Any, turn_id: Any, after: int = 0, **changes: Any) -> Any:
    options = {"session_id": session.id, "owner_id": session.owner_id, "turn_id": turn_id}
    return await turns.pick_up(after=after, **options | changes)


async def heard(picked_up: Any) -> list[tuple[int | None, Any]]:
    turn, after = picked_up
    async with asyncio.timeout(20):
        return [pair async for batch in turn.listen(after=after) for pair in batch]


async def say_elsewhere(desk: Desk, session: Any, text: str = "Hello") -> Any:
    return await desk.send(Said(session.id, session.owner_id, text, None))


# --- Here ---------------------------------------------------------------------------------


async def test_a_turn_that_runs_here_goes_on_from_the_number_given(session, script, gate):
    script(Say("a b c", gate=gate))
    turn = await say(session)
    await until_said(turn, "a ")
    again = await pick_up(session, turn.id, 2)
    assert again[0] is turn
    gate.set()
    assert [number for number, _ in await heard(again)] == [3, 4, 5]
    assert "".join(e.text for _, e in await heard(again) if isinstance(e, ContentDelta)) == "b c"


async def test_nobody_was_told_more_than_was_said(session, script, gate):
    script(Say("a b", gate=gate))
    turn = await say(session)
    await until_said(turn, "a ")
    with pytest.raises(Invalid):
        await pick_up(session, turn.id, 3)
    gate.set()
    events = await told(turn)
    await turns.settled(session.id)
    for beyond in (len(events) + 2, 10**8):
        with pytest.raises(Invalid):
            await pick_up(session, turn.id, beyond)


# --- After the end --------------------------------------------------------------------------


async def test_a_turn_that_has_ended_is_told_again_exactly_from_every_number(session, script):
    script(Call("look_up", say="Let me look. "), Say("It is here"))
    turn = await say(session)
    events = list(enumerate(await told(turn), start=1))
    await turns.settled(session.id)
    for after in range(len(events)):
        assert await heard(await pick_up(session, turn.id, after)) == events[after:]


async def test_who_heard_the_closing_event_hears_nothing_again(session):
    turn = await say(session)
    count = len(await told(turn))
    await turns.settled(session.id)
    for after in (count, count + 1):  # all of it; and also that it is over
        again = await pick_up(session, turn.id, after)
        assert again[1] == count
        assert await heard(again) == []


async def test_long_after_the_end_the_answer_is_told_in_one_piece_or_not_from_its_middle(session):
    turn = await say(session)
    events = await told(turn)
    await turns.settled(session.id)
    later = timezone.now() + timedelta(days=1)
    await lanes.write(partial(records.forget_ended, ended_before=later, limit=10))
    again = await heard(await pick_up(session, turn.id))
    assert [number for number, _ in again] == [1, 2, 3]
    assert words([event for _, event in again]) == words(events)
    assert again[-1][1] == events[-1]
    with pytest.raises(EventsGone):
        await pick_up(session, turn.id, 2)
    last = len(events) - 1
    assert await heard(await pick_up(session, turn.id, last)) == [(last + 1, events[-1])]


async def test_words_that_were_stored_but_not_recorded_are_told_too(session, script):
    script(Say("a b c"))
    turn = await say(session)
    events = await told(turn)
    await turns.settled(session.id)
    told_before = records.Recording(1, 2, encode_events(events[:2]))
    await lanes.call(lambda: _replace_records(turn.id, told_before))
    again = await heard(await pick_up(session, turn.id))
    assert words([event for _, event in again]) == "a b c"
    assert again[-1][1] == events[-1]


def _replace_records(turn_id: Any, recording: records.Recording) -> None:
    RecordedEvents.objects.filter(turn_id=turn_id).delete()
    RecordedEvents.objects.create(
        turn_id=turn_id,
        first_number=recording.first_number,
        last_number=recording.last_number,
        events=recording.events,
    )


# --- Elsewhere ------------------------------------------------------------------------------


async def test_a_turn_of_another_process_is_heard_while_it_speaks(session, script, gate, elsewhere):
    script(Say("a b c", gate=gate))
    theirs = await say_elsewhere(elsewhere, session)
    await until_recorded(theirs, "a ")
    ours, after = await pick_up(session, theirs.id)
    assert isinstance(ours, FollowedTurn)
    listener = ours.listen(after=after)
    first = await anext(listener)
    assert words([event for _, event in first]) == "a "
    gate.set()
    rest = [pair async for batch in listener for pair in batch]
    assert first + rest == list(enumerate(await told(theirs), start=1))


async def test_who_comes_from_another_process_goes_on_exactly_where_they_were(
    session, script, gate, elsewhere
):
    """Also when the other process had told more than it had recorded."""
    script(Say("a b c d", gate=gate))
    theirs = await say_elsewhere(elsewhere, session)
    await until_said(theirs, "a ")
    again = asyncio.create_task(_heard_soon(session, theirs.id, 4))
    gate.set()
    events = list(enumerate(await told(theirs), start=1))
    assert await again == events[4:]


async def _heard_soon(session: Any, turn_id: Any, after: int) -> Any:
    return await heard(await pick_up(session, turn_id, after))


async def test_who_waits_in_another_process_is_told_so(session, script, gate, elsewhere):
    script(Say("a b", gate=gate))
    first = await say_elsewhere(elsewhere, session, "1")
    second = await say_elsewhere(elsewhere, session, "2")
    ours, _ = await pick_up(session, second.id)
    listener = ours.listen()
    assert await anext(listener) == [(1, TurnQueued(second.id, 1))]
    gate.set()
    await told(first)
    rest = [pair async for batch in listener for pair in batch]
    assert rest == list(enumerate(await told(second), start=1))[1:]


async def test_silence_of_another_process_is_told_now_and_then(session, script, gate, elsewhere):
    script(Say("a b", gate=gate))
    theirs = await say_elsewhere(elsewhere, session)
    await until_recorded(theirs, "a ")
    ours, _ = await pick_up(session, theirs.id)
    listener = ours.listen(heartbeat=0.1)
    await anext(listener)
    assert await anext(listener) == []
    gate.set()
    await listener.aclose()


async def test_a_turn_whose_process_is_gone_is_closed_for_whoever_listens(session):
    ticket = await abandon(session, "Tell me", recorded="Once")
    again = await heard(await pick_up(session, ticket.turn_id))
    assert [number for number, _ in again] == [1, 2, 3]
    assert words([event for _, event in again]) == "Once"
    assert (again[-1][1].code, again[-1][1].retryable) == ("interrupted", True)
    assert await shown(session) == [("user", "Tell me"), ("assistant", "Once…")]


async def test_who_heard_more_than_a_killed_process_recorded_hears_the_end_after_it(session):
    ticket = await abandon(session, "Tell me", recorded="Once")
    for after in (4, 5):
        again = await heard(await pick_up(session, ticket.turn_id, after))
        assert [number for number, _ in again] == [after + 1]
        assert isinstance(again[0][1], TurnFailed)


async def test_what_waited_in_a_process_that_is_gone_is_answered_for_whoever_listens(session):
    first = ChatTurn.objects.filter(id=(await abandon(session, "1")).turn_id)
    await lanes.call(first.update, lease_until=2**62)
    waiting = await abandon(session, "2")
    await lanes.call(first.update, lease_until=0)
    # The first is closed by whoever comes; the second has not begun and is answered.
    again = await heard(await pick_up(session, waiting.turn_id))
    assert [type(event) for _, event in again[:2]] == [TurnQueued, TurnRunning]
    assert words([event for _, event in again]) == "I remember: 1 | 2"
    assert isinstance(again[-1][1], TurnCompleted)
    assert (await stored(session)).message_count == 3


async def test_a_stop_here_reaches_the_process_that_answers(session, script, gate, elsewhere):
    script(Say("a b", gate=gate))
    theirs = await say_elsewhere(elsewhere, session)
    await until_said(theirs, "a ")
    mine = {"session_id": session.id, "owner_id": session.owner_id, "turn_id": theirs.id}
    assert (await turns.stop(**mine)).had_ended is False
    assert (await told(theirs))[-1].status == "cancelled"
    assert (await turns.stop(**mine)).had_ended is True
    assert await shown(session) == [("user", "Hello"), ("assistant", "a …")]


async def test_a_stop_here_takes_a_waiting_turn_of_another_process_out_of_its_line(
    session, script, gate, elsewhere
):
    script(Say("a b", gate=gate))
    first = await say_elsewhere(elsewhere, session, "1")
    second = await say_elsewhere(elsewhere, session, "2")
    stop = await turns.stop(session_id=session.id, owner_id=session.owner_id, turn_id=second.id)
    assert (stop.status, stop.had_ended) == ("cancelled", False)
    events = await told(second)
    assert (events[-1].status, events[-1].user_message_id is not None) == ("cancelled", True)
    gate.set()
    assert words(await told(first)) == "a b"


# --- Whose it is, and when the store is away ------------------------------------------------


async def test_nobody_hears_or_stops_what_is_not_theirs(session, stranger, script, gate, user):
    script(Say("a b", gate=gate))
    turn = await say(session)
    await until_said(turn, "a ")
    whose = {"session_id": session.id, "turn_id": turn.id}
    for act in (turns.stop, partial(turns.pick_up, after=0)):
        with pytest.raises(ThreadNotFound):
            await act(owner_id=stranger.pk, **whose)
        with pytest.raises(ThreadNotFound):
            await act(owner_id=user.pk, session_id=uuid4(), turn_id=turn.id)
        with pytest.raises(TurnNotFound):
            await act(owner_id=user.pk, session_id=session.id, turn_id=uuid4())
        with pytest.raises(StoreError):  # signed, but not looked up
            await act(owner_id=user.pk, is_verified=False, **whose)
    gate.set()
    assert words(await told(turn)) == "a b"


async def test_a_store_that_is_away_for_a_moment_is_waited_for(session, monkeypatch):
    turn = await say(session)
    events = await told(turn)
    await turns.settled(session.id)
    again = await pick_up(session, turn.id)
    tries: list[int] = []
    find_ending = follow.find_ending

    def away(*arguments: Any, **options: Any) -> Any:
        tries.append(1)
        if len(tries) < 3:
            raise StoreBusy
        return find_ending(*arguments, **options)

    monkeypatch.setattr(follow, "find_ending", away)
    assert await heard(again) == list(enumerate(events, start=1))


async def test_a_process_that_stops_tells_whoever_listens_to_another_one_without_a_number(
    session, script, gate, elsewhere
):
    script(Say("a b", gate=gate))
    theirs = await say_elsewhere(elsewhere, session)
    await until_recorded(theirs, "a ")
    ours, _ = await pick_up(session, theirs.id)
    listener = asyncio.create_task(heard((ours, 0)))

    async def listens() -> bool:
        return ours.has_listener

    await until(listens)
    await turns.drain(0.05)
    ((_, first), (_, second), (number, last)) = await listener
    assert words([first, second]) == "a "
    assert (number, last.code, last.retryable) == (None, "store_unavailable", True)
    gate.set()
