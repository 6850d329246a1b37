"""A turn that lives in this process: what it has said so far, for as many listeners as come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal
from uuid import UUID

from django.utils import timezone

from conversations.errors import ConversationsError
from conversations.events import (
    ContentDelta,
    TurnCompleted,
    TurnEvent,
    TurnFailed,
    TurnRunning,
    encode_events,
)
from conversations.ids import new_id
from conversations.items import Memory
from conversations.store.inputs import TurnInput
from conversations.store.line import Started, Ticket
from conversations.store.records import Recording
from conversations.turns.counting import Stopwatch

PIECE_CHARS: Final = 65_536

StopReason = Literal["", "stopped", "deleted", "shutdown", "lost"]


Verify = Callable[[], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Unsaved:
    """What a turn is given that the store could not take: what was read all the same, if it was."""

    window: Memory | None
    idempotency_key: str | None = None
    verify: Verify | None = None
    """Asks again who speaks; None where that is known."""


class LiveTurn:
    """Events in order, from the first to the closing one; the run never waits for a listener."""

    def __init__(
        self,
        ticket: Ticket,
        *,
        owner_id: Any,
        text: str,
        given: TurnInput | None = None,
        unsaved: Unsaved | None = None,
    ) -> None:
        self.ticket = ticket
        self.answer_id = new_id()
        """The row that shows the answer, once there is one."""
        self.owner_id = owner_id
        self.text = text
        self.given = given
        self.unsaved = unsaved
        self.events: list[TurnEvent] = []
        self.task: asyncio.Task[None] | None = None
        self.is_next = asyncio.Event()
        self.has_begun = False
        self.stop_reason: StopReason = ""
        self.settling = False
        self.started: Started | None = None
        self.held_until = 0
        """Until when its lease surely holds, by this machine's steady clock in milliseconds."""
        self.recorded = 0
        """How many events the store holds."""
        self.first_token_at: datetime | None = None
        self._listeners: set[asyncio.Future[None]] = set()
        self._stopwatch = Stopwatch()

    @property
    def id(self) -> UUID:
        return self.ticket.turn_id

    @property
    def session_id(self) -> UUID:
        return self.ticket.session_id

    @property
    def closed(self) -> bool:
        """Whether the closing event has been said."""
        return bool(self.events) and isinstance(self.events[-1], TurnCompleted | TurnFailed)

    @property
    def is_waiting(self) -> bool:
        """Whether it has not begun to run."""
        return not any(isinstance(event, TurnRunning) for event in self.events[:2])

    @property
    def waits_for_store(self) -> bool:
        """Whether only the store can say when it may begin."""
        return self.unsaved is None and self.is_waiting

    @property
    def status(self) -> str:
        """What its closing event said."""
        last = self.events[-1] if self.events else None
        return last.status if isinstance(last, TurnCompleted) else "failed"

    @property
    def event_count(self) -> int:
        """The number of the closing event, said or to come."""
        return len(self.events) + (not self.closed)

    @property
    def said(self) -> str:
        """The answer so far."""
        return "".join([event.text for event in self.events if isinstance(event, ContentDelta)])

    def began_at(self) -> datetime:
        """When its answer began: settled by whoever asks first, a listener or the log."""
        if self.first_token_at is None:
            self.first_token_at = timezone.now()
        return self.first_token_at

    def unrecorded(self) -> list[Recording]:
        """What the store does not hold yet of what was told; a closing event is told by its row."""
        events = self.events[self.recorded : self.event_count - 1]
        return [
            Recording(piece[0][0], piece[-1][0], encode_events(event for _, event in piece))
            for piece in in_pieces(events, first_number=self.recorded + 1)
        ]

    def emit(self, event: TurnEvent) -> None:
        """Say something to all listeners, now and later ones."""
        if self.first_token_at is None and isinstance(event, ContentDelta) and event.text:
            self.first_token_at = timezone.now()
        self._stopwatch.hear(event)
        self.events.append(event)
        listeners, self._listeners = self._listeners, set()
        for listener in listeners:
            if not listener.done():
                listener.set_result(None)

    async def listen(
        self, *, after: int = 0, heartbeat: float = 15
    ) -> AsyncIterator[list[tuple[int | None, TurnEvent]]]:
        """All events from number `after` + 1 on, in batches, until the closing one.

        An empty batch means that nothing happened for `heartbeat` seconds.
        """
        loop = asyncio.get_running_loop()
        while True:
            if after < len(self.events):
                for piece in in_pieces(self.events[after:], first_number=after + 1):
                    after = piece[-1][0]
                    yield [*piece]
                continue
            if self.closed:
                return
            news: asyncio.Future[None] = loop.create_future()
            self._listeners.add(news)
            timer = loop.call_later(heartbeat, _wake, news)
            try:
                await news
            finally:
                timer.cancel()
                self._listeners.discard(news)
            if after >= len(self.events):
                yield []

    def stop(self, reason: StopReason) -> None:
        """End the run; its task settles what there is."""
        if self.task is None or self.settling or self.stop_reason:
            return
        self.stop_reason = reason
        if self.has_begun:  # a task cancelled before its first step would settle nothing
            self.task.cancel()


def in_pieces(
    events: Sequence[TurnEvent], *, first_number: int
) -> Iterator[list[tuple[int, TurnEvent]]]:
    """Numbered events, in pieces that a row or a write to a socket may hold."""
    piece: list[tuple[int, TurnEvent]] = []
    size = 0
    for number, event in enumerate(events, start=first_number):
        piece.append((number, event))
        size += len(event.text) if isinstance(event, ContentDelta) else 100
        if size >= PIECE_CHARS:
            yield piece
            piece, size = [], 0
    if piece:
        yield piece


def failed(turn_id: UUID, error: ConversationsError) -> TurnFailed:
    """The closing event that tells of `error`."""
    return TurnFailed(turn_id, error.message, error.code, error.retryable)


def _wake(news: asyncio.Future[None]) -> None:
    if not news.done():
        news.set_result(None)
