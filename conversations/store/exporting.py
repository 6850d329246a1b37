"""All that a person could read of a conversation, in pages: what an export is made of.

What is damaged hides nothing else, as in `store.threads`. What only the model saw, and what stands
hidden in the log, is not read at all.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from conversations.errors import ThreadNotFound
from conversations.items import decode_item
from conversations.lanes import Database, from_uuid
from conversations.models import ChatSession
from conversations.store.attachments import ATTACHMENT
from conversations.store.damage import (
    LONG_AGO,
    Columns,
    as_stored,
    count_of,
    flag_of,
    maybe_text_of,
    moment_of,
    select,
    text_of,
    turn_status_of,
    uuid_of,
    values_of,
    word_of,
)
from conversations.store.log import FEEDBACK, MESSAGE, SESSION, TURN
from conversations.store.thread_items import HIDDEN_KINDS
from conversations.store.threads import owner_key

PAGE: Final = 100
IDS_AT_ONCE: Final = 500
CHARS_AT_ONCE: Final = 262_144
"""A page of long entries is shorter: it ends where it comes to hold so much text."""
_ENTRY: Final[Columns] = {
    "id": uuid_of,
    "turn_id": uuid_of,
    "kind": text_of,
    "role": text_of,
    "text": text_of,
    "shown": flag_of,
    "incomplete": flag_of,
    "thread_item": maybe_text_of,
    "created_at": moment_of,
}
_TURN: Final[Columns] = {
    "number": as_stored,
    "id": uuid_of,
    "status": turn_status_of,
    "CASE WHEN status = 'queued' THEN input ELSE '' END": text_of,
    "model": text_of,
    "input_tokens": count_of,
    "output_tokens": count_of,
    "error_code": text_of,
    "warning": text_of,
    "queued_at": moment_of,
    "started_at": moment_of,
    "finished_at": moment_of,
}
_FILE: Final[Columns] = {
    "id": uuid_of,
    "message_id": uuid_of,
    "name": text_of,
    "mime_type": text_of,
    "size": count_of,
    "created_at": moment_of,
}


@dataclass(frozen=True, slots=True)
class Head:
    """What a conversation says of itself."""

    key: Any
    """Its id as the engine stores it; so is its owner's."""
    owner: Any
    id: UUID
    title: str
    status: str
    metadata: dict[str, Any]
    message_count: int
    created_at: datetime
    updated_at: datetime
    last_active_at: datetime


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of the log as people see it, and what its owner thinks of it."""

    id: UUID | None
    turn_id: UUID | None
    kind: str
    role: str
    text: str
    shown: bool
    incomplete: bool
    thread_item: str | None
    created_at: datetime | None
    feedback: tuple[str, str] | None
    """Kind and comment."""


@dataclass(frozen=True, slots=True)
class Turn:
    number: Any
    id: UUID | None
    status: str
    waiting_text: str
    """What was said, while it waits to be answered."""
    model: str
    input_tokens: int
    output_tokens: int
    error_code: str
    warning: str
    queued_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None


@dataclass(frozen=True, slots=True)
class File:
    key: Any
    id: UUID | None
    message_id: UUID | None
    name: str
    mime_type: str
    size: int
    created_at: datetime | None


def list_ids(db: Database, *, owner_id: Any = None, after: UUID | None = None) -> list[UUID]:
    """The ids of some conversations of one owner, or of anybody, from `after` on, in their order.

    By their ids, and not by their activity: what is written meanwhile loses and doubles none.
    """
    where, params = "1 = 1", []
    if owner_id is not None:
        where, params = "owner_id = %s", [owner_key(owner_id, db)]
    if after is not None:
        where += " AND id > %s"
        params.append(from_uuid(after, is_sqlite=db.is_sqlite))
    rows = select(
        db, ["id"], f"FROM {SESSION} WHERE {where} ORDER BY id LIMIT %s", (*params, IDS_AT_ONCE)
    )
    return [found for (key,) in rows if (found := uuid_of(key)) is not None]


def read_head(db: Database, *, session_id: UUID, owner_id: Any = None) -> Head:
    """One conversation, of that owner if one is given. Raises ThreadNotFound."""
    where, params = "id = %s", [from_uuid(session_id, is_sqlite=db.is_sqlite)]
    if owner_id is not None:
        where += " AND owner_id = %s"
        params.append(owner_key(owner_id, db))
    names = ("owner_id", "title", "status", "metadata", "message_count")
    times = ("created_at", "updated_at", "last_active_at")
    rows = select(db, [*names, *times], f"FROM {SESSION} WHERE {where}", params)
    if not rows:
        raise ThreadNotFound
    owner, title, status, metadata, message_count, *moments = rows[0]
    known = [moment for moment in map(moment_of, moments) if moment] or [LONG_AGO]
    created_at, updated_at, last_active_at = (moment_of(moment) or known[0] for moment in moments)
    return Head(
        params[0],
        owner,
        session_id,
        text_of(title),
        word_of(status, ChatSession.Status.values, otherwise="locked"),
        metadata if isinstance(metadata, dict) else decode_item(text_of(metadata)) or {},
        count_of(message_count),
        created_at,
        updated_at,
        last_active_at,
    )


def read_entries(db: Database, *, head: Head, after: Any = None) -> tuple[list[Entry], Any] | None:
    """The next entries in the order of the log, after a place, and the place they end at.

    None at the end.
    """
    hidden = ", ".join(["%s"] * len(HIDDEN_KINDS))
    where = (
        f"session_id = %s AND (shown = %s OR thread_item IS NOT NULL) AND kind NOT IN ({hidden})"
    )
    params = [head.key, True, *HIDDEN_KINDS]
    if after is not None:
        where, params = f"{where} AND position > %s", [*params, after]
    sizes = db.all(
        f"SELECT position, LENGTH(text) + COALESCE(LENGTH(thread_item), 0) FROM {MESSAGE}"
        f" WHERE {where} ORDER BY position LIMIT %s",
        (*params, PAGE),
    )
    if not sizes:
        return None
    last, total = sizes[0][0], 0
    for position, size in sizes:
        last, total = position, total + count_of(size)
        if total > CHARS_AT_ONCE:
            break
    rows = select(
        db,
        _ENTRY,
        f"FROM {MESSAGE} WHERE {where} AND position <= %s ORDER BY position",
        (*params, last),
    )
    judged = _judgements(db, keys=[row[0] for row in rows], user=head.owner)
    entries = [Entry(*[*values_of(row, _ENTRY), judged.get(uuid_of(row[0]))]) for row in rows]
    return entries, last


def read_turns(db: Database, *, key: Any, after: Any = None) -> list[Turn]:
    """The next turns in their order, after a number; none at the end."""
    where, params = "session_id = %s", [key]
    if after is not None:
        where, params = f"{where} AND number > %s", [key, after]
    rows = select(db, _TURN, f"FROM {TURN} WHERE {where} ORDER BY number LIMIT %s", (*params, PAGE))
    return [Turn(*values_of(row, _TURN)) for row in rows]


def read_files(db: Database, *, key: Any, after: Any = None) -> list[File]:
    """The next files that came with what was said, after the row of a key; none at the end."""
    where, params = "session_id = %s AND status IN ('pending', 'ready')", [key]
    if after is not None:
        where, params = f"{where} AND id > %s", [key, after]
    rest = f"FROM {ATTACHMENT} WHERE {where} ORDER BY id LIMIT %s"
    rows = select(db, _FILE, rest, (*params, PAGE))
    return [File(row[0], *values_of(row, _FILE)) for row in rows]


def _judgements(db: Database, *, keys: list[Any], user: Any) -> dict[Any, tuple[str, str]]:
    """What the owner thinks of these messages; all keys are as the engine stores them."""
    if user is None or not keys:
        return {}
    marks = ", ".join(["%s"] * len(keys))
    rows = select(
        db,
        ("message_id", "kind", "comment"),
        f"FROM {FEEDBACK} WHERE user_id = %s AND message_id IN ({marks})",
        (user, *keys),
    )
    return {uuid_of(key): (text_of(kind), text_of(comment)) for key, kind, comment in rows}
