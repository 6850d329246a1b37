"""A stream that somebody else makes, run in a task of its own and fed to whoever reads it.

Context variables that the maker sets and resets stay in that one task. What is not read yet is
bounded: the maker waits for a slow reader.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Final

WAITING_MAX: Final = 64
_running: set[asyncio.Task[None]] = set()

Part = bytes | None


class Feed:
    """The parts of a stream, from the moment its first is there.

    Used up or closed, its task has ended. Closing it cancels the maker where it waits, never where
    it yields: it always meets a CancelledError.
    """

    def __init__(
        self, parts: AsyncGenerator[bytes, None], *, failed: Callable[[Exception], bytes]
    ) -> None:
        self._parts = parts
        self._failed = failed
        self._queue: asyncio.Queue[Part] = asyncio.Queue(WAITING_MAX)
        self._first: Part = None
        self._has_begun = asyncio.Event()
        self._refusal: Exception | None = None
        self._is_closing = False
        self._task = asyncio.create_task(self._run())
        _running.add(self._task)
        self._task.add_done_callback(_running.discard)

    async def begin(self) -> bool:
        """Wait for the first part; False where there is none. Raises what the maker raised."""
        try:
            await self._has_begun.wait()
        except asyncio.CancelledError:
            await self.close()
            raise
        if self._refusal is not None:
            raise self._refusal
        return self._first is not None

    async def read(self, *, heartbeat: float, comment: bytes) -> AsyncIterator[bytes]:
        """All parts, and the comment whenever nothing came for `heartbeat` seconds."""
        try:
            if self._first is not None:
                yield self._first
            while True:
                try:
                    async with asyncio.timeout(heartbeat):
                        part = await self._queue.get()
                except TimeoutError:
                    yield comment
                    continue
                if part is None:
                    return
                yield part
        finally:
            await self.close()

    async def close(self) -> None:
        """End the maker, and wait until it has settled; whoever settles is not cancelled again."""
        if not self._is_closing:
            self._is_closing = True
            self._task.cancel()
        await asyncio.wait({self._task})

    async def _run(self) -> None:
        try:
            async for part in self._parts:
                if not self._has_begun.is_set():
                    self._first = part
                    self._has_begun.set()
                    continue
                try:
                    await self._queue.put(part)
                except asyncio.CancelledError:
                    await self._cancel_where_it_waits()
                    raise
        except Exception as error:
            if not self._has_begun.is_set():
                self._refusal = error
            else:
                await self._queue.put(self._failed(error))
        finally:
            await self._parts.aclose()
            self._has_begun.set()
        await self._queue.put(None)

    async def _cancel_where_it_waits(self) -> None:
        """What it makes until then is for nobody."""
        while True:
            self._task.cancel()
            try:
                await anext(self._parts)
            except StopAsyncIteration:
                return
