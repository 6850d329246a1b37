"""How what is said becomes a turn: with a ticket of the store, or, while it takes none, without.

What was answered without it is kept here until the store takes it (docs/decisions/0008).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Protocol
from uuid import UUID

from django.utils import timezone

from conversations import lanes
from conversations.conf import get_conf
from conversations.errors import (
    IdempotencyConflict,
    QueueFull,
    StoreBusy,
    StoreError,
)
from conversations.ids import new_id
from conversations.items import Memory
from conversations.processes import steady_milliseconds
from conversations.store import tickets
from conversations.store.inputs import Settlement, TurnInput
from conversations.store.leases import Holder
from conversations.store.line import Ticket
from conversations.store.repeats import Repeat
from conversations.turns.heartbeat import Heartbeat
from conversations.turns.late import Late
from conversations.turns.line import Lines
from conversations.turns.live import LiveTurn, Unsaved, Verify
from conversations.turns.taking import take
from conversations.turns.unsaved import build_unsaved_turn

logger = logging.getLogger(__name__)

MAX_KEPT: Final = 1_000


@dataclass(frozen=True, slots=True)
class Said:
    """One message, on its way in. `verify` asks again who says it; None where that is known.

    What is said in place of the turn `rewinds_to` takes that and all after it back; `given` is what
    is said beside the text, `settlement` what a person answered with it.
    """

    session_id: UUID
    owner_id: Any
    text: str
    idempotency_key: str | None = None
    verify: Verify | None = None
    rewinds_to: UUID | None = None
    given: TurnInput | None = None
    settlement: Settlement | None = None


class Begin(Protocol):
    """Makes a turn live."""

    def __call__(self, turn: LiveTurn, late: Late | None = None) -> LiveTurn: ...


class Admission:
    """The door of a desk."""

    def __init__(
        self,
        *,
        lines: Lines,
        heartbeat: Heartbeat,
        holder: Callable[[], Holder],
        begin: Begin,
    ) -> None:
        self.kept: dict[UUID, Late] = {}
        """What was answered without the store and is not in it yet, by the turn's id."""
        self._lines = lines
        self._heartbeat = heartbeat
        self._holder = holder
        self._begin = begin

    async def admit(self, said: Said) -> LiveTurn | Repeat:
        """Take a ticket and make its turn live; where the store takes none, answer without it.

        Raises ThreadNotFound, ThreadClosed, QueueFull, IdempotencyConflict. What is said in place
        of another turn is not answered without the store: TurnNotFound, ThreadHeld, StoreError.
        """
        again = self._find_kept(said)
        if again is not None:
            return again
        if said.verify is not None:  # whose conversation it is cannot be looked up
            return self._begin_unsaved(said, None, new_id())
        holder, before, turn_id = self._holder(), steady_milliseconds(), new_id()
        try:
            ticket = await self._submit(said, turn_id)
        except StoreError as error:
            logger.warning("the store takes no message: %s", type(error).__name__)
            found = await _peek(said, turn_id)
            if isinstance(found, Memory) or found is None:
                # Of the same id: the ticket may come to be taken although nobody hears of it.
                return self._begin_unsaved(said, found, turn_id)
            if found.turn_id != turn_id:
                return found
            try:  # it was taken
                ticket = await self._submit(said, turn_id, is_in_doubt=True)
            except StoreError:
                return self._begin_unsaved(said, None, turn_id)
        if isinstance(ticket, Repeat):
            return ticket
        turn = LiveTurn(ticket, owner_id=said.owner_id, text=said.text, given=said.given)
        turn.held_until = before + holder.lease_milliseconds
        return self._begin(turn)

    def save_later(self, late: Late) -> None:
        """Keep what was answered without the store until the store takes it."""
        turn = late.told
        if len(self.kept) >= MAX_KEPT:
            logger.error("turn %s is not kept: too many wait for the store", turn.id)
            return
        self.kept[turn.id] = late
        self._heartbeat.close_later(turn.id, StoreBusy(), partial(self._save, late))
        self._heartbeat.begin()

    async def _save(self, late: Late) -> None:
        """Take a ticket for what was answered. Raises StoreError while the store takes none."""
        told, unsaved = late.told, late.told.unsaved or Unsaved(None)
        said = Said(
            told.session_id,
            told.owner_id,
            told.text,
            unsaved.idempotency_key,
            given=told.given,
        )
        try:
            if unsaved.verify is not None:
                await unsaved.verify()
            ticket = await self._submit(said, told.id, is_answered=True)
        except StoreError:
            raise
        except Exception:
            del self.kept[told.id]
            raise
        del self.kept[told.id]
        if isinstance(ticket, Repeat):
            return
        logger.info("turn %s is saved late", told.id)
        turn = LiveTurn(ticket, owner_id=told.owner_id, text=told.text, given=told.given)
        turn.events, turn.first_token_at = told.events, told.first_token_at
        turn.answer_id = told.answer_id
        late.run.turn = turn
        self._begin(turn, late)

    async def _submit(
        self,
        said: Said,
        turn_id: UUID,
        *,
        is_answered: bool = False,
        is_in_doubt: bool = False,
    ) -> Ticket | Repeat:
        submit = partial(
            tickets.submit,
            holder=self._holder(),
            session_id=said.session_id,
            owner_id=said.owner_id,
            turn_id=turn_id,
            text=said.text,
            idempotency_key=said.idempotency_key,
            now=timezone.now(),
            max_queued=get_conf().chat_max_queued_turns,
            rewinds_to=said.rewinds_to,
            is_answered=is_answered,
            is_in_doubt=is_in_doubt or is_answered,
            given=said.given,
            settlement=said.settlement,
        )
        again = partial(submit, is_in_doubt=True)
        ticket: Ticket | Repeat = await take(submit, session_id=said.session_id, again=again)
        return ticket

    def _begin_unsaved(self, said: Said, window: Memory | None, turn_id: UUID) -> LiveTurn:
        """Raises QueueFull, and StoreError where the store has to change something else with it."""
        if said.rewinds_to is not None or said.settlement is not None:
            raise StoreError
        line = self._lines.of(session_id=said.session_id, owner_id=said.owner_id)
        if len(line) > get_conf().chat_max_queued_turns:
            raise QueueFull
        if window is not None:  # what the store does not know yet was said all the same
            items = [item for late in self._kept_of(said) for item in late.items]
            window = Memory([*window.items, *items], window.unreadable)
        return self._begin(
            build_unsaved_turn(
                turn_id=turn_id,
                session_id=said.session_id,
                owner_id=said.owner_id,
                text=said.text,
                given=said.given,
                line=line,
                unsaved=Unsaved(window, said.idempotency_key, said.verify),
            )
        )

    def _find_kept(self, said: Said) -> LiveTurn | None:
        """The turn this message began already, where only this process knows of it.

        Raises IdempotencyConflict.
        """
        if said.idempotency_key is None:
            return None
        line = self._lines.of(session_id=said.session_id, owner_id=said.owner_id)
        for turn in (*line, *(late.told for late in self._kept_of(said))):
            if turn.unsaved and turn.unsaved.idempotency_key == said.idempotency_key:
                if turn.text != said.text:
                    raise IdempotencyConflict
                return turn
        return None

    def _kept_of(self, said: Said) -> list[Late]:
        return [
            late
            for late in self.kept.values()
            if (late.told.session_id, late.told.owner_id) == (said.session_id, said.owner_id)
        ]


async def _peek(said: Said, turn_id: UUID) -> Memory | Repeat | None:
    """What can be read where nothing can be written; None: not that either."""
    peek = partial(
        tickets.peek,
        session_id=said.session_id,
        owner_id=said.owner_id,
        turn_id=turn_id,
        text=said.text,
        idempotency_key=said.idempotency_key,
        now=timezone.now(),
    )
    try:
        found: Memory | Repeat = await lanes.read(peek)
    except StoreError:
        return None
    return found
