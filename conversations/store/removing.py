"""Whole sessions go, with all that belongs to them: hand-written, because there may be many.

Of their files only the bytes are left, to be erased after the commit. The rows are locked, and that
they may go is the caller's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from operator import add
from typing import Any, Final

from conversations.lanes import Database
from conversations.models import Attachment
from conversations.store.attachments import take_of_sessions
from conversations.store.damage import count_of
from conversations.store.log import EVENTS, FEEDBACK, MESSAGE, READS, SESSION, TURN
from conversations.store.weights import delete_weighed, weigh

_ATTACHMENT: Final = Attachment._meta.db_table
APART: Final = "sha256:gone:"
"""No session that the SDK names has such a name: `ids.stored_session_id`."""


@dataclass(frozen=True, slots=True)
class Removed:
    """How much went: sessions, rows of their logs, attached files, and the bytes of both."""

    sessions: int = 0
    messages: int = 0
    attachments: int = 0
    bytes: int = 0

    def __add__(self, other: Removed) -> Removed:
        return Removed(*map(add, astuple(self), astuple(other)))

    def counts(self) -> dict[str, int]:
        """As the ledger says it, without the bytes."""
        found = {name: getattr(self, name) for name in ("sessions", "messages", "attachments")}
        return {name: count for name, count in found.items() if count}


def measure(db: Database, keys: Sequence[Any]) -> Removed:
    """What would go with these sessions."""
    if not keys:
        return Removed()
    messages, size = weigh(db, f"session_id IN ({marks(keys)})", keys)
    return Removed(sessions=len(keys), messages=messages, bytes=size) + _files(db, keys)


def remove_sessions(db: Database, keys: Sequence[Any]) -> Removed:
    """Delete these sessions, by their ids as the engine stores them."""
    if not keys:
        return Removed()
    of_them = f"session_id IN ({marks(keys)})"
    db.run(f"DELETE FROM {EVENTS} WHERE turn_id IN (SELECT id FROM {TURN} WHERE {of_them})", keys)
    db.run(
        f"DELETE FROM {FEEDBACK} WHERE message_id IN (SELECT id FROM {MESSAGE} WHERE {of_them})",
        keys,
    )
    messages, size = delete_weighed(db, of_them, keys)
    files = _files(db, keys)
    take_of_sessions(db, session_keys=keys)
    db.run(f"DELETE FROM {TURN} WHERE {of_them}", keys)
    db.run(f"DELETE FROM {READS} WHERE {of_them}", keys)
    db.run(f"DELETE FROM {SESSION} WHERE id IN ({marks(keys)})", keys)
    return Removed(sessions=len(keys), messages=messages, bytes=size) + files


def count_rows(db: Database, keys: Sequence[Any]) -> dict[Any, int]:
    """How many rows of the log these sessions have, those that have any."""
    return dict(
        db.all(
            f"SELECT session_id, COUNT(*) FROM {MESSAGE} WHERE session_id IN ({marks(keys)})"
            " GROUP BY session_id",
            keys,
        )
    )


def set_apart(db: Database, session_key: Any) -> Removed:
    """A session is gone for everybody, before its rows are: they follow by `remove_piece`.

    For one that is too large for a single transaction. Its files are taken with it.
    """
    (name,) = db.one(f"SELECT id FROM {SESSION} WHERE id = %s", (session_key,))
    gone = Removed(sessions=1) + _files(db, [session_key])
    take_of_sessions(db, session_keys=[session_key])
    db.run(
        f"UPDATE {SESSION} SET owner_id = NULL, agent_session_id = %s, title = '' WHERE id = %s",
        (f"{APART}{name if isinstance(name, str) else name.hex}", session_key),
    )
    return gone


def find_apart(db: Database) -> Any:
    """A session that was set apart, by its id as the engine stores it; None where none is left."""
    like = f"GLOB '{APART}*'" if db.is_sqlite else f"LIKE '{APART}%%'"
    row = db.one(f"SELECT id FROM {SESSION} WHERE agent_session_id {like} LIMIT 1")
    return row[0] if row else None


def remove_piece(db: Database, session_key: Any, *, limit: int) -> Removed:
    """Delete so many rows of a session that was set apart, and at the end itself."""
    for table, children, column in (
        (MESSAGE, FEEDBACK, "message_id"),
        (TURN, EVENTS, "turn_id"),
    ):
        rows = db.all(
            f"SELECT id FROM {table} WHERE session_id = %s LIMIT %s", (session_key, limit)
        )
        keys = [key for (key,) in rows]
        if keys:
            these = f"id IN ({marks(keys)})"
            messages, size = weigh(db, these, keys) if table == MESSAGE else (0, 0)
            db.run(f"DELETE FROM {children} WHERE {column} IN ({marks(keys)})", keys)
            db.run(f"DELETE FROM {table} WHERE {these}", keys)
            return Removed(messages=messages, bytes=size)
    db.run(f"DELETE FROM {READS} WHERE session_id = %s", (session_key,))
    db.run(f"DELETE FROM {SESSION} WHERE id = %s", (session_key,))
    return Removed()


def _files(db: Database, keys: Sequence[Any]) -> Removed:
    files, size = db.one(
        "SELECT COUNT(*), SUM(CASE WHEN stored_size > 0 THEN stored_size ELSE 0 END)"
        f" FROM {_ATTACHMENT} WHERE session_id IN ({marks(keys)}) AND status <> 'removed'",
        keys,
    )
    return Removed(attachments=int(files), bytes=count_of(size))


def marks(keys: Sequence[Any]) -> str:
    return ", ".join(["%s"] * len(keys))
