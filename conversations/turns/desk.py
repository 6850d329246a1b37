"""Where the turns of one process are kept: who waits, who runs, and that all of them end.

Order between processes is the database's (`store.tickets`); here only the oldest local turn of a
conversation asks for it, and finishing wakes exactly the next local one.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import secrets
import socket
import weakref
from bisect import insort
from collections.abc import Coroutine
from functools import partial
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
    TurnCompleted,
    TurnQueued,
    TurnRunning,
)
from conversations.store import tickets
from conversations.store.repeats import Repeat
from conversations.store.tickets import Started, Ticket
from conversations.turns.heartbeat import Heartbeat, start_task
from conversations.turns.live import LiveTurn, failed
from conversations.turns.replay import tell_again
from conversations.turns.run import AgentRun, OwnThreads, settled, turn_error

logger = logging.getLogger(__name__)

FIRST_PAUSE_SECONDS: Final = 0.01
LONGEST_PAUSE_SECONDS: Final = 0.2
FINISH_PAUSE_SECONDS: Final = 0.05


class Desk:
    """The turns of one event loop."""

    def __init__(self) -> None:
        self.process = f"{socket.gethostname()[:30]}:{os.getpid()}:{secrets.token_hex(4)}"
        self.draining = False
        self._turns: dict[UUID, LiveTurn] = {}
        self._lines: dict[UUID, list[LiveTurn]] = {}
        self._admissions: set[asyncio.Task[LiveTurn]] = set()
        self._replays: set[asyncio.Task[None]] = set()
        self._heartbeat = Heartbeat(self.process, self._turns)

    async def send(
        self, *, session_id: UUID, owner_id: Any, text: str, idempotency_key: str | None
    ) -> LiveTurn:
        if self.draining:
            raise ShuttingDown
        # A task of its own: a ticket once taken is answered, also when its sender is cancelled.
        admission = asyncio.get_running_loop().create_task(
            self._admit(
                session_id=session_id, owner_id=owner_id, text=text, idempotency_key=idempotency_key
            )
        )
        self._admissions.add(admission)
        admission.add_done_callback(self._admitted)
        return await asyncio.shield(admission)

    def find(self, turn_id: UUID) -> LiveTurn | None:
        return self._turns.get(turn_id)

    async def stop_session(self, session_id: UUID, *, reason: Any) -> None:
        """End what runs or waits here for a conversation, and wait until it has settled."""
        await self._stop(list(self._lines.get(session_id, [])), reason)

    def look_after_abandoned(self) -> None:
        """Close what a process before this one left open, as soon as it is sure to be gone."""
        self._heartbeat.begin(linger_seconds=get_conf().chat_lease_seconds * 2.5)

    async def drain(self, grace_seconds: float) -> None:
        """Take nothing new; let what runs finish for a while, then stop it and keep its parts."""
        self.draining = True
        loop = asyncio.get_running_loop()
        deadline = loop.time() + grace_seconds
        while (tasks := self._tasks()) and (left := deadline - loop.time()) > 0:
            await asyncio.wait(tasks, timeout=left)
        if self._admissions:  # they will be answered, so they must be here before we stop
            await asyncio.wait(self._admissions)
        for replay in self._replays:
            replay.cancel()
        await self._stop(list(self._turns.values()), "shutdown")
        if self._replays:
            await asyncio.wait(self._replays)
        self._heartbeat.end()

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

    def _tasks(self) -> set[asyncio.Task[Any]]:
        turns = {turn.task for turn in self._turns.values() if turn.task is not None}
        return turns | self._admissions | self._replays

    async def _admit(
        self, *, session_id: UUID, owner_id: Any, text: str, idempotency_key: str | None
    ) -> LiveTurn:
        """Take a ticket and make its turn live."""
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
        if isinstance(ticket, Repeat):
            return self.find(ticket.turn_id) or self._tell_again(ticket, owner_id, text)
        turn = LiveTurn(ticket, owner_id=owner_id, text=text)
        self._turns[turn.id] = turn
        insort(self._lines.setdefault(session_id, []), turn, key=_number)
        # Neither the request's context nor its threads: the turn outlives it.
        turn.task = start_task(self._live(turn))
        self._heartbeat.begin()
        return turn

    def _admitted(self, admission: asyncio.Task[LiveTurn]) -> None:
        self._admissions.discard(admission)
        if not admission.cancelled():
            admission.exception()  # seen, also where the sender has gone

    def _tell_again(self, repeat: Repeat, owner_id: Any, text: str) -> LiveTurn:
        """A turn that is not here, for whoever repeats its message."""
        ticket = Ticket(repeat.turn_id, repeat.session_id, repeat.number, ahead=0, started=None)
        turn = LiveTurn(ticket, owner_id=owner_id, text=text)
        turn.task = start_task(tell_again(turn))
        self._replays.add(turn.task)
        turn.task.add_done_callback(partial(self._told, turn))
        return turn

    def _told(self, turn: LiveTurn, replay: asyncio.Task[None]) -> None:
        self._replays.discard(replay)
        if not turn.closed:
            turn.emit(failed(turn, ShuttingDown()))

    async def _live(self, turn: LiveTurn) -> None:
        """A turn from its ticket to its closing event, whatever happens."""
        turn.has_begun = True
        started: Started | None = None
        try:
            try:
                if not turn.stop_reason:
                    started = turn.ticket.started or await self._wait(turn)
            except (asyncio.CancelledError, LeaseLost) as error:
                logger.debug("turn %s will not start: %s", turn.id, type(error).__name__)
            except Exception as error:
                logger.warning("turn %s cannot start: %s", turn.id, type(error).__name__)
            if started is None:
                turn.settling = True
                await _uninterrupted(self._give_up(turn))
                return
            turn.emit(TurnRunning(turn.id))
            await self._run(turn, started)
        except Exception as error:  # a fault of our own: the line must go on all the same
            logger.warning("turn %s broke: %s", turn.id, type(error).__name__)
            await _uninterrupted(self._give_up(turn))
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
        async with OwnThreads():
            try:
                status, error = await self._perform(turn, run)
                turn.settling = True
                await _uninterrupted(run.settle())
            except LeaseLost:
                turn.emit(failed(turn, TurnInterrupted()))
                return
        await _uninterrupted(self._close(turn, run, status, error))

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
        self, turn: LiveTurn, run: AgentRun, status: str, error: ConversationsError | None
    ) -> None:
        """Store how the turn ended, then say so: what was announced is never lost."""
        answer_id: UUID | None = None
        try:
            answer_id = await self._store_ending(run, status, error)
        except LeaseLost:
            turn.emit(failed(turn, TurnInterrupted()))
            return
        except Exception as failure:
            self._heartbeat.close_later(
                turn, failure, lambda: self._store_ending(run, status, error, patient=False)
            )
            run.session.warning = NOT_SAVED
        run.warn()
        if error is not None:
            turn.emit(failed(turn, error))
            return
        turn.emit(
            TurnCompleted(
                turn_id=turn.id,
                status="cancelled" if status == "cancelled" else "completed",
                message_id=answer_id,
                user_message_id=run.user_message_id,
                usage=run.usage,
                warning=run.session.warning,
            )
        )

    async def _store_ending(
        self,
        run: AgentRun,
        status: str,
        error: ConversationsError | None,
        *,
        patient: bool = True,
    ) -> UUID | None:
        """The answer's id, once all is stored; tries again while the store's budget lasts."""
        loop, now = asyncio.get_running_loop(), timezone.now()
        deadline = loop.time() + get_conf().chat_store_budget_seconds if patient else 0
        lease = run.session.lease
        while True:
            batch = run.unsaved()
            result = run.result(status, error, batch)
            finish = partial(tickets.finish, lease=lease, result=result, batch=batch, now=now)
            try:
                answer_id = await lanes.write(finish)
            except StoreError:
                if loop.time() > deadline:
                    break
            else:
                if batch is not None:
                    run.session.saved(batch)
                return answer_id
            await asyncio.sleep(FINISH_PAUSE_SECONDS)
        # One after the other: better a closed turn without its last words than an open one.
        await run.save()
        result = run.result(status, error)
        return await lanes.write(partial(tickets.finish, lease=lease, result=result, now=now))

    async def _give_up(self, turn: LiveTurn) -> None:
        """Close a turn that will not run; its message stays in the conversation."""
        stopped = turn.stop_reason in {"stopped", "deleted"}
        status = "cancelled" if stopped else "interrupted"
        error_code = "" if stopped else TurnInterrupted.code
        now = timezone.now()

        async def close() -> UUID | None:
            return await lanes.write(
                lambda db: tickets.give_up(
                    db, turn_id=turn.id, status=status, error_code=error_code, now=now
                )
            )

        user_message_id: UUID | None = None
        try:
            user_message_id = await close()
        except Exception as failure:
            self._heartbeat.close_later(turn, failure, close)
        if stopped:
            turn.emit(TurnCompleted(turn.id, "cancelled", None, user_message_id))
        else:
            turn.emit(failed(turn, TurnInterrupted()))

    def _leave(self, turn: LiveTurn) -> None:
        """Out of the line; the next local turn may ask for its start."""
        if not turn.closed:
            turn.emit(failed(turn, TurnError()))
        self._turns.pop(turn.id, None)
        line = self._lines[turn.session_id]
        line.remove(turn)
        if line:
            line[0].is_next.set()
        else:
            del self._lines[turn.session_id]


async def _uninterrupted(work: Coroutine[Any, Any, None]) -> None:
    """Finish `work` whoever cancels: a turn that settles does so to the end."""
    task = asyncio.get_running_loop().create_task(work)
    await settled(task)
    task.result()


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
