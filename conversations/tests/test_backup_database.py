"""`manage.py backup_database`: a copy of a database in use."""

from __future__ import annotations

import json
import stat
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from django.db import connection

from conversations import sqlite
from conversations.sqlite import copying
from conversations.tests.commands import call, run
from conversations.tests.sweeps_helpers import remember

pytestmark = pytest.mark.django_db(transaction=True)
on_sqlite = pytest.mark.skipif(connection.vendor != "sqlite", reason="of the embedded engine")


def texts(path: Path) -> list[str]:
    with closing(sqlite.driver().connect(path)) as raw:
        rows = raw.execute("SELECT text FROM conversations_chatmessage ORDER BY position")
        return [text for (text,) in rows.fetchall()]


@on_sqlite
def test_the_copy_is_whole_private_and_ready_to_be_used(session, tmp_path):
    remember(session, 3)
    path = tmp_path / "copy.db"
    found = json.loads(run("backup_database", str(path), "--json"))
    assert found == {"file": str(path), "bytes": path.stat().st_size}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]
    assert texts(path) == ["a secret 0", "a secret 1", "a secret 2"]
    with closing(sqlite.driver().connect(path)) as raw:
        assert raw.execute("PRAGMA journal_mode").fetchone() == (sqlite.journal_mode(),)
        assert raw.execute("PRAGMA auto_vacuum").fetchone() == (2,)


@on_sqlite
def test_nothing_that_was_deleted_is_in_it(session, tmp_path):
    remember(session, 200)
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM conversations_chatmessage WHERE text <> 'a secret 7'")
    path = tmp_path / "copy.db"
    run("backup_database", str(path))
    # Its text, and what the model was given.
    assert path.read_bytes().count(b"a secret") == 2


@on_sqlite
def test_whoever_writes_meanwhile_goes_on(session, tmp_path):
    remember(session, 2)
    ended = threading.Event()

    def write() -> None:
        from django.db import connections

        try:
            while not ended.is_set():
                remember(session, 1)
        finally:
            connections.close_all()

    thread = threading.Thread(target=write)
    thread.start()
    try:
        copies = [tmp_path / f"{number}.db" for number in range(3)]
        for path in copies:
            run("backup_database", str(path))
    finally:
        ended.set()
        thread.join()
    counts = [len(texts(path)) for path in copies]
    assert 2 <= counts[0] <= counts[1] <= counts[2] <= session.messages.count()


@on_sqlite
@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("there", "is there already; name a new file."),
        (".", "is there already; name a new file."),
        ("no/folder", "cannot be written: No such"),
        ("half\udcff", "cannot be written: name it in UTF-8"),
    ],
    ids=["file", "folder", "no-folder", "no-utf-8"],
)
def test_what_cannot_be_written_is_said(session, tmp_path, name, complaint):
    (tmp_path / "there").write_text("kept")
    ended = call("backup_database", str(tmp_path / name))
    assert ended.returncode == 1
    assert complaint in ended.complaint
    assert (tmp_path / "there").read_text() == "kept"
    assert len(list(tmp_path.iterdir())) == 1


@on_sqlite
def test_no_name_is_none(session):
    ended = call("backup_database", "")
    assert (ended.returncode, ended.printed) == (1, "")
    assert "name a new file" in ended.complaint


@on_sqlite
def test_a_copy_that_is_not_whole_is_none(session, tmp_path, monkeypatch):
    class Damaged:
        def execute(self, sql: str) -> Any:
            return self

        def fetchall(self) -> list[tuple[str]]:
            return [("row 1 missing from index",)]

        def close(self) -> None: ...

    driver = sqlite.driver()
    monkeypatch.setattr(driver, "connect", lambda *args, **options: Damaged())
    monkeypatch.setattr(copying, "driver", lambda: driver)
    ended = call("backup_database", str(tmp_path / "copy.db"))
    assert (ended.returncode, "the copy is damaged" in ended.complaint) == (1, True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(connection.vendor == "sqlite", reason="of another engine")
def test_another_engine_has_a_tool_of_its_own(tmp_path):
    ended = call("backup_database", str(tmp_path / "copy.db"))
    assert (ended.returncode, ended.complaint) == (
        1,
        "This site's database is not SQLite: use pg_dump.",
    )
