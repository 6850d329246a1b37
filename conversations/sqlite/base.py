"""Django's SQLite backend with a prepared file and one queue of writers per process."""

from __future__ import annotations

import threading
from typing import Any

from django.db import OperationalError
from django.db.backends.sqlite3 import base

from conversations import sqlite


class DatabaseWrapper(base.DatabaseWrapper):
    """Takes the process-wide write lock for every transaction that `atomic()` opens."""

    _held: threading.Lock | None = None

    def get_new_connection(self, conn_params: dict[str, Any]) -> Any:
        sqlite.prepare_file(str(self.settings_dict["NAME"]))
        return super().get_new_connection(conn_params)

    def _start_transaction_under_autocommit(self) -> None:
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
