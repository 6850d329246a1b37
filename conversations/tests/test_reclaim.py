"""Deleted rows leave the file: pages, log, and what SQLite leaves where rows have moved."""

from __future__ import annotations

import random
import re
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from django.db import connection, transaction

from conversations import reclaim, sqlite
from conversations.errors import TransactionOpen
from conversations.sqlite import scrubbing, space
from conversations.sqlite.scrubbing import Layout
from conversations.sqlite.space import Reclaimed

ROWS = 1_500


def connect(path: Path) -> Any:
    raw = sqlite.driver().connect(path, isolation_level=None)
    raw.execute("PRAGMA secure_delete=ON")
    raw.execute("PRAGMA synchronous=OFF")
    return raw


def found(path: Path) -> tuple[int, int]:
    """How often the words of A and of B are in the file and what lies beside it."""
    files = [file for file in path.parent.iterdir() if file.name.startswith(path.name)]
    # By another process: to close a file here would drop the locks SQLite holds on it.
    everything = subprocess.run(["cat", *files], capture_output=True, check=True).stdout
    return len(re.findall(rb"canaryA", everything)), len(re.findall(rb"canaryB", everything))


def fill(raw: Any, rows: int = ROWS) -> None:
    """Rows of A and of B side by side, of all lengths, changed and deleted among each other."""
    chance = random.Random(1)
    raw.execute("CREATE TABLE row (id TEXT PRIMARY KEY, whose TEXT, text TEXT, name TEXT)")
    raw.execute("CREATE INDEX by_name ON row (whose, name)")
    for _ in range(rows):
        whose, key = chance.choice("AB"), f"{chance.getrandbits(128):032x}"
        text = f"canary{whose}" + "x" * chance.choice([3, 50, 400, 5000])
        raw.execute("INSERT INTO row VALUES (?, ?, ?, ?)", (key, whose, text, f"canary{whose}"))
        if chance.random() < 0.2:
            longer = f"canary{whose}" + "z" * chance.choice([3, 400, 5000])
            raw.execute("UPDATE row SET text = ? WHERE id = ?", (longer, key))


def delete(raw: Any, whose: str) -> None:
    some = "DELETE FROM row WHERE id IN (SELECT id FROM row WHERE whose = ? LIMIT 100)"
    while raw.execute(some, (whose,)).rowcount:
        pass


def give_back(path: Path, *, max_pages: int = 10**6, seconds: float = 60) -> Reclaimed:
    with closing(connect(path)) as raw:
        return space.reclaim(
            raw,
            name=str(path),
            file=sqlite.identity(str(path)) or (0, 0),
            lock=threading.Lock(),
            max_pages=max_pages,
            seconds=seconds,
        )


def plant(path: Path) -> int:
    """Words of A where nothing should be, in all pages that have room; in how many."""
    content = bytearray(path.read_bytes())
    layout = Layout(page_size=4096, usable=4096, has_pointer_map=True)
    dirty = 0
    for number in range(2, len(content) // 4096 + 1):
        at = (number - 1) * 4096
        gap = layout.gap_of(number, bytes(content[at : at + 4096]))
        if gap and gap[1] - gap[0] > 20:
            content[at + gap[1] - 7 : at + gap[1]] = b"canaryA"
            dirty += 1
    path.write_bytes(content)
    return dirty


@pytest.fixture(params=["wal", "delete"])
def path(request: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sqlite, "journal_mode", lambda: request.param)
    monkeypatch.setattr(space, "TRIES", 3)
    place = tmp_path / "data" / "x.db"
    sqlite.prepare_file(str(place))
    return place


@pytest.fixture
def raw(path: Path) -> Iterator[Any]:
    with closing(connect(path)) as raw:
        yield raw


def test_nothing_of_the_deleted_is_left_and_everything_of_the_others(path, raw):
    fill(raw)
    kept = raw.execute("SELECT * FROM row WHERE whose = 'B' ORDER BY id").fetchall()
    delete(raw, "A")
    before = path.stat().st_size
    reclaimed = give_back(path)
    assert found(path) == (0, sum(str(row).count("canaryB") for row in kept) + _indexed(raw))
    assert reclaimed.is_clean
    assert reclaimed.bytes == before - path.stat().st_size > 0
    assert reclaimed.free_pages == 0
    assert raw.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert raw.execute("SELECT * FROM row WHERE whose = 'B' ORDER BY id").fetchall() == kept


def _indexed(raw: Any) -> int:
    (rows,) = raw.execute("SELECT COUNT(*) FROM row").fetchone()
    return int(rows)


def test_what_is_left_where_rows_have_moved_is_cleared(path, raw):
    fill(raw, 300)
    delete(raw, "A")
    give_back(path)
    raw.close()
    dirty = plant(path)
    reclaimed = give_back(path)
    assert (reclaimed.scrubbed_pages, found(path)[0]) == (dirty, 0)
    assert dirty > 10
    with closing(connect(path)) as again:
        assert again.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_once_more_finds_nothing_to_do(path, raw):
    fill(raw, 300)
    delete(raw, "A")
    give_back(path)
    assert give_back(path) == Reclaimed()


def test_only_so_many_pages_go_in_one_run(path, raw):
    fill(raw)
    delete(raw, "A")
    free = raw.execute("PRAGMA freelist_count").fetchone()[0]
    reclaimed = give_back(path, max_pages=70)
    assert free - 72 <= reclaimed.free_pages <= free - 70
    assert found(path)[0] == 0


def test_a_run_ends_after_its_time_and_the_next_goes_on(path, raw):
    fill(raw, 300)
    delete(raw, "A")
    free = raw.execute("PRAGMA freelist_count").fetchone()[0]
    reclaimed = give_back(path, seconds=0)
    assert reclaimed.free_pages == free > 0
    assert not reclaimed.is_clean
    assert give_back(path).is_clean


def test_a_reader_keeps_it_and_the_next_run_does_it(path, raw):
    fill(raw, 300)
    with closing(connect(path)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT COUNT(*) FROM row").fetchone()
        if raw.execute("PRAGMA journal_mode").fetchone() == ("wal",):
            delete(raw, "A")
        reclaimed = give_back(path)
        assert not reclaimed.is_clean
        assert reader.execute("SELECT COUNT(*) FROM row").fetchone() == (300,)
    delete(raw, "A")
    assert give_back(path).is_clean
    assert found(path)[0] == 0


def test_what_others_have_in_memory_is_not_written_back(path, raw):
    fill(raw)
    delete(raw, "A")
    pages = raw.execute("SELECT SUM(LENGTH(text)) FROM row").fetchone()  # all in its memory
    give_back(path)
    raw.execute("UPDATE row SET text = text || '.'")
    assert raw.execute("SELECT SUM(LENGTH(text)) FROM row").fetchone() > pages
    raw.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    assert found(path)[0] == 0


def test_whoever_writes_meanwhile_loses_nothing(path, raw):
    fill(raw)
    delete(raw, "A")
    ended = threading.Event()
    written: list[str] = []

    def write() -> None:
        with closing(connect(path)) as other:
            other.execute("PRAGMA busy_timeout=5000")
            while not ended.is_set():
                key = f"{random.getrandbits(128):032x}"
                other.execute("INSERT INTO row VALUES (?, 'C', ?, 'c')", (key, "c" * 900))
                written.append(key)

    thread = threading.Thread(target=write)
    thread.start()
    for _ in range(5):
        give_back(path)
    ended.set()
    thread.join()
    assert raw.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    kept = {key for (key,) in raw.execute("SELECT id FROM row WHERE whose = 'C'")}
    assert kept == set(written)


def test_a_file_that_may_not_be_written_is_left_to_the_next_run(path, raw, monkeypatch):
    def refuse(name: str) -> int:
        raise PermissionError

    fill(raw, 300)
    delete(raw, "A")
    with monkeypatch.context() as closed:
        closed.setattr(scrubbing, "open_beside", refuse)
        assert give_back(path).scrubbed_pages is None
    assert give_back(path).is_clean


def test_a_file_that_is_at_the_place_of_another_is_not_touched(path, raw):
    fill(raw, 50)
    reclaimed = space.reclaim(
        raw, name=str(path), file=(1, 1), lock=threading.Lock(), max_pages=9, seconds=9
    )
    assert reclaimed.scrubbed_pages is None


def test_a_file_that_was_divided_anew_meanwhile_is_left_to_the_next_run(path, raw, monkeypatch):
    monkeypatch.setattr(scrubbing, "PAGES_AT_ONCE", 1)
    raw.execute("PRAGMA auto_vacuum=NONE")
    raw.execute("VACUUM")
    fill(raw, 3 * ROWS)
    kept = raw.execute("SELECT * FROM row ORDER BY id").fetchall()

    def divide(descriptor: int, layout: Layout) -> Iterator[int]:
        assert not layout.has_pointer_map
        raw.execute("PRAGMA auto_vacuum=INCREMENTAL")
        raw.execute("VACUUM")
        raw.execute("DELETE FROM row WHERE whose = 'A'")
        raw.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        yield from range(1, path.stat().st_size // layout.page_size + 1)

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(scrubbing, "find_remnants", divide)
        assert not give_back(path).is_clean
    assert raw.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert raw.execute("SELECT * FROM row ORDER BY id").fetchall() == [
        row for row in kept if row[1] == "B"
    ]
    assert give_back(path).is_clean
    assert found(path)[0] == 0


def test_a_file_without_auto_vacuum_keeps_its_size(tmp_path):
    path = tmp_path / "x.db"
    with closing(connect(path)) as raw:
        fill(raw, 300)
        delete(raw, "A")
        reclaimed = give_back(path)
        assert reclaimed.bytes == 0 < reclaimed.free_pages
        assert found(path)[0] == 0
        assert raw.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


# --- Pages ---------------------------------------------------------------------------------

PLAIN = Layout(page_size=4096, usable=4096, has_pointer_map=True)
LOCKS = (1 << 30) // 4096 + 1


def page(kind: int, *, cells: int = 1, begin: int = 4000, free: int = 0, bits: int = 0) -> bytes:
    head = bytes([kind]) + b"".join(n.to_bytes(2, "big") for n in (free, cells, begin))
    return (head + bytes([bits])).ljust(4096, b"\x01")


@pytest.mark.parametrize(("kind", "end"), [(13, 10), (10, 10), (2, 14)])
def test_the_gap_is_between_the_pointers_and_the_cells(kind, end):
    assert PLAIN.gap_of(3, page(kind)) == (end, 4000)


@pytest.mark.parametrize(
    ("number", "content"),
    [
        (1, page(13)),
        (2, page(2)),
        (2 + 4096 // 5 + 1, page(2)),
        (LOCKS, page(13)),
        (3, page(5)),
        (3, page(0)),
        (3, page(13, cells=3000)),
        (3, page(13, begin=4097)),
        (3, page(13, bits=61)),
        (3, page(13, free=3)),
        (3, page(13, free=4096)),
    ],
    ids=[
        "first",
        "map",
        "next-map",
        "locks",
        "interior",
        "none",
        "cells",
        "begin",
        "bits",
        "free-low",
        "free-high",
    ],
)
def test_what_is_not_surely_such_a_page_is_left_alone(number, content):
    assert PLAIN.gap_of(number, content) is None


def test_a_map_in_the_place_of_the_locks_is_one_page_on():
    usable = next(size for size in range(4096, 480, -1) if (LOCKS - 2) % (size // 5 + 1) == 0)
    layout = Layout(page_size=4096, usable=usable, has_pointer_map=True)
    assert layout.gap_of(LOCKS + 1, page(2, begin=usable)) is None
    assert PLAIN.gap_of(LOCKS + 1, page(2)) is not None


def test_an_empty_page_of_64_kilobytes_begins_at_its_end():
    layout = Layout(page_size=65_536, usable=65_536, has_pointer_map=False)
    assert layout.gap_of(2, page(13, cells=0, begin=0)) == (8, 65_536)


def test_another_file_is_left_alone(tmp_path):
    place = tmp_path / "x"
    place.write_bytes(b"words" * 100)
    assert scrubbing.read_layout(scrubbing.open_beside(str(place))) is None
    place.write_bytes(b"")
    assert scrubbing.read_layout(scrubbing.open_beside(str(place))) is None


def test_a_very_large_file_is_left_alone(tmp_path, monkeypatch):
    place = tmp_path / "x.db"
    with closing(connect(place)) as raw:
        fill(raw, 20)
        monkeypatch.setattr(scrubbing, "_MOST_PAGES", 1)
        assert not give_back(place).is_clean


# --- The site's own file -------------------------------------------------------------------

on_sqlite = pytest.mark.skipif(connection.vendor != "sqlite", reason="of the embedded engine")


@on_sqlite
@pytest.mark.django_db(transaction=True)
def test_the_sites_own_file_is_cleaned(user):
    user.first_name = "canaryA" * 20
    user.save()
    type(user).objects.filter(pk=user.pk).update(first_name="")
    assert reclaim.reclaim_space().is_clean
    assert found(Path(connection.settings_dict["NAME"]))[0] == 0


@pytest.mark.django_db(transaction=True)
def test_within_a_transaction_it_is_refused_where_it_would_do_something():
    with transaction.atomic():
        if connection.vendor == "sqlite":
            with pytest.raises(TransactionOpen):
                reclaim.reclaim_space()
        else:
            assert reclaim.reclaim_space() == Reclaimed()


@on_sqlite
@pytest.mark.django_db(transaction=True)
def test_where_it_cannot_be_done_nothing_fails(monkeypatch):
    def fail(*args: Any, **options: Any) -> Any:
        raise sqlite.driver().OperationalError("disk I/O error")

    monkeypatch.setattr(space, "reclaim", fail)
    assert not reclaim.reclaim_space().is_clean

    def break_down(*args: Any, **options: Any) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr(space, "reclaim", break_down)
    with pytest.raises(ZeroDivisionError):
        reclaim.reclaim_space()


@on_sqlite
@pytest.mark.django_db(transaction=True)
def test_a_reader_is_told_of_and_a_missing_file_is_none(monkeypatch):
    monkeypatch.setattr(space, "reclaim", lambda *a, **o: Reclaimed(log_bytes=1))
    assert reclaim.reclaim_space() == Reclaimed(log_bytes=1)
    monkeypatch.setattr(sqlite, "identity", lambda name: None)
    assert reclaim.reclaim_space() == Reclaimed()
