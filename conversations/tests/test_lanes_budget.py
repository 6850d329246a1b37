"""Nothing waits for the store much longer than its budget, and it works again without a restart."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import httpx
import pytest
from django.db import connection, connections
from django.db.backends.signals import connection_created

from conversations import lanes
from conversations.errors import StoreBusy, StoreError
from conversations.lanes import GRACE_SECONDS, Database, embedded, lane
from conversations.models import Throttle
from conversations.tests.other_process import run_python
from conversations.tests.private_postgresql import PrivatePostgresql, needs_programs

pytestmark = pytest.mark.django_db(transaction=True)

on_postgresql = pytest.mark.skipif(
    "connection.vendor != 'postgresql'", reason="a server that can be away"
)

TABLE = Throttle._meta.db_table
BUDGET = 0.3
NOISE = 1.0  # of a busy machine


@pytest.fixture(autouse=True)
def _short_budget(settings: Any) -> Iterator[None]:
    lanes.close()  # the budget is that of each connection
    settings.CHAT_STORE_BUDGET_SECONDS = BUDGET
    yield
    lanes.close()


def insert(key: str) -> Callable[[Database], int]:
    return lambda db: db.run(f"INSERT INTO {TABLE} VALUES (%s, 1, '2026-11-23 12:00')", (key,))


def keys(db: Database) -> list[str]:
    return [key for (key,) in db.all(f"SELECT key FROM {TABLE} ORDER BY key")]


async def in_time(work: Coroutine[Any, Any, Any]) -> Any:
    """The outcome, an error being one too; fails when it took much longer than the budget."""
    begun = time.monotonic()
    outcome = (await asyncio.gather(work, return_exceptions=True))[0]
    assert time.monotonic() - begun < BUDGET + GRACE_SECONDS + NOISE
    return outcome


class Stuck:
    """A job whose thread hears nothing from the engine until it is let go."""

    def __init__(self, before: Callable[[Any], Any] = lambda _: None) -> None:
        self._before = before
        self._go = threading.Event()

    def __call__(self, db: Database | None) -> str:
        self._before(db)
        assert self._go.wait(timeout=30)
        return "done"

    def let_go(self) -> None:
        self._go.set()


@pytest.fixture
def stuck() -> Iterator[Callable[..., Stuck]]:
    made: list[Stuck] = []

    def make(*arguments: Any) -> Stuck:
        made.append(Stuck(*arguments))
        return made[-1]

    yield make
    for job in made:
        job.let_go()


@pytest.fixture
def no_inline(monkeypatch: pytest.MonkeyPatch) -> None:
    """All work goes through the threads, as it does where nothing is sure to be short."""
    monkeypatch.setattr("conversations.lanes.Inline.open", lambda: None)


@pytest.mark.usefixtures("no_inline")
async def test_threads_that_are_stuck_are_busy_within_the_budget(stuck):
    job = stuck()
    assert isinstance(await in_time(lanes.write(job)), StoreBusy)
    assert isinstance(await in_time(lanes.read(job)), StoreBusy)
    assert isinstance(await in_time(lanes.call(job, None)), StoreBusy)
    job.let_go()
    assert await lanes.write(insert("a")) == 1
    assert await lanes.read(keys) == ["a"]


@pytest.mark.usefixtures("no_inline")
async def test_what_waits_behind_a_thread_that_is_stuck_is_never_begun(stuck):
    begun: list[str] = []
    job = stuck()
    assert await lanes.read(keys) == []  # from now on the order is that of the asking
    many = [lanes.write(job) for _ in range(lanes.POSTGRESQL_THREADS)]
    waiting = [lanes.write(lambda _, n=n: begun.append(n)) for n in "abc"]
    results = await in_time(asyncio.gather(*many, *waiting, return_exceptions=True))
    assert all(isinstance(result, StoreBusy) for result in results)
    job.let_go()
    assert await lanes.write(insert("a")) == 1
    assert begun == []


@pytest.mark.usefixtures("no_inline")
@pytest.mark.parametrize("beside", [0, 2], ids=["alone", "in a batch"])
async def test_a_write_that_comes_to_its_commit_too_late_is_undone(stuck, beside):
    told: list[Any] = []
    job = stuck(insert("late"))
    others = [lanes.write(insert(f"{number}")) for number in range(beside)]
    writes = asyncio.gather(lanes.write(job, late=told.append), *others, return_exceptions=True)
    assert isinstance((await in_time(writes))[0], StoreBusy)
    job.let_go()
    await lanes.write(insert("after"))
    assert "late" not in await lanes.read(keys)
    assert told == []


@pytest.fixture
def slow_commit(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Commits succeed, but the threads hear of it only when the event is set."""
    heard = threading.Event()
    deliver = lane.deliver

    def deliver_later(outcomes: Any) -> None:
        assert heard.wait(timeout=30)
        deliver(outcomes)

    for module in (lane, embedded):
        monkeypatch.setattr(module, "deliver", deliver_later)
    yield heard
    heard.set()


@pytest.mark.usefixtures("no_inline")
@pytest.mark.parametrize("cancelled", [False, True])
async def test_a_write_whose_commit_was_under_way_is_told_late(slow_commit, cancelled):
    lanes._roads._look_at = math.inf  # a look for it would need a thread, too
    told: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    writing = asyncio.create_task(lanes.write(insert("late"), late=told.set_result))
    await asyncio.sleep(0)
    if cancelled:
        writing.cancel()
    kind = asyncio.CancelledError if cancelled else StoreBusy
    assert isinstance(await in_time(writing), kind)
    slow_commit.set()
    assert await asyncio.wait_for(told, timeout=10) == 1
    assert await lanes.read(keys) == ["late"]


@pytest.mark.usefixtures("no_inline")
async def test_a_write_that_failed_late_tells_nobody(slow_commit):
    lanes._roads._look_at = math.inf
    told: list[int] = []
    await in_time(lanes.write(lambda db: db.run("SELEC 1"), late=told.append))
    slow_commit.set()
    await lanes.write(insert("after"))
    assert told == []


async def test_what_is_written_soon_needs_nobody_who_waits():
    assert await lanes.write_soon(insert("a")) == 1
    lanes.write_soon(lambda db: db.run("SELEC 1"))  # and its failure nobody who looks
    lanes.write_soon(insert("b"))
    await asyncio.to_thread(lanes.close)
    assert await lanes.read(keys) == ["a", "b"]


def test_what_is_written_soon_outlives_its_loop():
    async def leave() -> None:
        lanes.write_soon(insert("a"))

    asyncio.run(leave())
    lanes.close()
    assert asyncio.run(lanes.read(keys)) == ["a"]


async def test_an_end_waits_for_stuck_threads_once(stuck, monkeypatch):
    monkeypatch.setattr(lanes, "END_SECONDS", 0.2)
    jobs = [stuck() for _ in range(4)]
    await in_time(asyncio.gather(*[lanes.call(job, None) for job in jobs], return_exceptions=True))
    begun = time.monotonic()
    lanes.close()
    assert time.monotonic() - begun < 0.2 + NOISE


async def test_calls_keep_their_connections_which_wait_for_no_lock_beyond_the_budget():
    opened: list[Any] = []

    def look() -> Any:
        with connection.cursor() as cursor:
            sqlite = connection.vendor == "sqlite"
            cursor.execute("PRAGMA busy_timeout" if sqlite else "SHOW lock_timeout")
            return cursor.fetchone()[0]

    def note(**_: Any) -> None:
        opened.append(threading.current_thread().name)

    connection_created.connect(note)
    try:
        found = {await lanes.call(look) for _ in range(12)}
    finally:
        connection_created.disconnect(note)
    calls = [name for name in opened if name.startswith("store-call")]
    assert len(calls) == len(set(calls))
    milliseconds = round(BUDGET * 1000)
    assert found <= {milliseconds, f"{milliseconds}ms"}


# PostgreSQL: away, hanging, back


@pytest.fixture(scope="module")
def cluster(django_db_setup: None) -> Iterator[PrivatePostgresql]:
    cluster = PrivatePostgresql()
    try:
        cluster.start()
        run_python(
            """
            import chatsite, django
            django.setup()
            from django.core.management import call_command
            call_command("migrate", verbosity=0)
            """,
            DATABASE_URL=cluster.url,
        )
        yield cluster
    finally:
        cluster.remove()


@pytest.fixture
def server(
    transactional_db: None, cluster: PrivatePostgresql, monkeypatch: pytest.MonkeyPatch
) -> Iterator[PrivatePostgresql]:
    """The lanes work on a server that may be broken; it is empty, and running."""
    if not cluster.is_running:
        cluster.start()
    cluster.resume()
    place = {"HOST": "127.0.0.1", "PORT": cluster.port, "USER": "postgres", "NAME": "postgres"}
    connection.ensure_connection()  # this thread's stays where it is
    for name, value in place.items():
        monkeypatch.setitem(connections.settings["default"], name, value)
    asyncio.run(lanes.write(lambda db: db.run(f"DELETE FROM {TABLE}")))
    yield cluster
    if cluster.is_running:
        cluster.resume()
    lanes.close()


async def everywhere() -> list[Any]:
    """What each way to the store answers, all threads of it asked."""
    many = [lanes.read(keys) for _ in range(lanes.POSTGRESQL_THREADS)]
    many += [lanes.write(keys) for _ in range(lanes.POSTGRESQL_THREADS)]
    many += [lanes.call(Throttle.objects.count) for _ in range(lanes.CALLERS)]
    return await in_time(asyncio.gather(*many, return_exceptions=True))


def kinds(results: list[Any]) -> set[type]:
    return {type(result) for result in results}


@needs_programs
@on_postgresql
async def test_a_server_that_was_restarted_is_noticed_by_nobody(server):
    await lanes.write(insert("a"))
    assert kinds(await everywhere()) == {list, int}
    await asyncio.to_thread(server.stop)
    await asyncio.to_thread(server.start)
    assert kinds(await everywhere()) == {list, int}
    assert await lanes.read(keys) == ["a"]


@needs_programs
@on_postgresql
async def test_a_server_that_is_stopped_is_told_within_the_budget_and_works_again_after(server):
    await everywhere()
    await asyncio.to_thread(server.stop)
    for _ in range(2):
        assert kinds(await everywhere()) == {StoreError}
    await asyncio.to_thread(server.start)
    assert kinds(await everywhere()) == {list, int}
    assert await lanes.write(insert("a")) == 1


@needs_programs
@on_postgresql
@pytest.mark.parametrize("connected", [True, False])
async def test_a_server_that_hangs_is_told_within_the_budget_and_works_again_after(
    server, connected
):
    if connected:
        await everywhere()
    else:
        lanes.close()
    server.pause()
    for _ in range(2):
        assert all(issubclass(kind, StoreBusy) for kind in kinds(await everywhere()))
    assert isinstance(await in_time(lanes.write(insert("never"))), StoreBusy)
    server.resume()
    async with asyncio.timeout(10):  # a thread that connects is free when its time is over
        while kinds(await everywhere()) != {list, int}:
            pass
    assert await lanes.write(insert("a")) == 1
    assert await lanes.read(keys) == ["a"]


@needs_programs
@on_postgresql
@pytest.mark.parametrize("fault", ["stop", "pause"])
async def test_readyz_is_503_in_time_and_200_again_after(server, fault):
    from chatsite.asgi import application

    transport = httpx.ASGITransport(app=application)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        assert (await client.get("/readyz")).status_code == 200
        await asyncio.to_thread(getattr(server, fault))
        for _ in range(2):
            answer = await in_time(client.get("/readyz"))
            assert answer.status_code == 503
            assert not any(check["ok"] for check in answer.json()["checks"].values())
        await asyncio.to_thread({"stop": server.start, "pause": server.resume}[fault])
        async with asyncio.timeout(10):
            while (await client.get("/readyz")).status_code != 200:
                pass
