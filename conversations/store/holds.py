"""Holds: what they keep, nobody removes, on whatever path."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final
from uuid import UUID

from conversations.errors import NotHeld, ThreadHeld, ThreadNotFound
from conversations.lanes import Database, from_moment, from_uuid
from conversations.models import ChatSession, UserHold
from conversations.store import ledger
from conversations.store.damage import flag_of
from conversations.store.ledger import Entry

_SESSION: Final = ChatSession._meta.db_table
USER_HOLD: Final = UserHold._meta.db_table

IS_HELD: Final = (
    f"(hold <> FALSE OR EXISTS (SELECT 1 FROM {USER_HOLD} theirs"
    f" WHERE theirs.user_id = {_SESSION}.owner_id))"
)
"""The condition that a session is on hold, by itself or with all that its owner has.

Where the column is damaged, it is: in doubt, nothing goes.
"""


def is_held(db: Database, session_key: Any) -> bool:
    """Whether a session is on hold, by its id as the engine stores it."""
    row = db.one(f"SELECT {IS_HELD} FROM {_SESSION} WHERE id = %s", (session_key,))
    return row is not None and flag_of(row[0])


def refuse_held(db: Database, session_key: Any) -> None:
    """Raises ThreadHeld where the session is on hold."""
    if is_held(db, session_key):
        raise ThreadHeld


def is_user_held(db: Database, *, user_id: Any) -> bool:
    """Whether all that a person has is on hold."""
    key = _user_key(user_id, db)
    return db.one(f"SELECT 1 FROM {USER_HOLD} WHERE user_id = %s", (key,)) is not None


def hold_session(db: Database, *, session_id: UUID, reason: str, actor: str, now: datetime) -> None:
    """Put a session on hold, or give its hold another reason. Raises ThreadNotFound."""
    if not _set_hold(db, session_id, True, reason):
        raise ThreadNotFound
    ledger.append(db, _entry(ledger.HOLD, ledger.of_session(session_id), reason, actor, now))


def lift_session(db: Database, *, session_id: UUID, reason: str, actor: str, now: datetime) -> None:
    """Let a session go. Raises ThreadNotFound, NotHeld; a hold on its owner's all stays."""
    key, lock = from_uuid(session_id, is_sqlite=db.is_sqlite), "" if db.is_sqlite else " FOR UPDATE"
    row = db.one(f"SELECT hold FROM {_SESSION} WHERE id = %s{lock}", (key,))
    if row is None:
        raise ThreadNotFound
    if not flag_of(row[0]):
        raise NotHeld
    _set_hold(db, session_id, False, "")
    ledger.append(db, _entry(ledger.LIFT, ledger.of_session(session_id), reason, actor, now))


def hold_user(db: Database, *, user_id: Any, reason: str, actor: str, now: datetime) -> None:
    """Put all that a person has on hold, or give that hold another reason."""
    db.run(
        f"INSERT INTO {USER_HOLD} (user_id, reason, placed_by, at) VALUES (%s, %s, %s, %s)"
        " ON CONFLICT (user_id) DO UPDATE SET reason = excluded.reason,"
        " placed_by = excluded.placed_by, at = excluded.at",
        (_user_key(user_id, db), reason, actor, from_moment(now, is_sqlite=db.is_sqlite)),
    )
    ledger.append(db, _entry(ledger.HOLD, ledger.of_user(user_id), reason, actor, now))


def lift_user(db: Database, *, user_id: Any, reason: str, actor: str, now: datetime) -> None:
    """Let go what a person has, but not sessions with a hold of their own. Raises NotHeld."""
    if not db.run(f"DELETE FROM {USER_HOLD} WHERE user_id = %s", (_user_key(user_id, db),)):
        raise NotHeld
    ledger.append(db, _entry(ledger.LIFT, ledger.of_user(user_id), reason, actor, now))


def _set_hold(db: Database, session_id: UUID, hold: bool, reason: str) -> int:
    return db.run(
        f"UPDATE {_SESSION} SET hold = %s, hold_reason = %s WHERE id = %s",
        (hold, reason, from_uuid(session_id, is_sqlite=db.is_sqlite)),
    )


def _entry(action: str, subject: str, reason: str, actor: str, now: datetime) -> Entry:
    return Entry(action=action, actor=actor, at=now, subject=subject, reason=reason)


def _user_key(user_id: Any, db: Database) -> Any:
    return from_uuid(user_id, is_sqlite=db.is_sqlite) if isinstance(user_id, UUID) else user_id
