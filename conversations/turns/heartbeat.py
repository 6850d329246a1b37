"""What keeps the turns of a process its own: signs of life, records, stops, and late closings."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Final
from uuid import UUID

from django.utils import timezone

from conversations import lanes, tally
from conversations.conf import get_conf
from conversations.errors import StoreBusy, StoreError, StoreReadOnly
from conversations.processes import steady_milliseconds
from conversations.store import leases, line, records, stops
from conversations.store.leases import Holder
from conversations.store.line import Orphan
from conversations.turns.live import LiveTurn
from conversations.turns.taking import write_mended

Closing = Callable[[], Awaitable[object]]

logger = logging.getLogger(__name__)

TICK_SECONDS: Final = 0.2


class Heartbeat:
    """One task for all turns of a desk; it beats while there are any, or for as long as it watches.

    Every tick it records what was told and looks for requests to stop; every third of a lease it
    renews the leases and looks after what processes that are gone left open. No failure ends it:
    without it, every turn of this process would be taken away.
    """

    def __init__(
        self,
        turns: Mapping[UUID, LiveTurn],
        *,
        holder: Callable[[], Holder],
        adopt: Callable[[list[Orphan]], None],
    ) -> None:
        self._turns = turns
        self._holder = holder
        self._adopt = adopt
        self._unclosed: dict[UUID, Closing] = {}
        self._task: asyncio.Task[None] | None = None
        self._is_watching = False
        self._looked_after: UUID | None = None
        self._wanted = asyncio.Event()

    def begin(self, *, watch: bool = False) -> None:
        """Beat while there are turns; with `watch`, until the end, for those others left too."""
        self._is_watching |= watch
        self._wanted.set()
        if self._task is None:
            self._task = start_task(self._beat_while_needed(look_at_once=watch))

    def end(self) -> None:
        self._is_watching = False
        if self._task is not None:
            self._task.cancel()

    def close_later(self, turn_id: UUID, failure: Exception, closing: Closing) -> None:
        """Close the turn when the store is back; until then, the next one waits for it."""
        logger.warning("turn %s not closed: %s", turn_id, type(failure).__name__)
        if isinstance(failure, StoreError):
            self._unclosed[turn_id] = closing

    async def close_now(self) -> None:
        """Try once more, before the end, what the store did not take."""
        await asyncio.gather(
            *[self._close(turn_id) for turn_id in self._unclosed], return_exceptions=True
        )

    async def recover(self, session_id: UUID, *, holder: Holder | None = None) -> None:
        """Close what is abandoned in a conversation, and adopt what waits there."""
        recover = partial(
            line.recover,
            session_id=session_id,
            holder=holder or self._holder(),
            now=timezone.now(),
            adopts=True,
        )
        orphans = await write_mended(recover, session_id=session_id)
        self._adopt(orphans)

    async def _beat_while_needed(self, *, look_at_once: bool) -> None:
        loop = asyncio.get_running_loop()
        renewed_at = loop.time()
        try:
            if look_at_once:
                await self._beat(renew=True)
            while self._turns or self._unclosed or self._is_watching:
                third = get_conf().chat_lease_seconds / 3
                await self._pause(third)
                beat_at = loop.time()
                is_due = beat_at - renewed_at >= third * 0.9
                if await self._beat(renew=is_due) and is_due:
                    renewed_at = beat_at
        finally:
            self._task = None

    async def _pause(self, third: float) -> None:
        """Until the next tick; where there is nothing to do, longer, but not past a sweep."""
        if not self._turns and not self._unclosed:
            self._wanted.clear()
            try:
                async with asyncio.timeout(third):
                    await self._wanted.wait()
            except TimeoutError:
                return
        await asyncio.sleep(min(TICK_SECONDS, third))

    async def _beat(self, *, renew: bool) -> bool:
        """All at once, so that the store may commit it together; whether all of it was stored."""
        work: list[Coroutine[Any, Any, None]] = [self._record(), self._look_for_stops()]
        work += [self._renew()] if renew else []
        work += [self._close(turn_id) for turn_id in self._unclosed]
        outcomes = await asyncio.gather(*work, return_exceptions=True)
        if renew and not any(isinstance(outcome, Exception) for outcome in outcomes):
            # Only then: what is ours and late is not abandoned.
            outcomes += await asyncio.gather(self._look_after_abandoned(), return_exceptions=True)
        failures = [outcome for outcome in outcomes if isinstance(outcome, Exception)]
        if failures:
            logger.warning("no sign of life stored: %s", type(failures[0]).__name__)
        return not failures

    async def _renew(self) -> None:
        mine = list(self._turns.values())
        turn_ids = {turn.id for turn in mine} | self._unclosed.keys()
        if not turn_ids:
            return
        holder, before = self._holder(), steady_milliseconds()
        kept = await lanes.write(partial(leases.renew, holder=holder, turn_ids=turn_ids))
        for turn in mine:
            if turn.id in kept:
                turn.held_until = before + holder.lease_milliseconds
            elif turn.unsaved is None:
                turn.stop("lost")  # does nothing to a turn that is settling

    async def _look_after_abandoned(self) -> None:
        """Close what other processes left open, though nobody speaks there."""
        holder = self._holder()
        # Nobody waits: a process that is only late, this one perhaps, gets one more lease.
        holder = replace(holder, patience_milliseconds=holder.lease_milliseconds)
        look = partial(leases.find_abandoned, holder=holder, after=self._looked_after)
        found = await lanes.read(look)
        # Some at a time: what is adopted is answered at once. Then those behind them, and again.
        self._looked_after = found[-1] if found else None
        for session_id in found:
            try:
                await self.recover(session_id, holder=holder)
                tally.RECOVERED.increase()
            except (StoreBusy, StoreReadOnly):
                raise  # the others would fare no better
            except StoreError as error:
                logger.warning("session %s not recovered: %s", session_id, type(error).__name__)

    async def _record(self) -> None:
        """Keep what was told since the last tick, so that any process can tell it again."""
        told = [
            (turn, turn.started.lease, recording)
            for turn in self._turns.values()
            if turn.started is not None and not turn.settling  # its end is stored with what is left
            for recording in turn.unrecorded()
        ]
        if not told:
            return
        recordings = [(lease, recording) for _, lease, recording in told]
        lost = await lanes.write(partial(records.record, recordings=recordings))
        for turn, _, recording in told:
            if turn.id in lost:
                turn.stop("lost")
            else:
                turn.recorded = recording.last_number

    async def _look_for_stops(self) -> None:
        mine = {turn.id: turn for turn in self._turns.values() if turn.unsaved is None}
        if not mine:
            return
        found = await lanes.read(partial(stops.find_stops, turn_ids=list(mine)))
        for turn_id, reason in found.items():
            mine[turn_id].stop(reason)

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
