"""Turns whose processes died long ago, as the tests of sweeps, tasks and the worker need them."""

from __future__ import annotations

from datetime import datetime
from functools import partial
from typing import Any

from django.utils import timezone

from conversations import lanes
from conversations.events import ContentDelta, TurnRunning, encode_events
from conversations.ids import new_id
from conversations.models import ChatTurn, RecordedEvents
from conversations.store import records, tickets
from conversations.store.leases import Holder
from conversations.store.records import Recording
from conversations.store.tickets import Ticket
from conversations.tests import factories

LEASE = 60_000


def speak(
    session: Any, text: str = "Hello", *, process: str, now: datetime | None = None, said: str = ""
) -> Ticket:
    """A message taken under a long lease, and what was recorded of its answer."""
    ticket = lanes.perform(
        partial(
            tickets.submit,
            holder=Holder(process, LEASE),
            session_id=session.id,
            owner_id=session.owner_id,
            turn_id=new_id(),
            text=text,
            idempotency_key=None,
            now=now or timezone.now(),
            max_queued=100,
        )
    )
    if said:
        events = encode_events([TurnRunning(ticket.turn_id), ContentDelta(said)])
        work = [(ticket.started.lease, Recording(1, 2, events))]
        assert lanes.perform(partial(records.record, recordings=work)) == set()
    return ticket


def die(process: str, gone: str) -> None:
    """The process of that name becomes one that is gone."""
    ChatTurn.objects.filter(lease_owner=process).update(lease_owner=gone)


def sessions(user: Any, count: int) -> list[Any]:
    return [factories.ChatSessionFactory(owner=user) for _ in range(count)]


def statuses(session: Any) -> list[str]:
    return list(session.turns.order_by("number").values_list("status", flat=True))


def answer(session: Any, process: str, *, ended: datetime | None) -> Ticket:
    """A turn with records that ended then, or has not ended."""
    ticket = speak(session, process=process, said="words")
    if ended is not None:
        turn = ChatTurn.objects.filter(id=ticket.turn_id)
        turn.update(status="completed", finished_at=ended)
    return ticket


def recorded() -> set[Any]:
    return set(RecordedEvents.objects.values_list("turn_id", flat=True))
