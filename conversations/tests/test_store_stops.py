"""A stop asked for anywhere, carried out where the turn runs."""

from __future__ import annotations

from functools import partial
from typing import Any
from uuid import uuid4

import pytest
from django.utils import timezone

from conversations import lanes
from conversations.errors import ThreadNotFound, TurnNotFound
from conversations.models import ChatTurn
from conversations.store import stops
from conversations.store.leases import Holder
from conversations.store.stops import Stop
from conversations.tests import factories
from conversations.tests.turns_helpers import abandon, ask, rows, shown


async def request(session: Any, turn_id: Any, **changes: Any) -> Stop:
    options = {
        "session_id": session.id,
        "owner_id": session.owner_id,
        "turn_id": turn_id,
        "holder": Holder("here", 15_000),
        "now": timezone.now(),
    }
    return await lanes.write(partial(stops.request_stop, **options | changes))


async def alive(ticket: Any) -> None:
    """Its process renews its lease."""
    turn = ChatTurn.objects.filter(id=ticket.turn_id)
    await lanes.call(turn.update, lease_until=2**62)


async def found(*turn_ids: Any) -> dict[Any, str]:
    return await lanes.read(partial(stops.find_stops, turn_ids=turn_ids))


async def test_a_running_turn_is_asked_to_stop_once(session):
    ticket = await abandon(session, "Hello")
    await alive(ticket)
    assert await found(ticket.turn_id) == {}
    for _ in range(2):
        assert await request(session, ticket.turn_id) == Stop("running", had_ended=False)
    assert await found(ticket.turn_id, uuid4()) == {ticket.turn_id: "stopped"}


async def test_a_waiting_turn_is_taken_out_of_the_line_here_and_now(session):
    first = await abandon(session, "1")
    await alive(first)
    second = await abandon(session, "2")
    assert await request(session, second.turn_id) == Stop("cancelled", had_ended=False)
    assert await request(session, second.turn_id) == Stop("cancelled", had_ended=True)
    assert await found(second.turn_id) == {second.turn_id: "stopped"}
    assert await shown(session) == [("user", "1"), ("user", "2")]


async def test_a_turn_whose_process_is_gone_is_closed(session):
    ticket = await abandon(session, "Tell me", recorded="Once")
    assert await request(session, ticket.turn_id) == Stop("interrupted", had_ended=True)
    assert await shown(session) == [("user", "Tell me"), ("assistant", "Once…")]
    assert await found(ticket.turn_id) == {ticket.turn_id: "lost"}


async def test_a_turn_that_has_ended_stays_as_it_ended(session):
    await ask(session)
    (turn,) = await rows(session)
    assert await request(session, turn.id) == Stop("completed", had_ended=True)


async def test_nobody_stops_what_is_not_theirs(session, stranger, user):
    ticket = await abandon(session, "Hello")
    await alive(ticket)
    with pytest.raises(ThreadNotFound):
        await request(session, ticket.turn_id, owner_id=stranger.pk)
    with pytest.raises(TurnNotFound):
        await request(session, uuid4())
    other = await lanes.call(lambda: factories.ChatSessionFactory(owner=user))
    with pytest.raises(TurnNotFound):
        await request(other, ticket.turn_id)
    assert await found(ticket.turn_id) == await found() == {}
