"""What sweeps and commands find: turns whose processes died long ago, memories that grew."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from django.utils import timezone

from conversations import lanes
from conversations.events import ContentDelta, TurnRunning, Usage, encode_events
from conversations.ids import new_id
from conversations.items import row_from_item
from conversations.lanes.database import DjangoDatabase, SqliteDatabase
from conversations.models import ChatMessage, ChatSession, ChatTurn, RecordedEvents
from conversations.store import log, records, tickets
from conversations.store.leases import Holder
from conversations.store.line import Ticket
from conversations.store.records import Recording
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


def remember(
    session: Any, count: int, *, at_once: bool = False, usage: Usage | None = None
) -> None:
    """So many messages of a person as the SDK adds them: one after the other, or in one input."""
    now = timezone.now()
    for number in range(count):
        lanes.perform(
            partial(
                log.append,
                agent_session_id=session.agent_session_id,
                rows=[row_from_item({"role": "user", "content": f"a secret {number}"})],
                usage=usage or Usage(),
                now=now if at_once else now + timedelta(milliseconds=number),
            )
        )


def add_as_another_program(session: Any, count: int) -> None:
    """Messages in the table that no counter knows of."""
    last = session.messages.order_by("-position").values_list("position", flat=True).first() or 0
    ChatMessage.objects.bulk_create(
        ChatMessage(
            session=session,
            position=last + number,
            kind="message",
            role="user",
            text="foreign",
            shown=True,
            agent_item='{"role": "user", "content": "foreign"}',
        )
        for number in range(1, count + 1)
    )


def counters(session: Any) -> tuple[int, ...]:
    """What is remembered, pruned, stored and seen."""
    names = ("remembered_count", "pruned_count", "item_count", "message_count")
    return tuple(ChatSession.objects.values_list(*names).get(id=session.id))


def tables() -> list[Any]:
    """All rows of conversations, as they are stored."""
    models = (ChatSession, ChatTurn, ChatMessage, RecordedEvents)
    return [row for model in models for row in model.objects.order_by("pk").values()]


@contextmanager
def statements() -> Iterator[list[str]]:
    """The SQL that jobs run meanwhile."""
    seen: list[str] = []
    kinds = (SqliteDatabase, DjangoDatabase)
    plain = [kind._execute for kind in kinds]

    def listening(execute: Any) -> Any:
        return lambda db, sql, params: (seen.append(sql), execute(db, sql, params))[1]

    for kind, execute in zip(kinds, plain, strict=True):
        kind._execute = listening(execute)  # type: ignore[method-assign]
    try:
        yield seen
    finally:
        for kind, execute in zip(kinds, plain, strict=True):
            kind._execute = execute  # type: ignore[method-assign]
