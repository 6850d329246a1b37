"""One turn from its ticket to its closing event, whatever happens."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Final
from uuid import UUID

from django.utils import timezone

from conversations import lanes
from conversations.conf import get_conf
from conversations.errors import (
    ConversationsError,
    LeaseLost,
    StoreBusy,
    StoreDamaged,
    StoreError,
    TurnError,
    TurnInterrupted,
)
from conversations.events import NOT_SAVED, TurnCompleted, TurnQueued, TurnRunning
from conversations.processes import steady_milliseconds
from conversations.store import closing, finishing, line, tickets
from conversations.store.leases import Holder
from conversations.store.line import Orphan, Started
from conversations.turns.failures import turn_error
from conversations.turns.heartbeat import Heartbeat
from conversations.turns.hooks import OwnThreads
from conversations.turns.late import Late
from conversations.turns.line import Lines
from conversations.turns.live import LiveTurn, Unsaved, failed
from conversations.turns.run import AgentRun
from conversations.turns.session import TurnSession, settled
from conversations.turns.taking import take, write_mended
from conversations.turns.unsaved import UnsavedSession

logger = logging.getLogger(__name__)

FIRST_PAUSE_SECONDS: Final = 0.02
LONGEST_PAUSE_SECONDS: Final = 0.25  # word of an end comes sooner; an end without word does not
FINISH_PAUSE_SECONDS: Final = 0.05


class Life:
    """How the turns of a desk are lived: waited for, run, closed in the store, then announced."""

    def __init__(
        self,
        *,
        lines: Lines,
        heartbeat: Heartbeat,
        holder: Callable[[], Holder],
        adopt: Callable[[list[Orphan]], None],
        save_later: Callable[[Late], None],
    ) -> None:
        self._save_later = save_later
        self._lines = lines
        self._heartbeat = heartbeat
        self._holder = holder
        self._adopt = adopt

    async def live(self, turn: LiveTurn) -> None:
        """All of it; the turn is closed when this returns."""
        turn.has_begun = True
        has_started = False
        try:
            try:
                waits = turn.ticket.started is None if turn.unsaved is None else turn.ticket.ahead
                if waits:
                    turn.emit(TurnQueued(turn.id, turn.ticket.ahead))
                if not turn.stop_reason:
                    turn.started = turn.ticket.started or await self._wait(turn)
                    has_started = True
            except (asyncio.CancelledError, LeaseLost) as error:
                logger.debug("turn %s will not start: %s", turn.id, type(error).__name__)
            except Exception as error:
                logger.warning("turn %s cannot start: %s", turn.id, type(error).__name__)
            if not has_started:
                turn.settling = True
                await _uninterrupted(self._give_up_in_order(turn))
                return
            turn.emit(TurnRunning(turn.id))
            if turn.unsaved is not None:
                await self._run_unsaved(turn, turn.unsaved)
            elif turn.started is not None:
                await self._run(turn, turn.started)
        except Exception as error:  # a fault of our own: the line must go on all the same
            logger.warning("turn %s broke: %s", turn.id, type(error).__name__)
            await _uninterrupted(self._give_up(turn))
        finally:
            if not turn.closed:
                turn.emit(failed(turn.id, TurnError()))

    async def _wait(self, turn: LiveTurn) -> Started | None:
        """Until it is the turn's turn. Raises LeaseLost, or StoreError when the store stays away.

        A turn the store could not take waits for those of this process only.
        """
        if turn.unsaved is not None:
            await self._lines.until_free(turn)
            return None
        with lanes.subscribe(str(turn.session_id)) as word:
            return await self._wait_for_others(turn, word)

    async def _wait_for_others(self, turn: LiveTurn, word: lanes.Subscription) -> Started:
        loop, pause = asyncio.get_running_loop(), FIRST_PAUSE_SECONDS
        away_since: float | None = None
        while True:
            await self._lines.until_first(turn)  # those adopted below come before it
            try:
                started = await self._try_to_start(turn)
            except StoreError as error:
                logger.warning("turn %s waits for the store (%s)", turn.id, type(error).__name__)
                away_since = loop.time() if away_since is None else away_since
                if loop.time() - away_since > get_conf().chat_lease_seconds:
                    raise  # its lease is over: others may take it
            else:
                away_since = None
                if isinstance(started, Started):
                    return started
                self._adopt(started)
            await word.news(within=pause * random.uniform(0.5, 1.5))  # noqa: S311 - no secret
            pause = min(pause * 1.6, LONGEST_PAUSE_SECONDS)

    async def _try_to_start(self, turn: LiveTurn) -> Started | list[Orphan]:
        ticket, holder = turn.ticket, self._holder()
        ahead = await lanes.read(partial(line.look_ahead, ticket=ticket, holder=holder))
        if ahead == "somebody":
            return []
        now, before = timezone.now(), steady_milliseconds()
        start = partial(tickets.start, ticket=ticket, holder=holder, now=now)
        started: Started | list[Orphan] = await take(start, session_id=ticket.session_id)
        turn.held_until = before + holder.lease_milliseconds
        return started

    async def _run(self, turn: LiveTurn, started: Started) -> None:
        run = AgentRun(turn, TurnSession.of(started, turn))
        async with OwnThreads():
            try:
                status, error = await self._perform(turn, run)
                turn.settling = True
                await _uninterrupted(run.settle())
            except LeaseLost:
                turn.emit(failed(turn.id, TurnInterrupted()))
                return
        await _uninterrupted(self._close(turn, run, started, status, error))

    async def _run_unsaved(self, turn: LiveTurn, unsaved: Unsaved) -> None:
        session = UnsavedSession(turn, unsaved)
        run = AgentRun(turn, session)
        async with OwnThreads():
            status, error = await self._perform(turn, run)
            turn.settling = True
            await _uninterrupted(run.settle())
        run.warn()
        if error is not None:
            turn.emit(failed(turn.id, error))
        else:
            turn.emit(_completed(turn, run, status, answer_id=None, user_message_id=None))
        self._save_later(Late(run, status, error, session.added))

    async def save(self, turn: LiveTurn, late: Late) -> None:
        """Store what was answered before it had this ticket, when its turn comes."""
        turn.has_begun = turn.ticket.started is None  # a wait can be ended, a store is short
        try:
            started = turn.ticket.started or await self._wait(turn)
            if started is None:
                return
            turn.settling = True
            await _uninterrupted(self._store_late(turn, late, started))
        except (asyncio.CancelledError, LeaseLost) as error:
            logger.debug("turn %s is not saved: %s", turn.id, type(error).__name__)
            await _uninterrupted(self._give_up(turn))
        except Exception as error:
            logger.warning("turn %s is not saved: %s", turn.id, type(error).__name__)
            await _uninterrupted(self._give_up(turn))

    async def _store_late(self, turn: LiveTurn, late: Late, started: Started) -> None:
        await late.remember(started)
        store = partial(self._store_ending, late.run, started, late.status, late.error)
        try:
            await store()
        except StoreError as failure:
            self._heartbeat.close_later(turn.id, failure, partial(store, patient=False))

    async def _perform(
        self, turn: LiveTurn, run: AgentRun
    ) -> tuple[str, ConversationsError | None]:
        """Run the agent; the status the turn ends with. Raises LeaseLost."""
        try:
            async with asyncio.timeout(get_conf().chat_turn_timeout_seconds):
                await run.perform()
        except asyncio.CancelledError:
            if turn.stop_reason == "lost":
                raise LeaseLost from None
            if turn.stop_reason in {"stopped", "deleted"}:
                return "cancelled", None
            return "interrupted", TurnInterrupted()  # nobody asked for it
        except LeaseLost:
            raise
        except Exception as error:
            # The type, never the text: it may hold what people said.
            logger.warning("turn %s failed: %s", turn.id, type(error).__name__)
            return "failed", turn_error(error)
        return "completed", None

    async def _close(
        self,
        turn: LiveTurn,
        run: AgentRun,
        started: Started,
        status: str,
        error: ConversationsError | None,
    ) -> None:
        """Store how the turn ended, then say so: what was announced is never lost."""
        answer_id: UUID | None = None
        run.warn(besides=NOT_SAVED)  # it may be saved yet
        store = partial(self._store_ending, run, started, status, error)
        try:
            answer_id = await store()
        except LeaseLost:
            turn.emit(failed(turn.id, TurnInterrupted()))
            return
        except Exception as failure:
            self._heartbeat.close_later(turn.id, failure, partial(store, patient=False))
            run.not_saved()
        run.warn()
        if error is not None:
            turn.emit(failed(turn.id, error))
            return
        message_id = started.user_message_id
        turn.emit(_completed(turn, run, status, answer_id=answer_id, user_message_id=message_id))

    async def _store_ending(
        self,
        run: AgentRun,
        started: Started,
        status: str,
        error: ConversationsError | None,
        *,
        patient: bool = True,
    ) -> UUID | None:
        """The answer's id, once all is stored; tries again while the store's budget lasts.

        Raises StoreError when it cannot be stored now. What cannot be stored for damage closes the
        turn without the model's memory of it: people see it, and the line goes on.
        """
        loop, now = asyncio.get_running_loop(), timezone.now()
        deadline = loop.time() + get_conf().chat_store_budget_seconds if patient else 0
        is_damaged = False
        finish = partial(finishing.finish, lease=started.lease, now=now)
        while True:
            batch = run.unsaved()
            result = run.result(status, error, batch)
            try:
                answer_id = await write_mended(
                    partial(finish, result=result, batch=batch), session_id=run.turn.session_id
                )
            except StoreDamaged:
                is_damaged = True
                break
            except StoreError:
                if loop.time() > deadline:
                    break
            else:
                if batch is not None and isinstance(run.session, TurnSession):
                    run.session.saved(batch)
                return answer_id
            await asyncio.sleep(FINISH_PAUSE_SECONDS)
        await run.save()  # what was said, by itself: others may close the turn before us
        if run.unsaved() is not None and not is_damaged:
            raise StoreBusy
        return await lanes.write(partial(finish, result=run.result(status, error)))

    async def _give_up_in_order(self, turn: LiveTurn) -> None:
        """Where all of a conversation ends, its messages are kept in the order they were said."""
        if turn.stop_reason in {"shutdown", "deleted"}:
            await self._lines.until_first(turn)
        await self._give_up(turn)

    async def _give_up(self, turn: LiveTurn) -> None:
        """Close a turn that will not run; its message stays in the conversation."""
        stopped = turn.stop_reason in {"stopped", "deleted"}
        process, now = self._holder().process, timezone.now()

        async def close() -> UUID | None:
            return await lanes.write(
                lambda db: closing.give_up(
                    db,
                    turn_id=turn.id,
                    process=process,
                    status="cancelled" if stopped else "interrupted",
                    error_code="" if stopped else TurnInterrupted.code,
                    now=now,
                )
            )

        user_message_id: UUID | None = None
        if turn.unsaved is None:
            try:
                user_message_id = await close()
            except Exception as failure:
                self._heartbeat.close_later(turn.id, failure, close)
        if turn.closed:
            return  # it was told before it had a ticket
        if stopped:
            turn.emit(TurnCompleted(turn.id, "cancelled", None, user_message_id))
        else:
            turn.emit(failed(turn.id, TurnInterrupted()))


def _completed(
    turn: LiveTurn,
    run: AgentRun,
    status: str,
    *,
    answer_id: UUID | None,
    user_message_id: UUID | None,
) -> TurnCompleted:
    warnings = run.session.warnings
    return TurnCompleted(
        turn_id=turn.id,
        status="cancelled" if status == "cancelled" else "completed",
        message_id=answer_id,
        user_message_id=user_message_id,
        usage=run.usage,
        warning=warnings[0] if warnings else "",
    )


async def _uninterrupted(work: Coroutine[Any, Any, None]) -> None:
    """Finish `work` whoever cancels: a turn that settles does so to the end."""
    task = asyncio.get_running_loop().create_task(work)
    await settled(task)
    task.result()
