"""Where the turns of one process are kept: found again, stopped, and all of them ended.

Order between processes is the database's (`store.tickets`).
"""

from __future__ import annotations

import asyncio
import logging
import weakref
from dataclasses import replace
from functools import partial
from typing import Any, Final
from uuid import UUID

from django.utils import timezone

from conversations import lanes, processes
from conversations.conf import get_conf
from conversations.errors import (
    EventsGone,
    Invalid,
    ShuttingDown,
    StoreError,
)
from conversations.store import stops
from conversations.store.inputs import TurnInput
from conversations.store.leases import Holder
from conversations.store.line import Orphan
from conversations.store.records import last_recorded
from conversations.store.repeats import Ending, Repeat, find_ending
from conversations.store.rewinding import find_said
from conversations.store.stops import Stop
from conversations.store.threads import find_turn
from conversations.turns.admission import Admission, Said
from conversations.turns.follow import FollowedTurn
from conversations.turns.heartbeat import Heartbeat, start_task
from conversations.turns.late import Late
from conversations.turns.life import Life
from conversations.turns.line import Lines
from conversations.turns.live import LiveTurn

logger = logging.getLogger(__name__)

MAX_UNRECORDED: Final = 10_000


class Desk:
    """The turns of one event loop."""

    def __init__(self) -> None:
        self.process = processes.new_name()
        self.draining = False
        self._turns: dict[UUID, LiveTurn] = {}
        self._lines = Lines()
        self._admissions: set[asyncio.Task[LiveTurn | Repeat]] = set()
        self._followed: weakref.WeakSet[FollowedTurn] = weakref.WeakSet()
        self._heartbeat = Heartbeat(self._turns, holder=self.holder, adopt=self._adopt)
        self._admission = Admission(
            lines=self._lines, heartbeat=self._heartbeat, holder=self.holder, begin=self._begin
        )
        self._life = Life(
            lines=self._lines,
            heartbeat=self._heartbeat,
            holder=self.holder,
            adopt=self._adopt,
            save_later=self._admission.save_later,
        )

    def holder(self) -> Holder:
        """This process, as the one that takes leases."""
        return Holder(self.process, round(get_conf().chat_lease_seconds * 1000))

    async def send(self, said: Said) -> LiveTurn | FollowedTurn:
        if self.draining:
            raise ShuttingDown
        # A task of its own: a ticket once taken is answered, also when its sender is cancelled.
        admission = asyncio.get_running_loop().create_task(self._admission.admit(said))
        self._admissions.add(admission)
        admission.add_done_callback(self._admitted)
        admitted = await asyncio.shield(admission)
        return self._again(admitted) if isinstance(admitted, Repeat) else admitted

    async def retry(
        self,
        *,
        session_id: UUID,
        owner_id: Any,
        turn_id: UUID,
        text: str | None,
        idempotency_key: str | None,
        beside: TurnInput | None = None,
    ) -> LiveTurn | FollowedTurn:
        """Say once more what was said in a turn, or `text`, in its place.

        What lives here is stopped first, once it is known that nothing stands in the way.
        """
        if self.draining:
            raise ShuttingDown
        here = self._of(session_id)  # before the look: who was faster is not stopped by a refusal
        look = partial(
            find_said,
            session_id=session_id,
            owner_id=owner_id,
            turn_id=turn_id,
            text=text,
            idempotency_key=idempotency_key,
            now=timezone.now(),
        )
        found = await lanes.read(look)
        if isinstance(found, Repeat):
            return self._again(found)
        await self._stop(here, "deleted")  # in the order it was said
        said = Said(
            session_id,
            owner_id,
            found.text,
            idempotency_key,
            rewinds_to=turn_id,
            given=_completed(found.given, beside),
        )
        return await self.send(said)

    def find(self, turn_id: UUID) -> LiveTurn | None:
        return self._turns.get(turn_id)

    async def pick_up(
        self,
        *,
        session_id: UUID,
        owner_id: Any,
        turn_id: UUID,
        after: int,
        is_verified: bool = True,
    ) -> tuple[LiveTurn | FollowedTurn, int]:
        """A turn to listen to once more, and the number after which to begin.

        Whoever is not verified finds only what the store did not take. Raises ThreadNotFound,
        TurnNotFound, EventsGone, StoreError, Invalid when it never told so many events.
        """
        live = self._find_own(turn_id, session_id, owner_id, is_verified=is_verified)
        if live is not None:
            _refuse_beyond(after, live.event_count if live.closed else len(live.events) - 1)
            return live, min(after, live.event_count)
        if not is_verified:
            raise StoreError
        ending, last = await lanes.read(
            partial(_find_told, session_id=session_id, owner_id=owner_id, turn_id=turn_id)
        )
        if ending.is_live:  # its process may have told more than is recorded yet
            _refuse_beyond(after, last + MAX_UNRECORDED)
        if not ending.is_live and ending.status != "interrupted":
            _refuse_beyond(after, ending.event_count)
            after = min(after, ending.event_count)
            if 0 < after < ending.event_count - 1 and not last:
                raise EventsGone
        return self._follow(turn_id, session_id), after

    async def stop(
        self, *, session_id: UUID, owner_id: Any, turn_id: UUID, is_verified: bool = True
    ) -> Stop:
        """Ask one turn to stop, wherever it runs. Raises ThreadNotFound, TurnNotFound."""
        live = self._find_own(turn_id, session_id, owner_id, is_verified=is_verified)
        if live is not None and not live.closed:
            live.stop("stopped")
            return Stop("queued" if live.is_waiting else "running", had_ended=False)
        if live is not None and live.unsaved is not None:
            return Stop(live.status, had_ended=True)
        if not is_verified:
            raise StoreError
        return await lanes.write(
            partial(
                stops.request_stop,
                session_id=session_id,
                owner_id=owner_id,
                turn_id=turn_id,
                holder=self.holder(),
                now=timezone.now(),
            )
        )

    async def stop_session(self, session_id: UUID, *, reason: Any) -> None:
        """End what runs or waits here for a conversation, and wait until it has settled."""
        await self._stop(self._of(session_id), reason)

    def look_after_abandoned(self) -> None:
        """From now on, close and adopt what processes that are gone left open."""
        self._heartbeat.begin(watch=True)

    async def drain(self, grace_seconds: float) -> None:
        """Take nothing new; let what runs finish for a while, then stop it and keep its parts."""
        self.draining = True
        loop = asyncio.get_running_loop()
        deadline = loop.time() + grace_seconds
        while (tasks := self._tasks()) and (left := deadline - loop.time()) > 0:
            await asyncio.wait(tasks, timeout=left)
        for followed in self._listened():
            await followed.left(within=max(0, deadline - loop.time()))
        if self._admissions:  # they will be answered, so they must be here before we stop
            await asyncio.wait(self._admissions)
        for followed in self._followed:
            followed.hang_up()
        await self._stop(list(self._turns.values()), "shutdown")
        await self._heartbeat.close_now()
        if late := self._tasks():  # each only stores what was answered, behind those before it
            await asyncio.wait(late, timeout=get_conf().chat_store_budget_seconds)
        await self._stop(list(self._turns.values()), "shutdown")
        self._heartbeat.end()

    async def settled(self, session_id: UUID) -> None:
        """Wait until nothing runs or waits here for a conversation."""
        while turns := self._of(session_id):
            await asyncio.wait([turn.task for turn in turns if turn.task is not None])

    def _of(self, session_id: UUID) -> list[LiveTurn]:
        return [turn for turn in self._turns.values() if turn.session_id == session_id]

    async def _stop(self, turns: list[LiveTurn], reason: Any) -> None:
        for turn in turns:
            turn.stop(reason)
        tasks = [turn.task for turn in turns if turn.task is not None]
        if tasks:
            await asyncio.wait(tasks)

    def _tasks(self) -> set[asyncio.Task[Any]]:
        turns = {turn.task for turn in self._turns.values() if turn.task is not None}
        return turns | self._admissions

    def _listened(self) -> list[FollowedTurn]:
        return [followed for followed in self._followed if followed.has_listener]

    def _find_own(
        self, turn_id: UUID, session_id: UUID, owner_id: Any, *, is_verified: bool
    ) -> LiveTurn | None:
        turn, kept = self.find(turn_id), self._admission.kept.get(turn_id)
        if turn is None and kept is not None:
            turn = kept.told
        if turn is None or (turn.session_id, turn.owner_id) != (session_id, owner_id):
            return None
        return turn if is_verified or turn.unsaved is not None else None

    def _admitted(self, admission: asyncio.Task[LiveTurn | Repeat]) -> None:
        self._admissions.discard(admission)
        if not admission.cancelled():
            admission.exception()  # seen, also where the sender has gone

    def _begin(self, turn: LiveTurn, late: Late | None = None) -> LiveTurn:
        self._turns[turn.id] = turn
        self._lines.join(turn)
        # Neither the request's context nor its threads: the turn outlives it.
        turn.task = start_task(self._live(turn, late))
        self._heartbeat.begin()
        return turn

    def _adopt(self, orphans: list[Orphan]) -> None:
        """Answer what was said to processes that are gone."""
        for orphan in orphans:
            turn_id = orphan.ticket.turn_id
            if turn_id in self._turns or turn_id in self._admission.kept:
                continue  # taken unheard, and answered here already: it is saved to that ticket
            logger.info("turn %s is adopted", orphan.ticket.turn_id)
            self._begin(
                LiveTurn(
                    orphan.ticket,
                    owner_id=orphan.owner_id,
                    text=orphan.text,
                    given=orphan.given,
                )
            )

    def _again(self, repeat: Repeat) -> LiveTurn | FollowedTurn:
        return self.find(repeat.turn_id) or self._follow(repeat.turn_id, repeat.session_id)

    def _follow(self, turn_id: UUID, session_id: UUID) -> FollowedTurn:
        followed = FollowedTurn(turn_id, session_id, recover=self._heartbeat.recover)
        self._followed.add(followed)
        return followed

    async def _live(self, turn: LiveTurn, late: Late | None) -> None:
        try:
            if late is not None:
                await self._life.save(turn, late)
            else:
                await self._life.live(turn)
        finally:
            self._turns.pop(turn.id, None)
            self._lines.leave(turn)


def _find_told(
    db: lanes.Database, *, session_id: UUID, owner_id: Any, turn_id: UUID
) -> tuple[Ending, int]:
    """How one's own turn stands, and the number of the last event that is recorded of it."""
    find_turn(db, session_id=session_id, owner_id=owner_id, turn_id=turn_id)
    ending = find_ending(db, turn_id=turn_id)
    if ending is None:
        raise StoreError  # it went between two reads
    return ending, last_recorded(db, turn_id=turn_id)


def _completed(given: TurnInput | None, beside: TurnInput | None) -> TurnInput | None:
    """What is said beside a text once more, with what no memory holds of it any more."""
    if given is None or beside is None or given.agent_items is not None:
        return given
    return replace(given, agent_items=beside.agent_items)


def _refuse_beyond(after: int, last: int) -> None:
    if after > last + 1:  # `[DONE]` counts, too
        message = "is beyond the end of this turn's stream"
        raise Invalid(fields=[{"field": "Last-Event-ID", "message": message, "code": "invalid"}])


_desks: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Desk] = weakref.WeakKeyDictionary()


def desk() -> Desk:
    """The desk of the running event loop."""
    loop = asyncio.get_running_loop()
    found = _desks.get(loop)
    if found is None:
        found = _desks[loop] = Desk()
    return found
