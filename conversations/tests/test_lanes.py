"""The way to the database: results and errors, group commit, faults, forks and an end."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth import get_user_model
from django.db import IntegrityError, OperationalError, connection, transaction
from django.test import override_settings

from conversations import lanes, sqlite
from conversations.agents_session import AgentSession
from conversations.errors import (
    StoreBusy,
    StoreDamaged,
    StoreError,
    StoreReadOnly,
    ThreadNotFound,
    TransactionOpen,
)
from conversations.lanes import Database, embedded
from conversations.lanes.database import in_our_words, store_error
from conversations.lanes.lane import Lane, Task
from conversations.models import ChatSession, Throttle
from conversations.tests.other_process import SITE, run_python
from conversations.tests.supervisor_processes import eventually

pytestmark = pytest.mark.django_db(transaction=True)

on_sqlite = pytest.mark.skipif("connection.vendor != 'sqlite'", reason="the embedded engine")
on_wal = pytest.mark.skipif(
    "connection.vendor != 'sqlite' or sqlite.journal_mode() != 'wal'", reason="needs WAL"
)

TABLE = Throttle._meta.db_table
LATER = "2026-11-23 12:00:00"


def insert(key: str) -> Callable[[Database], int]:
    """A job that writes one row."""
    return lambda db: db.run(f"INSERT INTO {TABLE} VALUES (%s, 1, %s)", (key, LATER))


def keys(db: Database) -> list[str]:
    return [key for (key,) in db.all(f"SELECT key FROM {TABLE} ORDER BY key")]


def thread_name(_db: Database) -> str:
    return threading.current_thread().name


async def side_by_side(*jobs: Callable[[Database], Any]) -> list[Any]:
    """Writes asked for in one step of the loop; errors are results."""
    return await asyncio.gather(*map(lanes.write, jobs), return_exceptions=True)


class Gate:
    """A job that stays in its lane until it is opened."""

    def __init__(self) -> None:
        self._entered, self._open = threading.Event(), threading.Event()

    def __call__(self, _db: Database) -> None:
        self._entered.set()
        assert self._open.wait(timeout=30)

    def open(self) -> None:
        self._open.set()

    async def entered(self) -> None:
        assert await asyncio.to_thread(self._entered.wait, 30)


# What a job gives


async def test_a_job_answers_with_its_result():
    assert await lanes.write(insert("a")) == 1
    assert await lanes.read(keys) == ["a"]
    assert await lanes.call(Throttle.objects.count) == 1
    assert await lanes.call(dict, one=1) == {"one": 1}


async def test_many_rows_go_in_at_once():
    await lanes.write(
        lambda db: db.run_many(
            f"INSERT INTO {TABLE} VALUES (%s, 1, %s)", [(key, LATER) for key in "abc"]
        )
    )
    assert await lanes.read(keys) == ["a", "b", "c"]
    assert await lanes.read(
        lambda db: db.one(f"SELECT key FROM {TABLE} WHERE key = %s", ("x",))
    ) is (None)


def failing(error: Exception) -> Callable[[Database], None]:
    def job(db: Database) -> None:
        insert("never")(db)
        raise error

    return job


@pytest.mark.parametrize("beside", [0, 2], ids=["alone", "in a batch"])
async def test_an_error_reaches_the_caller_and_undoes_the_job(beside):
    others = [insert(f"other{number}") for number in range(beside)]
    results = await side_by_side(*others, failing(ThreadNotFound("gone")))
    assert isinstance(results[-1], ThreadNotFound)
    assert await lanes.read(keys) == [f"other{number}" for number in range(beside)]


@pytest.mark.parametrize("beside", [0, 2], ids=["alone", "in a batch"])
async def test_a_refused_row_is_djangos_integrity_error(beside):
    await lanes.write(insert("taken"))
    others = [insert(f"other{number}") for number in range(beside)]
    results = await side_by_side(insert("taken"), *others)
    assert isinstance(results[0], IntegrityError)
    assert len(await lanes.read(keys)) == 1 + beside


async def test_wrong_sql_is_a_store_error_and_costs_nobody_else():
    results = await side_by_side(insert("a"), lambda db: db.run("SELEC 1"), insert("b"))
    assert isinstance(results[1], StoreError)
    assert await lanes.read(keys) == ["a", "b"]
    with pytest.raises(StoreError):
        await lanes.read(lambda db: db.one("SELECT nothing FROM nowhere"))
    assert await lanes.read(keys) == ["a", "b"]


async def test_an_error_of_a_read_reaches_its_caller():
    def job(_db: Database) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await lanes.read(job)
    with pytest.raises(ZeroDivisionError):
        await lanes.call(lambda: 1 / 0)


async def test_a_function_that_breaks_its_connection_breaks_nobody_elses():
    def break_it() -> None:
        connection.ensure_connection()
        connection.connection.close()
        connection.cursor().execute("SELECT 1")

    for _ in range(4):
        with pytest.raises(StoreError):
            await lanes.call(break_it)
    for _ in range(4):
        assert await lanes.call(Throttle.objects.count) == 0


def test_inside_a_transaction_it_refuses_at_once():
    async def one_of(name: str) -> None:
        await getattr(lanes, name)(print)

    for name in ("read", "write", "call"):
        with transaction.atomic(), pytest.raises(TransactionOpen):
            asyncio.run(one_of(name))
        with transaction.atomic(), pytest.raises(TransactionOpen):
            async_to_sync(one_of)(name)


def test_outside_a_transaction_sync_code_may_wait_for_it():
    async_to_sync(lanes.write)(insert("a"))
    with transaction.atomic():
        pass
    assert async_to_sync(lanes.read)(keys) == ["a"]
    assert asyncio.run(lanes.read(keys)) == ["a"]


# Cancelling


@pytest.mark.parametrize("others", [0, 2], ids=["alone", "in a batch"])
@pytest.mark.parametrize("fails", [False, True])
async def test_a_cancelled_write_is_settled_before_its_caller_goes_on(others, fails):
    gate = Gate()
    blockers = [asyncio.create_task(lanes.write(job)) for job in (gate, insert("before"))]
    await gate.entered()
    job = failing(ValueError()) if fails else insert("mine")
    mine = asyncio.create_task(lanes.write(job))
    beside = [asyncio.create_task(lanes.write(insert(f"{number}"))) for number in range(others)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    mine.cancel()
    await asyncio.sleep(0)
    mine.cancel()
    await asyncio.sleep(0)
    if connection.vendor == "sqlite":  # on others it need not wait for the gate
        assert not mine.done()
    gate.open()
    with pytest.raises(asyncio.CancelledError):
        await mine
    assert ("mine" in await lanes.read(keys)) == (not fails)
    await asyncio.gather(*blockers, *beside)


def test_a_loop_that_ends_with_writes_under_way_harms_nobody():
    gate = Gate()

    async def leave() -> None:
        for job in (gate, insert("left")):
            task = asyncio.ensure_future(lanes.write(job))
            task.add_done_callback(lambda task: task.cancelled() or task.exception())
        await gate.entered()

    loop = asyncio.new_event_loop()
    loop.run_until_complete(leave())
    abandoned = asyncio.all_tasks(loop)
    loop.close()
    gate.open()
    assert asyncio.run(lanes.read(lambda db: 1)) == 1
    eventually(lambda: Throttle.objects.filter(key="left").exists())
    for task in abandoned:
        task._log_destroy_pending = False


def ended(lane: Lane) -> None:
    lane.end()
    lane.join(time.monotonic() + 10)


async def test_a_task_nobody_waits_for_any_more_is_not_begun():
    begun: list[Database] = []
    lane = Lane("store-test")
    task = Task(begun.append, deadline=0)
    task.future.cancel()
    lane.put(task)
    await asyncio.to_thread(ended, lane)
    assert begun == []


async def test_a_result_nobody_waits_for_any_more_is_dropped():
    gate = Gate()
    lane = Lane("store-test")
    task = Task(gate, deadline=0)
    lane.put(task)
    await gate.entered()
    task.future.cancel()
    gate.open()
    await asyncio.to_thread(ended, lane)
    await asyncio.sleep(0)
    assert task.future.cancelled()


# Together


@on_sqlite
async def test_what_waits_is_committed_together():
    gate = Gate()
    blockers = [asyncio.create_task(lanes.write(job)) for job in (gate, insert("before"))]
    await gate.entered()
    committed: list[int] = []

    def count_what_others_see(_db: Database) -> None:
        with closing(sqlite.driver().connect(connection.settings_dict["NAME"])) as other:
            committed.extend(other.execute(f"SELECT count(*) FROM {TABLE}").fetchone())

    waiting = [asyncio.create_task(lanes.write(insert(f"{number}"))) for number in range(9)]
    last = asyncio.create_task(lanes.write(count_what_others_see))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    gate.open()
    await asyncio.gather(*blockers, *waiting, last)
    assert committed[0] <= 1  # none of the nine, though all were written
    assert len(await lanes.read(keys)) == 10


async def test_more_than_one_batch_holds_is_stored_in_order():
    gate = Gate()
    blockers = [asyncio.create_task(lanes.write(job)) for job in (gate, insert("before"))]
    await gate.entered()
    done: list[int] = []
    count = embedded.MAX_BATCH * 2 + 1

    async def write(number: int) -> None:
        await lanes.write(insert(f"{number:03}"))
        done.append(number)

    tasks = [asyncio.create_task(write(number)) for number in range(count)]
    await asyncio.sleep(0)
    gate.open()
    await asyncio.gather(*blockers, *tasks)
    assert len(await lanes.read(keys)) == count + 1
    if connection.vendor == "sqlite":  # elsewhere several threads write
        assert done == sorted(done)


def test_threads_with_loops_of_their_own_share_the_lanes():
    def work(worker: int) -> None:
        async def write() -> None:
            for number in range(10):
                await lanes.write(insert(f"{worker}-{number}"))
                assert f"{worker}-{number}" in await lanes.read(keys)

        asyncio.run(write())

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert Throttle.objects.count() == 80


@on_wal
async def test_a_lone_write_and_a_read_need_no_other_thread():
    lanes.close()  # what was slow before is forgotten
    here = threading.current_thread().name
    assert await lanes.write(thread_name) == here
    assert await lanes.read(thread_name) == here
    together = await side_by_side(thread_name, thread_name)
    assert here not in together


@on_wal
async def test_a_slow_disk_does_not_hold_the_loop_twice():
    lanes.close()

    def slow(_db: Database) -> None:
        threading.Event().wait(0.02)

    await lanes.write(slow)
    assert await lanes.write(thread_name) != threading.current_thread().name
    lanes.close()


@on_wal
async def test_a_read_that_finds_the_reader_busy_takes_another():
    lanes.close()
    assert await lanes.read(thread_name) == threading.current_thread().name
    inline = lanes._roads.inline
    with inline._reading:
        assert await lanes.read(thread_name) != threading.current_thread().name


# Another program has the file


@pytest.fixture
def held() -> Iterator[Any]:
    """Another program is writing in the database file."""
    with closing(
        sqlite.driver().connect(connection.settings_dict["NAME"], isolation_level=None)
    ) as other:
        other.execute("BEGIN IMMEDIATE")
        yield other
        if other.in_transaction:
            other.execute("ROLLBACK")


@on_sqlite
async def test_a_locked_database_is_busy_within_the_budget_and_works_again_after(held):
    with override_settings(CHAT_STORE_BUDGET_SECONDS=0.2):
        begun = asyncio.get_running_loop().time()
        results = await side_by_side(insert("a"), insert("b"))
        alone = await side_by_side(insert("c"))
        assert asyncio.get_running_loop().time() - begun < 5
    assert [type(result) for result in results + alone] == [StoreBusy] * 3
    held.execute("ROLLBACK")
    await lanes.write(insert("d"))
    assert await lanes.read(keys) == ["d"]


@on_sqlite
async def test_a_write_goes_through_as_soon_as_the_file_is_free(held):
    writing = asyncio.create_task(lanes.write(insert("a")))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not writing.done()
    held.execute("ROLLBACK")
    await writing
    assert await lanes.read(keys) == ["a"]


@on_sqlite
async def test_django_holding_the_write_lock_is_busy_too():
    with (
        override_settings(CHAT_STORE_BUDGET_SECONDS=0.2),
        sqlite.write_lock(str(connection.settings_dict["NAME"])),
    ):
        assert [type(e) for e in await side_by_side(insert("a"), insert("b"))] == [StoreBusy] * 2
        assert [type(e) for e in await side_by_side(insert("c"))] == [StoreBusy]
    await lanes.write(insert("d"))


@on_wal
async def test_a_locked_database_is_still_read(held):
    assert await lanes.read(keys) == []


@pytest.mark.skipif("connection.vendor != 'postgresql'", reason="a lock of one row")
async def test_a_row_another_program_holds_is_busy_within_the_budget():
    await lanes.write(insert("a"))
    change = f"UPDATE {TABLE} SET count = count + 1 WHERE key = 'a'"
    gate = threading.Event()
    holding = threading.Event()

    def hold() -> None:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(change)
            holding.set()
            assert gate.wait(timeout=30)

    lanes.close()  # the budget is that of each connection
    holder = asyncio.create_task(lanes.call(hold))
    assert await asyncio.to_thread(holding.wait, 30)
    with override_settings(CHAT_STORE_BUDGET_SECONDS=0.2):
        try:
            async with asyncio.timeout(10):
                assert [type(e) for e in await side_by_side(lambda db: db.run(change))] == [
                    StoreBusy
                ]
        finally:
            gate.set()
            await holder
        assert await lanes.write(lambda db: db.run(change)) == 1
    lanes.close()


# Faults of the file


@pytest.fixture
def other_file(
    transactional_db: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Callable[..., Path]]:
    """`other_file(journal="wal")`: the lanes work on a copy of the database, made to be broken."""

    copy = tmp_path / "copy.db"
    if connection.vendor == "sqlite":
        with connection.cursor() as cursor:
            cursor.execute("VACUUM INTO %s", [str(copy)])

    def use(place: str = str(copy), *, journal: str = "") -> Path:
        lanes.close()
        monkeypatch.setitem(connection.settings_dict, "NAME", place)
        if journal:
            with closing(sqlite.driver().connect(copy)) as raw:
                raw.execute(f"PRAGMA journal_mode={journal}")
        return copy

    yield use
    lanes.close()


def lane_threads() -> set[int | None]:
    return {
        thread.ident for thread in threading.enumerate() if thread.name.startswith("store-write")
    }


@on_sqlite
@pytest.mark.parametrize("how", ["read only", "full"])
async def test_a_store_that_cannot_be_written_is_read_only_but_read(other_file, monkeypatch, how):
    path = other_file(journal="wal")
    await lanes.write(insert("before"))
    if how == "read only":
        other_file(f"file:{path}?mode=ro")
    else:
        lanes.close()
        options = connection.settings_dict["OPTIONS"]
        limit = options["init_command"] + ";PRAGMA max_page_count=1"
        monkeypatch.setitem(options, "init_command", limit)
    big = "x" * 1_000_000
    for number in (1, 3):
        jobs = [insert(f"{big}{index}") for index in range(number)]
        assert {type(result) for result in await side_by_side(*jobs)} == {StoreReadOnly}
    assert await lanes.read(keys) == ["before"]


@on_sqlite
@pytest.mark.parametrize("journal", ["wal", "delete"])
async def test_a_file_of_garbage_is_damaged_and_a_repaired_one_works(other_file, journal):
    path = other_file(journal=journal)
    await side_by_side(insert("a"), insert("b"))
    lanes.close()
    good = path.read_bytes()
    path.write_bytes(b"This is no database. " * 500)
    for _ in range(3):
        for results in (await side_by_side(insert("c")), await side_by_side(*map(insert, "de"))):
            assert {type(result) for result in results} == {StoreDamaged}
        with pytest.raises(StoreDamaged):
            await AgentSession("any").get_items()
    for leftover in path.parent.glob("copy.db-*"):
        leftover.unlink()
    path.write_bytes(good)
    await side_by_side(insert("c"), insert("d"))
    assert await lanes.read(keys) == ["a", "b", "c", "d"]


@on_sqlite
async def test_a_damaged_page_costs_only_what_is_on_it(other_file):
    path = other_file(journal="delete")
    await side_by_side(*[insert(f"{number}-{'x' * 2000}") for number in range(50)])
    with closing(sqlite.driver().connect(path)) as raw:
        (page,) = raw.execute(
            "SELECT rootpage FROM sqlite_master WHERE name = ?", (TABLE,)
        ).fetchone()
        (size,) = raw.execute("PRAGMA page_size").fetchone()
    lanes.close()
    with path.open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"\xff" * size)
    with pytest.raises(StoreDamaged):
        await lanes.read(lambda db: db.all(f"SELECT * FROM {TABLE} NOT INDEXED"))
    assert await lanes.call(get_user_model().objects.count) == 0


@on_sqlite
async def test_the_threads_outlive_a_database_that_cannot_be_opened(other_file, tmp_path):
    path = other_file(journal="wal")
    hidden = path.rename(tmp_path / "hidden.db")
    path.mkdir()
    for _ in range(3):
        assert {type(e) for e in await side_by_side(insert("a"), insert("b"))} == {StoreReadOnly}
        with pytest.raises(StoreReadOnly):
            await lanes.read(keys)
        with pytest.raises(StoreReadOnly):
            await lanes.call(Throttle.objects.count)
    path.rmdir()
    hidden.rename(path)
    assert await side_by_side(insert("a"), insert("b")) == [1, 1]
    assert await lanes.read(keys) == ["a", "b"]
    assert await lanes.call(Throttle.objects.count) == 2


@on_sqlite
async def test_a_write_lane_is_the_same_thread_before_and_after_a_fault(other_file):
    path = other_file(journal="delete")
    await side_by_side(insert("a"), insert("b"))
    (thread,) = lane_threads()
    hidden = path.rename(path.with_name("hidden.db"))
    path.mkdir()
    results = await side_by_side(insert("c"), insert("d"))
    assert all(isinstance(result, StoreError) for result in results)
    path.rmdir()
    hidden.rename(path)
    assert await side_by_side(insert("c"), insert("d")) == [1, 1]
    assert lane_threads() == {thread}


@on_sqlite
async def test_in_the_rollback_journal_everything_goes_through_the_threads(other_file):
    other_file(journal="delete")
    here = threading.current_thread().name
    assert await lanes.write(thread_name) != here
    assert await lanes.read(thread_name) != here
    session = AgentSession("any")
    await session.add_items([{"role": "user", "content": "Hello"}])
    await asyncio.gather(*[session.add_items([{"n": number}]) for number in range(20)])
    items = await session.get_items()
    assert items == [{"role": "user", "content": "Hello"}, *[{"n": n} for n in range(20)]]
    assert await session.pop_item() == {"n": 19}
    await session.clear_session()
    assert await session.get_items() == []


@on_sqlite
async def test_in_the_rollback_journal_a_read_gives_up_within_the_budget_too(other_file):
    path = other_file(journal="delete")
    with (
        override_settings(CHAT_STORE_BUDGET_SECONDS=0.2),
        closing(sqlite.driver().connect(path, isolation_level=None)) as other,
    ):
        other.execute("BEGIN EXCLUSIVE")
        begun = asyncio.get_running_loop().time()
        with pytest.raises(StoreBusy):  # also while no connection is open yet
            await lanes.read(keys)
        other.execute("ROLLBACK")
        assert await lanes.read(keys) == []
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StoreBusy):
            await lanes.read(keys)
        other.execute("ROLLBACK")
        assert asyncio.get_running_loop().time() - begun < 10
        assert await lanes.read(keys) == []


# The write-ahead log


def restarts(path: Path) -> int:
    """How often the log began anew: the checkpoint number in its header."""
    with Path(f"{path}-wal").open("rb") as log:
        return int.from_bytes(log.read(16)[12:16], "big")


def log_bytes(path: Path) -> int:
    return Path(f"{path}-wal").stat().st_size


@on_wal
@pytest.mark.parametrize("together", [1, 2], ids=["inline", "in the lane"])
async def test_the_log_begins_anew_instead_of_growing(other_file, together):
    path = other_file(journal="wal")

    def rewrite(db: Database) -> None:
        db.run(
            f"UPDATE {ChatSession._meta.db_table} SET hold_reason = %s", (os.urandom(60_000).hex(),)
        )

    await AgentSession("any").add_items([{"role": "user", "content": "Hello"}])
    before = restarts(path)
    written = 0
    while restarts(path) < before + 3:
        assert written < 400, "the log only grows"
        await side_by_side(*[rewrite] * together)
        written += 1
    assert log_bytes(path) < 6 * embedded.CHECKPOINT_BYTES


@on_wal
async def test_a_checkpoint_that_fails_is_tried_again(other_file):
    path = other_file(journal="wal")
    await AgentSession("any").add_items([{"role": "user", "content": "x" * 5_000_000}])
    checkpointer = lanes._roads.inline._checkpointer
    before = restarts(path)
    with closing(sqlite.driver().connect(path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute(f"SELECT * FROM {TABLE}").fetchall()  # keeps the log from restarting
        checkpointer.look()
        eventually(lambda: not checkpointer._wanted.is_set())
        await lanes.write(insert("a"))
        assert restarts(path) == before
    for number in range(1000):
        checkpointer.look()
        await lanes.write(insert(f"{number}"))
        if restarts(path) > before:
            break
    assert restarts(path) > before


@on_wal
async def test_the_checkpointer_outlives_a_damaged_file_and_a_missing_log(other_file):
    path = other_file(journal="wal")
    await AgentSession("any").add_items([{"role": "user", "content": "x" * 5_000_000}])
    checkpointer = lanes._roads.inline._checkpointer
    checkpointer._log = str(path)  # a file that is surely long enough
    good = path.read_bytes()
    path.write_bytes(b"This is no database. " * 500_000)
    checkpointer.look()
    eventually(lambda: not checkpointer._wanted.is_set())
    path.write_bytes(good)
    checkpointer._log = str(path) + "-nothing"
    checkpointer.look()
    assert checkpointer._thread.is_alive()
    assert await lanes.write(insert("a")) == 1


# An end, and a fork


async def test_after_a_close_it_begins_again():
    await side_by_side(insert("a"), insert("b"))
    await lanes.call(Throttle.objects.count)
    await asyncio.to_thread(lanes.close)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("store-")]
    lanes.close()
    await side_by_side(insert("c"), insert("d"))
    assert await lanes.read(keys) == ["a", "b", "c", "d"]


async def test_a_close_serves_what_is_queued_first():
    gate = Gate()
    tasks = [asyncio.create_task(lanes.write(job)) for job in (gate, insert("a"))]
    await gate.entered()
    tasks += [asyncio.create_task(lanes.write(insert(key))) for key in "bcd"]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    ending = asyncio.create_task(asyncio.to_thread(lanes.close))
    await asyncio.to_thread(eventually, lambda: not lanes._roads._roads)
    gate.open()
    await ending
    await asyncio.gather(*tasks)
    assert await lanes.read(keys) == ["a", "b", "c", "d"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
def test_a_forked_child_works_on_lanes_of_its_own():
    said = run_python(
        SITE
        + """
    from django.db import connection
    from conversations import lanes
    from conversations.models import Throttle
    table = Throttle._meta.db_table

    async def work(name):
        job = lambda key: lambda db: db.run(
            f"INSERT INTO {table} VALUES (%s, 1, '2026-11-23 12:00')", (name + key,))
        await lanes.write(job("alone"))
        await asyncio.gather(*[lanes.write(job(str(n))) for n in range(5)])
        return len(await lanes.read(lambda db: db.all(f"SELECT * FROM {table}")))

    async def count():
        return await lanes.call(Throttle.objects.count)

    def servers():  # the processes of the server that answer: one for each connection
        if connection.vendor != "postgresql":
            return set()
        async def ask():
            one = lambda db: db.one("SELECT pg_backend_pid()")[0]
            def other():
                with connection.cursor() as cursor:
                    cursor.execute("SELECT pg_backend_pid()")
                    return cursor.fetchone()[0]
            return {await lanes.write(one), await lanes.read(one), await lanes.call(other)}
        return asyncio.run(ask())

    asyncio.run(work("parent"))
    asyncio.run(count())
    mine = servers()
    child = os.fork()
    if not child:
        code = 1
        try:
            print("child", asyncio.run(work("child")), asyncio.run(count()), flush=True)
            assert not servers() & mine, "the child speaks on the parent's connections"
            lanes.close()
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0, "the child failed"
    print("parent", asyncio.run(work("again")), asyncio.run(count()))
    assert servers() & mine == mine
    lanes.close()
    """
    )
    assert said == "child 12 12\nparent 18 18"
    assert Throttle.objects.count() == 18


# The engine's failures in our words


@pytest.mark.skipif("connection.vendor != 'postgresql'", reason="a server that ends connections")
async def test_a_connection_the_server_ended_is_replaced():
    def end(db: Database) -> None:
        db.run("SELECT pg_terminate_backend(pg_backend_pid())")

    for road in (lanes.read, lanes.write):
        for _ in range(3):
            with pytest.raises(StoreError):
                await road(end)
            assert await road(keys) == []


class Failure(sqlite.driver().OperationalError):
    """An error of the driver with its code, as Python 3.11 tells it."""

    def __init__(self, code: int) -> None:
        super().__init__("failed")
        self.sqlite_errorcode = code


@pytest.mark.parametrize(
    ("code", "meaning"),
    [
        (5, StoreBusy),
        (6, StoreBusy),
        (5 | 2 << 8, StoreBusy),  # SQLITE_BUSY_SNAPSHOT
        (8, StoreReadOnly),
        (8 | 4 << 8, StoreReadOnly),  # SQLITE_READONLY_DBMOVED
        (13, StoreReadOnly),
        (14, StoreReadOnly),
        (11, StoreDamaged),
        (26, StoreDamaged),
        (10, StoreError),
    ],
)
def test_a_failure_is_told_apart_by_its_primary_code(code, meaning):
    assert type(store_error(Failure(code))) is meaning
    wrapped = OperationalError("failed")
    wrapped.__cause__ = Failure(code)
    assert type(store_error(wrapped)) is meaning


@pytest.mark.parametrize(
    "error",
    [UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"), OverflowError(), OperationalError()],
)
def test_a_failure_without_a_code_is_one_of_the_store(error):
    assert type(store_error(error)) is StoreError
    assert in_our_words(error).__cause__ is error


@pytest.mark.parametrize("error", [ValueError(), ThreadNotFound(), IntegrityError(), KeyError("x")])
def test_what_is_no_failure_of_the_engine_stays_what_it_is(error):
    assert store_error(error) is None
    assert in_our_words(error) is error


def test_our_own_words_are_not_translated_again():
    error = StoreBusy()
    assert store_error(error) is error
    assert in_our_words(error) is error


# Times and ids as the engines hold them


@pytest.mark.parametrize(
    "value", ["2026-11-23 12:00:00.000001", "2026-11-23 13:00:00.000001+01:00"]
)
def test_a_moment_is_aware_and_in_utc_whatever_the_engine_says(value):
    moment = lanes.to_moment(value)
    assert moment == lanes.to_moment(datetime.fromisoformat(value))
    assert moment == datetime(2026, 11, 23, 12, 0, 0, 1, tzinfo=UTC)
    assert lanes.to_moment(lanes.from_moment(moment, is_sqlite=True)) == moment
    assert lanes.from_moment(moment, is_sqlite=False) is moment


def test_no_moment_and_no_id_stay_none():
    assert lanes.to_moment(None) is None
    assert lanes.from_moment(None, is_sqlite=True) is None
    assert lanes.from_uuid(None, is_sqlite=True) is None
