"""The embedded engine: which SQLite library this process uses, and what its file must look like.

Nothing here imports Django, so that an entry point can call `use_safe_library` before the first
`import sqlite3`. The Django backend built on it is `conversations.sqlite.base`.
"""

from __future__ import annotations

import fcntl
import importlib
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

FOLDER_MODE: Final = 0o700
FILE_MODE: Final = 0o600
BUSY_TIMEOUT_SECONDS: Final = 20

Identity = tuple[int, int]
"""A file's device and number: what stays the same when it is renamed, and only then."""

_known: dict[str, _Known] = {}
_write_locks: dict[str, threading.Lock] = {}
_guard = threading.Lock()


def use_safe_library() -> None:
    """Make `import sqlite3` mean the newest SQLite that is installed.

    Two SQLite libraries in one process are blind to each other's locks, so this must run before
    Django's backend is imported; afterwards it changes nothing. Idempotent.
    """
    if "django.db.backends.sqlite3.base" in sys.modules:
        return
    try:
        bundled = importlib.import_module("pysqlite3")
    except ImportError:
        return  # no wheel for this platform: the standard library's SQLite serves
    sys.modules["sqlite3"] = bundled
    sys.modules["sqlite3.dbapi2"] = importlib.import_module("pysqlite3.dbapi2")


def driver() -> Any:
    """The sqlite3 module in use."""
    return importlib.import_module("sqlite3")


def engine_version() -> tuple[int, int, int]:
    """The version of the SQLite in use, as three numbers."""
    major, minor, patch = driver().sqlite_version_info[:3]
    return major, minor, patch


def is_wal_safe(version: tuple[int, int, int]) -> bool:
    """Whether this SQLite has the fix of the WAL-reset bug (https://sqlite.org/wal.html#walresetbug).

    Fixed in 3.51.3, with backports to 3.50.7 and 3.44.6; anything else may corrupt a WAL file that
    has two writing connections.
    """
    return (
        version >= (3, 51, 3)
        or (3, 50, 7) <= version < (3, 51, 0)
        or (3, 44, 6) <= version < (3, 45, 0)
    )


def journal_mode() -> str:
    """The journal mode a new file gets: WAL only where it is safe."""
    return "wal" if is_wal_safe(engine_version()) else "delete"


def database_settings(path: str | Path, *, synchronous: str = "FULL") -> dict[str, Any]:
    """The `DATABASES` entry for a file at `path`, with the options that were measured to hold.

    IMMEDIATE and a long busy timeout: with Django's defaults nearly every concurrent write fails
    with "database is locked". FULL: what was acknowledged survives a power cut.
    """
    return {
        "ENGINE": "conversations.sqlite",
        "NAME": str(path),
        "CONN_MAX_AGE": 0,
        "OPTIONS": {
            "transaction_mode": "IMMEDIATE",
            "timeout": BUSY_TIMEOUT_SECONDS,
            "init_command": (
                f"PRAGMA synchronous={synchronous};"
                "PRAGMA secure_delete=ON;"
                "PRAGMA cache_size=2000;"
                "PRAGMA journal_size_limit=27103364"
            ),
        },
    }


def identity(name: str) -> Identity | None:
    """Which file is at this path now; None where there is none."""
    try:
        found = os.stat(name)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def prepare_file(name: str) -> Identity | None:
    """Create the file and its folder if need be, private to this user, in the right journal mode.

    Runs before every connection, and looks closely once per process and file. An existing file
    keeps its journal mode unless it may be in WAL under a library that is not safe for it, and
    another connection may be open: `conversations.checks` then says so. Raises FileMissing rather
    than make anew what this process has already used. In-memory databases need nothing.
    """
    if not name or name == ":memory:" or name.startswith("file:"):
        return None
    with _guard:
        found, known = identity(name), _known.get(name)
        if known is not None and found is None:
            raise FileMissing
        if known is None or known.file != found:
            path = Path(name)
            _make_private(path)
            with _alone_in(path.parent):
                if known is not None:
                    _drop_old_log(path, known)
                elif not path.exists():
                    _set_logs_aside(path)
                    _create_file(path)
            found = identity(name)
            _known[name] = _Known(found)
        return found


def bind(name: str, before: Identity) -> bool:
    """Remember the log of a connection that has read, so that it is known again as the old one.

    False where the file is not the one there was `before` the connection was opened: it may have
    one file and the other's log, and must not be used.
    """
    with _guard:
        if identity(name) != before:
            return False
        for suffix in ("-wal", "-shm"):
            _keep_writable(f"{name}{suffix}")
        known = _known.setdefault(name, _Known(before))
        log = f"{name}-wal"
        if known.log != identity(log):
            known.release()
            with suppress(OSError):  # the rollback journal has none
                # Held open: as long as it is, no other file can have the same number. (Nobody
                # takes locks on this file, so that closing it drops none.)
                known.held = os.open(log, os.O_RDONLY)
        return True


def _keep_writable(log: str) -> None:
    # SQLite gives them the mode the file has just then: made while it may only be read, they would
    # keep everybody from writing after it may be written again.
    with suppress(OSError):
        status = os.stat(log)
        if status.st_uid == os.geteuid() and not status.st_mode & 0o200:
            os.chmod(log, FILE_MODE)


class FileMissing(Exception):
    """The database file this process has used is gone from its path."""


class _Known:
    """A file this process has used, and the write-ahead log its connections write to."""

    def __init__(self, file: Identity | None) -> None:
        self.file = file
        self.held: int | None = None

    @property
    def log(self) -> Identity | None:
        if self.held is None:
            return None
        found = os.fstat(self.held)
        return found.st_dev, found.st_ino

    def release(self) -> None:
        if self.held is not None:
            os.close(self.held)
            self.held = None


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Only one process at a time decides what becomes of the files beside a database."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _drop_old_log(path: Path, known: _Known) -> None:
    """Another file is at the path: a log that belongs to the one before must not be replayed on it.

    Only a log that is provably the one our own connections wrote is removed; it may also be gone
    already, or be the new file's. Those connections need not be closed first: they have read, so
    they hold the old log and its index by descriptor, and SQLite neither checkpoints nor deletes by
    name when it closes a file that was moved.
    """
    if known.held is not None and identity(f"{path}-wal") == known.log:
        for suffix in ("-wal", "-shm"):
            Path(f"{path}{suffix}").unlink(missing_ok=True)
    known.release()


def _set_logs_aside(path: Path) -> None:
    """A log without its file would be replayed on the new one; its rows may be all that is left."""
    for suffix in ("-wal", "-shm", "-journal"):
        log = Path(f"{path}{suffix}")
        with suppress(FileNotFoundError):
            log.rename(f"{log}.orphan-{os.urandom(4).hex()}")


def _make_private(path: Path) -> None:
    folder = path.parent
    folder.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
    files = [file for file in folder.iterdir() if file.name.startswith(path.name)]
    holds_more = any(file not in files and file.name[0] != "." for file in folder.iterdir())
    for place, mode in [(folder, FOLDER_MODE), *((file, FILE_MODE) for file in files)]:
        if place == folder and holds_more:
            continue  # not ours alone: the system check says who can read it
        with suppress(FileNotFoundError):  # a journal comes and goes with its transaction
            status = place.stat()
            if status.st_uid == os.geteuid() and status.st_mode & 0o077:
                place.chmod(mode)


def _create_file(path: Path) -> None:
    # Created under another name and linked: nobody ever sees the file half prepared. The name is
    # not the process id: containers have the same ones again, and a crash may leave a draft.
    draft = path.with_name(f".{path.name}.{os.urandom(8).hex()}")
    os.close(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_RDWR, FILE_MODE))
    try:
        with closing(driver().connect(draft, isolation_level=None)) as connection:
            connection.execute("PRAGMA auto_vacuum=INCREMENTAL")  # silently ignored after WAL
            connection.execute(f"PRAGMA journal_mode={journal_mode()}")
            connection.execute("VACUUM")  # writes the header, so that both settings stay
        os.link(draft, path)  # fails where another process was faster: its file is as good
    except FileExistsError:
        pass
    finally:
        draft.unlink(missing_ok=True)


def write_lock(name: str) -> threading.Lock:
    """The lock every write transaction of this process on this file takes first.

    SQLite's own busy wait is unfair: 32 clients waited up to 2.7 s, with this lock 0.6 s.
    """
    with _guard:
        return _write_locks.setdefault(name, threading.Lock())


def forget_after_fork() -> None:
    """A forked child starts with locks nobody holds."""
    global _guard  # noqa: PLW0603 - the one piece of process-wide state here
    _guard = threading.Lock()
    _write_locks.clear()


os.register_at_fork(after_in_child=forget_after_fork)
