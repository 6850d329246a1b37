"""Word from other processes that something was written."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import closing
from statistics import quantiles
from typing import Any

import pytest
from django.db import connection

from conversations import lanes, sqlite
from conversations.lanes import news
from conversations.models import Throttle
from conversations.tests.other_process import ROOT, SITE, environment, finish, run_python

pytestmark = pytest.mark.django_db(transaction=True)

on_sqlite = pytest.mark.skipif("connection.vendor != 'sqlite'", reason="a file that is looked at")
on_postgresql = pytest.mark.skipif("connection.vendor != 'postgresql'", reason="notifications")

logger = logging.getLogger(__name__)

TABLE = Throttle._meta.db_table
LONG = 20.0


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    yield
    lanes.close()


async def write_and_tell(key: str) -> None:
    def job(db: lanes.Database) -> None:
        db.run(f"UPDATE {TABLE} SET count = count + 1")
        db.run(f"INSERT INTO {TABLE} VALUES (%s, 1, '2026-11-23 12:00')", (time.time_ns(),))
        lanes.notify(db, key)

    await lanes.write(job)


async def listening() -> None:
    """Until the one connection listens, and what was written while it came to be is known."""
    if connection.vendor == "postgresql":
        with lanes.subscribe("begin") as word:
            assert await word.news(within=LONG)


async def quiet(word: lanes.Subscription) -> None:
    """Until the last change of the file is old news."""
    while await word.news(within=0.5):
        pass


async def test_what_is_written_wakes_who_waits():
    await listening()
    with lanes.subscribe("a") as word:
        waiting = asyncio.create_task(word.news(within=LONG))
        await asyncio.sleep(0)
        await write_and_tell("a")
        assert await waiting is True


async def test_what_was_written_between_two_waits_is_not_lost():
    await listening()
    with lanes.subscribe("a") as word:
        await quiet(word)
        for _ in range(3):
            await write_and_tell("a")
            assert await word.news(within=LONG) is True


async def test_without_a_write_the_time_ends_the_waiting():
    await listening()
    with lanes.subscribe("a") as word:
        await quiet(word)
        begun = time.monotonic()
        assert await word.news(within=0.2) is False
        assert 0.19 < time.monotonic() - begun < 5


async def test_everybody_who_waits_for_a_key_is_told():
    await listening()
    words = [lanes.subscribe("a") for _ in range(50)]
    for word in words:
        word.__enter__()
    waiting = [asyncio.create_task(word.news(within=LONG)) for word in words]
    await asyncio.sleep(0)
    await write_and_tell("a")
    assert all(await asyncio.gather(*waiting))
    for word in words:
        word.__exit__(None, None, None)


async def test_who_stops_waiting_may_wait_again():
    await listening()
    with lanes.subscribe("a") as word:
        await quiet(word)
        waiting = asyncio.create_task(word.news(within=LONG))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert not word.is_waiting
        await write_and_tell("a")
        assert await word.news(within=LONG) is True


async def test_after_a_close_it_begins_again():
    await listening()
    with lanes.subscribe("a") as word:
        lanes.close()
        waiting = asyncio.create_task(word.news(within=LONG))
        await asyncio.sleep(0)
        await write_and_tell("a")
        assert await waiting is True


def test_a_loop_that_ends_takes_its_listening_along():
    async def wait_a_little() -> None:
        with lanes.subscribe("a") as word:
            await word.news(within=0.2)

    for _ in range(3):
        asyncio.run(wait_a_little())
    assert len(news._sources) == 1  # that of the last loop, which is closed
    lanes.close()
    assert not news._sources


# Between two processes

OTHER = (
    SITE
    + """
    import time
    from conversations import lanes
    from conversations.models import Throttle
    table = Throttle._meta.db_table

    def job(db):
        db.run(f"INSERT INTO {table} VALUES (%s, 1, '2026-11-23 12:00')", (str(time.time_ns()),))
        lanes.notify(db, sys.argv[1])

    async def work():
        await lanes.read(lambda db: db.one("SELECT 1"))
        print("ready", flush=True)
        for _ in sys.stdin:
            await lanes.write(job)
            print(time.monotonic_ns(), flush=True)

    asyncio.run(work())
    lanes.close()
    """
)


@pytest.fixture(params=["wal", "delete"])
def journal(request: pytest.FixtureRequest, transactional_db: None) -> Iterator[str]:
    if connection.vendor == "postgresql":
        if request.param == "delete":
            pytest.skip("the embedded engine's")
        yield ""
        return
    if sqlite.journal_mode() != "wal":
        pytest.skip("WAL is not safe here")
    use_journal(request.param)
    yield request.param
    use_journal("wal")


def use_journal(mode: str) -> None:
    lanes.close()
    connection.close()
    with closing(sqlite.driver().connect(connection.settings_dict["NAME"])) as raw:
        assert raw.execute(f"PRAGMA journal_mode={mode}").fetchone() == (mode,)


@pytest.fixture
def other(journal: str) -> Iterator[subprocess.Popen[str]]:
    """A process that writes each time it is told to, and says when that was committed."""
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(OTHER), "a"],
        cwd=ROOT,
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "ready\n"
    yield process
    finish(process)


def ask(process: subprocess.Popen[str]) -> None:
    process.stdin.write("\n")
    process.stdin.flush()


def count(db: lanes.Database) -> int:
    return db.one(f"SELECT count(*) FROM {TABLE}")[0]


@pytest.mark.slow
async def test_word_of_another_process_comes_within_milliseconds(other):
    await listening()
    late: list[float] = []
    with lanes.subscribe("a") as word:
        for number in range(100):
            ask(other)
            while await lanes.read(count) == number:
                assert await word.news(within=LONG)
            seen = time.monotonic_ns()
            committed = int(await asyncio.to_thread(other.stdout.readline))
            late.append((seen - committed) / 1e6)
    cuts = quantiles(late, n=20)
    logger.info("late: p50 %.1f, p95 %.1f, most %.1f ms", cuts[9], cuts[18], max(late))
    assert cuts[9] < 10
    assert cuts[18] < 50


@on_sqlite
async def test_of_a_hundred_who_wait_at_a_busy_file_each_looks_more_rarely():
    told, ended = 0, False

    async def wait() -> None:
        nonlocal told
        with lanes.subscribe("a") as word:
            while not ended:
                heard = await word.news(within=0.1)
                told += heard

    waiting = [asyncio.create_task(wait()) for _ in range(100)]
    begun = time.monotonic()
    while time.monotonic() - begun < 1:
        await write_and_tell("a")
    looks = (time.monotonic() - begun) / news.LOOK_SECONDS
    ended = True
    await asyncio.gather(*waiting)
    assert 100 < told <= looks * news.TOLD_AT_ONCE * 1.2


# A server that goes away


def listeners() -> list[int]:
    """The server's processes that listen for us."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pid FROM pg_stat_activity WHERE query = %s AND datname = current_database()",
            (f"LISTEN {news.CHANNEL}",),
        )
        return [pid for (pid,) in cursor.fetchall()]


async def until(look: Any) -> Any:
    async with asyncio.timeout(LONG):
        while not (found := await lanes.call(look)):  # noqa: ASYNC110 - another process's
            await asyncio.sleep(0.02)
    return found


@on_postgresql
async def test_a_connection_that_broke_is_made_again_and_everybody_told():
    await listening()
    with lanes.subscribe("a") as word:
        (pid,) = await lanes.call(listeners)
        await lanes.read(lambda db: db.one("SELECT pg_terminate_backend(%s)", (pid,)))
        assert await word.news(within=LONG) is True
        assert [pid] != await until(listeners)
        await write_and_tell("a")
        assert await word.news(within=LONG) is True


@on_postgresql
async def test_while_the_server_is_away_only_the_time_ends_the_waiting(monkeypatch):
    monkeypatch.setattr(news, "_parameters", lambda _: {"host": "127.0.0.1", "port": 1})
    with lanes.subscribe("a") as word:
        for _ in range(3):
            assert await word.news(within=0.05) is False
        monkeypatch.undo()
        assert await word.news(within=LONG) is True


@on_postgresql
async def test_nobody_listens_when_nobody_has_waited_for_long(monkeypatch):
    monkeypatch.setattr(news, "UNUSED_SECONDS", 0.05)
    await listening()
    await until(lambda: not listeners())
    with lanes.subscribe("a") as word:
        assert await word.news(within=LONG) is True  # it begins again
        await until(listeners)


@on_postgresql
async def test_a_loop_has_one_connection_for_all_who_wait():
    await listening()
    words = [lanes.subscribe(f"{number}") for number in range(20)]
    for word in words:
        word.__enter__()
    waiting = [asyncio.create_task(word.news(within=LONG)) for word in words]
    for number in range(20):
        await write_and_tell(f"{number}")
    assert all(await asyncio.gather(*waiting))
    assert len(await lanes.call(listeners)) == 1
    for word in words:
        word.__exit__(None, None, None)


@pytest.mark.slow
def test_it_works_on_the_loop_the_server_runs_on():
    said = run_python(
        SITE
        + """
    import uvloop
    from conversations import lanes
    from conversations.models import Throttle
    table = Throttle._meta.db_table

    def job(db):
        db.run(f"INSERT INTO {table} VALUES ('uv', 1, '2026-11-23 12:00')")
        lanes.notify(db, "a")

    async def work():
        with lanes.subscribe("a") as word:
            while await word.news(within=1):
                pass
            waiting = asyncio.create_task(word.news(within=20))
            await asyncio.sleep(0)
            await lanes.write(job)
            print(await waiting)

    uvloop.run(work())
    lanes.close()
    """
    )
    assert said == "True"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
@pytest.mark.slow
def test_a_forked_child_listens_for_itself():
    said = run_python(
        SITE
        + """
    from conversations import lanes
    from conversations.models import Throttle
    table = Throttle._meta.db_table

    async def work(name):
        def job(db):
            db.run(f"INSERT INTO {table} VALUES (%s, 1, '2026-11-23 12:00')", (name,))
            lanes.notify(db, "a")
        with lanes.subscribe("a") as word:
            while await word.news(within=1):
                pass
            waiting = asyncio.create_task(word.news(within=20))
            await asyncio.sleep(0)
            await lanes.write(job)
            return await waiting

    loop = asyncio.new_event_loop()
    assert loop.run_until_complete(work("before"))
    child = os.fork()
    if not child:
        code = 1
        try:
            print("child", asyncio.run(work("child")), flush=True)
            lanes.close()
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0, "the child failed"
    print("parent", loop.run_until_complete(work("after")))
    lanes.close()
    loop.run_until_complete(asyncio.sleep(0.05))  # what listened ends
    loop.close()
    """
    )
    assert said == "child True\nparent True"
