"""A turn that is not here, told from what the store holds of it: live, over, or long over.

What its process recorded is told exactly as it was, with the same numbers. What was recorded is
dropped a while after the end; then the answer is told in one piece.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Final
from uuid import UUID

from conversations import lanes
from conversations.conf import get_conf
from conversations.errors import (
    ConversationsError,
    EventsGone,
    ShuttingDown,
    StoreError,
    ThreadNotFound,
    TurnError,
)
from conversations.events import (
    ContentDelta,
    TurnCompleted,
    TurnEvent,
    TurnQueued,
    TurnRunning,
)
from conversations.store.leases import lease_clock
from conversations.store.line import count_ahead
from conversations.store.records import read_after
from conversations.store.repeats import Ending, find_ending, read_answer
from conversations.turns.live import PIECE_CHARS, failed

logger = logging.getLogger(__name__)

FIRST_PAUSE_SECONDS: Final = 0.05
LONGEST_PAUSE_SECONDS: Final = 0.25

Numbered = tuple[int, TurnEvent]
Recover = Callable[[UUID], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class _View:
    """How a turn stands, and the next of what is recorded of it."""

    ending: Ending
    is_abandoned: bool
    news: list[Numbered]
    ahead: int


class FollowedTurn:
    """Listened to like a `LiveTurn`; ended by `hang_up` when this process stops."""

    def __init__(self, turn_id: UUID, session_id: UUID, *, recover: Recover) -> None:
        self.id = turn_id
        self.session_id = session_id
        self._recover = recover
        self._hung_up = asyncio.Event()
        self._left = asyncio.Event()
        self._left.set()

    @property
    def has_listener(self) -> bool:
        return not self._left.is_set()

    async def left(self, *, within: float) -> None:
        """Wait until its listener has gone, at most `within` seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within):
                await self._left.wait()

    def hang_up(self) -> None:
        """Tell the listener that this process stops; the turn goes on, or will, elsewhere."""
        self._hung_up.set()

    async def listen(
        self, *, after: int = 0, heartbeat: float = 15
    ) -> AsyncIterator[list[tuple[int | None, TurnEvent]]]:
        """All events from number `after` + 1 on, until the closing one.

        An empty batch means that nothing happened for `heartbeat` seconds. A closing event without
        a number is not the turn's own: it tells that it cannot be followed from here any longer.
        """
        self._left.clear()
        try:
            async for batch in self._follow(after=after, heartbeat=heartbeat):
                yield batch
        except ConversationsError as error:
            yield [(None, failed(self.id, error))]
        except Exception as error:
            logger.warning("turn %s not told again: %s", self.id, type(error).__name__)
            yield [(None, failed(self.id, TurnError()))]
        finally:
            self._left.set()

    async def _follow(
        self, *, after: int, heartbeat: float
    ) -> AsyncIterator[list[tuple[int | None, TurnEvent]]]:
        place, pause, silent, said = after, FIRST_PAUSE_SECONDS, 0.0, 0
        while True:
            view = await self._look(place)
            news = view.news
            # With none ahead it is about to begin: what it tells is on its way.
            if not news and place == 0 and view.ending.status == "queued" and view.ahead:
                news = [(1, TurnQueued(self.id, view.ahead))]
            if news:
                place, pause, silent = news[-1][0], FIRST_PAUSE_SECONDS, 0.0
                said += _length(news)
                yield [*news]
                continue
            if not view.ending.is_live:
                if 0 < place < view.ending.event_count - 1:  # not all of it is recorded
                    said += await self._told_before(after)
                answer = ""
                if place == 0 or place < view.ending.event_count - 1:
                    read = partial(read_answer, message_id=view.ending.answer_message_id)
                    answer = await lanes.read(read)
                if rest := _rest(self.id, place, answer[said:], view.ending):
                    yield [*rest]
                return
            if view.is_abandoned:
                await self._recover(self.session_id)
                continue
            moment = pause * random.uniform(0.75, 1.25)  # noqa: S311 - no secret
            if await self._is_hung_up(within=moment):
                raise ShuttingDown
            pause = min(pause * 1.5, LONGEST_PAUSE_SECONDS)
            silent += moment
            if silent >= heartbeat:
                silent = 0.0
                yield []

    async def _told_before(self, after: int) -> int:
        """How long the answer was that a listener heard up to that number.

        Raises EventsGone when that is recorded no more.
        """
        place = length = 0
        while place < after:
            read = partial(read_after, turn_id=self.id, after=place, most_chars=PIECE_CHARS)
            told = [pair for pair in await lanes.read(read) if pair[0] <= after]
            if not told:
                raise EventsGone
            place = told[-1][0]
            length += _length(told)
        return length

    async def _look(self, place: int) -> _View:
        """Raises ThreadNotFound when the turn is gone with its conversation, StoreError when the
        store stays away for a lease."""
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + get_conf().chat_lease_seconds
        while True:
            try:
                view = await lanes.read(partial(_read_view, turn_id=self.id, place=place))
            except StoreError:
                if loop.time() > give_up_at or await self._is_hung_up(within=LONGEST_PAUSE_SECONDS):
                    raise
            else:
                if view is None:
                    raise ThreadNotFound
                return view

    async def _is_hung_up(self, *, within: float) -> bool:
        try:
            async with asyncio.timeout(within):
                await self._hung_up.wait()
        except TimeoutError:
            return False
        return True


def _read_view(db: lanes.Database, *, turn_id: UUID, place: int) -> _View | None:
    ending = find_ending(db, turn_id=turn_id)  # first: what it recorded is complete then
    if ending is None:
        return None
    news = read_after(db, turn_id=turn_id, after=place, most_chars=PIECE_CHARS)
    if not ending.is_live:
        return _View(ending, False, news, 0)
    is_abandoned = ending.held.is_dead(db, now=lease_clock(db))
    ahead = count_ahead(db, turn_id=turn_id) if ending.status == "queued" else 0
    return _View(ending, is_abandoned, news, ahead)


def _rest(turn_id: UUID, place: int, words: str, ending: Ending) -> list[Numbered]:
    """What is left to tell of a turn that has ended, when no more is recorded: `words`, its end.

    Its process may have told more than it came to record: then the closing event follows what the
    listener heard last.
    """
    told: list[Numbered] = []
    if place >= ending.event_count > 0 and ending.status != "interrupted":
        return []  # the closing event was heard
    if place == 0:  # nothing is recorded (any more)
        if ending.has_started:
            told.append((1, TurnRunning(turn_id)))
        if words or ending.warning:
            told.append((len(told) + 1, ContentDelta(words, ending.warning)))
    elif words:
        told.append((place + 1, ContentDelta(words)))
    return [*told, (place + len(told) + 1, _closing(turn_id, ending))]


def _closing(turn_id: UUID, ending: Ending) -> TurnEvent:
    if ending.status in {"completed", "cancelled"}:
        return TurnCompleted(
            turn_id=turn_id,
            status="completed" if ending.status == "completed" else "cancelled",
            message_id=ending.answer_message_id,
            user_message_id=ending.user_message_id,
            usage=ending.usage,
            warning=ending.warning,
        )
    return failed(turn_id, _error_of(ending.error_code))


def _length(news: list[Numbered]) -> int:
    return sum(len(event.text) for _, event in news if isinstance(event, ContentDelta))


def _error_of(code: str) -> ConversationsError:
    """The error a turn's row remembers by its code."""
    kinds: list[type[TurnError]] = [TurnError, *TurnError.__subclasses__()]
    return next((kind() for kind in kinds if kind.code == code), TurnError())
