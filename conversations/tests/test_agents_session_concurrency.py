"""Many writers of one session: batches stay whole, and it grows at its end only."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
from django.utils import timezone

from conversations import lanes
from conversations.agents_session import AgentSession
from conversations.history import header_of, misplaced
from conversations.store import pruning
from conversations.tests.agents_session_helpers import answer, counted, log_of, said
from conversations.tests.other_process import SITE, finish, start_python

pytestmark = pytest.mark.django_db(transaction=True)

SIZE = 3


def whole_batches(items: list[Any]) -> list[tuple[str, int]]:
    """The batches `(writer, number)` that these items make, none of them torn."""
    batches = [items[start : start + SIZE] for start in range(0, len(items), SIZE)]
    assert all(batch == [batch[0]] * SIZE for batch in batches)
    return [(batch[0]["by"], batch[0]["n"]) for batch in batches]


def assert_complete(batches: list[tuple[str, int]], *, writers: int, each: int) -> None:
    """Every batch of every writer is there once, in its writer's order."""
    names = {name for name, _ in batches}
    assert len(names) == writers
    for name in names:
        assert [number for by, number in batches if by == name] == list(range(each))


async def write(name: str, *, batches: int) -> None:
    session = AgentSession("s")
    for number in range(batches):
        await session.add_items([{"by": name, "n": number}] * SIZE)


def test_threads_with_their_own_loops_write_whole_batches():
    with ThreadPoolExecutor(8) as pool:
        jobs = [lambda n=n: asyncio.run(write(f"thread {n}", batches=10)) for n in range(8)]
        list(pool.map(lambda job: job(), jobs))

    async def check() -> None:
        assert_complete(whole_batches(await AgentSession("s").get_items()), writers=8, each=10)
        assert [position for position, _ in await log_of("s")] == list(range(1, 8 * 10 * SIZE + 1))

    asyncio.run(check())


TWO_THREADS_OF_TWO_TASKS = (
    SITE
    + """
    from concurrent.futures import ThreadPoolExecutor
    from conversations import lanes
    from conversations.agents_session import AgentSession
    process, batches, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    shared = AgentSession("s")
    async def write(session, name):
        for number in range(batches):
            await session.add_items([{"by": f"{process} {name}", "n": number}] * size)
    async def work(thread):
        await asyncio.gather(
            write(shared, f"{thread} shared"), write(AgentSession("s"), f"{thread} own")
        )
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda thread: asyncio.run(work(thread)), range(2)))
    lanes.close()
    """
)


async def test_a_reader_beside_processes_threads_and_tasks_sees_it_grow_at_the_end_only():
    each = 12
    processes = [
        start_python(TWO_THREADS_OF_TWO_TASKS, name, str(each), str(SIZE)) for name in ("a", "b")
    ]
    ends = asyncio.gather(
        *[asyncio.to_thread(finish, process) for process in processes],
        write("here", batches=each),
    )
    seen: list[Any] = []
    sizes = set()
    while not ends.done():
        await asyncio.wait([ends], timeout=0.02)  # they need the processor, too
        found, newest = await asyncio.gather(
            AgentSession("s").get_items(), AgentSession("s").get_items(limit=SIZE)
        )
        assert found[: len(seen)] == seen
        whole_batches(found)
        whole_batches(newest)
        seen = found
        sizes.add(len(found))
    await ends
    items = await AgentSession("s").get_items()
    assert items[: len(seen)] == seen
    assert len(sizes) > 2  # it did look while they wrote
    assert_complete(whole_batches(items), writers=9, each=each)
    rows = await log_of("s")
    assert [position for position, _ in rows] == list(range(1, 9 * each * SIZE + 1))
    row = await counted("s")
    assert (row.last_position, row.remembered_count) == (len(rows), len(rows))


def tool_turn(name: str) -> list[dict[str, Any]]:
    pair = {"call_id": name}
    return [
        said(name),
        pair | {"type": "function_call", "name": "look_up", "arguments": "{}"},
        pair | {"type": "function_call_output", "output": "found"},
        answer(name),
    ]


def test_what_is_pruned_while_others_write_is_never_torn(settings):
    settings.AGENT_SESSION_MAX_MESSAGES = 10
    done = threading.Event()

    async def speak(name: str) -> None:
        for number in range(15):
            await AgentSession("s").add_items(tool_turn(f"{name} {number}"))

    async def prune() -> None:
        job = partial(pruning.prune_named, agent_session_id="s", now=timezone.now())
        while not done.is_set():
            await lanes.write(job)
        await lanes.write(job)

    async def read() -> None:
        while not done.is_set():
            items = await AgentSession("s").get_items()
            assert not misplaced([header_of(place, item) for place, item in enumerate(items)])
            assert [item["role"] for item in items[:1]] in ([], ["user"])

    with ThreadPoolExecutor(4) as pool:
        beside = [pool.submit(asyncio.run, work()) for work in (prune, read)]
        for writer in [pool.submit(asyncio.run, speak(name)) for name in ("a", "b")]:
            writer.result()
        done.set()
        for other in beside:
            other.result()

    async def check() -> None:
        row = await counted("s")
        assert row.remembered_count == 8
        assert row.remembered_count + row.pruned_count == row.last_position == 120
        assert row.message_count == 60

    asyncio.run(check())
