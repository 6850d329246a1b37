"""A ChatKit frontend without a screen: it speaks HTTP and reads with the library's own types.

heard = await client.say("conf:echo Hello")             # in a new thread
heard = await client.say("conf:slow 9 tag", in_=heard.thread_id)
page = await client.ask("items.list", thread_id=heard.thread_id)
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final, get_args

import httpx
from chatkit.types import (
    Attachment,
    NonStreamingReq,
    Page,
    StreamingReq,
    SyncCustomActionResponse,
    Thread,
    ThreadItem,
    ThreadStreamEvent,
    TranscriptionResult,
)
from pydantic import TypeAdapter

PATIENCE_SECONDS: Final = 30.0
EVENT: Final[TypeAdapter[Any]] = TypeAdapter(ThreadStreamEvent)
ANSWERS: Final[dict[str, TypeAdapter[Any]]] = {
    "threads.get_by_id": TypeAdapter(Thread),
    "threads.list": TypeAdapter(Page[Thread]),
    "threads.update": TypeAdapter(Thread),
    "threads.delete": TypeAdapter(dict[str, None]),
    "threads.sync_custom_action": TypeAdapter(SyncCustomActionResponse),
    "items.list": TypeAdapter(Page[ThreadItem]),
    "items.feedback": TypeAdapter(dict[str, None]),
    "attachments.create": TypeAdapter(Attachment),
    "attachments.delete": TypeAdapter(dict[str, None]),
    "input.transcribe": TypeAdapter(TranscriptionResult),
}
"""What each request that does not stream is answered with."""


def request_types(*unions: Any) -> set[str]:
    """The names of the requests in the installed version of the library."""
    return {request.model_fields["type"].default for union in unions for request in get_args(union)}


ALL_TYPES: Final = request_types(StreamingReq, NonStreamingReq)
STREAMING_TYPES: Final = request_types(StreamingReq)


@dataclass
class Heard:
    """The events of one stream, as far as it was heard."""

    thread_id: str
    events: list[Any] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    body: str = ""

    def of(self, kind: str) -> list[Any]:
        return [event for event in self.events if event.type == kind]

    def done(self, kind: str) -> list[Any]:
        """The finished items of a kind."""
        items = [event.item for event in self.of("thread.item.done")]
        return [item for item in items if item.type == kind]

    @property
    def deltas(self) -> list[str]:
        updates = [event.update for event in self.of("thread.item.updated")]
        return [
            update.delta
            for update in updates
            if update.type == "assistant_message.content_part.text_delta"
        ]

    @property
    def answer(self) -> str:
        """The one answer; what was streamed of it is what it is in the end."""
        (item,) = self.done("assistant_message")
        text = "".join(part.text for part in item.content)
        assert "".join(self.deltas) in {text, ""}
        return text

    @property
    def question(self) -> Any:
        """The user's message as it was stored."""
        (item,) = self.done("user_message")
        return item

    @property
    def error(self) -> Any:
        """The error the stream ended with."""
        (event,) = self.of("error")
        assert self.events[-1] is event or self.events[-1].type == "thread.updated"
        return event


@dataclass(frozen=True)
class Refusal:
    """An answer in the shape all errors have."""

    status: int
    code: str
    body: dict[str, Any]


class Person:
    """Somebody who is signed in, at both doors."""

    def __init__(self, url: str, headers: dict[str, str]) -> None:
        self.http = httpx.AsyncClient(headers=headers, timeout=PATIENCE_SECONDS)
        self.url = url
        self.sent: set[str] = set()

    async def close(self) -> None:
        await self.http.aclose()

    # --- The ChatKit door ---

    async def ask(self, type_: str, **params: Any) -> Any:
        """A request that does not stream, and its answer as the library's type."""
        response = await self._post(type_, params)
        assert response.status_code == 200, response.text
        assert response.headers["content-type"].startswith("application/json")
        assert "hidden_context" not in response.text
        return ANSWERS[type_].validate_json(response.content)

    async def refused(self, type_: str, **params: Any) -> Refusal:
        """A request that must be refused, before any stream."""
        response = await self._post(type_, params)
        assert response.headers["content-type"].startswith("application/json"), response.text
        return refusal(response)

    async def stream(self, type_: str, **params: Any) -> Heard:
        """A request that streams, heard to its end."""
        async with self.open(type_, **params) as (heard, events):
            async for _ in events:
                pass
        return heard

    async def say(
        self, text: str, *, in_: str | None = None, attachments: list[str] | None = None
    ) -> Heard:
        """Send a message, to a new thread or an old one."""
        async with self.saying(text, in_=in_, attachments=attachments) as (heard, events):
            async for _ in events:
                pass
        return heard

    @asynccontextmanager
    async def saying(
        self, text: str, *, in_: str | None = None, attachments: list[str] | None = None
    ) -> AsyncIterator[tuple[Heard, AsyncIterator[Any]]]:
        """The same, for who may leave in the middle."""
        params: dict[str, Any] = {"input": message(text, attachments)}
        if in_ is not None:
            params["thread_id"] = in_
        type_ = "threads.create" if in_ is None else "threads.add_user_message"
        async with self.open(type_, **params) as opened:
            yield opened

    @asynccontextmanager
    async def open(
        self, type_: str, **params: Any
    ) -> AsyncIterator[tuple[Heard, AsyncIterator[Any]]]:
        """What was heard so far, and the events to come; who leaves early hangs up."""
        heard = Heard(params.get("thread_id", ""))
        self.sent.add(type_)
        body = {"type": type_, "params": params}
        async with self.http.stream("POST", self.url, json=body) as response:
            if response.status_code != 200:
                await response.aread()
            assert response.status_code == 200, response.text
            assert response.headers["content-type"].startswith("text/event-stream")
            yield heard, _events(response, heard)

    async def read_items(self, thread_id: str, *, limit: int = 50, order: str = "asc") -> list[Any]:
        """All items of a thread, page by page."""
        items: list[Any] = []
        after = None
        while True:
            page = await self.ask(
                "items.list", thread_id=thread_id, limit=limit, order=order, after=after
            )
            items += page.data
            assert len(page.data) <= limit
            assert all(item.created_at.tzinfo is not None for item in page.data)
            if not page.has_more:
                return items
            assert page.after not in {None, after}
            after = page.after

    async def _post(self, type_: str, params: dict[str, Any]) -> httpx.Response:
        self.sent.add(type_)
        return await self.http.post(self.url, json={"type": type_, "params": params})

    # --- The REST door ---

    async def rest(self, method: str, path: str, **options: Any) -> httpx.Response:
        return await self.http.request(method, f"{self.url}/threads{path}", **options)

    async def transcript(self, thread_id: str) -> list[tuple[str, str]]:
        """(role, text) of what people see over REST; an answer cut short ends with an ellipsis."""
        response = await self.rest("GET", f"/{thread_id}")
        assert response.status_code == 200, response.text
        return [
            (message["role"], message["content"] + "…" * message["incomplete"])
            for message in response.json()["messages"]
        ]

    async def say_over_rest(self, text: str, *, in_: str) -> str:
        """Send a message over REST; the whole stream."""
        response = await self.rest("POST", f"/{in_}/messages", json={"text": text})
        assert response.status_code == 200, response.text
        return response.text


def message(text: str, attachments: list[str] | None = None) -> dict[str, Any]:
    """What a person types, as the frontend sends it."""
    return {
        "content": [{"type": "input_text", "text": text}],
        "attachments": attachments or [],
        "inference_options": {},
    }


def refusal(response: httpx.Response) -> Refusal:
    assert response.status_code >= 400, response.text
    body = response.json()
    assert isinstance(body["detail"], str)
    return Refusal(response.status_code, body["error"]["code"], body["error"])


def texts(items: list[Any]) -> list[tuple[str, str]]:
    """(role, text) of those items that are messages."""
    return [
        (item.type.removesuffix("_message"), "".join(part.text for part in item.content))
        for item in items
        if item.type in {"user_message", "assistant_message"}
    ]


async def until(look: Callable[[], Any], *, within: float = PATIENCE_SECONDS) -> Any:
    """The first true value of `look`."""
    deadline = time.monotonic() + within
    while not (found := await look()):
        assert time.monotonic() < deadline, f"not within {within:g} s"
        await asyncio.sleep(0.02)
    return found


async def _events(response: httpx.Response, heard: Heard) -> AsyncIterator[Any]:
    async for line in response.aiter_lines():
        heard.body += f"{line}\n"
        if not line or line.startswith(":"):
            continue
        field_, _, value = line.partition(": ")
        assert field_ == "data", line
        assert "hidden_context" not in value
        event = EVENT.validate_json(value)
        if event.type == "thread.created":
            heard.thread_id = event.thread.id
        for told in (getattr(event, "thread", None), getattr(event, "item", None)):
            assert told is None or told.created_at.tzinfo is not None, line
        heard.events.append(event)
        heard.times.append(time.monotonic())
        yield event
