"""A client of the site as the contract describes it: patient, suspicious, and free to leave.

client = Client(token)
stream = await client.open(port, thread_id, "say x", key="k")
async for frame in stream.frames(): ...
told = await client.send(choose, thread_id, "say x", key="k")    # until a closing frame
"""

from __future__ import annotations

import asyncio
import json
import random
import socket
import struct
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any, Final

from conversations.events import NOT_SAVED
from conversations.tests.faults.servers import Server

RETRY_SECONDS: Final = 0.05
TRY_AGAIN: Final = {429, 503}
DONE: Final = "[DONE]"


class Lost(Exception):
    """The connection ended, or fell silent, before the closing frame."""


class Refused(Exception):
    """A plain answer instead of a stream."""

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(status, body)
        self.status, self.body = status, body


@dataclass(frozen=True, slots=True)
class Frame:
    """One numbered frame; the body of the last one is `[DONE]`."""

    number: int
    body: Any
    at: float

    @property
    def content(self) -> str:
        return self.body.get("content", "") if isinstance(self.body, dict) else ""

    @property
    def is_closing(self) -> bool:
        """The one that says how the turn ended."""
        return isinstance(self.body, dict) and (
            "error" in self.body or self.body.get("status") in {"completed", "cancelled"}
        )


class Response:
    """An HTTP answer whose body is read as it comes."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, silence: float
    ) -> None:
        self._reader, self._writer, self._silence = reader, writer, silence
        self.status = 0
        self.headers: dict[str, str] = {}

    async def begin(self) -> None:
        head = (await self._patiently(self._reader.readuntil(b"\r\n\r\n"))).decode()
        first, *lines = head.split("\r\n")
        self.status = int(first.split()[1])
        self.headers = {
            name.lower(): value for name, _, value in (line.partition(": ") for line in lines)
        }

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body in the pieces it was sent in. Raises Lost."""
        if "content-length" in self.headers:
            length = int(self.headers["content-length"])
            yield await self._patiently(self._reader.readexactly(length))
            return
        while size := int(await self._patiently(self._reader.readuntil(b"\r\n")), 16):
            yield (await self._patiently(self._reader.readexactly(size + 2)))[:-2]

    async def body(self) -> bytes:
        return b"".join([chunk async for chunk in self.chunks()])

    def leave(self) -> None:
        """Close the connection, as a browser tab does: FIN."""
        self._writer.close()

    def leave_with_reset(self) -> None:
        """RST, as a killed program or a lost router may send."""
        connection = self._writer.get_extra_info("socket")
        if connection is not None:
            now = struct.pack("ii", 1, 0)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, now)
        self._writer.transport.abort()

    def close_half(self) -> None:
        """Say that nothing more will be sent, and go on listening."""
        self._writer.write_eof()

    def stop_reading(self) -> None:
        """Stay connected and take nothing more: the buffers fill."""
        self._writer.transport.pause_reading()  # type: ignore[attr-defined]

    async def _patiently(self, reading: Any) -> Any:
        try:
            async with asyncio.timeout(self._silence):
                return await reading
        except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
            raise Lost(type(error).__name__) from error


class Stream(Response):
    """A turn's events, frame by frame."""

    @property
    def turn_id(self) -> str:
        return self.headers.get("x-turn-id", "")

    async def frames(self, *, after: int = 0) -> AsyncIterator[Frame]:
        """Every frame until `[DONE]`; numbers without a gap are insisted on. Raises Lost.

        A frame without a number says that the turn is told no further here: it counts as lost.
        """
        text, expected = "", after + 1
        async for chunk in self.chunks():
            text += chunk.decode()
            *blocks, text = text.split("\n\n")
            for block in blocks:
                frame = _frame(block)
                if frame is None:
                    continue
                if not frame.number:  # not the turn's own: this process can tell no more of it
                    raise Lost(f"sent away: {frame.body}")
                assert frame.number == expected, f"frame {frame.number} where {expected} is due"
                expected += 1
                yield frame
                if frame.body == DONE:
                    return
        raise Lost("the stream ended without [DONE]")


@dataclass
class Attempt:
    """One request of a sending: where it went, and how it ended."""

    pid: int
    begun_at: float
    ended_at: float = 0.0
    outcome: str = ""


@dataclass
class Sending:
    """One message, and all that its sender learned of it."""

    thread_id: str
    text: str
    key: str
    turn_ids: set[str] = field(default_factory=set)
    acknowledged_by: int = 0
    """The process that said so first; 0 where an earlier request may have been the one."""
    closing: dict[str, Any] | None = None
    said: str = ""
    warnings: list[str] = field(default_factory=list)
    was_told_unsaved: bool = False
    """Some request was told that its answer could not be saved: no promise but to answer."""
    running_at: float = 0.0
    attempts: list[Attempt] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    acknowledged: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def is_acknowledged(self) -> bool:
        return bool(self.turn_ids)


class Client:
    """One signed-in program, with a connection for each request."""

    def __init__(self, token: str, *, silence_seconds: float = 60) -> None:
        self._token = token
        self._silence = silence_seconds

    async def open(
        self,
        port: int,
        thread_id: str,
        text: str,
        *,
        key: str = "",
        receive_buffer: int = 0,
    ) -> Stream:
        """Say something; the stream of the answer. Raises Refused, Lost."""
        stream = await self._request(
            Stream,
            port,
            "POST",
            f"/chatkit/threads/{thread_id}/messages",
            {"text": text},
            {"Idempotency-Key": key} if key else {},
            receive_buffer=receive_buffer,
        )
        return await _insist(stream)

    async def events(self, port: int, thread_id: str, turn_id: str, *, after: int = 0) -> Stream:
        """The stream of a turn again, from the frame behind `after` on. Raises Refused, Lost."""
        path = f"/chatkit/threads/{thread_id}/turns/{turn_id}/events"
        headers = {"Last-Event-ID": str(after)} if after else {}
        return await _insist(await self._request(Stream, port, "GET", path, None, headers))

    async def stop(self, port: int, thread_id: str, turn_id: str) -> tuple[int, Any]:
        """Stop a turn."""
        return await self.ask(port, "POST", f"/chatkit/threads/{thread_id}/turns/{turn_id}/stop")

    async def new_thread(self, port: int) -> str:
        status, made = await self.ask(port, "POST", "/chatkit/threads", {})
        assert status == 201, made
        return str(made["thread_id"])

    async def transcript(self, port: int, thread_id: str) -> list[tuple[str, str]]:
        """(role, text) of what people see; the newest fifty."""
        status, found = await self.ask(port, "GET", f"/chatkit/threads/{thread_id}")
        assert status == 200, found
        return [(message["role"], message["content"]) for message in found["messages"]]

    async def turn(self, port: int, thread_id: str, turn_id: str) -> dict[str, Any]:
        status, found = await self.ask(port, "GET", f"/chatkit/threads/{thread_id}/turns/{turn_id}")
        assert status == 200, found
        return dict(found)

    async def ask(
        self, port: int, method: str, path: str, body: Any = None
    ) -> tuple[int, dict[str, Any]]:
        """A plain request: status and JSON. Raises Lost."""
        response = await self._request(Response, port, method, path, body, {})
        try:
            text = await response.body()
        finally:
            response.leave()
        return response.status, json.loads(text) if text else {}

    async def send(
        self,
        choose: Callable[[], Server],
        thread_id: str,
        text: str,
        *,
        key: str,
        give_up_after: float = 120,
        acknowledged: asyncio.Event | None = None,
    ) -> Sending:
        """Say it until a closing frame has come, with the same key each time, wherever it goes."""
        sending = Sending(thread_id, text, key, acknowledged=acknowledged or asyncio.Event())
        deadline = time.monotonic() + give_up_after
        while time.monotonic() < deadline:
            if await self._try(choose(), sending):
                return sending
            await asyncio.sleep(RETRY_SECONDS * random.uniform(0.5, 1.5))
        sending.complaints.append(f"no closing frame in {give_up_after:g} s")
        return sending

    async def _try(self, server: Server, sending: Sending) -> bool:
        """One request; whether it ended the sending."""
        attempt = Attempt(server.life.pid if server.life else 0, time.monotonic())
        sending.attempts.append(attempt)
        try:
            stream = await self.open(server.port, sending.thread_id, sending.text, key=sending.key)
            try:
                attempt.pid = server.life.pid if server.life else attempt.pid
                return await self._follow(stream, sending, attempt)
            finally:
                stream.leave()
        except Lost as error:
            attempt.outcome = f"lost: {error}"
        except Refused as error:
            attempt.outcome = f"refused: {error.status}"
            if error.status not in TRY_AGAIN:
                sending.complaints.append(f"refused with {error.status}: {error.body.decode()}")
                return True
        except AssertionError as error:
            sending.complaints.append(str(error))
            return True
        finally:
            attempt.ended_at = time.monotonic()
        return False

    async def _follow(self, stream: Stream, sending: Sending, attempt: Attempt) -> bool:
        if not sending.turn_ids and len(sending.attempts) == 1:
            sending.acknowledged_by = attempt.pid
        sending.turn_ids.add(stream.turn_id)
        sending.acknowledged.set()
        said: list[str] = []
        warnings: list[str] = []
        closing = None
        async for frame in stream.frames():
            said.append(frame.content)
            if isinstance(frame.body, dict) and "warning" in frame.body:
                warnings.append(frame.body["warning"])
                sending.was_told_unsaved |= frame.body["warning"] == NOT_SAVED
            if frame.is_closing:
                assert closing is None, "two closing frames"
                closing = frame.body
            elif isinstance(frame.body, dict) and frame.body.get("status") == "running":
                sending.running_at = sending.running_at or frame.at
        assert closing is not None, "no closing frame before [DONE]"
        attempt.outcome = closing.get("code") or closing["status"]
        if attempt.outcome == "store_unavailable":  # not how the turn ended: ask again
            return False
        sending.closing, sending.said, sending.warnings = closing, "".join(said), warnings
        return True

    async def _request(
        self,
        kind: type[Any],
        port: int,
        method: str,
        path: str,
        body: Any,
        headers: dict[str, str],
        *,
        receive_buffer: int = 0,
    ) -> Any:
        payload = b"" if body is None else json.dumps(body).encode()
        lines = [
            f"{method} {path} HTTP/1.1",
            "Host: localhost",
            f"Authorization: Bearer {self._token}",
            "Content-Type: application/json",
            f"Content-Length: {len(payload)}",
            *(f"{name}: {value}" for name, value in headers.items()),
        ]
        try:
            async with asyncio.timeout(self._silence):
                connection = await _connect(port, receive_buffer)
                reader, writer = await asyncio.open_connection(sock=connection)
        except (OSError, TimeoutError) as error:
            raise Lost(type(error).__name__) from error
        response = kind(reader, writer, self._silence)
        try:
            writer.write("\r\n".join([*lines, "", ""]).encode() + payload)
            await response.begin()
        except BaseException:
            response.leave()
            raise
        return response


async def _connect(port: int, receive_buffer: int) -> socket.socket:
    connection = socket.socket()
    try:
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if receive_buffer:  # before the connection: the window is agreed on then
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        await asyncio.get_running_loop().sock_connect(connection, ("127.0.0.1", port))
    except BaseException:
        connection.close()
        raise
    return connection


async def _insist(stream: Stream) -> Stream:
    """The stream, if it is one. Raises Refused."""
    if stream.status == 200:
        return stream
    try:
        raise Refused(stream.status, await stream.body())
    finally:
        stream.leave()


def _frame(block: str) -> Frame | None:
    """A block of a stream; None where it is a comment."""
    number, data = 0, ""
    for line in block.split("\n"):
        name, _, value = line.partition(": ")
        if name == "id":
            number = int(value)
        elif name == "data":
            data = value
    if not data:
        return None
    return Frame(number, DONE if data == DONE else json.loads(data), time.monotonic())
