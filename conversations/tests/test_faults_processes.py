"""The fault harness at a small size: what crashes, pauses, stops and crowds may not break.

The full sizes are `make faults` and `make load`; figures of time are theirs alone.
"""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import Iterator

import pytest
from django.db import connection

from conversations.tests.faults import load, runs, storm
from conversations.tests.faults.client import Client
from conversations.tests.faults.servers import Site

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

LEASE = 1.5
GRACE = 2.0
ENGINES = ["postgresql"] if connection.vendor == "postgresql" else ["wal", "delete"]


@pytest.fixture(scope="module", params=ENGINES)
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    """One per engine, with its database; each test starts and stops servers of its own."""
    with Site(request.param, lease_seconds=LEASE, grace_seconds=GRACE) as site:
        yield site


@pytest.fixture
def seed() -> int:
    return random.randrange(1_000_000)  # told by the report of a run that fails


async def test_four_processes_answer_one_thread_strictly_one_after_the_other(site, seed):
    report = await runs.order(site, processes=4, sends=8, seed=seed)
    report.assert_kept()


async def test_kills_and_pauses_lose_double_and_tangle_nothing(site, seed):
    report = await storm.crash(
        site,
        kills=8,
        pauses=3,
        seed=seed,
        processes=3,
        threads=3,
        speakers=2,
        is_stall_a_violation=False,
    )
    report.assert_kept()


async def test_a_stop_with_fifty_open_streams_saves_and_tells_all_of_them(site, seed):
    report = await runs.shutdown(site, streams=50, seed=seed, is_late_a_violation=False)
    report.assert_kept()


async def test_fifty_conversations_stream_at_once_and_none_fails(site, seed):
    report = await load.load(site, streams=50, seconds=2, seed=seed)
    report.assert_kept()


async def test_a_queued_message_of_a_dead_process_does_not_overtake_those_before_it(site):
    running, waiting, dying = await asyncio.to_thread(site.start_servers, 3)
    client, tag = Client(site.tokens[0]), secrets.token_hex(4)
    thread_id = await client.new_thread(running.port)
    said = [(running, f"gate {tag} 1{tag}"), (waiting, f"say 2{tag}"), (dying, f"say 3{tag}")]
    streams = [await client.open(server.port, thread_id, text) for server, text in said]
    dying.kill()
    await asyncio.sleep(LEASE * 1.1)  # the lease of the dead runs out; nothing shows when it has
    streams.append(await client.open(waiting.port, thread_id, f"say 4{tag}"))
    site.open_gate(tag)
    async for _ in streams[-1].frames():
        pass
    transcript = await client.transcript(running.port, thread_id)
    for stream in streams:
        stream.leave()
    assert await asyncio.to_thread(site.stop_servers) == []
    texts = [text for role, text in transcript if role == "user"]
    assert texts == [f"gate {tag} 1{tag}", f"say 2{tag}", f"say 3{tag}", f"say 4{tag}"]
