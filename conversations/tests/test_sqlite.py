"""The embedded engine: one library per process, one private file, one writer at a time."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from django.db import OperationalError, connection, transaction

from conversations import sqlite
from conversations.tests.other_process import ROOT, finish, run_python, start_python

on_sqlite = pytest.mark.skipif("connection.vendor != 'sqlite'", reason="Django's SQLite backend")


# Which library


@pytest.mark.parametrize(
    ("version", "safe"),
    [
        ((3, 7, 0), False),
        ((3, 40, 1), False),
        ((3, 44, 5), False),
        ((3, 44, 6), True),
        ((3, 44, 99), True),
        ((3, 45, 0), False),
        ((3, 50, 6), False),
        ((3, 50, 7), True),
        ((3, 51, 0), False),
        ((3, 51, 2), False),
        ((3, 51, 3), True),
        ((3, 52, 0), True),
        ((4, 0, 0), True),
    ],
)
def test_wal_is_used_only_where_its_bug_is_fixed(monkeypatch, version, safe):
    monkeypatch.setattr(sqlite, "engine_version", lambda: version)
    assert sqlite.is_wal_safe(version) is safe
    assert sqlite.journal_mode() == ("wal" if safe else "delete")


def test_the_version_is_that_of_the_library_in_use():
    with closing(sqlite.driver().connect(":memory:")) as raw:
        (version,) = raw.execute("SELECT sqlite_version()").fetchone()
    assert ".".join(map(str, sqlite.engine_version())) == version


def test_the_site_has_one_library_whoever_asks_for_it():
    pytest.importorskip("pysqlite3", reason="no wheel for this platform")
    names = run_python(
        """
        import chatsite, django, sqlite3, sqlite3.dbapi2
        django.setup()
        from django.db.backends.sqlite3 import base
        print(sqlite3.__name__, sqlite3.dbapi2.__name__, base.Database.__name__)
        print(len({sqlite3.sqlite_version, base.Database.sqlite_version}))
        """
    )
    assert names == "pysqlite3 pysqlite3.dbapi2 pysqlite3.dbapi2\n1"


def test_without_the_wheel_the_standard_library_serves():
    assert (
        run_python(
            """
        import sys
        sys.modules["pysqlite3"] = None  # importing it now fails
        import chatsite
        from conversations import sqlite
        print(sqlite.driver().__name__)
        """
        )
        == "sqlite3"
    )


@on_sqlite
def test_the_library_is_never_changed_once_django_has_one():
    before = sqlite.driver()
    sqlite.use_safe_library()
    assert sqlite.driver() is before


# The file


@pytest.fixture
def lax_umask() -> Iterator[None]:
    """What a shell usually has: new files can be read by everybody."""
    before = os.umask(0o022)
    yield
    os.umask(before)


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def pragma(path: Path, name: str) -> Any:
    with closing(sqlite.driver().connect(path)) as raw:
        return raw.execute(f"PRAGMA {name}").fetchone()[0]


def forget(path: Path) -> None:
    """As if another process prepared the file."""
    sqlite._known.pop(str(path), None)


@pytest.mark.usefixtures("lax_umask")
def test_file_folder_and_journals_are_private(tmp_path):
    path = tmp_path / "data" / "deeper" / "chat.db"
    sqlite.prepare_file(str(path))
    assert mode_of(path.parent) == 0o700
    assert mode_of(path) == 0o600
    with closing(sqlite.driver().connect(path)) as raw:
        raw.execute("CREATE TABLE said (words)")
        raw.commit()
        files = {file.name: mode_of(file) for file in path.parent.iterdir()}
    assert set(files.values()) == {0o600}
    if sqlite.journal_mode() == "wal":
        assert files.keys() == {"chat.db", "chat.db-wal", "chat.db-shm"}


@pytest.mark.parametrize("safe", [True, False])
def test_a_new_file_can_shrink_and_has_the_journal_the_gate_allows(tmp_path, monkeypatch, safe):
    monkeypatch.setattr(sqlite, "is_wal_safe", lambda version: safe)
    path = tmp_path / "chat.db"
    sqlite.prepare_file(str(path))
    assert pragma(path, "auto_vacuum") == 2  # incremental
    assert pragma(path, "journal_mode") == ("wal" if safe else "delete")


@pytest.mark.usefixtures("lax_umask")
def test_what_lay_open_is_made_private(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir(mode=0o755)
    path = folder / "chat.db"
    for name in ("chat.db", "chat.db-wal", "chat.db-shm"):
        (folder / name).touch(mode=0o644)
    sqlite.prepare_file(str(path))
    assert mode_of(folder) == 0o700
    assert {mode_of(file) for file in folder.iterdir()} == {0o600}


@pytest.mark.usefixtures("lax_umask")
def test_a_folder_that_holds_other_things_keeps_its_mode(tmp_path):
    folder = tmp_path / "shared"
    folder.mkdir(mode=0o755)
    (folder / "website.html").touch(mode=0o644)
    path = folder / "chat.db"
    path.touch(mode=0o644)
    sqlite.prepare_file(str(path))
    assert mode_of(folder) == 0o755
    assert mode_of(folder / "website.html") == 0o644
    assert mode_of(path) == 0o600


def test_an_existing_file_keeps_its_journal_and_its_rows(tmp_path, monkeypatch):
    path = tmp_path / "chat.db"
    monkeypatch.setattr(sqlite, "is_wal_safe", lambda version: False)
    sqlite.prepare_file(str(path))
    with closing(sqlite.driver().connect(path)) as raw:
        raw.execute("CREATE TABLE said (words)")
        raw.execute("INSERT INTO said VALUES ('hello')")
        raw.commit()
    forget(path)
    monkeypatch.setattr(sqlite, "is_wal_safe", lambda version: True)
    sqlite.prepare_file(str(path))
    assert pragma(path, "journal_mode") == "delete"
    with closing(sqlite.driver().connect(path)) as raw:
        assert raw.execute("SELECT words FROM said").fetchall() == [("hello",)]


def test_preparing_again_changes_nothing(tmp_path):
    path = tmp_path / "chat.db"
    sqlite.prepare_file(str(path))
    before = path.stat()
    sqlite.prepare_file(str(path))
    forget(path)
    sqlite.prepare_file(str(path))
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert [file.name for file in tmp_path.iterdir()] == ["chat.db"]


def test_a_file_that_was_removed_is_made_again_only_by_who_never_used_it(tmp_path):
    path = tmp_path / "chat.db"
    sqlite.prepare_file(str(path))
    path.unlink()
    with pytest.raises(sqlite.FileMissing):
        sqlite.prepare_file(str(path))
    assert not path.exists()
    forget(path)
    sqlite.prepare_file(str(path))
    assert pragma(path, "auto_vacuum") == 2


@pytest.mark.parametrize("suffix", ["-wal", "-journal"])
def test_a_log_whose_file_is_gone_is_not_replayed_on_a_new_one(tmp_path, suffix):
    path = tmp_path / "chat.db"
    (tmp_path / f"chat.db{suffix}").write_bytes(b"what was said")
    sqlite.prepare_file(str(path))
    assert not (tmp_path / f"chat.db{suffix}").exists()
    (kept,) = tmp_path.glob(f"chat.db{suffix}.orphan-*")
    assert kept.read_bytes() == b"what was said"
    assert pragma(path, "integrity_check") == "ok"


def test_what_a_crash_left_of_a_half_made_file_stops_nobody(tmp_path):
    (tmp_path / f".chat.db.{os.getpid()}").touch()  # in a container the ids are the same again
    sqlite.prepare_file(str(tmp_path / "chat.db"))
    assert pragma(tmp_path / "chat.db", "auto_vacuum") == 2


@pytest.mark.parametrize("name", ["", ":memory:", "file:shared?mode=memory"])
def test_what_is_no_file_needs_no_preparing(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    sqlite.prepare_file(name)
    assert list(tmp_path.iterdir()) == []


def test_of_many_processes_that_begin_at_once_none_fails_or_loses_a_row(tmp_path):
    script = """
        import os, sys, time
        from contextlib import closing
        from pathlib import Path
        from conversations import sqlite
        sqlite.use_safe_library()
        for number in range(15):
            path = Path(sys.argv[1]) / str(number) / "deep" / "chat.db"
            started = path.parents[2] / f"started-{number}-{sys.argv[2]}"
            started.touch()
            while len(list(started.parent.glob(f"started-{number}-*"))) < 8:
                time.sleep(0.001)  # the others need the machine to get here
            sqlite.prepare_file(str(path))
            with closing(sqlite.driver().connect(path, timeout=30)) as raw:
                raw.execute("CREATE TABLE IF NOT EXISTS said (words)")
                raw.execute("INSERT INTO said VALUES (?)", (sys.argv[2],))
                raw.commit()
    """
    for process in [start_python(script, str(tmp_path), str(number)) for number in range(8)]:
        finish(process)
    for path in tmp_path.glob("*/deep/chat.db"):
        with closing(sqlite.driver().connect(path)) as raw:
            rows = raw.execute("SELECT words FROM said").fetchall()
        assert {words for (words,) in rows} == set("01234567")
        assert pragma(path, "auto_vacuum") == 2
        assert pragma(path, "journal_mode") == sqlite.journal_mode()
        assert not list(path.parent.glob(".*"))


def test_a_process_may_begin_while_another_writes(tmp_path, monkeypatch):
    """Journals come and go under the eyes of whoever makes the files private."""
    monkeypatch.setattr(sqlite, "is_wal_safe", lambda version: False)
    path = tmp_path / "chat.db"
    sqlite.prepare_file(str(path))
    ended = threading.Event()

    def write() -> None:
        with closing(sqlite.driver().connect(path)) as raw:
            raw.execute("CREATE TABLE said (words)")
            while not ended.is_set():
                raw.execute("INSERT INTO said VALUES ('hello')")
                raw.commit()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(300):
            forget(path)
            sqlite.prepare_file(str(path))
    finally:
        ended.set()
        writer.join()


def test_the_settings_say_what_was_measured_to_hold(tmp_path):
    settings = sqlite.database_settings(tmp_path / "chat.db", synchronous="NORMAL")
    assert settings["NAME"] == str(tmp_path / "chat.db")
    assert settings["OPTIONS"]["transaction_mode"] == "IMMEDIATE"
    assert "PRAGMA synchronous=NORMAL" in settings["OPTIONS"]["init_command"]
    assert settings["CONN_MAX_AGE"] == 0


@on_sqlite
@pytest.mark.django_db
@pytest.mark.parametrize(
    ("name", "value"),
    [("synchronous", 2), ("secure_delete", 1), ("foreign_keys", 1), ("auto_vacuum", 2)],
)
def test_every_connection_has_its_options(name, value):
    with connection.cursor() as cursor:
        cursor.execute(f"PRAGMA {name}")
        assert cursor.fetchone() == (value,)


def test_the_site_sets_a_private_umask():
    assert run_python("import os, chatsite; print(oct(os.umask(0)))") == "0o77"
    assert (ROOT / "manage.py").read_text().index("import chatsite") < (
        (ROOT / "manage.py").read_text().index("django.core")
    )


@pytest.mark.parametrize("gone", ["replaced", "deleted"])
def test_closing_a_file_that_was_moved_touches_nothing_at_its_path(tmp_path, gone):
    """What the library promises us: old connections may be closed after the new file is in use."""
    if sqlite.journal_mode() != "wal":
        pytest.skip("WAL is not safe here")
    path, new = tmp_path / "chat.db", tmp_path / "new.db"
    for file in (path, new):
        with closing(sqlite.driver().connect(file, isolation_level=None)) as raw:
            raw.execute("PRAGMA journal_mode=wal")
            raw.execute("CREATE TABLE said (words)")
    old = [sqlite.driver().connect(path, isolation_level=None) for _ in range(2)]
    for raw in old:
        raw.execute("INSERT INTO said VALUES ('old')")
    path.unlink()
    for suffix in ("-wal", "-shm"):
        Path(f"{path}{suffix}").unlink()
    if gone == "replaced":
        new.rename(path)
        with closing(sqlite.driver().connect(path, isolation_level=None)) as raw:
            raw.execute("INSERT INTO said VALUES ('new')")
            before = {file.name: file.stat().st_ino for file in tmp_path.iterdir()}
            old[0].execute("INSERT INTO said VALUES ('into nothing')")
            for connection in old:
                connection.close()
            assert {file.name: file.stat().st_ino for file in tmp_path.iterdir()} == before
            assert raw.execute("SELECT words FROM said").fetchall() == [("new",)]
        assert pragma(path, "integrity_check") == "ok"
    else:
        for connection in old:
            connection.close()
        assert {file.name for file in tmp_path.iterdir()} == {"new.db"}


# One writer at a time


def test_a_file_has_one_lock_and_files_have_different_ones():
    assert sqlite.write_lock("a") is sqlite.write_lock("a")
    assert sqlite.write_lock("a") is not sqlite.write_lock("b")


def test_a_forked_child_finds_no_lock_taken():
    assert (
        run_python(
            """
        import os
        from conversations import sqlite
        sqlite.write_lock("chat.db").acquire()
        child = os.fork()
        if child:
            os.waitpid(child, 0)
        taken = sqlite.write_lock("chat.db").locked()
        print("parent:" if child else "child:", "taken" if taken else "free", flush=True)
        """
        )
        == "child: free\nparent: taken"
    )


@on_sqlite
@pytest.mark.django_db(transaction=True)
class TestTheBackend:
    """`atomic()` holds the process's write lock from its first statement to its end."""

    @pytest.fixture
    def lock(self) -> threading.Lock:
        return sqlite.write_lock(str(connection.settings_dict["NAME"]))

    def test_a_commit_releases_the_lock(self, lock):
        with transaction.atomic():
            assert lock.locked()
        assert not lock.locked()

    def test_a_savepoint_takes_no_second_lock(self, lock):
        with transaction.atomic():
            with transaction.atomic():
                assert lock.locked()
            assert lock.locked()
        assert not lock.locked()

    def test_a_rollback_releases_the_lock(self, lock):
        with pytest.raises(ZeroDivisionError), transaction.atomic():
            1 / 0  # noqa: B018
        assert not lock.locked()

    def test_closing_within_a_transaction_releases_the_lock(self, lock):
        with transaction.atomic():
            connection.close()
            assert not lock.locked()
            connection.needs_rollback = True  # what the block wrote is gone
        assert not lock.locked()

    def test_a_transaction_that_cannot_begin_releases_the_lock(self, lock):
        with closing(
            sqlite.driver().connect(connection.settings_dict["NAME"], isolation_level=None)
        ) as other:
            other.execute("BEGIN IMMEDIATE")
            with connection.cursor() as cursor:
                cursor.execute("PRAGMA busy_timeout=0")
            with pytest.raises(OperationalError, match="locked"), transaction.atomic():
                pass
            assert not lock.locked()
        connection.close()

    def test_who_waits_too_long_for_the_lock_hears_that_it_is_locked(self, lock, monkeypatch):
        monkeypatch.setitem(connection.settings_dict["OPTIONS"], "timeout", 0.01)
        with lock:
            with pytest.raises(OperationalError, match="is locked"), transaction.atomic():
                pass
            assert lock.locked()  # it is not ours to release
        with transaction.atomic():
            assert lock.locked()

    def test_a_read_without_a_transaction_takes_no_lock(self, lock):
        with lock, connection.cursor() as cursor:
            cursor.execute("SELECT 1")
            assert cursor.fetchone() == (1,)
