"""A memory replaced in one step by what sums it up, if nobody else wrote meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from conversations.items import Row, decode_item
from conversations.lanes import Database, from_moment
from conversations.store.holds import is_held
from conversations.store.log import (
    MESSAGE,
    REMEMBERED,
    SESSION,
    insert_rows,
    lock_named,
)
from conversations.store.pruning import forget

Remembered = tuple[int, str]
"""Position and item of one row, as they are stored."""

_ROWS = f"SELECT position, agent_item FROM {MESSAGE} WHERE session_id = %s AND {REMEMBERED}"
_NAMED = f"(SELECT id FROM {SESSION} WHERE agent_session_id = %s)"


def read_newest(
    db: Database, *, agent_session_id: str, limit: int
) -> tuple[list[Remembered], bool]:
    """The latest `limit` remembered rows of a session, oldest first, and whether these are all."""
    of_name = _ROWS.replace("session_id = %s", f"session_id = {_NAMED}")
    rows = db.all(f"{of_name} ORDER BY position DESC LIMIT %s", (agent_session_id, limit + 1))
    newest = [tuple(row) for row in reversed(rows[:limit])]
    return newest, len(rows) <= limit


def replace_newest(
    db: Database,
    *,
    agent_session_id: str,
    expected: Sequence[Remembered] | None,
    rows: Sequence[Row],
    drops: Callable[[dict[str, Any]], bool] | None = None,
    now: datetime,
) -> bool:
    """Forget the newest rows, and remember others instead; False where they are not the newest.

    Without `expected`, all are replaced. People go on seeing what they saw, and nothing new. Before
    the replaced rows, the oldest go as long as `drops` says so.
    """
    key = lock_named(db, agent_session_id)
    if key is None:
        return False
    remembered = db.all(f"{_ROWS} ORDER BY position", (key,))
    kept = len(remembered) - len(expected) if expected is not None else 0
    if expected is not None and (
        not expected or remembered[max(kept, 0) :] != list(map(tuple, expected))
    ):
        return False
    dead = 0
    if drops is not None:
        for _, text in remembered[:kept]:
            item = decode_item(text)
            if item is None or not drops(item):
                break
            dead += 1
    _forget(db, key, remembered[:dead], now=now)
    _forget(db, key, remembered[kept:], now=now)
    _append_unseen(db, key, rows, now=now)
    return True


def _forget(db: Database, key: Any, gone: Sequence[Remembered], *, now: datetime) -> None:
    if not gone:
        return
    dropped = forget(
        db,
        session_key=key,
        since=gone[0][0],
        before=gone[-1][0] + 1,
        keeps_rows=is_held(db, key),
        now=now,
    )
    db.run(
        f"UPDATE {SESSION} SET remembered_count = CASE WHEN remembered_count > %s"
        " THEN remembered_count - %s ELSE 0 END, pruned_count = pruned_count + %s,"
        " item_count = CASE WHEN item_count > %s THEN item_count - %s ELSE 0 END WHERE id = %s",
        (len(gone), len(gone), len(gone), dropped, dropped, key),
    )


def _append_unseen(db: Database, key: Any, rows: Sequence[Row], *, now: datetime) -> None:
    (last_position,) = db.one(
        f"UPDATE {SESSION} SET last_position = last_position + %s, item_count = item_count + %s,"
        " remembered_count = remembered_count + %s WHERE id = %s RETURNING last_position",
        (len(rows), len(rows), len(rows), key),
    )
    insert_rows(
        db,
        session_id=key,
        turn_id=None,
        first_position=last_position - len(rows) + 1,
        rows=[replace(row, text="", shown=False) for row in rows],
        moment=from_moment(now, is_sqlite=db.is_sqlite),
    )
