"""What keeps the turns of a process its own: signs of life, checkpoints, and late closings."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from functools import partial
from typing import Any, Final
from uuid import UUID

from django.utils import timezone

from conversations import lanes
from conversations.conf import get_conf
from conversations.errors import LeaseLost, StoreError
from conversations.store import tickets
from conversations.turns.live import LiveTurn

Closing = Callable[[], Awaitable[UUID | None]]

logger = logging.getLogger(__name__)

CHECKPOINT_SECONDS: Final = 1.0


class Heartbeat:
    """One task for all turns of a desk; it beats while there are any.

    No failure ends it: without it, every turn of this process would be taken away.
    """

    def __init__(self, process: str, turns: Mapping[UUID, LiveTurn]) -> None:
        self._process = process
        self._turns = turns
        self._unclosed: dict[UUID, Closing] = {}
        self._task: asyncio.Task[None] | None = None
        self._linger_until = 0.0

    def begin(self, *, linger_seconds: float = 0) -> None:
        """Beat while there are turns, and at least for so long."""
        until = asyncio.get_running_loop().time() + linger_seconds
        self._linger_until = max(self._linger_until, until)
        if self._task is None:
            self._task = start_task(self._beat_while_needed())

    def end(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def close_later(self, turn: LiveTurn, failure: Exception, closing: Closing) -> None:
        """Close the turn when the store is back; until then, the next one waits for it."""
        logger.warning("turn %s not closed: %s", turn.id, type(failure).__name__)
        if isinstance(failure, StoreError):
            self._unclosed[turn.id] = closing

    async def _beat_while_needed(self) -> None:
        loop = asyncio.get_running_loop()
        renewed_at = loop.time()
        try:
            while self._turns or self._unclosed or loop.time() < self._linger_until:
                third = get_conf().chat_lease_seconds / 3
                await asyncio.sleep(min(CHECKPOINT_SECONDS, third))
                beat_at = loop.time()
                is_due = beat_at - renewed_at >= third * 0.9
                if await self._beat(renew=is_due) and is_due:
                    renewed_at = beat_at
        finally:
            self._task = None

    async def _beat(self, *, renew: bool) -> bool:
        """All at once, so that the store may commit it together; whether all of it was stored."""
        work: list[Coroutine[Any, Any, None]] = []
        if renew:
            work += [self._renew(), self._recover()]
        work += [self._checkpoint(turn) for turn in self._turns.values()]
        work += [self._close(turn_id) for turn_id in self._unclosed]
        outcomes = await asyncio.gather(*work, return_exceptions=True)
        failures = [outcome for outcome in outcomes if isinstance(outcome, Exception)]
        if failures:
            logger.warning("no sign of life stored: %s", type(failures[0]).__name__)
        return not failures

    async def _renew(self) -> None:
        mine = list(self._turns.values())
        expires_at = timezone.now() + get_conf().lease
        kept = await lanes.write(
            partial(
                tickets.renew,
                process=self._process,
                turn_ids=[turn.id for turn in mine],
                expires_at=expires_at,
            )
        )
        for turn in mine:
            if turn.id not in kept:
                turn.stop("lost")  # does nothing to a turn that is settling

    async def _recover(self) -> None:
        """Close what other processes left open a whole lease ago, though nobody speaks there."""
        now = timezone.now()
        expired_before = now - get_conf().lease
        abandoned = await lanes.read(partial(tickets.find_abandoned, expired_before=expired_before))
        for session_id in abandoned:
            await lanes.write(
                partial(
                    tickets.recover, session_id=session_id, expired_before=expired_before, now=now
                )
            )

    async def _checkpoint(self, turn: LiveTurn) -> None:
        """Keep the answer so far."""
        started, said = turn.started, turn.said
        if started is None or turn.settling or len(said) == turn.checkpointed:
            return
        try:
            await lanes.write(partial(tickets.checkpoint, lease=started.lease, text=said))
        except LeaseLost:
            turn.stop("lost")
        else:
            turn.checkpointed = len(said)

    async def _close(self, turn_id: UUID) -> None:
        try:
            await self._unclosed[turn_id]()
        except StoreError:
            return  # still away
        except Exception as error:  # LeaseLost: another process has closed it
            logger.info("turn %s was not closed here: %s", turn_id, type(error).__name__)
        del self._unclosed[turn_id]


def start_task(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """A task with a context of its own, which outlives whoever starts it."""
    return asyncio.get_running_loop().create_task(work, context=contextvars.Context())
