"""Where the turns of one process are kept: who waits, who runs, and that all of them end.

Order between processes is the database's (`store.tickets`); here only the oldest local turn of a
conversation asks for it, and finishing wakes exactly the next local one.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import os
import random
import secrets
import socket
import weakref
from bisect import insort
from typing import Any, Final
from uuid import UUID

from django.utils import timezone

from conversations import lanes
from conversations.conf import get_conf
from conversations.errors import (
    ConversationsError,
    LeaseLost,
    ShuttingDown,
    StoreError,
    TurnError,
    TurnInterrupted,
)
from conversations.events import (
    NOT_SAVED,
    ContentDelta,
    TurnCompleted,
    TurnFailed,
    TurnQueued,
    TurnRunning,
)
from conversations.store import tickets
from conversations.store.log import Lease
from conversations.store.tickets import Result, Started, Ticket
from conversations.turns.live import LiveTurn
from conversations.turns.run import AgentRun, OwnThreads, turn_error

logger = logging.getLogger(__name__)

FIRST_PAUSE_SECONDS: Final = 0.01
LONGEST_PAUSE_SECONDS: Final = 0.2
CHECKPOINT_SECONDS: Final = 1.0
FINISH_ATTEMPTS: Final = 3


class Desk:
    """The turns of one event loop."""

    def __init__(self) -> None:
        self.process = f"{socket.gethostname()[:30]}:{os.getpid()}:{secrets.token_hex(4)}"
        self.draining = False
        self._turns: dict[UUID, LiveTurn] = {}
        self._lines: dict[UUID, list[LiveTurn]] = {}
        self._heartbeat: asyncio.Task[None] | None = None

    async def send(
        self, *, session_id: UUID, owner_id: Any, text: str, idempotency_key: str | None
    ) -> LiveTurn:
        if self.draining:
            raise ShuttingDown
        conf, now = get_conf(), timezone.now()
        ticket = await lanes.write(
            lambda db: tickets.submit(
                db,
                session_id=session_id,
                owner_id=owner_id,
                text=text,
                idempotency_key=idempotency_key,
                process=self.process,
                expires_at=now + conf.lease,
                now=now,
                max_queued=conf.chat_max_queued_turns,
            )
        )
        turn = LiveTurn(ticket, owner_id=owner_id, text=text)
        self._turns[turn.id] = turn
        insort(self._lines.setdefault(session_id, []), turn, key=_number)
        # Neither the request's context nor its threads: the turn outlives it.
        turn.task = asyncio.get_running_loop().create_task(
            self._live(turn), context=contextvars.Context()
        )
        if self._heartbeat is None:
            self._heartbeat = asyncio.get_running_loop().create_task(
                self._keep_alive(), context=contextvars.Context()
            )
        return turn

    def find(self, turn_id: UUID) -> LiveTurn | None:
        return self._turns.get(turn_id)

    async def stop_session(self, session_id: UUID, *, reason: Any) -> None:
        """End what runs or waits here for a conversation, and wait until it has settled."""
        await self._stop(list(self._lines.get(session_id, [])), reason)

    async def drain(self, grace_seconds: float) -> None:
        """Take nothing new; let what runs finish for a while, then stop it and keep its parts."""
        self.draining = True
        running = [turn.task for turn in self._turns.values() if turn.task is not None]
        if running:
            await asyncio.wait(running, timeout=grace_seconds)
        await self._stop(list(self._turns.values()), "shutdown")
        if self._heartbeat is not None:
            self._heartbeat.cancel()

    async def settled(self, session_id: UUID) -> None:
        """Wait until nothing runs or waits here for a conversation."""
        while line := self._lines.get(session_id):
            await asyncio.wait([turn.task for turn in line if turn.task is not None])

    async def _stop(self, turns: list[LiveTurn], reason: Any) -> None:
        for turn in turns:
            turn.stop(reason)
        tasks = [turn.task for turn in turns if turn.task is not None]
        if tasks:
            await asyncio.wait(tasks)

    async def _live(self, turn: LiveTurn) -> None:
        """A turn from its ticket to its closing event, whatever happens."""
        try:
            try:
                started = turn.ticket.started or await self._wait(turn)
            except (asyncio.CancelledError, LeaseLost):
                await self._give_up(turn)
                return
            turn.emit(TurnRunning(turn.id))
            await self._run(turn, started)
        finally:
            self._leave(turn)

    async def _wait(self, turn: LiveTurn) -> Started:
        turn.emit(TurnQueued(turn.id, turn.ticket.ahead))
        line = self._lines[turn.session_id]
        while line[0] is not turn:
            turn.is_next.clear()
            await turn.is_next.wait()
        pause = FIRST_PAUSE_SECONDS
        while True:
            try:
                started = await self._try_to_start(turn.ticket)
            except StoreError as error:
                logger.warning("turn %s waits for the store (%s)", turn.id, type(error).__name__)
                started = None
            if started is not None:
                return started
            await asyncio.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311 - no secret
            pause = min(pause * 1.6, LONGEST_PAUSE_SECONDS)

    async def _try_to_start(self, ticket: Ticket) -> Started | None:
        now = timezone.now()
        if not await lanes.read(lambda db: tickets.is_first(db, ticket=ticket, now=now)):
            return None
        expires_at = now + get_conf().lease
        return await lanes.write(
            lambda db: tickets.start(db, ticket=ticket, expires_at=expires_at, now=now)
        )

    async def _run(self, turn: LiveTurn, started: Started) -> None:
        turn.started = started
        run = AgentRun(turn, started)
        try:
            async with OwnThreads(), asyncio.timeout(get_conf().chat_turn_timeout_seconds):
                await run.perform()
        except asyncio.CancelledError:
            turn.settling = True
            if turn.stop_reason == "lost":
                turn.emit(_failed(turn, TurnInterrupted()))
            elif turn.stop_reason == "shutdown":
                await self._close(turn, run, "interrupted", TurnInterrupted())
            else:
                await self._close(turn, run, "cancelled")
        except LeaseLost:
            turn.emit(_failed(turn, TurnInterrupted()))
        except Exception as error:
            turn.settling = True
            # The type, never the text: it may hold what people said.
            logger.warning("turn %s failed: %s", turn.id, type(error).__name__)
            await self._close(turn, run, "failed", turn_error(error))
        else:
            turn.settling = True
            await self._close(turn, run, "completed")

    async def _close(
        self, turn: LiveTurn, run: AgentRun, status: str, error: ConversationsError | None = None
    ) -> None:
        """Store how the turn ended, then say so: what was announced is never lost."""
        result = run.result(status, error)
        stored = await self._store_result(turn, run.session.lease, result)
        if stored is None:
            turn.emit(_failed(turn, TurnInterrupted()))
            return
        if error is not None:
            turn.emit(_failed(turn, error))
            return
        if not stored and not result.warning:
            turn.emit(ContentDelta("", NOT_SAVED))
        answer_id = result.partial_row.id if result.partial_row else result.answer_id
        turn.emit(
            TurnCompleted(
                turn_id=turn.id,
                status="cancelled" if status == "cancelled" else "completed",
                message_id=answer_id if stored else None,
                user_message_id=run.user_message_id,
                usage=result.usage,
                warning=result.warning,
            )
        )

    async def _store_result(self, turn: LiveTurn, lease: Lease, result: Result) -> bool | None:
        """True: stored; False: the store does not take it; None: the turn is another's now."""
        now = timezone.now()
        for _ in range(FINISH_ATTEMPTS):
            try:
                await lanes.write(
                    lambda db: tickets.finish(db, lease=lease, result=result, now=now)
                )
            except LeaseLost:
                return None
            except StoreError as error:
                logger.warning("turn %s not closed (%s)", turn.id, type(error).__name__)
            else:
                return True
        return False

    async def _give_up(self, turn: LiveTurn) -> None:
        """Close a turn that never started; its message stays in the conversation."""
        turn.settling = True
        stopped = turn.stop_reason == "stopped"
        status = "cancelled" if stopped else "interrupted"
        now = timezone.now()
        try:
            await lanes.write(
                lambda db: tickets.give_up(
                    db,
                    turn_id=turn.id,
                    status=status,
                    error_code="" if stopped else TurnInterrupted.code,
                    now=now,
                )
            )
        except StoreError as error:
            logger.warning("turn %s not closed (%s)", turn.id, type(error).__name__)
        if stopped:
            turn.emit(TurnCompleted(turn.id, "cancelled", None, None))
        else:
            turn.emit(_failed(turn, TurnInterrupted()))

    def _leave(self, turn: LiveTurn) -> None:
        """Out of the line; the next local turn may ask for its start."""
        if not turn.closed:
            turn.emit(_failed(turn, TurnError()))
        self._turns.pop(turn.id, None)
        line = self._lines[turn.session_id]
        line.remove(turn)
        if line:
            line[0].is_next.set()
        else:
            del self._lines[turn.session_id]

    async def _keep_alive(self) -> None:
        """Signs of life for all turns here, and checkpoints of their answers."""
        loop = asyncio.get_running_loop()
        renewed_at = loop.time()
        while True:
            third = get_conf().chat_lease_seconds / 3
            await asyncio.sleep(min(CHECKPOINT_SECONDS, third))
            try:
                if loop.time() - renewed_at >= third:
                    renewed_at = loop.time()
                    await self._renew()
                for turn in list(self._turns.values()):
                    await self._checkpoint(turn)
            except StoreError as error:
                logger.warning("no sign of life stored (%s)", type(error).__name__)

    async def _renew(self) -> None:
        if not self._turns:
            return
        mine = list(self._turns.values())
        expires_at = timezone.now() + get_conf().lease
        kept = await lanes.write(
            lambda db: tickets.renew(db, process=self.process, expires_at=expires_at)
        )
        for turn in mine:
            if turn.id not in kept:
                turn.stop("lost")  # does nothing to a turn that is settling

    async def _checkpoint(self, turn: LiveTurn) -> None:
        started, said = turn.started, turn.said
        if started is None or turn.settling or len(said) == turn.checkpointed:
            return
        try:
            await lanes.write(lambda db: tickets.checkpoint(db, lease=started.lease, text=said))
        except LeaseLost:
            turn.stop("lost")
        else:
            turn.checkpointed = len(said)


def _failed(turn: LiveTurn, error: ConversationsError) -> TurnFailed:
    return TurnFailed(turn.id, error.message, error.code, error.retryable)


def _number(turn: LiveTurn) -> int:
    return turn.ticket.number


_desks: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Desk] = weakref.WeakKeyDictionary()


def desk() -> Desk:
    """The desk of the running event loop."""
    loop = asyncio.get_running_loop()
    found = _desks.get(loop)
    if found is None:
        found = _desks[loop] = Desk()
    return found
