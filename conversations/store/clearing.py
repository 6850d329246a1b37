"""Clearing a session, also one in use: what runs or waits in it ends, all that was said goes."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from conversations.errors import ThreadHeld, ThreadNotFound
from conversations.lanes import Database, from_uuid
from conversations.store import closing, log
from conversations.store.holds import IS_HELD
from conversations.store.mending import mend_counters


def clear_session(db: Database, *, session_id: UUID, actor: str, now: datetime) -> int:
    """Forget everything said in a session, keep the session; how many messages people could read.

    What runs or waits in it is ended first. Raises ThreadNotFound, ThreadHeld.
    """
    mend_counters(db, session_id=session_id)  # also holds the session's row
    row = db.one(
        f"SELECT agent_session_id, {IS_HELD} FROM {log.SESSION} WHERE id = %s",
        (from_uuid(session_id, is_sqlite=db.is_sqlite),),
    )
    if row is None:
        raise ThreadNotFound
    agent_session_id, is_held = row
    if is_held:
        raise ThreadHeld
    closing.interrupt_all(db, session_id=session_id, now=now)
    return log.clear(db, agent_session_id=agent_session_id, actor=actor, now=now)
