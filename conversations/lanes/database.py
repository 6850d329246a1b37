"""A connection as a job sees it, and the engine's failures in our words."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final
from uuid import UUID

from django.db import DatabaseError, IntegrityError, InterfaceError, connection

from conversations import sqlite
from conversations.errors import StoreBusy, StoreDamaged, StoreError, StoreMissing, StoreReadOnly

# Primary result codes, https://sqlite.org/rescode.html
_BUSY: Final = {5, 6}
_READ_ONLY: Final = {3, 8, 13, 14}  # PERM, READONLY, FULL, CANTOPEN
_DAMAGED: Final = {11, 26}  # CORRUPT, NOTADB
# The same by PostgreSQL's codes, https://www.postgresql.org/docs/current/errcodes-appendix.html
_BUSY_STATES: Final = {"55P03", "40P01", "40001"}  # lock not available, deadlock, serialization
_READ_ONLY_STATES: Final = {"25006", "53100"}  # read-only transaction, disk full
_DAMAGED_STATES: Final = {"XX001", "XX002"}  # data, index corrupted


class Database:
    """One connection: hand-written SQL with `%s` placeholders, on either engine."""

    is_sqlite: bool

    def run(self, sql: str, params: Sequence[Any] = ()) -> int:
        """Execute, and return how many rows were touched."""
        return int(self._execute(sql, params).rowcount)

    def run_many(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        raise NotImplementedError

    def one(self, sql: str, params: Sequence[Any] = ()) -> Any:
        """The first row as a tuple, or None."""
        return self._execute(sql, params).fetchone()

    def all(self, sql: str, params: Sequence[Any] = ()) -> list[Any]:
        return list(self._execute(sql, params).fetchall())

    def _execute(self, sql: str, params: Sequence[Any]) -> Any:
        raise NotImplementedError


class SqliteDatabase(Database):
    """The driver's own connection beneath Django's: the cursor's wrappers cost half an append."""

    is_sqlite = True

    def __init__(self, raw: Any) -> None:
        self.raw = raw

    def run_many(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        self.raw.executemany(_question_marks(sql), rows)

    def _execute(self, sql: str, params: Sequence[Any]) -> Any:
        return self.raw.execute(_question_marks(sql), params)


class DjangoDatabase(Database):
    """Django's cursor."""

    is_sqlite = False

    def __init__(self) -> None:
        self._cursor = connection.cursor()

    def run_many(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        self._cursor.executemany(sql, rows)

    def _execute(self, sql: str, params: Sequence[Any]) -> Any:
        self._cursor.execute(sql, params)
        return self._cursor


def store_error(error: BaseException) -> StoreError | None:
    """The engine's failure in our words, or None where `error` is not a failure of the engine."""
    if isinstance(error, StoreError):
        return error
    sqlite3 = sqlite.driver()
    if isinstance(error, IntegrityError | sqlite3.IntegrityError):
        return None
    cause = error.__cause__ if isinstance(error, DatabaseError | InterfaceError) else None
    if isinstance(cause, sqlite.FileMissing):
        return StoreMissing()
    code = getattr(cause or error, "sqlite_errorcode", None)
    primary = code & 0xFF if code is not None else None
    state = getattr(cause, "sqlstate", None)
    if primary in _BUSY or state in _BUSY_STATES:
        return StoreBusy()
    if primary in _READ_ONLY or state in _READ_ONLY_STATES:
        return StoreReadOnly()
    if primary in _DAMAGED or state in _DAMAGED_STATES:
        return StoreDamaged()
    engines = (DatabaseError, InterfaceError, sqlite3.Error, UnicodeDecodeError, OverflowError)
    return StoreError() if isinstance(error, engines) else None


def in_our_words(error: BaseException) -> BaseException:
    """`error` as a caller meets it: StoreError, Django's IntegrityError, or what the job raised."""
    if isinstance(error, sqlite.driver().IntegrityError):
        translated: BaseException = IntegrityError(*error.args)
    else:
        translated = store_error(error) or error
    if translated is not error:
        translated.__cause__ = error
    return translated


def to_uuid(value: Any) -> UUID:
    """A UUID column's value as either engine returns it."""
    return value if isinstance(value, UUID) else UUID(value)


def to_moment(value: Any) -> datetime | None:
    """A time column's value as either engine returns it, aware and in UTC."""
    if value is None:
        return None
    moment = datetime.fromisoformat(value) if isinstance(value, str) else value
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def from_uuid(value: UUID | None, *, is_sqlite: bool) -> Any:
    """A UUID as the engine stores it."""
    return value.hex if is_sqlite and value is not None else value


def from_moment(value: datetime | None, *, is_sqlite: bool) -> Any:
    """An aware time as the engine stores it."""
    if not is_sqlite or value is None:
        return value
    return str(value.astimezone(UTC).replace(tzinfo=None))


@lru_cache(maxsize=256)
def _question_marks(sql: str) -> str:
    return sql.replace("%s", "?")
