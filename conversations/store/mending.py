"""A session whose counters do not fit its rows: a foreign writer, or a hand in the table.

Positions and turn numbers are taken from the counters: one that lies behind the rows would refuse
every further message.
"""

from __future__ import annotations

from typing import Any, Final
from uuid import UUID

from conversations.lanes import Database, from_uuid
from conversations.store.damage import select
from conversations.store.log import MESSAGE, REMEMBERED, SESSION, TURN

_COUNTERS: Final = (
    "last_position",
    "last_turn_number",
    "fence",
    "remembered_count",
    "message_count",
    "item_count",
    "pruned_count",
    "quarantined_count",
    "input_tokens",
    "output_tokens",
)


def mend_counters(db: Database, *, session_id: UUID) -> bool:
    """Set a session's counters to what its rows say; whether that changed any of them."""
    key = from_uuid(session_id, is_sqlite=db.is_sqlite)
    before = _counters(db, key)
    if before is None:
        return False
    of_messages = f"FROM {MESSAGE} WHERE session_id = %s"
    db.run(
        f"UPDATE {SESSION} SET"
        f" last_position = {_at_least(db, 'last_position', 'position', MESSAGE)},"
        f" last_turn_number = {_at_least(db, 'last_turn_number', 'number', TURN)},"
        f" fence = {_at_least(db, 'fence', 'fence', TURN)},"
        f" remembered_count = (SELECT COUNT(*) {of_messages} AND {REMEMBERED}),"
        f" message_count = (SELECT COUNT(*) {of_messages} AND shown = %s),"
        f" item_count = (SELECT COUNT(*) {of_messages}),"
        f" pruned_count = {_number(db, 'pruned_count')},"
        f" quarantined_count = (SELECT COUNT(*) {of_messages} AND quarantined_at IS NOT NULL),"
        f" input_tokens = {_number(db, 'input_tokens')},"
        f" output_tokens = {_number(db, 'output_tokens')} WHERE id = %s",
        (key, key, key, key, key, True, key, key, key),
    )
    return bool(_counters(db, key) != before)


def _counters(db: Database, key: Any) -> Any:
    lock = "" if db.is_sqlite else " FOR UPDATE"
    rows = select(db, _COUNTERS, f"FROM {SESSION} WHERE id = %s{lock}", (key,))
    return rows[0] if rows else None


def _at_least(db: Database, counter: str, column: str, table: str) -> str:
    """The counter, or the highest number among the rows where that is higher."""
    greatest = "MAX" if db.is_sqlite else "GREATEST"
    rows = f"SELECT MAX({_number(db, column)}) FROM {table} WHERE session_id = %s"
    return f"{greatest}({_number(db, counter)}, COALESCE(({rows}), 0))"


def _number(db: Database, column: str) -> str:
    """A column's value, 0 where it holds no number or a negative one."""
    is_number = f"typeof({column}) = 'integer' AND " if db.is_sqlite else ""
    return f"CASE WHEN {is_number}{column} > 0 THEN {column} ELSE 0 END"
