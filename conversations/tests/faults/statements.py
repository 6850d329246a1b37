"""An engine whose k-th statement, or k-th commit, fails with what it would say itself.

with breakable() as fault:
    fault.arm("full", at=3)      # or lasts=True: every later one fails, too
    ...
    was_hit = fault.disarm()
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any, Final
from unittest import mock

from django.db import DEFAULT_DB_ALIAS, OperationalError, connection, connections

from conversations import lanes, sqlite
from conversations.lanes.database import DjangoDatabase

COMMITTED: Final = "unknown"
"""The commit is done, and its answer is lost."""

# https://sqlite.org/rescode.html. After the others the engine has undone the transaction.
_SQLITE: Final = {
    "busy": (5, "database is locked"),
    "full": (13, "database or disk is full"),
    "io": (10, "disk I/O error"),
    "damaged": (11, "database disk image is malformed"),
    COMMITTED: (10, "disk I/O error"),
}
KINDS: Final = ("busy", "full", "io", "damaged")
POSTGRESQL_KINDS: Final = ("busy", "full", "gone")


def kinds() -> tuple[str, ...]:
    """How a statement may fail on the engine of this run."""
    return KINDS if connection.vendor == "sqlite" else POSTGRESQL_KINDS


class Fault:
    """What is to fail, and when; disarmed, it counts and breaks nothing."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._kind = ""
        self._at = self._count = 0
        self._lasts = self._in_commits = False
        self.hit: list[str] = []
        """The statements that were made to fail."""

    def arm(self, kind: str, *, at: int, lasts: bool = False, in_commits: bool = False) -> None:
        with self._guard:
            self._kind, self._at, self._count, self.hit = kind, at, 0, []
            self._lasts, self._in_commits = lasts, in_commits

    def disarm(self) -> bool:
        """Whether anything was made to fail."""
        with self._guard:
            self._kind = ""
            return bool(self.hit)

    def due(self, sql: str) -> str:
        """How this statement fails; empty where it does not."""
        is_commit = sql == "COMMIT"
        with self._guard:
            if not self._kind or (self._in_commits and not is_commit):
                return ""
            self._count += 1
            if self._count < self._at or (self._count > self._at and not self._lasts):
                return ""
            self.hit.append(sql)
            return self._kind


@contextlib.contextmanager
def breakable() -> Iterator[Fault]:
    """The lanes of this process, on connections that can fail."""
    fault = Fault()
    lanes.close()
    begin = _breakable_sqlite if connection.vendor == "sqlite" else _breakable_postgresql
    try:
        with begin(fault):
            yield fault
    finally:
        lanes.close()


@contextlib.contextmanager
def _breakable_sqlite(fault: Fault) -> Iterator[None]:
    driver = sqlite.driver()

    class BreakableConnection(driver.Connection):  # type: ignore[misc]
        def execute(self, sql: str, *params: Any) -> Any:
            kind = "" if sql.startswith("ROLLBACK") else fault.due(sql)
            if not kind:
                return super().execute(sql, *params)
            raise self._failure(kind)

        def executemany(self, sql: str, *params: Any) -> Any:
            kind = fault.due(sql)
            if not kind:
                return super().executemany(sql, *params)
            raise self._failure(kind)

        def _failure(self, kind: str) -> Exception:
            if kind == COMMITTED:
                super().execute("COMMIT")
            elif kind != "busy" and self.in_transaction:
                super().execute("ROLLBACK")
            code, message = _SQLITE[kind]
            error = driver.DatabaseError if kind == "damaged" else driver.OperationalError
            failure: Exception = error(message)
            failure.sqlite_errorcode = code  # type: ignore[attr-defined]
            return failure

    options = connections.settings[DEFAULT_DB_ALIAS]["OPTIONS"]
    with mock.patch.dict(options, {"factory": BreakableConnection}):
        yield


@contextlib.contextmanager
def _breakable_postgresql(fault: Fault) -> Iterator[None]:
    from psycopg import errors

    execute, run_many = DjangoDatabase._execute, DjangoDatabase.run_many
    wrapper = type(connections[DEFAULT_DB_ALIAS])
    commit = wrapper._commit

    def fail(kind: str) -> None:
        """Raise, or leave a connection on which the statement itself will."""
        if kind == "gone":
            connection.connection.close()
            return
        cause = errors.LockNotAvailable() if kind == "busy" else errors.DiskFull()
        raise OperationalError from cause

    def breakable_execute(self: DjangoDatabase, sql: str, params: Any) -> Any:
        if kind := fault.due(sql):
            fail(kind)
        return execute(self, sql, params)

    def breakable_run_many(self: DjangoDatabase, sql: str, rows: Any) -> None:
        if kind := fault.due(sql):
            fail(kind)
        run_many(self, sql, rows)

    def breakable_commit(self: Any) -> None:
        kind = fault.due("COMMIT") if threading.current_thread().name.startswith("store-") else ""
        if kind == COMMITTED:
            commit(self)
            self.connection.close()
            raise OperationalError from errors.AdminShutdown()
        if kind:
            fail(kind)
        commit(self)

    with (
        mock.patch.object(DjangoDatabase, "_execute", breakable_execute),
        mock.patch.object(DjangoDatabase, "run_many", breakable_run_many),
        mock.patch.object(wrapper, "_commit", breakable_commit),
    ):
        yield
