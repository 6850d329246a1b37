"""Clients that leave in every way there is, and one that stays and reads nothing.

The run belongs to the process, not to the request: faults 14 and 15 of the table of faults.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from django.db import connection

from conversations.tests.faults.client import Client, Frame, Stream
from conversations.tests.faults.servers import Server, Site

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

ENGINE = "postgresql" if connection.vendor == "postgresql" else "wal"
PATIENCE = 30
FLOOD_KILOBYTES = 10 * 1024
MEGABYTE = 2**20
CLIENTS = 30
OTHERS = 2
BOUND_MEGABYTES = 250
"""One answer of 10 MB on its way costs up to 160; held for each client it would cost 300 more."""


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with Site(ENGINE) as site:
        site.start_servers(1)
        yield site
        assert site.stop_servers() == []


@pytest.fixture
def client(site: Site) -> Client:
    return Client(site.tokens[0], silence_seconds=PATIENCE)


async def until(look: Callable[[], Awaitable[Any]]) -> Any:
    """The first true value of `look`."""
    deadline = time.monotonic() + PATIENCE
    while not (found := await look()):
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.02)
    return found


async def until_ended(client: Client, server: Server, thread_id: str, turn_id: str) -> str:
    """The status a turn ended with."""

    async def status() -> str:
        turn = await client.turn(server.port, thread_id, turn_id)
        return str(turn["status"]) if turn["finished_at"] else ""

    return str(await until(status))


async def first_words(stream: Stream) -> Frame:
    """Read until the answer has begun."""
    async for frame in stream.frames():
        if frame.content:
            return frame
    raise AssertionError("the answer never began")


def leave_with_fin(stream: Stream) -> None:
    stream.leave()


def leave_with_rst(stream: Stream) -> None:
    stream.leave_with_reset()


def close_half(stream: Stream) -> None:
    stream.close_half()


def fall_silent(stream: Stream) -> None:
    stream.stop_reading()


@pytest.mark.parametrize("leave", [leave_with_fin, leave_with_rst, close_half, fall_silent])
async def test_however_a_client_leaves_the_run_completes_and_is_stored_whole(
    site, server, client, leave
):
    """Fault 14."""
    tag = secrets.token_hex(4)
    thread_id = await client.new_thread(server.port)
    stream = await client.open(server.port, thread_id, f"gate {tag} {tag}")
    await first_words(stream)
    leave(stream)
    # The server has had time to notice: it has answered something else since.
    await client.transcript(server.port, thread_id)
    site.open_gate(tag)
    assert await until_ended(client, server, thread_id, stream.turn_id) == "completed"
    assert await client.transcript(server.port, thread_id) == [
        ("user", f"gate {tag} {tag}"),
        ("assistant", f"{tag} before, after"),
    ]
    stream.leave()


async def test_a_client_that_left_before_its_turn_began_is_answered_too(site, server, client):
    """Fault 14, while queued."""
    tag = secrets.token_hex(4)
    thread_id = await client.new_thread(server.port)
    first = await client.open(server.port, thread_id, f"gate {tag} {tag}")
    second = await client.open(server.port, thread_id, f"say {tag}.2")
    second.leave_with_reset()
    await client.transcript(server.port, thread_id)
    site.open_gate(tag)
    assert await until_ended(client, server, thread_id, second.turn_id) == "completed"
    assert (await client.transcript(server.port, thread_id))[-2:] == [
        ("user", f"say {tag}.2"),
        ("assistant", f"{tag}.2 done"),
    ]
    first.leave()


async def test_clients_that_read_nothing_cost_bounded_memory_and_nobodys_time(site, server, client):
    """Fault 15: ten megabytes stream to thirty clients that take none of them."""
    async with Flood.begin(client, server) as flood:
        await flood.listen(CLIENTS)
        most = await flood.pass_while_another_is_served(site)
        grown = (most - flood.resident_before) / MEGABYTE
        assert grown < BOUND_MEGABYTES, f"{grown:.0f} MB for an answer of 10 MB that nobody read"
        ((_, _), (_, answer)) = await client.transcript(server.port, flood.thread_id)
        assert len(answer) == FLOOD_KILOBYTES * 1024
        assert answer == answer[:16] * (len(answer) // 16)


async def test_clients_that_come_late_and_read_nothing_cost_bounded_memory(site, server, client):
    """Fault 15, when the turn has ended: they repeat their message, and take nothing."""
    async with Flood.begin(client, server) as flood:
        await flood.listen(1)
        await flood.pass_while_another_is_served(site)
        before = server.resident_bytes()
        await flood.listen(CLIENTS)
        await client.transcript(server.port, flood.thread_id)
        grown = (server.resident_bytes() - before) / MEGABYTE
        assert grown < BOUND_MEGABYTES, f"{grown:.0f} MB for {CLIENTS} clients that read nothing"


@dataclass
class Flood:
    """A turn with a long answer, behind a gate."""

    client: Client
    server: Server
    tag: str
    thread_id: str
    resident_before: int
    streams: list[Stream] = field(default_factory=list)

    @classmethod
    @asynccontextmanager
    async def begin(cls, client: Client, server: Server) -> AsyncIterator[Flood]:
        thread_id = await client.new_thread(server.port)
        flood = cls(client, server, secrets.token_hex(4), thread_id, server.resident_bytes())
        try:
            yield flood
        finally:
            for stream in flood.streams:
                stream.leave()

    async def listen(self, count: int) -> None:
        """So many clients that take nothing; all listen to one turn: it is one message."""
        for _ in range(count):
            stream = await self.client.open(
                self.server.port,
                self.thread_id,
                f"flood {FLOOD_KILOBYTES} {self.tag} {self.tag}",
                key=self.tag,
                receive_buffer=4096,
            )
            self.streams.append(stream)
            stream.stop_reading()
        (self.turn_id,) = {stream.turn_id for stream in self.streams}

    async def pass_while_another_is_served(self, site: Site) -> int:
        """The most memory held, from its first word until it is completed.

        It does not end before another has been answered twice.
        """
        most, answered = 0, 0
        others_thread = await self.client.new_thread(self.server.port)

        async def has_ended() -> bool:
            nonlocal most, answered
            text = f"say {self.tag}.{answered}"
            other = await self.client.send(lambda: self.server, others_thread, text, key=text)
            assert (other.closing or {}).get("status") == "completed"
            assert other.said == f"{self.tag}.{answered} done"
            answered += 1
            if answered == OTHERS:
                site.open_gate(f"{self.tag}.end")
            most = max(most, self.server.resident_bytes())
            turn = await self.client.turn(self.server.port, self.thread_id, self.turn_id)
            return turn["finished_at"] is not None

        site.open_gate(self.tag)
        await until(has_ended)
        assert answered >= OTHERS
        turn = await self.client.turn(self.server.port, self.thread_id, self.turn_id)
        assert turn["status"] == "completed"
        return most
