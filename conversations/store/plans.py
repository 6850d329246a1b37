"""Plans of cleanups: which sessions are to go. Only ids and times are kept, in pages."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

from conversations.lanes import Database, from_moment, from_uuid
from conversations.models import Cleanup, CleanupPage
from conversations.store.damage import LONG_AGO, flag_of, is_time, moment_of, select, uuid_of
from conversations.store.holds import IS_HELD
from conversations.store.leases import LIVE
from conversations.store.log import SESSION, TURN
from conversations.store.removing import Removed, marks

CLEANUP: Final = Cleanup._meta.db_table
PAGE: Final = CleanupPage._meta.db_table
PLAN_KEPT: Final = timedelta(hours=24)
PAGE_SESSIONS: Final = 500
WAIT_MILLISECONDS: Final = 2_000

_PACKED: Final = struct.Struct(">16sq")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_IS_BUSY: Final = (
    f"EXISTS (SELECT 1 FROM {TURN} turn WHERE turn.session_id = {SESSION}.id AND turn.{LIVE})"
)


@dataclass(frozen=True, slots=True)
class Idle:
    """A session without activity since a cutoff."""

    id: UUID
    last_active_at: datetime
    is_held: bool = False
    is_busy: bool = False


@dataclass(slots=True)
class Outcome:
    """What one transaction removed, and what it left and why."""

    removed: Removed = field(default_factory=Removed)
    awake: int = 0
    held: int = 0
    busy: int = 0
    failed: int = 0
    errors: Counter[str] = field(default_factory=Counter)


def find_idle(db: Database, *, cutoff: datetime, after: Idle | None, limit: int) -> list[Idle]:
    """Sessions last active before `cutoff`, the longest idle first, from one of them on.

    Those whose time cannot be read are left out: nobody knows how long they are idle.
    """
    on_sqlite = db.is_sqlite
    begin = (LONG_AGO, UUID(int=0)) if after is None else (after.last_active_at, after.id)
    rows = select(
        db,
        ["id", "last_active_at", IS_HELD, _IS_BUSY],
        f"FROM {SESSION} WHERE (last_active_at, id) > (%s, %s) AND last_active_at < %s"
        f" AND {is_time('last_active_at', is_sqlite=on_sqlite)}"
        " ORDER BY last_active_at, id LIMIT %s",
        (
            from_moment(begin[0], is_sqlite=on_sqlite),
            from_uuid(begin[1], is_sqlite=on_sqlite),
            from_moment(cutoff, is_sqlite=on_sqlite),
            limit,
        ),
    )
    return [idle for row in rows if (idle := _idle(row)) is not None]


def lock(db: Database, *, keys: Sequence[Any], waits: bool) -> list[Any]:
    """Lock these sessions, those that are there, in the order of their ids.

    For one that somebody else has locked it is waited, but not for long: then this raises
    StoreBusy. Without waiting, such a one is left out.
    """
    if db.is_sqlite:  # nobody else writes until this transaction ends
        return list(keys)
    if waits:
        db.run("SELECT set_config('lock_timeout', %s, true)", (f"{WAIT_MILLISECONDS}ms",))
    rows = db.all(
        f"SELECT id FROM {SESSION} WHERE id IN ({marks(keys)}) ORDER BY id FOR UPDATE"
        f"{'' if waits else ' SKIP LOCKED'}",
        keys,
    )
    return [key for (key,) in rows]


def look_again(db: Database, *, keys: Sequence[Any]) -> list[Idle]:
    """The same sessions as they are now, those that are there."""
    if not keys:
        return []
    rows = select(
        db,
        ["id", "last_active_at", IS_HELD, _IS_BUSY],
        f"FROM {SESSION} WHERE id IN ({marks(keys)})",
        keys,
    )
    return [idle for row in rows if (idle := _idle(row)) is not None]


def store_plan(db: Database, *, plan_id: UUID, values: Mapping[str, Any]) -> None:
    """Begin a plan, or say what it has come to; plans nobody applied in time are dropped."""
    columns = {name: _stored(value, db) for name, value in values.items()}
    key = from_uuid(plan_id, is_sqlite=db.is_sqlite)
    sets = ", ".join(f"{name} = %s" for name in columns)
    if db.run(f"UPDATE {CLEANUP} SET {sets} WHERE id = %s", (*columns.values(), key)):
        return
    defaults: dict[str, Any] = {
        str(field.column): field.default
        for field in Cleanup._meta.concrete_fields
        if field.has_default() and not callable(field.default)
    }
    columns = defaults | {"process": ""} | columns | {"id": key}
    db.run(
        f"INSERT INTO {CLEANUP} ({', '.join(columns)}) VALUES ({marks(list(columns))})",
        list(columns.values()),
    )


def drop_expired(db: Database, *, now: datetime, limit: int = 20) -> int:
    """Plans that nobody applied in time go, a few at once; how many."""
    before = from_moment(now - PLAN_KEPT, is_sqlite=db.is_sqlite)
    rows = db.all(
        f"SELECT id FROM {CLEANUP} WHERE status = 'planned' AND planned_at < %s LIMIT %s",
        (before, limit),
    )
    keys = [key for (key,) in rows]
    if keys:
        db.run(f"DELETE FROM {PAGE} WHERE cleanup_id IN ({marks(keys)})", keys)
        db.run(f"DELETE FROM {CLEANUP} WHERE id IN ({marks(keys)})", keys)
    return len(keys)


def store_page(db: Database, *, plan_id: UUID, number: int, idle: Sequence[Idle]) -> None:
    """Keep which sessions are to go, by their ids and times."""
    packed = b"".join(
        _PACKED.pack(each.id.bytes, (each.last_active_at - _EPOCH) // _MICROSECOND) for each in idle
    )
    db.run(
        f"INSERT INTO {PAGE} (cleanup_id, number, sessions) VALUES (%s, %s, %s)",
        (from_uuid(plan_id, is_sqlite=db.is_sqlite), number, packed),
    )


def read_page(db: Database, *, plan_id: UUID, number: int) -> list[Idle] | None:
    """The sessions of a page, by number from 0 on; None behind the last one."""
    row = db.one(
        f"SELECT sessions FROM {PAGE} WHERE cleanup_id = %s AND number = %s",
        (from_uuid(plan_id, is_sqlite=db.is_sqlite), number),
    )
    if row is None:
        return None
    return [
        Idle(UUID(bytes=key), _EPOCH + microseconds * _MICROSECOND)
        for key, microseconds in _PACKED.iter_unpack(bytes(row[0]))
    ]


def _idle(row: Any) -> Idle | None:
    session_id, last_active_at = uuid_of(row[0]), moment_of(row[1])
    if session_id is None or last_active_at is None:
        return None
    return Idle(session_id, last_active_at, flag_of(row[2]), flag_of(row[3]))


def _stored(value: Any, db: Database) -> Any:
    return from_moment(value, is_sqlite=db.is_sqlite) if isinstance(value, datetime) else value
