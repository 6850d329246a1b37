"""What one listener hears of a turn, over however many connections: each frame once, in order.

hearing = Hearing()
await hearing.take(stream, until=has_content)       # and leave it there
await hearing.take(await client.events(port, thread_id, turn_id, after=hearing.last))
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

from conversations.tests.faults.client import (
    DONE,
    RETRY_SECONDS,
    Client,
    Frame,
    Lost,
    Response,
    Stream,
)

PATIENCE: Final = 30.0

Until = Callable[[Frame], object]


class Visitor(Client):
    """A client that hangs up in the end, whatever it left open."""

    def __init__(self, token: str, *, silence_seconds: float = 60) -> None:
        super().__init__(token, silence_seconds=silence_seconds)
        self._responses: list[Response] = []

    async def _request(self, *args: Any, **kwargs: Any) -> Any:
        response = await super()._request(*args, **kwargs)
        self._responses.append(response)
        return response

    async def __aenter__(self) -> Visitor:
        return self

    async def __aexit__(self, *_: Any) -> None:
        for response in self._responses:
            response.leave()


class Hearing:
    """All that was heard so far."""

    def __init__(self) -> None:
        self.frames: list[Frame] = []

    @property
    def last(self) -> int:
        """The number to come back with."""
        return self.frames[-1].number if self.frames else 0

    @property
    def is_over(self) -> bool:
        return bool(self.frames) and self.frames[-1].body == DONE

    @property
    def said(self) -> str:
        """The answer as a person has read it."""
        return "".join(frame.content for frame in self.frames)

    @property
    def warnings(self) -> list[str]:
        """What rode on the answer for the person."""
        bodies = (frame.body for frame in self.frames)
        return [body["warning"] for body in bodies if isinstance(body, dict) and "warning" in body]

    @property
    def told(self) -> list[tuple[int, Any]]:
        """Numbers and bodies, without the times: equal for all who heard the same."""
        return [(frame.number, frame.body) for frame in self.frames]

    @property
    def closing(self) -> dict[str, Any]:
        """The one closing frame, which is the last before `[DONE]`."""
        assert [frame.number for frame in self.frames] == list(range(1, len(self.frames) + 1))
        (found,) = (index for index, frame in enumerate(self.frames) if frame.is_closing)
        assert self.is_over
        assert found == len(self.frames) - 2
        return dict(self.frames[found].body)

    async def take(self, stream: Stream, *, until: Until | None = None) -> Frame:
        """Hear the stream to its end, or up to the first frame that fits, and return that one.

        Raises Lost.
        """
        async for frame in stream.frames(after=self.last):
            self.frames.append(frame)
            if until is not None and until(frame):
                return frame
        assert until is None, "the stream ended before that frame"
        return self.frames[-1]

    async def insist(
        self, stream: Stream | None, come_back: Callable[[int], Awaitable[Stream]]
    ) -> None:
        """Hear the turn to its end, coming back whenever the connection is lost."""
        deadline = time.monotonic() + PATIENCE
        while not self.is_over:
            assert time.monotonic() < deadline, "the turn did not end in time"
            try:
                stream = stream or await come_back(self.last)
                await self.take(stream)
            except Lost:
                await asyncio.sleep(RETRY_SECONDS)
                stream = None


def has_content(frame: Frame) -> bool:
    return bool(frame.content)


def is_status(status: str) -> Until:
    """Whether a frame says that the turn is `queued`, `running`, ..."""
    return lambda frame: isinstance(frame.body, dict) and frame.body.get("status") == status


async def until(look: Callable[[], Awaitable[Any]], *, within: float = PATIENCE) -> Any:
    """The first true value of `look`."""
    deadline = time.monotonic() + within
    while not (found := await look()):
        assert time.monotonic() < deadline, f"not within {within:g} s"
        await asyncio.sleep(0.02)
    return found


async def transcript(client: Client, port: int, thread_id: str) -> list[tuple[str, str]]:
    """(role, text) of what people see; an answer that is marked as cut short ends with an …"""
    status, found = await client.ask(port, "GET", f"/chatkit/threads/{thread_id}")
    assert status == 200, found
    return [
        (message["role"], message["content"] + "…" * message["incomplete"])
        for message in found["messages"]
    ]
