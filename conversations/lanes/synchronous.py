"""The way to the database for sync code, which holds up no event loop: tasks, commands."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from django.db import connection, transaction

from conversations.lanes.database import Database, DjangoDatabase, SqliteDatabase, in_our_words

T = TypeVar("T")


def perform(job: Callable[[Database], T], *, dry_run: bool = False) -> T:
    """Run a job as one atomic unit, in this thread and on Django's own connection.

    Within `atomic()` it is part of that transaction. An error the job raises undoes its writes; so
    does a dry run. Raises StoreError when the engine fails.
    """
    with _in_our_words(), transaction.atomic():
        outcome = job(_database())
        if dry_run:
            transaction.set_rollback(True)
        return outcome


def look_up(job: Callable[[Database], T]) -> T:
    """Run a job that only reads, in this thread and on Django's own connection.

    No transaction is opened: it waits for no writer, and works where nothing can be written.
    Raises StoreError when the engine fails.
    """
    with _in_our_words():
        connection.ensure_connection()
        return job(_database())


def _database() -> Database:
    """Django's connection, which is open."""
    is_sqlite = connection.vendor == "sqlite"
    return SqliteDatabase(connection.connection) if is_sqlite else DjangoDatabase()


@contextmanager
def _in_our_words() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        translated = in_our_words(error)
        if translated is error:
            raise
        raise translated from error
