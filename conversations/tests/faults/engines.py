"""The engines the harness runs on: SQLite in both journal modes, and PostgreSQL."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from conversations import sqlite

ENGINES: Final = ("wal", "delete", "postgresql")
DEFAULT_SERVER: Final = "postgresql://postgres@127.0.0.1:5432/postgres"


def server_url() -> str:
    return os.environ.get("TEST_DATABASE_URL") or DEFAULT_SERVER


def engines_present() -> list[str]:
    """Those that can be had here: WAL with a SQLite that is safe for it, a server that answers."""
    found = ["wal"] if sqlite.is_wal_safe(sqlite.engine_version()) else []
    return [*found, "delete", *(["postgresql"] if _answers(server_url()) else [])]


@contextmanager
def database(engine: str, folder: Path) -> Iterator[dict[str, str]]:
    """An empty database of that engine, as the environment names it; gone at the end."""
    path = folder / "data" / "chat.db"
    if engine == "postgresql":
        with own_database(server_url()) as url:
            yield {"DATABASE_URL": url}
        return
    path.parent.mkdir(mode=0o700)
    if engine == "delete":  # a file that exists keeps its journal
        with closing(sqlite.driver().connect(path, isolation_level=None)) as connection:
            connection.execute("PRAGMA auto_vacuum=INCREMENTAL")
            connection.execute("PRAGMA journal_mode=DELETE")
            connection.execute("VACUUM")
        path.chmod(0o600)
    yield {"DATABASE_URL": "", "AGENT_SESSION_DB_PATH": str(path)}


@contextmanager
def own_database(server: str) -> Iterator[str]:
    import psycopg

    name = f"faults_{os.getpid()}_{secrets.token_hex(3)}"
    with closing(psycopg.connect(server, autocommit=True)) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')  # type: ignore[arg-type]
        try:
            yield urlsplit(server)._replace(path=f"/{name}").geturl()
        finally:
            connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')  # type: ignore[arg-type]


def _answers(url: str) -> bool:
    try:
        import psycopg

        psycopg.connect(url, connect_timeout=3).close()
    except Exception:
        return False
    return True
