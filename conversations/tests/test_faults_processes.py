"""The fault harness at a small size: what crashes, pauses, stops and crowds may not break.

The full sizes are `make faults` and `make load`; figures of time are theirs alone.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from django.db import connection

from conversations.tests.faults import load, runs, storm
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
        site, kills=8, pauses=3, seed=seed, processes=3, threads=3, is_stall_a_violation=False
    )
    report.assert_kept()


async def test_a_stop_with_fifty_open_streams_saves_and_tells_all_of_them(site, seed):
    report = await runs.shutdown(site, streams=50, seed=seed)
    report.assert_kept()


async def test_fifty_conversations_stream_at_once_and_none_fails(site, seed):
    report = await load.load(site, streams=50, seconds=2, seed=seed)
    report.assert_kept()
