"""The database between two tests: emptied, and what it begins with put back, at little cost.

Django truncates every table, which PostgreSQL does with files and locks, and then asks all apps
anew for their content types and permissions: more than most tests cost themselves.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from django.contrib.auth.models import Permission
from django.contrib.contenttypes.models import ContentType
from django.core.management.commands import flush
from django.db import connection

from conversations.models import LedgerEntry
from conversations.tests.ledger_helpers import LEDGER, off, on

FIRST_ROWS = (ContentType, Permission)
"""What migrations leave in an empty database, those that are referred to first."""


@contextmanager
def quickly_emptied() -> Iterator[None]:
    """Meanwhile `flush` leaves the database as it is now: with these rows, and no others."""
    if ContentType._meta.db_table not in connection.introspection.table_names():
        yield  # no test of this run uses the database
        return
    kept = [(model, list(model._default_manager.order_by("pk"))) for model in FIRST_ROWS]

    def put_back(*_: Any, **__: Any) -> None:
        for model, rows in kept:
            model._default_manager.bulk_create(rows)

    with (
        mock.patch.object(flush, "sql_flush", _delete_all),
        mock.patch.object(flush, "emit_post_migrate_signal", put_back),
    ):
        yield


def _delete_all(_style: Any, connection: Any, **_: Any) -> list[str]:
    """For one transaction: references are looked at when it is committed."""
    tables = connection.introspection.django_table_names(only_existing=True, include_views=False)
    emptying = [f"DELETE FROM {connection.ops.quote_name(table)}" for table in tables]
    if LEDGER in tables and LedgerEntry.objects.exists():
        return [*off(connection), *emptying, *on(connection)]
    return emptying
