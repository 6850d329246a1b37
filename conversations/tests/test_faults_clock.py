"""Somebody sets the clock, by an hour, in one of two processes: nothing of a live turn is taken.

Fault 13 of the table of faults.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from django.db import connection

from conversations.tests.faults.checker import find_violations
from conversations.tests.faults.client import Client, Sending
from conversations.tests.faults.clock import set_clock
from conversations.tests.faults.runs import gather_evidence
from conversations.tests.faults.servers import Server, Site
from conversations.tests.faults.world import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

LEASE = 1.5
HOUR = 3600
ENGINES = ["postgresql"] if connection.vendor == "postgresql" else ["wal", "delete"]


@pytest.fixture(scope="module", params=ENGINES)
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    clock = "conversations.tests.faults.clock.build_agent"
    with Site(request.param, lease_seconds=LEASE, CONVERSATIONS_AGENT=clock) as site:
        yield site


@pytest.mark.parametrize("seconds_off", [HOUR, -HOUR], ids=["forward", "back"])
@pytest.mark.parametrize(
    "whose", ["the holder's", pytest.param("the other's", marks=pytest.mark.long)]
)
async def test_a_clock_that_is_set_takes_no_turn_away_runs_none_twice_and_keeps_the_order(
    site, whose, seconds_off
):
    """Fault 13, while one process answers and messages wait in both."""
    holder, other = await asyncio.to_thread(site.start_servers, 2)
    client, tag = Client(site.tokens[0]), secrets.token_hex(4)
    thread_id = await client.new_thread(holder.port)
    said: list[asyncio.Task[Sending]] = []
    for number, (server, deed) in enumerate(
        [(holder, f"gate {tag}"), (other, "tool"), (holder, "memory"), (other, "tool")]
    ):
        said.append(await begin(client, server, thread_id, f"{deed} {number}{tag}"))
    (running, *_) = before = await turns_of(site, thread_id)
    is_holders = whose == "the holder's"
    set_clock(site.folder, (holder if is_holders else other).pid, seconds_off=seconds_off)
    said.append(await begin(client, other, thread_id, f"memory 4{tag}"))
    said.append(await begin(client, holder, thread_id, f"memory 5{tag}"))
    # Both have gone on like this for some leases' time.
    await until(partial(has_been_renewed, site, thread_id, running["lease_until"]))
    now = await turns_of(site, thread_id)
    kept = ("id", "status", "lease_owner", "fence")
    assert [[turn[name] for name in kept] for turn in now[: len(before)]] == [
        [turn[name] for name in kept] for turn in before
    ]
    queued_at = {turn["lease_owner"]: turn["queued_at"] for turn in now}  # the last of each
    assert max(queued_at.values()) - min(queued_at.values()) > HOUR - 60, "the clock was not set"
    site.open_gate(tag)
    sendings = list(await asyncio.gather(*said))
    assert [len(sending.attempts) for sending in sendings] == [1] * len(sendings)
    assert {(sending.closing or {}).get("status") for sending in sendings} == {"completed"}
    # A message that comes later is not taken for an old one.
    late = await begin(client, holder, thread_id, f"memory 6{tag}")
    sendings.append(await late)
    shown = await client.transcript(other.port, thread_id)
    assert [text.split()[-1] for role, text in shown if role == "user"] == [
        f"{number}{tag}" for number in range(len(sendings))
    ]
    assert await asyncio.to_thread(site.stop_servers) == []
    evidence = await gather_evidence(site, sendings)
    assert find_violations(evidence) == []
    assert len(evidence.runs) == len(sendings)


async def begin(client: Client, server: Server, thread_id: str, text: str) -> asyncio.Task[Sending]:
    """Say something; it has been taken when this returns."""
    acknowledged = asyncio.Event()
    sending = client.send(lambda: server, thread_id, text, key=text, acknowledged=acknowledged)
    task = asyncio.create_task(sending)
    await acknowledged.wait()
    return task


async def turns_of(site: Site, thread_id: str) -> list[dict[str, Any]]:
    rows = await asyncio.to_thread(partial(site.call, "read", threads=[thread_id]))
    return list(rows["turns"])


async def has_been_renewed(site: Site, thread_id: str, lease_until: int) -> bool:
    """Whether the first turn's lease is some leases longer than it was."""
    turns = await turns_of(site, thread_id)
    return bool(turns[0]["lease_until"] > lease_until + 2 * LEASE * 1000)
