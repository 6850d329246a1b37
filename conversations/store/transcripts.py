"""A conversation as it happened, for staff: every entry of the log, and what became of the rest.

A page is a stretch of positions. Long texts come cut, with their length; rows that hold what their
columns should not are shown as far as they can be read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from conversations.errors import ItemNotFound
from conversations.lanes import Database, from_uuid
from conversations.models import Attachment
from conversations.store.damage import (
    Columns,
    count_of,
    flag_of,
    maybe_text_of,
    moment_of,
    position_of,
    select,
    text_of,
    uuid_of,
    values_of,
)
from conversations.store.log import FEEDBACK, MESSAGE, REMEMBERED

TEXT_CHARS: Final = 20_000
"""So much of what was said is read."""
ITEM_CHARS: Final = 65_536
"""So much of an item's JSON: a whole one can be taken apart, a part of one is shown as it is."""
_MOST_REMEMBERED: Final = 2_000
_MOST_ODD: Final = 20
_ODD: Final = "typeof(position) <> 'integer'"
_ATTACHMENT: Final = Attachment._meta.db_table
ENTRY: Final[Columns] = {
    "id": uuid_of,
    "position": position_of,
    "turn_id": uuid_of,
    "kind": text_of,
    "role": text_of,
    "call_id": text_of,
    f"SUBSTR(text, 1, {TEXT_CHARS})": text_of,
    "LENGTH(text)": count_of,
    "shown": flag_of,
    "incomplete": flag_of,
    f"SUBSTR(agent_item, 1, {ITEM_CHARS})": maybe_text_of,
    "LENGTH(agent_item)": count_of,
    f"SUBSTR(thread_item, 1, {ITEM_CHARS})": maybe_text_of,
    "LENGTH(thread_item)": count_of,
    "quarantined_at": moment_of,
    "quarantine_reason": text_of,
    "forgotten_at": moment_of,
    "created_at": moment_of,
}


@dataclass(frozen=True, slots=True)
class Entry:
    """One row of the log. `position` is None where the column holds no number."""

    id: UUID | None
    position: int | None
    turn_id: UUID | None
    kind: str
    role: str
    call_id: str
    text: str
    text_length: int
    shown: bool
    incomplete: bool
    item: str | None
    item_length: int
    thread_item: str | None
    thread_item_length: int
    quarantined_at: datetime | None
    quarantine_reason: str
    forgotten_at: datetime | None
    created_at: datetime | None

    @property
    def is_remembered(self) -> bool:
        return self.item is not None and not self.is_set_aside and self.forgotten_at is None

    @property
    def is_set_aside(self) -> bool:
        return self.quarantined_at is not None or bool(self.quarantine_reason)


@dataclass(frozen=True, slots=True)
class EntryPage:
    """Entries in order, and the positions of their neighbours: None where there are none.

    `has_odd`: the conversation has entries without a place, too.
    """

    entries: list[Entry]
    previous: int | None
    next: int | None
    has_odd: bool = False


@dataclass(frozen=True, slots=True)
class Judged:
    kind: str
    comment: str


@dataclass(frozen=True, slots=True)
class File:
    """An attachment, without its bytes."""

    id: UUID
    name: str
    mime_type: str
    size: int
    status: str


def read_entries(
    db: Database,
    *,
    session_id: UUID,
    limit: int,
    since: int | None = None,
    until: int | None = None,
) -> EntryPage:
    """Up to `limit` entries from a position on, or up to one; by themselves the newest."""
    key = from_uuid(session_id, is_sqlite=db.is_sqlite)
    where, params = f"session_id = %s{_has_place(db)}", [key]
    is_forward = since is not None
    if is_forward or until is not None:
        where += f" AND position {'>=' if is_forward else '<='} %s"
        params.append(since if is_forward else until)
    direction = "ASC" if is_forward else "DESC"
    rest = f"FROM {MESSAGE} WHERE {where} ORDER BY position {direction} LIMIT %s"
    entries = [entry_of(row) for row in select(db, ENTRY, rest, (*params, limit))]
    if not is_forward:
        entries.reverse()
    ends = (entries[0].position, entries[-1].position) if entries else (None, None)
    of_it = f"FROM {MESSAGE} WHERE session_id = %s{_has_place(db)} AND position"
    odd = f"EXISTS (SELECT 1 FROM {MESSAGE} WHERE session_id = %s AND {_ODD})"
    previous, following, has_odd = db.one(
        f"SELECT (SELECT MAX(position) {of_it} < %s), (SELECT MIN(position) {of_it} > %s),"
        f" {odd if db.is_sqlite else '%s IS NULL'}",
        (key, ends[0], key, ends[1], key),
    )
    return EntryPage(entries, previous, following, bool(has_odd))


def place_of(db: Database, *, session_id: UUID, message_id: UUID, before: int) -> int:
    """A position some entries `before` an entry, for a page with it. Raises ItemNotFound."""
    key = from_uuid(session_id, is_sqlite=db.is_sqlite)
    of_it = f"FROM {MESSAGE} WHERE session_id = %s{_has_place(db)}"
    row = db.one(
        f"SELECT position {of_it} AND id = %s",
        (key, from_uuid(message_id, is_sqlite=db.is_sqlite)),
    )
    if row is None:
        raise ItemNotFound
    earlier = db.one(
        f"SELECT position {of_it} AND position <= %s ORDER BY position DESC LIMIT 1 OFFSET %s",
        (key, row[0], before),
    )
    return int(earlier[0]) if earlier else 0


def read_odd_entries(db: Database, *, session_id: UUID) -> list[Entry]:
    """Entries whose position is no number, which only SQLite can hold."""
    key = from_uuid(session_id, is_sqlite=db.is_sqlite)
    rest = f"FROM {MESSAGE} WHERE session_id = %s AND {_ODD} LIMIT %s"
    return [entry_of(row) for row in select(db, ENTRY, rest, (key, _MOST_ODD))]


def remembered_places(
    db: Database, *, session_id: UUID, remembered_count: int
) -> list[tuple[int, str]]:
    """Position and kind of what is remembered, in order, as far as the counter counts it."""
    if not remembered_count:
        return []
    key = from_uuid(session_id, is_sqlite=db.is_sqlite)
    rows = select(
        db,
        ("position", "kind"),
        f"FROM {MESSAGE} WHERE session_id = %s AND {REMEMBERED}{_has_place(db)}"
        " ORDER BY position DESC LIMIT %s",
        (key, min(remembered_count, _MOST_REMEMBERED)),
    )
    return [(count_of(position), text_of(kind)) for position, kind in reversed(rows)]


def read_feedback(db: Database, *, message_ids: Sequence[UUID]) -> dict[UUID, Judged]:
    """What people think of these messages."""
    if not message_ids:
        return {}
    keys, marks = _keys(db, message_ids)
    rows = select(
        db,
        ("message_id", "kind", "comment"),
        f"FROM {FEEDBACK} WHERE message_id IN ({marks})",
        keys,
    )
    return {
        message_id: Judged(text_of(kind), text_of(comment))
        for key, kind, comment in rows
        if (message_id := uuid_of(key)) is not None
    }


def read_files(
    db: Database, *, session_id: UUID, message_ids: Sequence[UUID]
) -> dict[UUID, list[File]]:
    """What was attached to these messages."""
    if not message_ids:
        return {}
    keys, marks = _keys(db, message_ids)
    rows = select(
        db,
        ("id", "message_id", "name", "mime_type", "size", "status"),
        f"FROM {_ATTACHMENT} WHERE session_id = %s AND message_id IN ({marks}) ORDER BY id",
        (from_uuid(session_id, is_sqlite=db.is_sqlite), *keys),
    )
    files: dict[UUID, list[File]] = {}
    for key, message_key, name, mime_type, size, status in rows:
        file_id, message_id = uuid_of(key), uuid_of(message_key)
        if file_id is not None and message_id is not None:
            file = File(file_id, text_of(name), text_of(mime_type), count_of(size), text_of(status))
            files.setdefault(message_id, []).append(file)
    return files


def entry_of(row: Any) -> Entry:
    """An entry from the columns of `ENTRY`, whatever is in them."""
    return Entry(*values_of(row, ENTRY))


def _keys(db: Database, ids: Sequence[UUID]) -> tuple[list[Any], str]:
    keys = [from_uuid(each, is_sqlite=db.is_sqlite) for each in ids]
    return keys, ", ".join(["%s"] * len(keys))


def _has_place(db: Database) -> str:
    """The condition that a position is a number."""
    return " AND typeof(position) = 'integer'" if db.is_sqlite else ""
