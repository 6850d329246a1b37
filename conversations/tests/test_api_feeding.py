"""A stream that is made in a task of its own: bounded, told when it is not wanted, never left."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextvars import ContextVar
from typing import Any

import pytest

from conversations.api.feeding import WAITING_MAX, Feed

NAME: ContextVar[str] = ContextVar("NAME", default="")


class Maker:
    """Makes numbered parts; what it met is noted."""

    def __init__(self, count: int, *, waits: bool = False, error: Exception | None = None) -> None:
        self.count, self.waits, self.error = count, waits, error
        self.made = 0
        self.met: list[str] = []

    async def parts(self) -> AsyncGenerator[bytes, None]:
        token = NAME.set("made here")
        try:
            for number in range(self.count):
                self.made += 1
                yield f"{number} ".encode()
            if self.error is not None:
                raise self.error
            if self.waits:
                await asyncio.Event().wait()
        except BaseException as error:
            self.met.append(type(error).__name__)
            if isinstance(error, asyncio.CancelledError):
                await asyncio.sleep(0)  # whoever settles is not cancelled again
                self.met.append("settled")
            raise
        finally:
            NAME.reset(token)

    def feed(self) -> Feed:
        return Feed(self.parts(), failed=lambda error: type(error).__name__.encode())


async def read(feed: Feed, **options: Any) -> bytes:
    comment = {"heartbeat": 10, "comment": b": waiting "} | options
    return b"".join([part async for part in feed.read(**comment)])


async def test_all_parts_come_in_their_order_from_one_context():
    feed = Maker(3 * WAITING_MAX).feed()
    assert await feed.begin()
    assert await read(feed) == "".join(f"{n} " for n in range(3 * WAITING_MAX)).encode()
    assert NAME.get() == ""


async def test_what_is_empty_is_told_before_anything_is_sent():
    feed = Maker(0).feed()
    assert not await feed.begin()
    assert await read(feed) == b""


async def test_an_error_before_the_first_part_is_raised_and_a_later_one_is_a_part():
    with pytest.raises(KeyError):
        await Maker(0, error=KeyError("a")).feed().begin()
    feed = Maker(1, error=KeyError("a")).feed()
    assert await feed.begin()
    assert await read(feed) == b"0 KeyError"


@pytest.mark.parametrize("count", [1, 1_000], ids=["idle", "held back"])
async def test_closing_it_cancels_it_where_it_waits_once(count):
    maker = Maker(count, waits=True)
    feed = maker.feed()
    assert await feed.begin()
    for _ in range(1_000):
        await asyncio.sleep(0)
    assert maker.made <= WAITING_MAX + 2
    await asyncio.gather(feed.close(), feed.close())
    await feed.close()
    assert maker.met == ["CancelledError", "settled"]
    assert maker.made == count


async def test_closing_what_would_have_ended_ends_it():
    maker = Maker(1_000)
    feed = maker.feed()
    assert await feed.begin()
    for _ in range(1_000):
        await asyncio.sleep(0)
    await feed.close()
    assert (maker.met, maker.made) == ([], 1_000)


async def test_who_stops_reading_in_the_middle_ends_it():
    maker = Maker(2, waits=True)
    feed = maker.feed()
    assert await feed.begin()
    parts = feed.read(heartbeat=10, comment=b"")
    assert await anext(parts) == b"0 "
    await parts.aclose()
    assert maker.met == ["CancelledError", "settled"]


async def test_who_leaves_before_the_first_part_ends_it_too():
    maker = Maker(0, waits=True)
    feed = maker.feed()
    waiting = asyncio.create_task(feed.begin())
    for _ in range(3):
        await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert maker.met == ["CancelledError", "settled"]


async def test_comments_fill_the_silence():
    maker = Maker(1, waits=True)
    feed = maker.feed()
    assert await feed.begin()
    parts = feed.read(heartbeat=0.001, comment=b": waiting")
    assert [await anext(parts) for _ in range(3)] == [b"0 ", b": waiting", b": waiting"]
    await parts.aclose()
