"""What ChatKit's thread holds of a conversation beside its entries: all its fields, losslessly.

Changes are merged under the row's lock: what another has changed meanwhile stays, and a
conversation that is gone stays gone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from conversations.errors import ThreadNotFound
from conversations.items import decode_item, encode_item
from conversations.lanes import Database, from_moment, from_uuid
from conversations.store.damage import select, text_of, uuid_of
from conversations.store.log import SESSION
from conversations.store.threads import Place, ThreadRow, find_thread, list_threads, owner_key


@dataclass(frozen=True, slots=True)
class Details:
    """One conversation with what its frontend keeps in it.

    `extras` is what our columns have no name for: the reason of its status, and the like.
    """

    thread: ThreadRow
    metadata: dict[str, Any] = field(default_factory=dict)
    extras: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Changes:
    """What is to be changed: fields that are None and keys that are not named stay."""

    title: str | None = None
    status: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    dropped_metadata: frozenset[str] = frozenset()
    extras: Mapping[str, Any] = field(default_factory=dict)

    def __bool__(self) -> bool:
        given = (self.metadata, self.dropped_metadata, self.extras)
        return self.title is not None or self.status is not None or any(given)


def find_details(db: Database, *, session_id: UUID, owner_id: Any) -> Details:
    """Raises ThreadNotFound."""
    thread = find_thread(db, session_id=session_id, owner_id=owner_id)
    return _with_details(db, [thread])[0]


def list_details(
    db: Database,
    *,
    owner_id: Any,
    limit: int,
    order: Literal["asc", "desc"] = "desc",
    after: Place | None = None,
) -> list[Details]:
    """Up to `limit` conversations of one owner by their last activity, from `after` on."""
    return _with_details(
        db, list_threads(db, owner_id=owner_id, limit=limit, order=order, after=after)
    )


def change_details(
    db: Database, *, session_id: UUID, owner_id: Any, changes: Changes, now: datetime
) -> None:
    """Raises ThreadNotFound."""
    key = from_uuid(session_id, is_sqlite=db.is_sqlite)
    lock = "" if db.is_sqlite else " FOR UPDATE"
    rows = select(
        db,
        ("metadata", "thread_extras"),
        f"FROM {SESSION} WHERE id = %s AND owner_id = %s{lock}",
        (key, owner_key(owner_id, db)),
    )
    if not rows:
        raise ThreadNotFound
    columns: dict[str, Any] = {"updated_at": from_moment(now, is_sqlite=db.is_sqlite)}
    if changes.title is not None:
        columns["title"] = changes.title
    if changes.status is not None:
        columns["status"] = changes.status
    if changes.metadata or changes.dropped_metadata:
        kept = {k: v for k, v in _decode(rows[0][0]).items() if k not in changes.dropped_metadata}
        columns["metadata"] = json.dumps(kept | dict(changes.metadata), allow_nan=False)
    if changes.extras:
        columns["thread_extras"] = encode_item(_decode(rows[0][1]) | dict(changes.extras))
    sets = ", ".join(f"{name} = %s" for name in columns)
    db.run(f"UPDATE {SESSION} SET {sets} WHERE id = %s", (*columns.values(), key))


def _with_details(db: Database, threads: list[ThreadRow]) -> list[Details]:
    if not threads:
        return []
    marks = ", ".join(["%s"] * len(threads))
    rows = select(
        db,
        ("id", "metadata", "thread_extras"),
        f"FROM {SESSION} WHERE id IN ({marks})",
        [from_uuid(thread.id, is_sqlite=db.is_sqlite) for thread in threads],
    )
    found = {uuid_of(key): (_decode(metadata), _decode(extras)) for key, metadata, extras in rows}
    return [Details(thread, *found.get(thread.id, ({}, {}))) for thread in threads]


def _decode(value: Any) -> dict[str, Any]:
    if isinstance(value, dict):
        return value
    return decode_item(text_of(value)) or {} if value is not None else {}
