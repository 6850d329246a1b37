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
    size = "LENGTH(CAST({} AS BLOB))" if db.is_sqlite else "octet_length({})"
    total = " + ".join(f"COALESCE({size.format(column)}, 0)" for column in _COLUMNS)
    count, found = db.one(f"SELECT COUNT(*), SUM({total}) FROM {_MESSAGE} WHERE {where}", params)
    return int(count), count_of(found)
