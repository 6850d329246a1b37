"""Django's SQLite backend with a prepared file and one queue of writers per process."""

from __future__ import annotations

import threading
from typing import Any, Final

from django.db import OperationalError
from django.db.backends.sqlite3 import base

from conversations import sqlite

OPENED_AT_MOST: Final = 5


class DatabaseWrapper(base.DatabaseWrapper):
    """Takes the process-wide write lock for every transaction that `atomic()` opens."""

    _held: threading.Lock | None = None
    _place: tuple[str, sqlite.Identity] | None = None

    def get_new_connection(self, conn_params: dict[str, Any]) -> Any:
        name = str(self.settings_dict["NAME"])
        for _ in range(OPENED_AT_MOST):
            try:
                before = sqlite.prepare_file(name)
            except sqlite.FileMissing as error:
                raise OperationalError("the database file is missing") from error
            raw = super().get_new_connection(conn_params)
            if before is None:
                return raw
            try:
                # Having read, it holds its log: it will never look for it by name again.
                raw.execute("PRAGMA schema_version").fetchone()
                if sqlite.bind(name, before):
                    self._place = (name, before)
                    return raw
            except BaseException:
                raw.close()
                raise
            raw.close()
        raise OperationalError("the database file is being replaced")

    @property
    def file(self) -> sqlite.Identity | None:
        """Which file this connection has opened; None for one in memory."""
        return self._place[1] if self._place else None

    @property
    def is_in_place(self) -> bool:
        """Whether the file this connection opened is still the one at its path."""
        return self._place is None or sqlite.identity(self._place[0]) == self._place[1]

    def is_usable(self) -> bool:
        return self.is_in_place and bool(super().is_usable())

    def _start_transaction_under_autocommit(self) -> None:
        if not self.is_in_place:  # what is written there, nobody would find
            raise OperationalError("the database file was moved or replaced")
        lock = sqlite.write_lock(str(self.settings_dict["NAME"]))
        if not lock.acquire(timeout=self.settings_dict["OPTIONS"].get("timeout", 5)):
            raise OperationalError("database is locked")
        self._held = lock
        try:
            super()._start_transaction_under_autocommit()  # type: ignore[misc]
        except BaseException:
            self._release()
            raise

    def _commit(self) -> None:
        super()._commit()  # type: ignore[misc]
        self._release()

    def _rollback(self) -> None:
        try:
            super()._rollback()  # type: ignore[misc]
        finally:
            self._release()

    def _close(self) -> None:
        try:
            super()._close()  # type: ignore[misc]
        finally:
            self._release()

    def _release(self) -> None:
        lock, self._held = self._held, None
        if lock is not None:
            lock.release()
