"""The entries of a log that are ChatKit's thread items: what people see, and what stands hidden
between it. Every read and write is of one owner's own conversation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal
from uuid import UUID

from conversations.errors import ItemNotFound, ThreadNotFound
from conversations.history import misplaced
from conversations.items import Row
from conversations.lanes import Database, from_moment, from_uuid
from conversations.store import ledger
from conversations.store.attachments import take_of_messages
from conversations.store.closing import append_rows
from conversations.store.damage import (
    first_readable,
    flag_of,
    maybe_text_of,
    moment_of,
    select,
    text_of,
    uuid_of,
)
from conversations.store.holds import refuse_held
from conversations.store.log import FEEDBACK, MESSAGE, REMEMBERED, SESSION, TURN, delete_messages
from conversations.store.pruning import read_headers
from conversations.store.threads import find_thread, owner_key
from conversations.store.weights import weigh

HIDDEN_KINDS: Final = frozenset({"hidden_context_item", "sdk_hidden_context"})
"""What never leaves the server."""
_IS_ITEM: Final = "(shown = %s OR thread_item IS NOT NULL)"
_COLUMNS: Final = ("id", "kind", "role", "text", "shown", "thread_item", "created_at")
_LESS: Final = "CASE WHEN {0} > %s THEN {0} - %s ELSE 0 END"


@dataclass(frozen=True, slots=True)
class ItemRow:
    """One entry, as far as it is a thread item."""

    id: UUID
    session_id: UUID
    kind: str
    role: str
    text: str
    shown: bool
    thread_item: str | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class ItemPage:
    """Entries in the order asked for, and whether there are more."""

    rows: list[ItemRow]
    has_more: bool


def list_items(
    db: Database,
    *,
    session_id: UUID,
    owner_id: Any,
    limit: int,
    order: Literal["asc", "desc"] = "desc",
    after: UUID | None = None,
) -> ItemPage:
    """Up to `limit` items by their position, from the one `after` on, hidden ones too.

    Raises ThreadNotFound, and ItemNotFound where `after` is no entry of it.
    """
    thread = find_thread(db, session_id=session_id, owner_id=owner_id)
    key = from_uuid(session_id, is_sqlite=db.is_sqlite)
    where, params = f"session_id = %s AND {_IS_ITEM}", [key, True]
    if after is not None:
        place = (from_uuid(after, is_sqlite=db.is_sqlite), key)
        of_it = f"FROM {MESSAGE} WHERE id = %s AND session_id = %s"
        if db.one(f"SELECT 1 {of_it}", place) is None:
            raise ItemNotFound
        where += f" AND position {'>' if order == 'asc' else '<'} (SELECT position {of_it})"
        params += place
    rest = f"FROM {MESSAGE} WHERE {where} ORDER BY position {order.upper()} LIMIT %s"
    found = first_readable(
        lambda count: select(db, _COLUMNS, rest, [*params, count]),
        count=limit + 1,
        read=lambda row: _item(row, session_id, otherwise=thread.created_at),
    )
    return ItemPage(found[:limit], len(found) > limit)


def find_item(db: Database, *, session_id: UUID, owner_id: Any, item_id: UUID) -> ItemRow:
    """One item. Raises ThreadNotFound, ItemNotFound."""
    thread = find_thread(db, session_id=session_id, owner_id=owner_id)
    keys = (from_uuid(each, is_sqlite=db.is_sqlite) for each in (item_id, session_id))
    rows = select(
        db, _COLUMNS, f"FROM {MESSAGE} WHERE id = %s AND session_id = %s AND {_IS_ITEM}",
        (*keys, True),
    )  # fmt: skip
    item = _item(rows[0], session_id, otherwise=thread.created_at) if rows else None
    if item is None:
        raise ItemNotFound
    return item


def put_item(
    db: Database,
    *,
    session_id: UUID,
    owner_id: Any,
    row: Row,
    created_at: datetime,
    now: datetime,
) -> None:
    """Store an item at the end of the log; one that is there already is replaced in its place.

    What the model remembers of a row is not changed with it, and a new one is not remembered where
    a turn runs: its memory is its own. Raises ThreadNotFound where the conversation is gone by now,
    and ItemNotFound for the id of an entry elsewhere.
    """
    key = hold_session(db, session_id, owner_id)
    item_key = from_uuid(row.id, is_sqlite=db.is_sqlite)
    stored = db.one(
        f"SELECT session_id, CASE WHEN shown = %s THEN 1 ELSE 0 END FROM {MESSAGE} WHERE id = %s",
        (True, item_key),
    )
    if stored is None:
        append_rows(db, session_id=key, turn_id=None, rows=[row], now=created_at)
        if row.agent_item is not None and _runs(db, key):
            _forget(db, key, [item_key])
    elif uuid_of(stored[0]) != session_id:
        raise ItemNotFound
    else:
        db.run(
            f"UPDATE {MESSAGE} SET text = %s, shown = %s, thread_item = %s,"
            " kind = CASE WHEN agent_item IS NULL THEN %s ELSE kind END,"
            " role = CASE WHEN agent_item IS NULL THEN %s ELSE role END WHERE id = %s",
            (row.text, row.shown, row.thread_item, row.kind, row.role, item_key),
        )
        _count(db, key, messages=int(row.shown) - stored[1])
    _touch(db, key, now)


def delete_item(
    db: Database, *, session_id: UUID, owner_id: Any, item_id: UUID, now: datetime
) -> None:
    """Take an item out of the log, and out of the memory with what has no place there without it.

    A call, an output, or what a running turn has said stays for the model. One that is not there
    is no error. Raises ThreadNotFound, ThreadHeld.
    """
    key = hold_session(db, session_id, owner_id)
    refuse_held(db, key)
    item_key = from_uuid(item_id, is_sqlite=db.is_sqlite)
    stored = db.one(
        f"SELECT kind, CASE WHEN shown = %s THEN 1 ELSE 0 END,"
        f" CASE WHEN {REMEMBERED} THEN 1 ELSE 0 END,"
        f" CASE WHEN quarantined_at IS NULL THEN 0 ELSE 1 END,"
        f" CASE WHEN turn_id IN (SELECT id FROM {TURN} WHERE session_id = %s"
        f" AND status = 'running') THEN 1 ELSE 0 END FROM {MESSAGE}"
        f" WHERE id = %s AND session_id = %s AND {_IS_ITEM}",
        (True, key, item_key, key, True),
    )
    if stored is None:
        return
    kind, shown, remembered, quarantined, is_running = stored
    _, size = weigh(db, "id = %s", (item_key,))
    named = f"SELECT id FROM {MESSAGE} WHERE id = %s"
    files = take_of_messages(db, session_key=key, messages=named, params=(item_key,))
    if is_running or (remembered and kind != "message"):
        db.run(
            f"UPDATE {MESSAGE} SET text = '', shown = %s, thread_item = NULL WHERE id = %s",
            (False, item_key),
        )
        db.run(f"DELETE FROM {FEEDBACK} WHERE message_id = %s", (item_key,))
        _count(db, key, messages=-shown)
    else:
        known = set(misplaced(read_headers(db, session_key=key))) if remembered else set()
        delete_messages(db, "id = %s", (item_key,))
        _count(db, key, items=-1, messages=-shown, remembered=-remembered, aside=-quarantined)
        if remembered:
            _forget_misplaced(db, key, besides=known)
    _touch(db, key, now)
    ledger.tell_of_session(
        db,
        action=ledger.ITEM_DELETED,
        session_key=key,
        actor=ledger.USER,
        counts={"messages": 1, "attachments": files},
        byte_count=size,
        now=now,
    )


def _forget_misplaced(db: Database, key: Any, *, besides: set[int]) -> None:
    """Take from the memory what a row that went leaves without its place, such as its reasoning."""
    while lost := misplaced(read_headers(db, session_key=key)).keys() - besides:
        marks = ", ".join(["%s"] * len(lost))
        rows = db.all(
            f"SELECT id FROM {MESSAGE} WHERE session_id = %s AND position IN ({marks})",
            (key, *lost),
        )
        _forget(db, key, [row[0] for row in rows])


def _forget(db: Database, key: Any, item_keys: Sequence[Any]) -> None:
    """Take rows from the memory; those that only the model saw go."""
    keys = [from_uuid(uuid_of(each), is_sqlite=db.is_sqlite) for each in item_keys]
    marks = ", ".join(["%s"] * len(keys))
    gone = delete_messages(
        db, f"id IN ({marks}) AND shown = %s AND thread_item IS NULL", (*keys, False)
    )
    db.run(f"UPDATE {MESSAGE} SET agent_item = NULL WHERE id IN ({marks})", keys)
    _count(db, key, items=-gone, remembered=-len(keys))


def _item(row: Any, session_id: UUID, *, otherwise: datetime) -> ItemRow | None:
    item_id = uuid_of(row[0])
    if item_id is None:
        return None
    return ItemRow(
        item_id,
        session_id,
        text_of(row[1]),
        text_of(row[2]),
        text_of(row[3]),
        flag_of(row[4]),
        maybe_text_of(row[5]),
        moment_of(row[6]) or otherwise,
    )


def hold_session(db: Database, session_id: UUID, owner_id: Any) -> Any:
    """The session's id as the engine stores it, its row held. Raises ThreadNotFound."""
    lock = "" if db.is_sqlite else " FOR UPDATE"
    row = db.one(
        f"SELECT id FROM {SESSION} WHERE id = %s AND owner_id = %s{lock}",
        (from_uuid(session_id, is_sqlite=db.is_sqlite), owner_key(owner_id, db)),
    )
    if row is None:
        raise ThreadNotFound
    return row[0]


def _runs(db: Database, key: Any) -> bool:
    running = f"SELECT 1 FROM {TURN} WHERE session_id = %s AND status = 'running'"
    return db.one(running, (key,)) is not None


def _count(
    db: Database,
    key: Any,
    *,
    items: int = 0,
    messages: int = 0,
    remembered: int = 0,
    aside: int = 0,
) -> None:
    changes = {
        "item_count": items,
        "message_count": messages,
        "remembered_count": remembered,
        "quarantined_count": aside,
    }
    changes = {name: -change for name, change in changes.items() if change}
    if changes:
        columns = ", ".join(f"{name} = {_LESS.format(name)}" for name in changes)
        less = [change for change in changes.values() for _ in range(2)]
        db.run(f"UPDATE {SESSION} SET {columns} WHERE id = %s", (*less, key))


def _touch(db: Database, key: Any, now: datetime) -> None:
    moment = from_moment(now, is_sqlite=db.is_sqlite)
    db.run(
        f"UPDATE {SESSION} SET last_active_at = %s, updated_at = %s WHERE id = %s",
        (moment, moment, key),
    )
