"""Who may run a turn, and for how long: leases that are renewed, run out, or outlive their process.

Leases are measured by a clock that the wall clock does not move: on SQLite, whose file belongs to
one machine, the time since that machine was started; on PostgreSQL the server's clock.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from conversations import processes
from conversations.lanes import Database, from_uuid, to_uuid
from conversations.store.log import SESSION, TURN, Lease

LIVE: Final = "status IN ('queued', 'running')"


def lease_clock(db: Database) -> int:
    """The moment by which leases are measured, in milliseconds."""
    if db.is_sqlite:
        return processes.steady_milliseconds()
    (now,) = db.one("SELECT (EXTRACT(EPOCH FROM clock_timestamp()) * 1000)::bigint")
    return int(now)


@dataclass(frozen=True, slots=True)
class Holder:
    """Who takes leases: a process by its name, and how long each lasts without a sign of life.

    With `patience`, a process that is late with its sign of life is given so much more time by this
    one: for those who only put things in order, while nobody waits.
    """

    process: str
    lease_milliseconds: int
    patience_milliseconds: int = 0
    clock: Callable[[Database], int] = lease_clock

    def now(self, db: Database) -> int:
        """The moment at which a lease must not have run out."""
        return self.clock(db) - self.patience_milliseconds

    def until(self, db: Database) -> int:
        """When a lease taken now runs out."""
        return self.clock(db) + self.lease_milliseconds


@dataclass(frozen=True, slots=True)
class Held:
    """A live turn's lease, as its row tells it."""

    owner: str
    until: int | None

    def is_dead(self, db: Database, *, now: int) -> bool:
        """Whether it has run out, or the process that held it is surely gone."""
        if self.until is None or self.until <= now:
            return True
        return processes.is_gone(self.owner, is_one_machine=db.is_sqlite)


def renew(db: Database, *, holder: Holder, turn_ids: Collection[UUID]) -> set[UUID]:
    """A sign of life for these turns; returns which of them are still this process's own.

    Only these: a row that its process lost sight of must run out like any other.
    """
    if not turn_ids:
        return set()
    keys = [from_uuid(turn_id, is_sqlite=db.is_sqlite) for turn_id in turn_ids]
    lock = "" if db.is_sqlite else " FOR UPDATE"
    rows = db.all(
        f"SELECT id FROM {TURN} WHERE id IN ({_marks(keys)}) AND lease_owner = %s AND {LIVE}"
        f" ORDER BY session_id, number{lock}",
        (*keys, holder.process),
    )
    mine = [turn_id for (turn_id,) in rows]
    if mine:
        db.run(
            f"UPDATE {TURN} SET lease_until = %s WHERE id IN ({_marks(mine)})",
            (holder.until(db), *mine),
        )
    return {to_uuid(turn_id) for turn_id in mine}


def is_held(db: Database, lease: Lease) -> bool:
    """Whether the right to write for a turn is still good."""
    key = from_uuid(lease.session_id, is_sqlite=db.is_sqlite)
    held = f"SELECT 1 FROM {SESSION} WHERE id = %s AND fence = %s"
    return db.one(held, (key, lease.fence)) is not None


def find_abandoned(
    db: Database, *, holder: Holder, after: UUID | None = None, limit: int = 20
) -> list[UUID]:
    """Sessions with a live turn whose lease has run out or whose process is gone, for `recover`.

    In the order of their ids, from `after` on.
    """
    owners = [owner for (owner,) in db.all(f"SELECT DISTINCT lease_owner FROM {TURN} WHERE {LIVE}")]
    if not owners:
        return []
    gone = [owner for owner in owners if processes.is_gone(owner, is_one_machine=db.is_sqlite)]
    lost = f" OR lease_owner IN ({_marks(gone)})" if gone else ""
    beyond, params = "", [holder.now(db), *gone]
    if after is not None:
        beyond = " AND session_id > %s"
        params.append(from_uuid(after, is_sqlite=db.is_sqlite))
    rows = db.all(
        f"SELECT DISTINCT session_id FROM {TURN}"
        f" WHERE {LIVE} AND (lease_until <= %s OR lease_until IS NULL{lost}){beyond}"
        " ORDER BY session_id LIMIT %s",
        (*params, limit),
    )
    return [to_uuid(session_id) for (session_id,) in rows]


def count_live(db: Database, *, session_id: UUID) -> int:
    """How many turns of a session wait or run."""
    key = from_uuid(session_id, is_sqlite=db.is_sqlite)
    (live,) = db.one(f"SELECT COUNT(*) FROM {TURN} WHERE session_id = %s AND {LIVE}", (key,))
    return int(live)


def _marks(keys: Collection[Any]) -> str:
    return ", ".join(["%s"] * len(keys))
