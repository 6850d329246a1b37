"""How much rows of the log hold, for those who tell what was removed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from conversations.lanes import Database
from conversations.models import ChatMessage
from conversations.store.damage import count_of

_MESSAGE: Final = ChatMessage._meta.db_table
_COLUMNS: Final = ("text", "agent_item", "thread_item")


def weigh(db: Database, where: str, params: Sequence[Any]) -> tuple[int, int]:
    """How many rows of the log these are, and the bytes of what they say."""
    rows = f"FROM {_MESSAGE} WHERE {where}"
    count, size = db.one(f"SELECT COUNT(*), SUM({_size(db)}) {rows}", params)
    return int(count), count_of(size)


def delete_weighed(db: Database, where: str, params: Sequence[Any]) -> tuple[int, int]:
    """The same, and delete them. What people thought of them is the caller's."""
    if db.is_sqlite:  # reading them first costs little: they are in memory then
        found = weigh(db, where, params)
        db.run(f"DELETE FROM {_MESSAGE} WHERE {where}", params)
        return found
    count, size = db.one(
        f"WITH gone AS (DELETE FROM {_MESSAGE} WHERE {where} RETURNING {_size(db)} AS size)"
        " SELECT COUNT(*), SUM(size) FROM gone",
        params,
    )
    return int(count), count_of(size)


def _size(db: Database) -> str:
    """The bytes of one row, in SQL."""
    size = "LENGTH(CAST({} AS BLOB))" if db.is_sqlite else "octet_length({})"
    return " + ".join(f"COALESCE({size.format(column)}, 0)" for column in _COLUMNS)
