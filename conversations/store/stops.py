"""A stop is a request that the turn's own process carries out, wherever it was asked for."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal
from uuid import UUID

from conversations.errors import ThreadNotFound, TurnNotFound
from conversations.lanes import Database, from_moment, from_uuid, to_uuid
from conversations.store.closing import close, interrupt, lock_session
from conversations.store.leases import Held, Holder
from conversations.store.log import TURN

_LIVE: Final = {"queued", "running"}


@dataclass(frozen=True, slots=True)
class Stop:
    """What became of a request to stop: the turn's status, and whether it had ended before."""

    status: str
    had_ended: bool


def request_stop(
    db: Database, *, session_id: UUID, owner_id: Any, turn_id: UUID, holder: Holder, now: datetime
) -> Stop:
    """Ask a turn of one's own conversation to stop; one that waits is cancelled here and now.

    Raises ThreadNotFound, TurnNotFound.
    """
    session = lock_session(db, session_id=session_id, owner_id=owner_id)
    if session is None:
        raise ThreadNotFound
    row = db.one(
        f"SELECT id, status, lease_owner, lease_until FROM {TURN}"
        " WHERE id = %s AND session_id = %s",
        (from_uuid(turn_id, is_sqlite=db.is_sqlite), session.id),
    )
    if row is None:
        raise TurnNotFound
    key, status, *held = row
    if status not in _LIVE:
        return Stop(status, had_ended=True)
    if status == "queued":
        close(db, session, [(key, status)], status="cancelled", error_code="", now=now)
        return Stop("cancelled", had_ended=False)
    if Held(*held).is_dead(db, now=holder.now(db)):
        interrupt(db, session, [(key, status)], now=now)
        return Stop("interrupted", had_ended=True)
    db.run(
        f"UPDATE {TURN} SET stop_requested_at = %s WHERE id = %s AND stop_requested_at IS NULL",
        (from_moment(now, is_sqlite=db.is_sqlite), key),
    )
    return Stop(status, had_ended=False)


def find_stops(
    db: Database, *, turn_ids: Collection[UUID]
) -> dict[UUID, Literal["stopped", "lost"]]:
    """Which of these turns, all live in this process, are to stop, and why."""
    if not turn_ids:
        return {}
    keys = [from_uuid(turn_id, is_sqlite=db.is_sqlite) for turn_id in turn_ids]
    marks = ", ".join(["%s"] * len(keys))
    rows = db.all(
        f"SELECT id, status FROM {TURN} WHERE id IN ({marks})"
        " AND (stop_requested_at IS NOT NULL OR status NOT IN ('queued', 'running'))",
        keys,
    )
    return {
        to_uuid(key): "stopped" if status in _LIVE or status == "cancelled" else "lost"
        for key, status in rows
    }
