"""The ledger as tests need it: read, and written by somebody who must not."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.db import connection

from conversations.models import LedgerEntry
from conversations.store.ledger import LEDGER, TRIGGERS

__all__ = ["LEDGER", "entries", "off", "on", "unguarded"]


def entries() -> list[dict[str, Any]]:
    """What the ledger says, oldest first, as far as it is not empty."""
    found = []
    for row in LedgerEntry.objects.order_by("number").values():
        row |= {"counts": json.loads(row["counts"]), "errors": json.loads(row["errors"])}
        plain = {"number", "at", "hash", "previous_hash", "milliseconds"}
        found.append({k: v for k, v in row.items() if v and k not in plain})
    return found


def off(wrapper: Any) -> list[str]:
    """The SQL after which rows can be changed."""
    if wrapper.vendor == "sqlite":
        return [f"DROP TRIGGER IF EXISTS {name}" for name in TRIGGERS]
    return [f"ALTER TABLE {LEDGER} DISABLE TRIGGER USER"]


def on(wrapper: Any) -> list[str]:
    """The SQL after which they cannot be changed again."""
    if wrapper.vendor == "sqlite":
        migration = importlib.import_module("conversations.migrations.0010_ledger")
        return list(migration.SQLITE)
    return [f"ALTER TABLE {LEDGER} ENABLE TRIGGER USER"]


@contextmanager
def unguarded() -> Iterator[Any]:
    """A cursor of somebody who has switched the triggers off."""
    with connection.cursor() as cursor:
        for statement in off(connection):
            cursor.execute(statement)
        yield cursor
        for statement in on(connection):
            cursor.execute(statement)
