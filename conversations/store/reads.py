"""Who of the staff has read a conversation: written down before they see it, and told its owner."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from django.contrib.auth import get_user_model

from conversations.errors import ThreadNotFound
from conversations.ids import new_id
from conversations.lanes import Database, from_moment, from_uuid
from conversations.models import StaffRead
from conversations.store.damage import LONG_AGO, moment_of, select, text_of, uuid_of
from conversations.store.log import SESSION
from conversations.store.threads import find_thread, owner_key

READ: Final = StaffRead._meta.db_table


@dataclass(frozen=True, slots=True)
class ReadRow:
    """One read. `reader` is a name; empty where the account is gone."""

    id: UUID
    read_at: datetime
    how: str
    reader: str


def record(db: Database, *, session_id: UUID, reader_id: Any, how: str, now: datetime) -> None:
    """Write down that somebody reads a conversation. Raises ThreadNotFound."""
    written = db.run(
        f"INSERT INTO {READ} (id, session_id, reader_id, how, read_at)"
        f" SELECT %s, id, %s, %s, %s FROM {SESSION} WHERE id = %s",
        (
            from_uuid(new_id(), is_sqlite=db.is_sqlite),
            owner_key(reader_id, db),
            how,
            from_moment(now, is_sqlite=db.is_sqlite),
            from_uuid(session_id, is_sqlite=db.is_sqlite),
        ),
    )
    if not written:
        raise ThreadNotFound


def list_reads(
    db: Database, *, session_id: UUID, owner_id: Any, limit: int, after: UUID | None = None
) -> list[ReadRow]:
    """Up to `limit` reads of one's own conversation, newest first. Raises ThreadNotFound."""
    find_thread(db, session_id=session_id, owner_id=owner_id)
    table, key, name = person()
    where, params = "read.session_id = %s", [from_uuid(session_id, is_sqlite=db.is_sqlite)]
    if after is not None:
        where += " AND read.id < %s"
        params.append(from_uuid(after, is_sqlite=db.is_sqlite))
    rows = select(
        db,
        ("read.id", "read.read_at", "read.how", f"person.{name}"),
        f"FROM {READ} read LEFT JOIN {table} person ON person.{key} = read.reader_id"
        f" WHERE {where} ORDER BY read.id DESC LIMIT %s",
        (*params, limit),
    )
    return [
        ReadRow(read_id, moment_of(read_at) or LONG_AGO, text_of(how), text_of(reader))
        for key, read_at, how, reader in rows
        if (read_id := uuid_of(key)) is not None
    ]


def person() -> tuple[str, str, str]:
    """The table of users, the column of their key, and the one of their name."""
    user = get_user_model()
    meta = user._meta
    name = meta.get_field(user.USERNAME_FIELD).column  # type: ignore[union-attr]
    return f'"{meta.db_table}"', f'"{meta.pk.column}"', f'"{name}"'
