"""The way to the database for sync code, which holds up no event loop: tasks, commands."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from django.db import connection, transaction

from conversations.lanes.database import Database, DjangoDatabase, SqliteDatabase, in_our_words

T = TypeVar("T")


def perform(job: Callable[[Database], T]) -> T:
    """Run a job as one atomic unit, in this thread and on Django's own connection.

    Within `atomic()` it is part of that transaction. An error the job raises undoes its writes.
    Raises StoreError when the engine fails.
    """
    try:
        with transaction.atomic():
            is_sqlite = connection.vendor == "sqlite"
            return job(SqliteDatabase(connection.connection) if is_sqlite else DjangoDatabase())
    except Exception as error:
        translated = in_our_words(error)
        if translated is error:
            raise
        raise translated from error
