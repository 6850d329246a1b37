"""Who comes before whom in a session: tickets in their order, and those whose process is gone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Literal
from uuid import UUID

from conversations.items import Memory
from conversations.lanes import Database, from_uuid, to_moment, to_uuid
from conversations.store.closing import LockedSession, interrupt, lock_session
from conversations.store.inputs import TurnInput, decode_input
from conversations.store.leases import LIVE, Held, Holder
from conversations.store.log import SESSION, TURN, Lease

ADOPT_WITHIN: Final = timedelta(hours=1)
"""A message that waited longer for a process to come back is kept, but answered no more."""

Ahead = Literal["nobody", "somebody", "abandoned"]


@dataclass(frozen=True, slots=True)
class Started:
    """A turn at the head of the line: its lease, and what the model remembers."""

    lease: Lease
    agent_session_id: str
    user_message_id: UUID | None
    """None where nobody said anything: the turn goes on with what a person did."""
    window: Memory | None
    """None: what the model remembers could not be read."""
    pruned_count: int = 0
    """How much of the conversation it no longer remembers."""


@dataclass(frozen=True, slots=True)
class Ticket:
    """A turn's place in the line; `started` when it was its turn at once."""

    turn_id: UUID
    session_id: UUID
    number: int
    ahead: int
    started: Started | None


@dataclass(frozen=True, slots=True)
class Orphan:
    """A ticket this process has adopted, with whose it is and what was said."""

    ticket: Ticket
    owner_id: Any
    text: str
    given: TurnInput | None = None


def look_ahead(db: Database, *, ticket: Ticket, holder: Holder) -> Ahead:
    """Who comes before the turn: a plain read, for polling.

    Nobody also when the ticket itself is gone: `start` then says so.
    """
    row = db.one(
        f"SELECT lease_owner, lease_until FROM {TURN} WHERE session_id = %s AND {LIVE}"
        " AND number < %s ORDER BY number LIMIT 1",
        (from_uuid(ticket.session_id, is_sqlite=db.is_sqlite), ticket.number),
    )
    if row is None:
        return "nobody"
    return "abandoned" if Held(*row).is_dead(db, now=holder.now(db)) else "somebody"


def count_ahead(db: Database, *, turn_id: UUID) -> int:
    """How many live turns of its conversation come before a turn."""
    (ahead,) = db.one(
        f"SELECT COUNT(*) FROM {TURN} other JOIN {TURN} turn"
        " ON other.session_id = turn.session_id AND other.number < turn.number"
        " WHERE turn.id = %s AND other.status IN ('queued', 'running')",
        (from_uuid(turn_id, is_sqlite=db.is_sqlite),),
    )
    return int(ahead)


def recover(
    db: Database, *, session_id: UUID, holder: Holder, now: datetime, adopts: bool
) -> list[Orphan]:
    """Close what processes that are gone left running in a session, and adopt what waited there.

    Without `adopts`, for a process that runs no agent, what waited goes on waiting for one.
    """
    session = lock_session(db, session_id=session_id)
    if session is None:
        return []
    line = clear_way(db, session, before=session.last_turn_number + 1, holder=holder, now=now)
    return adopt(db, session, line.orphans, holder=holder) if adopts else []


@dataclass(frozen=True, slots=True)
class Line:
    """Who comes before a turn, after those who are gone have been closed."""

    alive: int
    orphans: list[Any]
    has_changed: bool


def clear_way(
    db: Database, session: LockedSession, *, before: int, holder: Holder, now: datetime
) -> Line:
    """Close the dead turns before that number that had begun; the ones that waited are orphans."""
    rows = db.all(
        "SELECT id, status, number, input, queued_at, lease_owner, lease_until, input_item"
        f" FROM {TURN}"
        f" WHERE session_id = %s AND {LIVE} AND number < %s ORDER BY number",
        (session.id, before),
    )
    if not rows:
        return Line(0, [], False)
    clock = holder.now(db)
    dead = [row for row in rows if Held(*row[5:7]).is_dead(db, now=clock)]
    too_late = now - ADOPT_WITHIN
    orphans = [
        row for row in dead if row[1] == "queued" and (to_moment(row[4]) or too_late) > too_late
    ]
    closed = [row[:2] for row in dead if row not in orphans]
    interrupt(db, session, closed, now=now)
    return Line(len(rows) - len(dead), orphans, bool(closed))


def adopt(
    db: Database, session: LockedSession, orphans: Sequence[Any], *, holder: Holder
) -> list[Orphan]:
    """Make tickets this process's own, in their order."""
    if not orphans:
        return []
    (owner_id,) = db.one(f"SELECT owner_id FROM {SESSION} WHERE id = %s", (session.id,))
    until, adopted = holder.until(db), []
    for ahead, (turn_id, _, number, said, *_, beside) in enumerate(orphans):
        db.run(
            f"UPDATE {TURN} SET lease_owner = %s, lease_until = %s WHERE id = %s",
            (holder.process, until, turn_id),
        )
        ticket = Ticket(to_uuid(turn_id), to_uuid(session.id), number, ahead, None)
        adopted.append(Orphan(ticket, owner_id, said, decode_input(beside)))
    return adopted
