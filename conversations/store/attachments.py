"""What is known of attached files: announced, uploaded, sent with a message, removed.

Whatever takes a file away leaves its row as `removed` in the same transaction; its bytes are erased
after the commit (`conversations.attachments.erase_removed`), and the row goes last. So a crash
leaves no bytes that nobody knows of, and a transaction that is undone erases nothing.

Locks are taken in this order: the session's row, then those of attachments by their ids.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from conversations.errors import (
    AlreadyUploaded,
    AttachmentNotFound,
    Invalid,
    ThreadHeld,
    Throttled,
)
from conversations.ids import new_id
from conversations.lanes import Database, from_moment, from_uuid
from conversations.models import Attachment, ChatSession
from conversations.store import holds, ledger
from conversations.store.damage import LONG_AGO, count_of, moment_of, select, text_of, uuid_of
from conversations.store.ledger import Entry

ATTACHMENT: Final = Attachment._meta.db_table
MAX_UNUSED: Final = 100
"""So many files may wait to be sent, of one owner: what is announced costs them nothing else."""
MAX_OF_MESSAGE: Final = 20

_SESSION: Final = ChatSession._meta.db_table
_COLUMNS: Final = (
    "id",
    "name",
    "mime_type",
    "size",
    "status",
    "session_id",
    "message_id",
    "storage_name",
    "created_at",
)
_IS_KNOWN: Final = "status IN ('pending', 'ready')"


@dataclass(frozen=True, slots=True)
class AttachmentRow:
    """One file, as its owner may know it."""

    id: UUID
    name: str
    mime_type: str
    size: int
    is_ready: bool
    """Its bytes have been uploaded."""
    session_id: UUID | None
    message_id: UUID | None
    storage_name: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Removed:
    """Bytes that are to be erased."""

    id: Any
    storage_name: str


def announce(db: Database, *, owner_id: Any, attachment: AttachmentRow) -> None:
    """Remember a file that is to be uploaded. Raises Throttled where too many wait to be sent."""
    owner = _key(owner_id, db)
    (unused,) = db.one(
        f"SELECT COUNT(*) FROM {ATTACHMENT} WHERE owner_id = %s AND session_id IS NULL", (owner,)
    )
    if unused >= MAX_UNUSED:
        raise Throttled("Too many files are waiting to be sent; send or remove some first.")
    db.run(
        f"INSERT INTO {ATTACHMENT} (id, owner_id, name, mime_type, size, stored_size, status,"
        " storage_name, created_at) VALUES (%s, %s, %s, %s, %s, 0, 'pending', '', %s)",
        (
            from_uuid(attachment.id, is_sqlite=db.is_sqlite),
            owner,
            attachment.name,
            attachment.mime_type,
            attachment.size,
            from_moment(attachment.created_at, is_sqlite=db.is_sqlite),
        ),
    )


def find(db: Database, *, owner_id: Any, ids: Iterable[UUID]) -> list[AttachmentRow]:
    """One's own files in the order of `ids`; raises AttachmentNotFound where one is not there."""
    wanted = list(ids)
    known = {row.id: row for row in _find_some(db, owner_id=owner_id, ids=wanted)}
    try:
        return [known[attachment_id] for attachment_id in wanted]
    except KeyError:
        raise AttachmentNotFound from None


def find_of_session(
    db: Database, *, owner_id: Any, session_id: UUID, ids: Iterable[UUID]
) -> list[AttachmentRow]:
    """Those of the files that can be read in a conversation, in no order; the others are left out.

    Also ones that are sent with a message that no transaction has taken yet.
    """
    rows = _find_some(db, owner_id=owner_id, ids=list(ids))
    return [row for row in rows if row.is_ready and row.session_id in {session_id, None}]


def begin_upload(db: Database, *, owner_id: Any, attachment_id: UUID, storage_name: str) -> None:
    """Say where the bytes will be, before they are: what a crash leaves can be found.

    Bytes of an earlier try are removed. Raises AttachmentNotFound, AlreadyUploaded.
    """
    key, owner = from_uuid(attachment_id, is_sqlite=db.is_sqlite), _key(owner_id, db)
    lock = "" if db.is_sqlite else " FOR UPDATE"
    row = db.one(
        f"SELECT status, storage_name FROM {ATTACHMENT}"
        f" WHERE id = %s AND owner_id = %s AND {_IS_KNOWN}{lock}",
        (key, owner),
    )
    if row is None:
        raise AttachmentNotFound
    status, earlier = row
    if status == "ready":
        raise AlreadyUploaded
    if earlier:
        _remove_bytes(db, earlier)
    db.run(f"UPDATE {ATTACHMENT} SET storage_name = %s WHERE id = %s", (storage_name, key))


def finish_upload(
    db: Database,
    *,
    owner_id: Any,
    attachment_id: UUID,
    begun_as: str,
    storage_name: str,
    stored_size: int,
) -> None:
    """The bytes are there. Raises AttachmentNotFound where the file was removed meanwhile, and
    AlreadyUploaded where another upload was faster, or began later.
    """
    key = from_uuid(attachment_id, is_sqlite=db.is_sqlite)
    if db.run(
        f"UPDATE {ATTACHMENT} SET status = 'ready', storage_name = %s, stored_size = %s"
        " WHERE id = %s AND owner_id = %s AND status = 'pending' AND storage_name = %s",
        (storage_name, stored_size, key, _key(owner_id, db), begun_as),
    ):
        return
    find(db, owner_id=owner_id, ids=[attachment_id])
    raise AlreadyUploaded


def attach(
    db: Database,
    *,
    session_id: UUID,
    message_id: UUID,
    owner_id: Any,
    ids: Sequence[UUID],
    now: datetime,
) -> list[AttachmentRow]:
    """Send files with a message, in the transaction that takes it; they come in the order of `ids`.

    The same once more changes nothing. Raises AttachmentNotFound, and Invalid where a file is not
    uploaded yet or belongs to another message.
    """
    if len(ids) > MAX_OF_MESSAGE or len(set(ids)) < len(ids):
        raise _not_valid(f"must be at most {MAX_OF_MESSAGE} different ones")
    for row in find(db, owner_id=owner_id, ids=ids):
        if not row.is_ready:
            raise _not_valid(f"{row.name} is not uploaded yet")
    keys = sorted(from_uuid(attachment_id, is_sqlite=db.is_sqlite) for attachment_id in ids)
    session = from_uuid(session_id, is_sqlite=db.is_sqlite)
    message = from_uuid(message_id, is_sqlite=db.is_sqlite)
    moment = from_moment(now, is_sqlite=db.is_sqlite)
    for key in keys:
        if not db.run(
            f"UPDATE {ATTACHMENT} SET session_id = %s, message_id = %s,"
            " attached_at = COALESCE(attached_at, %s)"
            " WHERE id = %s AND owner_id = %s AND status = 'ready' AND (message_id IS NULL"
            " OR (message_id = %s AND session_id = %s))",
            (session, message, moment, key, _key(owner_id, db), message, session),
        ):
            raise _not_valid("a file belongs to another message already")
    return find(db, owner_id=owner_id, ids=ids)


def take(
    db: Database, *, owner_id: Any, attachment_id: UUID, now: datetime, actor: str = ledger.USER
) -> None:
    """Remove one file. Raises AttachmentNotFound; ThreadHeld where it is on hold."""
    (row,) = find(db, owner_id=owner_id, ids=[attachment_id])
    if row.session_id is not None:
        lock = "" if db.is_sqlite else " FOR UPDATE"
        session = from_uuid(row.session_id, is_sqlite=db.is_sqlite)
        db.one(f"SELECT 1 FROM {_SESSION} WHERE id = %s{lock}", (session,))
        holds.refuse_held(db, session)
    if holds.is_user_held(db, user_id=owner_id):
        raise ThreadHeld
    key = from_uuid(attachment_id, is_sqlite=db.is_sqlite)
    if not _take(db, "id = %s AND owner_id = %s", (key, _key(owner_id, db))):
        raise AttachmentNotFound
    about = row.session_id
    entry = Entry(
        action=ledger.ATTACHMENT_DELETED,
        actor=actor,
        at=now,
        subject=ledger.of_session(about) if about else ledger.of_user(owner_id),
        counts={"attachments": 1},
        byte_count=row.size,
    )
    ledger.append(db, entry)


def take_of_session(db: Database, *, session_key: Any) -> int:
    """Remove the files of a conversation, its id as the engine stores it; how many."""
    return _take(db, "session_id = %s", (session_key,))


def take_of_sessions(db: Database, *, session_keys: Sequence[Any]) -> int:
    """The same for several."""
    marks = ", ".join(["%s"] * len(session_keys))
    return _take(db, f"session_id IN ({marks})", session_keys)


def take_of_messages(
    db: Database,
    *,
    session_key: Any,
    messages: str,
    params: Sequence[Any],
    besides: UUID | None = None,
) -> int:
    """Remove the files of messages of one conversation, before those are deleted; how many.

    `messages` is the SQL that selects their ids; the files of the message `besides` stay.
    """
    where, given = f"session_id = %s AND message_id IN ({messages})", [session_key, *params]
    if besides is not None:
        where += " AND message_id <> %s"
        given.append(from_uuid(besides, is_sqlite=db.is_sqlite))
    return _take(db, where, given)


def take_of_owner(db: Database, *, owner_id: Any) -> int:
    """Remove all files of one person; how many."""
    return _take(db, "owner_id = %s", (_key(owner_id, db),))


def take_orphans(db: Database, *, unused_since: datetime, now: datetime, actor: str) -> int:
    """Remove files that nobody will miss; how many.

    Those announced before then and never sent, and those whose owner or conversation is gone; not
    those of a person whose all is on hold.
    """
    moment = from_moment(unused_since, is_sqlite=db.is_sqlite)
    unused = (
        "session_id IS NULL AND (created_at < %s OR message_id IS NOT NULL)"
        f" AND (owner_id IS NULL OR owner_id NOT IN (SELECT user_id FROM {holds.USER_HOLD}))"
    )
    gone = "owner_id IS NULL"
    taken = size = 0
    for where, params in ((unused, [moment]), (gone, [])):
        size += _size(db, where, params)
        taken += _take(db, where, params)
    if taken:
        entry = Entry(
            action=ledger.ATTACHMENTS_SWEPT,
            actor=actor,
            at=now,
            policy="unused for 24 hours, or left behind",
            counts={"attachments": taken},
            byte_count=size,
        )
        ledger.append(db, entry)
    return taken


def find_removed(db: Database, *, limit: int, after: Any = None) -> list[Removed]:
    """Bytes that are to be erased, in the order of their rows, from the row `after` on."""
    where, params = "status = 'removed'", [limit]
    if after is not None:
        where, params = f"{where} AND id > %s", [after, limit]
    rows = db.all(
        f"SELECT id, storage_name FROM {ATTACHMENT} WHERE {where} ORDER BY id LIMIT %s", params
    )
    return [Removed(key, text_of(storage_name)) for key, storage_name in rows]


def forget_removed(db: Database, *, keys: Sequence[Any]) -> None:
    """Their bytes are erased: nothing is left of these."""
    marks = ", ".join(["%s"] * len(keys))
    db.run(f"DELETE FROM {ATTACHMENT} WHERE status = 'removed' AND id IN ({marks})", keys)


def _find_some(db: Database, *, owner_id: Any, ids: Sequence[UUID]) -> list[AttachmentRow]:
    if not ids:
        return []
    marks = ", ".join(["%s"] * len(ids))
    keys = [from_uuid(attachment_id, is_sqlite=db.is_sqlite) for attachment_id in ids]
    rows = select(
        db,
        _COLUMNS,
        f"FROM {ATTACHMENT} WHERE owner_id = %s AND {_IS_KNOWN} AND id IN ({marks})",
        (_key(owner_id, db), *keys),
    )
    return [
        AttachmentRow(
            found,
            text_of(row[1]),
            text_of(row[2]),
            count_of(row[3]),
            text_of(row[4]) == "ready",
            uuid_of(row[5]),
            uuid_of(row[6]),
            text_of(row[7]),
            moment_of(row[8]) or LONG_AGO,
        )
        for row in rows
        if (found := uuid_of(row[0])) is not None
    ]


def _take(db: Database, where: str, params: Sequence[Any]) -> int:
    """What has bytes becomes `removed`, and tells nothing else any more; what has none goes."""
    where = f"{_IS_KNOWN} AND {where}"
    gone = db.run(f"DELETE FROM {ATTACHMENT} WHERE storage_name = '' AND {where}", params)
    return gone + db.run(
        f"UPDATE {ATTACHMENT} SET status = 'removed', owner_id = NULL, session_id = NULL,"
        f" message_id = NULL, name = '', mime_type = '' WHERE {where}",
        params,
    )


def _size(db: Database, where: str, params: Sequence[Any]) -> int:
    """The bytes of what `_take` would remove."""
    (size,) = db.one(
        f"SELECT SUM(stored_size) FROM {ATTACHMENT} WHERE {_IS_KNOWN} AND {where}", params
    )
    return count_of(size)


def _remove_bytes(db: Database, storage_name: str) -> None:
    key = from_uuid(new_id(), is_sqlite=db.is_sqlite)
    db.run(
        f"INSERT INTO {ATTACHMENT} (id, name, mime_type, size, stored_size, status, storage_name,"
        " created_at) SELECT %s, '', '', 0, 0, 'removed', storage_name, created_at"
        f" FROM {ATTACHMENT} WHERE storage_name = %s",
        (key, storage_name),
    )


def _not_valid(message: str) -> Invalid:
    return Invalid(f"attachments: {message}", fields=[{"field": "attachments", "message": message}])


def _key(owner_id: Any, db: Database) -> Any:
    return from_uuid(owner_id, is_sqlite=db.is_sqlite) if isinstance(owner_id, UUID) else owner_id
