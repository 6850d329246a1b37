"""The file under running lanes is deleted, moved, replaced or broken, and it works again after."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from django.db import OperationalError, connection, transaction
from django.test import override_settings

from conversations import lanes, sqlite
from conversations.errors import StoreBusy, StoreDamaged, StoreError, StoreMissing, StoreReadOnly
from conversations.lanes import Database
from conversations.models import Throttle
from conversations.tests.other_process import ROOT, SITE, environment, finish, run_python

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif("connection.vendor != 'sqlite'", reason="the embedded engine"),
]

TABLE = Throttle._meta.db_table
NOBODY = 65534


def insert(key: str) -> Callable[[Database], int]:
    return lambda db: db.run(f"INSERT INTO {TABLE} VALUES (%s, 1, '2026-11-23 12:00')", (key,))


def keys(db: Database) -> list[str]:
    return [key for (key,) in db.all(f"SELECT key FROM {TABLE} ORDER BY key")]


@pytest.fixture(params=["wal", "delete"])
def path(
    request: pytest.FixtureRequest,
    transactional_db: None,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> Iterator[Path]:
    """The lanes' file, which holds the rows a and b: every way to it has been used."""
    if request.param == "wal" and sqlite.journal_mode() != "wal":
        pytest.skip("WAL is not safe here")
    path = tmp_path / "data" / "chat.db"
    path.parent.mkdir(mode=0o700)
    with connection.cursor() as cursor:
        cursor.execute("VACUUM INTO %s", [str(path)])
    with closing(sqlite.driver().connect(path)) as raw:
        raw.execute(f"PRAGMA journal_mode={request.param}")
    lanes.close()
    monkeypatch.setitem(connection.settings_dict, "NAME", str(path))
    asyncio.run(use())
    yield path
    lanes.close()
    connection.close()


async def use() -> None:
    await lanes.write(insert("a"))
    await lanes.write(insert("b"))
    for _ in range(3):
        assert await everywhere() == [["a", "b"]] * 6


async def everywhere() -> list[Any]:
    """What each way to the store answers: inline where that may be, and every lane."""
    alone = [await outcome(lanes.read(keys)), await outcome(lanes.write(keys))]
    together = [lanes.write(keys), lanes.write(keys), lanes.call(orm_keys)]
    road = lanes._roads.get("read")
    task = lanes.Task(keys, deadline=time.monotonic() + 5)
    road.put(task)
    return [*alone, *await asyncio.gather(*map(outcome, together)), await outcome(task.future)]


async def outcome(work: Any) -> Any:
    """A result, or the kind of error."""
    try:
        return await work
    except StoreError as error:
        return type(error)


def orm_keys() -> list[str]:
    return list(Throttle.objects.order_by("key").values_list("key", flat=True))


async def ready() -> tuple[int, str]:
    from chatsite.asgi import application

    transport = httpx.ASGITransport(app=application)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        answer = await client.get("/readyz")
    return answer.status_code, answer.json()["checks"]["database"]["detail"]


def rows_of(path: Path) -> list[str]:
    """As another program sees it: the whole file is well, and holds these."""
    with closing(sqlite.driver().connect(path)) as raw:
        assert raw.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return [key for (key,) in raw.execute(f"SELECT key FROM {TABLE} ORDER BY key")]


def back_up(path: Path, *, row: str = "backup") -> Path:
    """A backup of the file made as one should, with one row more to know it by."""
    copy = path.with_name("backup.db")
    with (
        closing(sqlite.driver().connect(path)) as source,
        closing(sqlite.driver().connect(copy)) as target,
    ):
        source.backup(target)
        target.execute(f"INSERT INTO {TABLE} VALUES (?, 1, '2026-11-23 12:00')", (row,))
        target.commit()
    return copy


OTHER = (
    SITE
    + """
    from conversations import lanes
    from conversations.errors import StoreError
    from conversations.models import Throttle
    table = Throttle._meta.db_table

    async def answer(line):
        what, key = line.split()
        row = (key, "2026-11-23 12:00")
        insert = lambda db: db.run(f"INSERT INTO {table} VALUES (%s, 1, %s)", row)
        keys = lambda db: [row[0] for row in db.all(f"SELECT key FROM {table} ORDER BY key")]
        try:
            return await lanes.write(insert) if what == "write" else await lanes.read(keys)
        except StoreError as error:
            return type(error).__name__

    async def work():
        for line in sys.stdin:
            print(await answer(line), flush=True)

    asyncio.run(work())
    lanes.close()
    """
)


@pytest.fixture
def other(path: Path) -> Iterator[Callable[[str], str]]:
    """`other("write c")`, `other("read -")`: what another process on the same file answers."""
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(OTHER)],
        cwd=ROOT,
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )

    def ask(what: str) -> str:
        process.stdin.write(f"{what}\n")
        process.stdin.flush()
        return process.stdout.readline().strip()

    assert ask("read -") == "['a', 'b']"
    yield ask
    finish(process)


# Deleted


async def test_a_deleted_file_is_missing_at_once_and_nothing_is_written_into_nothing(path):
    path.unlink()
    for _ in range(2):
        assert await everywhere() == [StoreMissing] * 6
        assert await ready() == (503, "The conversation store is missing.")
    assert not path.exists()


def test_djangos_own_connections_refuse_it_too(path):
    connection.close()
    assert orm_keys() == ["a", "b"]
    path.unlink()
    with pytest.raises(OperationalError, match="moved"), transaction.atomic():
        Throttle.objects.all().delete()
    connection.close_if_unusable_or_obsolete()
    with pytest.raises(OperationalError, match="missing"):
        orm_keys()
    assert not path.exists()


@pytest.mark.slow
async def test_after_a_file_was_deleted_a_new_one_is_used_and_holds_nothing_old(path, other):
    path.unlink()
    assert other("write c") == "StoreMissing"
    run_python(
        """
        import chatsite, django
        django.setup()
        from django.core.management import call_command
        call_command("migrate", verbosity=0)
        """,
        AGENT_SESSION_DB_PATH=str(path),
    )
    assert await everywhere() == [[]] * 6
    assert other("write c") == "1"
    await lanes.write(insert("d"))
    assert await everywhere() == [["c", "d"]] * 6
    assert (await ready())[0] == 200
    assert rows_of(path) == ["c", "d"]


# Moved


async def test_a_file_that_was_moved_away_is_used_again_when_it_is_back(path):
    away = path.with_name("away.db")
    path.rename(away)
    assert await everywhere() == [StoreMissing] * 6
    away.rename(path)
    assert await everywhere() == [["a", "b"]] * 6
    await lanes.write(insert("c"))
    assert await everywhere() == [["a", "b", "c"]] * 6
    assert rows_of(path) == ["a", "b", "c"]


# Replaced


async def test_a_file_replaced_by_a_backup_is_used_at_once(path):
    backup = back_up(path)
    await lanes.write(insert("after the backup"))
    backup.rename(path)
    assert await everywhere() == [["a", "b", "backup"]] * 6
    await lanes.write(insert("new"))
    await asyncio.gather(lanes.write(insert("x")), lanes.write(insert("y")))
    assert await everywhere() == [["a", "b", "backup", "new", "x", "y"]] * 6
    assert (await ready())[0] == 200
    assert rows_of(path) == ["a", "b", "backup", "new", "x", "y"]
    lanes.close()
    assert rows_of(path) == ["a", "b", "backup", "new", "x", "y"]


@pytest.mark.slow
@pytest.mark.parametrize("first", ["this", "other"])
async def test_a_file_replaced_under_two_processes_is_whole(path, other, first):
    for number in range(3):
        backup = back_up(path, row=f"backup{number}")
        await lanes.write(insert(f"lost{number}"))
        assert other(f"write gone{number}") == "1"
        backup.rename(path)
        if first == "this":
            assert await lanes.write(insert(f"mine{number}")) == 1
        assert other(f"write others{number}") == "1"
        if first == "other":
            assert await lanes.write(insert(f"mine{number}")) == 1
    found = sorted(
        ["a", "b", *(f"{who}{n}" for who in ("backup", "mine", "others") for n in range(3))]
    )
    assert await everywhere() == [found] * 6
    assert other("read -") == str(found)
    assert rows_of(path) == found


async def test_a_log_that_is_not_ours_is_left_alone(path):
    """Someone replaced the file and its log: both belong together."""
    if sqlite.journal_mode() != "wal":
        pytest.skip("WAL is not safe here")
    lanes.close()
    backup = back_up(path)
    with closing(sqlite.driver().connect(backup, isolation_level=None)) as raw:
        raw.execute("PRAGMA journal_mode=wal")
        raw.execute(f"INSERT INTO {TABLE} VALUES ('in the log', 1, '2026-11-23 12:00')")
        for suffix in ("", "-wal"):
            shutil.copy(f"{backup}{suffix}", path.with_name("new"))
            path.with_name("new").rename(f"{path}{suffix}")
    assert await everywhere() == [["a", "b", "backup", "in the log"]] * 6


# Broken in place


@pytest.fixture
def good(path: Path) -> bytes:
    """What the file holds when nothing of it is in a log."""
    with closing(sqlite.driver().connect(path)) as raw:
        raw.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return path.read_bytes()


def garbage(path: Path, good: bytes) -> None:
    path.write_bytes(b"This is no database. " * 500)


def cut(path: Path, good: bytes) -> None:
    os.truncate(path, len(good) // 8192 * 4096)


def damaged(path: Path, good: bytes) -> None:
    with closing(sqlite.driver().connect(path)) as raw:
        (page,) = raw.execute(
            "SELECT rootpage FROM sqlite_master WHERE name = ?", (TABLE,)
        ).fetchone()
        (size,) = raw.execute("PRAGMA page_size").fetchone()
    with path.open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"\xff" * size)


@pytest.mark.parametrize("reopened", [False, True], ids=["open", "opened on it"])
@pytest.mark.parametrize("fault", [garbage, cut, damaged])
async def test_a_file_broken_under_running_lanes_works_again_when_it_is_repaired(
    path, good, fault, reopened
):
    if reopened:
        lanes.close()
    fault(path, good)
    for _ in range(2):
        for answer in await everywhere():  # a connection may still know what it has read
            assert answer == ["a", "b"] or issubclass(answer, StoreError)
    if reopened and fault is garbage:
        assert await everywhere() == [StoreDamaged] * 6
        assert (await ready())[0] == 503
    path.write_bytes(good)
    assert await everywhere() == [["a", "b"]] * 6
    await lanes.write(insert("c"))
    assert await everywhere() == [["a", "b", "c"]] * 6
    assert rows_of(path) == ["a", "b", "c"]


async def test_after_a_fault_short_work_is_done_on_the_loops_own_thread_again(path, good):
    if lanes._roads.inline is None:
        pytest.skip("in the rollback journal it never is")
    lanes.close()
    path.write_bytes(b"This is no database. " * 500)
    assert await everywhere() == [StoreDamaged] * 6
    path.write_bytes(good)
    async with asyncio.timeout(10):
        while lanes._roads.inline is None:
            assert await lanes.read(keys) == ["a", "b"]
    assert await lanes.write(insert("c")) == 1


# Locked, full, not to be written


async def test_a_file_locked_past_the_budget_works_again_after(path):
    lanes.close()
    with (
        override_settings(CHAT_STORE_BUDGET_SECONDS=0.2),
        closing(sqlite.driver().connect(path, isolation_level=None)) as holder,
    ):
        holder.execute("BEGIN IMMEDIATE")
        begun = time.monotonic()
        writes = [outcome(lanes.write(insert("c"))), outcome(lanes.write(insert("d")))]
        assert await asyncio.gather(*writes) == [StoreBusy] * 2
        assert await outcome(lanes.write(insert("c"))) is StoreBusy
        assert time.monotonic() - begun < 2 * (0.2 + lanes.GRACE_SECONDS) + 1
        assert await lanes.read(keys) == ["a", "b"]
        holder.execute("ROLLBACK")
        await lanes.write(insert("c"))
        assert await everywhere() == [["a", "b", "c"]] * 6
    lanes.close()


async def test_readyz_is_503_in_time_while_the_file_is_locked(path):
    if sqlite_mode(path) == "wal":
        pytest.skip("a reader waits for nobody")
    with (
        override_settings(CHAT_STORE_BUDGET_SECONDS=0.3),
        closing(sqlite.driver().connect(path, isolation_level=None)) as holder,
    ):
        lanes.close()
        holder.execute("BEGIN EXCLUSIVE")
        begun = time.monotonic()
        assert await ready() == (503, "The conversation store is busy.")
        assert time.monotonic() - begun < 0.3 + lanes.GRACE_SECONDS + 1
        holder.execute("ROLLBACK")
        assert (await ready())[0] == 200
        lanes.close()


def sqlite_mode(path: Path) -> str:
    with closing(sqlite.driver().connect(path)) as raw:
        return raw.execute("PRAGMA journal_mode").fetchone()[0]


@pytest.fixture
def small_disk(path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """The lanes' file on a file system that is small enough to be filled."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("a file system cannot be mounted here")
    try:
        lanes.close()
        place = disk / "chat.db"
        place.write_bytes(path.read_bytes())
        monkeypatch.setitem(connection.settings_dict, "NAME", str(place))
        yield place
        lanes.close()
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


async def test_a_full_disk_is_read_only_but_read_and_works_again_after(small_disk):
    assert await everywhere() == [["a", "b"]] * 6
    filler = small_disk.with_name("filler")
    with filler.open("wb", buffering=0) as file:
        for size in (65536, 4096, 1):  # to the last byte
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                continue
    big = "x" * 1_000_000
    for count in (1, 3):
        writes = [outcome(lanes.write(insert(f"{big}{number}"))) for number in range(count)]
        assert set(await asyncio.gather(*writes)) == {StoreReadOnly}
        assert await lanes.read(keys) == ["a", "b"]
    filler.unlink()
    assert await lanes.write(insert("c")) == 1
    assert await everywhere() == [["a", "b", "c"]] * 6
    assert rows_of(small_disk) == ["a", "b", "c"]


@pytest.fixture
def as_nobody(path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The lanes' file belongs to somebody whom permissions bind, and so does this process."""
    lanes.close()
    folder = Path(tempfile.mkdtemp())
    place = folder / "chat.db"
    place.write_bytes(path.read_bytes())
    place.chmod(0o600)
    root = not os.geteuid()
    if root:
        for owned in (folder, place):
            os.chown(owned, NOBODY, NOBODY)
        os.seteuid(NOBODY)
    try:
        monkeypatch.setitem(connection.settings_dict, "NAME", str(place))
        yield place
        lanes.close()
    finally:
        if root:
            os.seteuid(0)
        folder.chmod(0o700)
        shutil.rmtree(folder)


@pytest.mark.parametrize("what", ["file", "folder"])
async def test_what_may_not_be_written_is_read_only_and_works_again_after(as_nobody, what):
    assert await everywhere() == [["a", "b"]] * 6
    lanes.close()
    place, mode, before = (
        (as_nobody, 0o400, 0o600) if what == "file" else (as_nobody.parent, 0o500, 0o700)
    )
    place.chmod(mode)
    for _ in range(2):
        writes = [outcome(lanes.write(insert(key))) for key in "cd"]
        assert await asyncio.gather(*writes) == [StoreReadOnly] * 2
        assert await outcome(lanes.write(insert("c"))) is StoreReadOnly
        assert await outcome(lanes.read(keys)) in (["a", "b"], StoreReadOnly)
    place.chmod(before)
    await lanes.write(insert("c"))
    assert await everywhere() == [["a", "b", "c"]] * 6
