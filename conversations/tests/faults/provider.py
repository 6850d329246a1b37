"""A provider of models on loopback that misbehaves as the text it is sent asks it to.

It speaks both of OpenAI's APIs to the site's real client. What a person says decides the answer, so
that neither retries nor the order of requests matter:

    say TAG                 answers TAG, well
    status CODE TAG         refuses with that status
    hang TAG                takes the request and says nothing
    stall TAG               begins to answer, and then says nothing
    cut TAG                 begins to answer, and closes the connection
    short TAG               begins to answer, and ends the stream well, but in the middle
    long MEGABYTES TAG      answers at length
    bytes TAG               begins, and goes on with what is not UTF-8
    json TAG                begins, and goes on with what is not JSON
    wrong TAG               begins, and goes on with JSON of another shape
    empty TAG               answers 200 and nothing
    silent TAG              answers with a stream that only says it is done
    page TAG                answers 200 and a page of HTML
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

from chatsite.todo.tests.provider import ChatCompletionsScript, Event, ResponsesScript

MEGABYTE: Final = 2**20
PIECE: Final = "0123456789abcde " * 4096  # 64 kB
PATIENCE: Final = 30.0


@dataclass
class Misbehaving:
    """What was asked; nothing is answered to a text that is `held` until it is let go."""

    url: str
    asked: list[dict[str, Any]] = field(default_factory=list)
    go_on: threading.Event = field(default_factory=threading.Event)
    end: threading.Event = field(default_factory=threading.Event)

    def hold(self) -> None:
        self.go_on.clear()

    def let_go(self) -> None:
        self.go_on.set()

    def requests_of(self, tag: str) -> list[dict[str, Any]]:
        """The bodies whose last text from a person ends with the tag."""
        return [body for body in self.asked if said_last(body).endswith(tag)]


@contextmanager
def misbehaving_provider() -> Iterator[Misbehaving]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    provider = Misbehaving(f"http://127.0.0.1:{server.server_address[1]}/v1")
    provider.let_go()
    server.provider = provider  # type: ignore[attr-defined]
    server.daemon_threads = False  # so that closing the server waits for them
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield provider
    finally:
        provider.end.set()
        provider.let_go()
        server.shutdown()
        thread.join(timeout=PATIENCE)
        server.server_close()


def said_last(body: dict[str, Any]) -> str:
    """What a person said last, as either API gives it to the model."""
    items = body["input"] if "input" in body else body["messages"]
    if isinstance(items, str):
        return items
    said = [item["content"] for item in items if item.get("role") == "user"]
    return said[-1] if isinstance(said[-1], str) else str(said[-1][-1]["text"])


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 5

    def do_POST(self) -> None:
        provider: Misbehaving = self.server.provider  # type: ignore[attr-defined]
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        provider.asked.append(body)
        self.close_connection = True
        assert provider.go_on.wait(PATIENCE)
        with contextlib.suppress(OSError):  # the site may have hung up
            self._misbehave(said_last(body), provider)

    def log_message(self, *arguments: Any) -> None:
        """Quiet."""

    def _misbehave(self, text: str, provider: Misbehaving) -> None:
        deed, *arguments, tag = text.split()
        match deed:
            case "status":
                self._refuse(int(arguments[0]))
            case "hang":
                provider.end.wait(PATIENCE)
            case "empty":
                self._begin()
                self._end()
            case "silent":
                self._begin()
                self._write(b"data: [DONE]\n\n")
                self._end()
            case "page":
                self._answer(
                    200, "text/html", b"<html><title>Welcome to the network</title></html>"
                )
            case "say":
                self._stream(self._events([f"{tag} ", "done"]))
            case "long":
                count = int(arguments[0]) * MEGABYTE // len(PIECE)
                self._stream(self._events([PIECE] * count))
            case _:
                self._break_off(deed, tag, provider)

    def _break_off(self, deed: str, tag: str, provider: Misbehaving) -> None:
        """The first words of an answer, and then what is no answer."""
        events = self._events([f"{tag} ", "begins", " and", " ends"])
        self._begin()
        begun = next(n for n, event in enumerate(events) if "begins" in json.dumps(event)) + 1
        for event in events[:begun]:
            self._event(event)
        match deed:
            case "stall":
                provider.end.wait(PATIENCE)
            case "cut":
                return  # without the last chunk
            case "short":
                self._end()
                return
            case "bytes":
                self._write(
                    b'event: response.output_text.delta\ndata: {"delta":"\xff\xfe\xc3\x28"}\n\n'
                )
            case "json":
                self._write(b'event: response.output_text.delta\ndata: {"delta": "never en\n\n')
            case "wrong":
                self._write(b'event: response.output_text.delta\ndata: ["not", "an", "event"]\n\n')
            case _:
                raise ValueError("a text without a deed")
        for event in events[begun:]:
            self._event(event)
        self._write(b"data: [DONE]\n\n")
        self._end()

    def _events(self, pieces: list[str]) -> list[Event]:
        is_responses = self.path == ResponsesScript.path
        return (ResponsesScript if is_responses else ChatCompletionsScript).message(pieces)

    def _refuse(self, status: int) -> None:
        error = {"message": "the provider's own words", "type": "test", "code": "test"}
        self._answer(status, "application/json", json.dumps({"error": error}).encode())

    def _answer(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.send_header("retry-after-ms", "1")  # the client may try again at once
        self.end_headers()
        self.wfile.write(body)

    def _stream(self, events: list[Event]) -> None:
        self._begin()
        for event in events:
            self._event(event)
        self._write(b"data: [DONE]\n\n")
        self._end()

    def _begin(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.send_header("Connection", "close")
        self.end_headers()

    def _event(self, event: Event) -> None:
        name = f"event: {event['type']}\n" if "type" in event else ""
        self._write(f"{name}data: {json.dumps(event)}\n\n".encode())

    def _write(self, piece: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        self.wfile.flush()

    def _end(self) -> None:
        self.wfile.write(b"0\r\n\r\n")
