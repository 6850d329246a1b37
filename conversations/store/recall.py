"""What the model is given of a session: its remembered items, oldest first, newest removed.

A row that cannot be read, or that lost what it belongs to, costs only itself: it is left out, and
set aside for staff.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from conversations.history import Header, header_of, is_whole, misplaced
from conversations.items import Memory, decode_item, decode_items
from conversations.lanes import Database, from_moment, from_uuid
from conversations.store import ledger
from conversations.store.attachments import take_of_messages
from conversations.store.damage import is_text_damage, text_of
from conversations.store.holds import is_held
from conversations.store.log import MESSAGE, REMEMBERED, SESSION, delete_messages, lock_named
from conversations.store.weights import weigh

_AT_ONCE: Final = 1000
_OF_NAME: Final = f"session_id = (SELECT id FROM {SESSION} WHERE agent_session_id = %s)"


def load(db: Database, *, agent_session_id: str, limit: int | None = None) -> Memory:
    """The remembered items of the named session, oldest first; the latest `limit` of them."""
    return _load(db, where=_OF_NAME, params=(agent_session_id,), limit=limit)


def load_window(db: Database, *, session_id: UUID) -> Memory:
    """The remembered items of a session known by its id."""
    key = from_uuid(session_id, is_sqlite=db.is_sqlite)
    return _load(db, where="session_id = %s", params=(key,), limit=None)


def quarantine(db: Database, *, agent_session_id: str, memory: Memory, now: datetime) -> None:
    """Set unreadable rows aside: the model never sees them again, staff do."""
    found = lock_named(db, agent_session_id) if memory.unreadable else None
    if found is not None:
        _set_aside(db, session_id=found, unreadable=memory.unreadable, now=now)
        count_again(db, session_id=found)


def pop(db: Database, *, agent_session_id: str, now: datetime) -> dict[str, Any] | None:
    """Remove the newest valid item and return it; None where there is none.

    Unreadable rows on the way are quarantined, not removed. In a session on hold the row stays and
    only leaves the memory.
    """
    found = lock_named(db, agent_session_id)
    if found is None:
        return None
    position, agent_item = position_in(db), as_bytes(db, "agent_item")
    unreadable = 0
    item: dict[str, Any] | None = None
    while row := db.one(
        f"SELECT {position}, {agent_item}, CASE WHEN shown THEN 1 ELSE 0 END FROM {MESSAGE}"
        f" WHERE session_id = %s AND {REMEMBERED} ORDER BY position DESC LIMIT 1",
        (found,),
    ):
        item = decode_item(row[1]) if row[0] is not None else None
        if item is not None:
            break
        unreadable += 1
        _set_aside(db, session_id=found, unreadable={row[0]: _why_unread(row[0])}, now=now)
    if item is not None and is_held(db, found):
        _forget_newest(db, found, position=row[0], now=now)
    elif item is not None:
        where, params = "session_id = %s AND position = %s", (found, row[0])
        _, size = weigh(db, where, params)
        named = f"SELECT id FROM {MESSAGE} WHERE {where}"
        files = take_of_messages(db, session_key=found, messages=named, params=params)
        delete_messages(db, where, params)
        moment = from_moment(now, is_sqlite=db.is_sqlite)
        db.run(
            f"UPDATE {SESSION} SET last_active_at = %s, updated_at = %s,"
            " remembered_count = CASE WHEN remembered_count > 0 THEN remembered_count - 1 ELSE 0"
            " END, message_count = CASE WHEN message_count > %s THEN message_count - %s ELSE 0 END,"
            " item_count = CASE WHEN item_count > 0 THEN item_count - 1 ELSE 0 END WHERE id = %s",
            (moment, moment, row[2], row[2], found),
        )
        ledger.tell_of_session(
            db,
            action=ledger.ITEM_DELETED,
            session_key=found,
            actor=ledger.CODE,
            counts={"messages": 1, "attachments": files},
            byte_count=size,
            now=now,
        )
    if unreadable:
        count_again(db, session_id=found)
    return item


def _forget_newest(db: Database, session_key: Any, *, position: int, now: datetime) -> None:
    moment = from_moment(now, is_sqlite=db.is_sqlite)
    db.run(
        f"UPDATE {MESSAGE} SET forgotten_at = %s WHERE session_id = %s AND position = %s",
        (moment, session_key, position),
    )
    db.run(
        f"UPDATE {SESSION} SET last_active_at = %s, updated_at = %s,"
        " remembered_count = CASE WHEN remembered_count > 0 THEN remembered_count - 1 ELSE 0 END"
        " WHERE id = %s",
        (moment, moment, session_key),
    )


def position_in(db: Database) -> str:
    """The column of a row's position, NULL where it is no number."""
    return (
        "CASE WHEN typeof(position) = 'integer' THEN position END" if db.is_sqlite else "position"
    )


def as_bytes(db: Database, column: str) -> str:
    """A column of text so that it can be read whatever is in it."""
    return f"CAST({column} AS BLOB)" if db.is_sqlite else column


def count_again(db: Database, *, session_id: Any) -> None:
    """What was remembered before is not known for sure: a foreign writer may not have counted."""
    of_session = f"SELECT COUNT(*) FROM {MESSAGE} WHERE session_id = %s"
    db.run(
        f"UPDATE {SESSION} SET remembered_count = ({of_session} AND {REMEMBERED}),"
        f" quarantined_count = ({of_session} AND quarantined_at IS NOT NULL) WHERE id = %s",
        (session_id, session_id, session_id),
    )


def _load(db: Database, *, where: str, params: Sequence[Any], limit: int | None) -> Memory:
    """The memory, or its latest part; only of the whole is it known what belongs together."""
    if limit is not None and limit <= 0:
        return Memory([])
    try:
        rows = _select(db, "position, agent_item", where=where, params=params, limit=limit)
    except Exception as error:
        if not (db.is_sqlite and is_text_damage(error)):
            raise
        return _load_one_by_one(db, where=where, params=params, limit=limit)
    items = decode_items([text for _, text in rows])
    if items is None or (rows and type(rows[-1][0]) is not int):  # SQLite sorts text after numbers
        return _load_one_by_one(db, where=where, params=params, limit=limit)
    if limit is not None or is_whole(items):
        return Memory(items)
    return _in_order(
        [(position, item, "") for (position, _), item in zip(rows, items, strict=True)]
    )


def _load_one_by_one(
    db: Database, *, where: str, params: Sequence[Any], limit: int | None
) -> Memory:
    """The same where a row is damaged: it costs only itself, and what belongs to it."""
    columns = ", ".join([position_in(db), as_bytes(db, "agent_item"), as_bytes(db, "kind")])
    asked = limit
    while True:
        found = _select(db, columns, where=where, params=params, limit=asked)
        rows = [(row[0], decode_item(row[1]), text_of(row[2])) for row in found]
        good = [item for position, item, _ in rows if position is not None and item is not None]
        if limit is None or asked is None:
            return _in_order(rows)
        if len(good) >= limit or len(found) < asked:
            bad = (position for position, item, _ in rows if position is None or item is None)
            return Memory(good[-limit:], {position: _why_unread(position) for position in bad})
        asked *= 2


def _in_order(rows: Iterable[tuple[int | None, dict[str, Any] | None, str]]) -> Memory:
    """The memory that (position, item, kind) rows make, without what has lost its rest."""
    headers: list[Header] = []
    items: dict[int, dict[str, Any]] = {}
    unreadable: dict[int | None, str] = {}
    for position, item, kind in rows:
        if position is None:
            unreadable[None] = "no position"
        elif item is None:
            headers.append(Header(position, kind, is_lost=True))
            unreadable[position] = "unreadable"
        else:
            headers.append(header_of(position, item))
            items[position] = item
    for position, reason in misplaced(headers).items():
        del items[position]
        unreadable[position] = reason
    return Memory(list(items.values()), unreadable)


def _select(
    db: Database, columns: str, *, where: str, params: Sequence[Any], limit: int | None
) -> list[Any]:
    """Remembered rows, oldest first; the latest `limit` of them."""
    sql = f"SELECT {columns} FROM {MESSAGE} WHERE {where} AND {REMEMBERED} ORDER BY position"
    if limit is None:
        return db.all(sql, params)
    newest = db.all(f"{sql} DESC LIMIT %s", (*params, limit))
    newest.reverse()
    return newest


def _why_unread(position: int | None) -> str:
    return "no position" if position is None else "unreadable"


def _set_aside(
    db: Database, *, session_id: Any, unreadable: Mapping[int | None, str], now: datetime
) -> None:
    """Mark rows under the session's lock; None are those whose position is no number."""
    update = (
        f"UPDATE {MESSAGE} SET quarantined_at = %s, quarantine_reason = %s"
        " WHERE session_id = %s AND quarantined_at IS NULL"
    )
    moment = from_moment(now, is_sqlite=db.is_sqlite)
    positions: dict[str, list[int]] = {}
    for position, reason in unreadable.items():
        if position is None:
            db.run(f"{update} AND typeof(position) <> 'integer'", (moment, reason, session_id))
        else:
            positions.setdefault(reason, []).append(position)
    for reason, known in positions.items():
        for start in range(0, len(known), _AT_ONCE):
            some = known[start : start + _AT_ONCE]
            marks = ", ".join(["%s"] * len(some))
            db.run(f"{update} AND position IN ({marks})", (moment, reason, session_id, *some))
