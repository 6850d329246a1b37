"""A small OpenAI-compatible provider on loopback, for tests: it replays scripted streams."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Event = dict[str, Any]


@dataclass(frozen=True)
class Request:
    path: str
    headers: dict[str, str]
    body: dict[str, Any]


@dataclass
class Provider:
    """Answers the next request with the next of `answers`: events to stream, or a status.

    With `cut`, the connection ends in the middle of the stream.
    """

    url: str
    answers: list[list[Event] | int] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    cut: bool = False


@contextmanager
def running_provider() -> Iterator[Provider]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    provider = Provider(f"http://127.0.0.1:{server.server_address[1]}/v1")
    server.provider = provider  # type: ignore[attr-defined]
    server.daemon_threads = False  # so that closing the server waits for them
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield provider
    finally:
        server.shutdown()
        thread.join(timeout=10)
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 5

    def do_POST(self) -> None:
        provider: Provider = self.server.provider  # type: ignore[attr-defined]
        length = int(self.headers["Content-Length"])
        body = json.loads(self.rfile.read(length))
        headers = {name.lower(): value for name, value in self.headers.items()}
        provider.requests.append(Request(self.path, headers, body))
        answer = provider.answers.pop(0) if provider.answers else 500
        self.close_connection = True
        if isinstance(answer, int):
            self._refuse(answer)
        else:
            self._stream(answer, cut=provider.cut)

    def log_message(self, *arguments: Any) -> None:
        """Quiet."""

    def _refuse(self, status: int) -> None:
        body = json.dumps({"error": {"message": "no", "type": "test", "code": "test"}}).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.send_header("retry-after-ms", "1")  # the client may try again at once
        self.end_headers()
        self.wfile.write(body)

    def _stream(self, events: list[Event], *, cut: bool) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.send_header("Connection", "close")
        self.end_headers()
        for event in events:
            name = f"event: {event['type']}\n" if "type" in event else ""
            self._chunk(f"{name}data: {json.dumps(event)}\n\n")
        if not cut:
            self._chunk("data: [DONE]\n\n")
            self.wfile.write(b"0\r\n\r\n")

    def _chunk(self, text: str) -> None:
        encoded = text.encode()
        self.wfile.write(b"%x\r\n%s\r\n" % (len(encoded), encoded))
        self.wfile.flush()


class ResponsesScript:
    """What `/v1/responses` streams."""

    path = "/v1/responses"
    api = "responses"
    events_of_two_deltas = 6

    @staticmethod
    def tool_call(name: str, arguments: dict[str, Any]) -> list[Event]:
        call = {
            "type": "function_call",
            "id": "fc_1",
            "call_id": "call_1",
            "name": name,
            "arguments": "",
            "status": "in_progress",
        }
        text = json.dumps(arguments)
        done = call | {"arguments": text, "status": "completed"}
        place = {"item_id": "fc_1", "output_index": 0}
        arguments_event = "response.function_call_arguments"
        return _numbered(
            [
                {"type": "response.output_item.added", "output_index": 0, "item": call},
                *({"type": f"{arguments_event}.delta", **place, "delta": c} for c in text),
                {"type": f"{arguments_event}.done", **place, "arguments": text, "name": name},
                {"type": "response.output_item.done", "output_index": 0, "item": done},
            ],
            done,
        )

    @staticmethod
    def message(deltas: list[str]) -> list[Event]:
        part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        full = part | {"text": "".join(deltas)}
        item = {
            "type": "message",
            "id": "msg_1",
            "role": "assistant",
            "status": "in_progress",
            "content": [],
        }
        done = item | {"status": "completed", "content": [full]}
        place = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
        text_event = "response.output_text"
        return _numbered(
            [
                {"type": "response.output_item.added", "output_index": 0, "item": item},
                {"type": "response.content_part.added", **place, "part": part},
                *(
                    {"type": f"{text_event}.delta", **place, "delta": delta, "logprobs": []}
                    for delta in deltas
                ),
                {"type": f"{text_event}.done", **place, "text": full["text"], "logprobs": []},
                {"type": "response.content_part.done", **place, "part": full},
                {"type": "response.output_item.done", "output_index": 0, "item": done},
            ],
            done,
        )

    @staticmethod
    def tool_output(request: Request) -> str:
        outputs = [
            item for item in request.body["input"] if item.get("type") == "function_call_output"
        ]
        return str(outputs[-1]["output"])


def _numbered(events: list[Event], item: Event) -> list[Event]:
    response: Event = {
        "id": "resp_1",
        "object": "response",
        "created_at": 0,
        "model": "test-model",
        "output": [],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "status": "in_progress",
    }
    usage = {
        "input_tokens": 7,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": 5,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 12,
    }
    completed = response | {"status": "completed", "output": [item], "usage": usage}
    events = [
        {"type": "response.created", "response": response},
        {"type": "response.in_progress", "response": response},
        *events,
        {"type": "response.completed", "response": completed},
    ]
    return [event | {"sequence_number": number} for number, event in enumerate(events)]


class ChatCompletionsScript:
    """What `/v1/chat/completions` streams."""

    path = "/v1/chat/completions"
    api = "chat_completions"
    events_of_two_deltas = 3

    @staticmethod
    def tool_call(name: str, arguments: dict[str, Any]) -> list[Event]:
        text = json.dumps(arguments)
        first = {"index": 0, "id": "call_1", "type": "function"}
        first |= {"function": {"name": name, "arguments": ""}}
        pieces = [{"index": 0, "function": {"arguments": character}} for character in text]
        deltas: list[Event] = [{"tool_calls": [call]} for call in [first, *pieces]]
        return _chunks([{"role": "assistant", "content": None}, *deltas], "tool_calls")

    @staticmethod
    def message(deltas: list[str]) -> list[Event]:
        return _chunks(
            [{"role": "assistant", "content": ""}, *({"content": delta} for delta in deltas)],
            "stop",
        )

    @staticmethod
    def tool_output(request: Request) -> str:
        outputs = [item for item in request.body["messages"] if item["role"] == "tool"]
        return str(outputs[-1]["content"])


def _chunks(deltas: list[Event], finish: str) -> list[Event]:
    chunk = {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 0,
        "model": "test-model",
    }
    choices = [{"index": 0, "delta": delta, "finish_reason": None} for delta in deltas]
    choices.append({"index": 0, "delta": {}, "finish_reason": finish})
    usage = {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}
    return [
        *(chunk | {"choices": [choice]} for choice in choices),
        chunk | {"choices": [], "usage": usage},
    ]
