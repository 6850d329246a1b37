"""A turn's events as server-sent events: the frames of the contract, byte by byte.

https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

from django.http import StreamingHttpResponse

from conversations.conf import get_conf
from conversations.events import (
    ContentDelta,
    ToolCalled,
    TurnCompleted,
    TurnEvent,
    TurnFailed,
    TurnQueued,
    TurnRunning,
    Usage,
)
from conversations.turns.live import LiveTurn

_encode = json.JSONEncoder(separators=(",", ":")).encode
_encode_text = json.encoder.encode_basestring_ascii


def stream_response(turn: LiveTurn) -> StreamingHttpResponse:
    """The turn's stream, from its first event to `[DONE]`."""
    response = StreamingHttpResponse(
        stream(turn, heartbeat=get_conf().chat_heartbeat_seconds),
        content_type="text/event-stream; charset=utf-8",
    )
    response["X-Turn-Id"] = str(turn.id)
    response["Cache-Control"] = "no-cache"
    response["X-Accel-Buffering"] = "no"
    return response


async def stream(turn: LiveTurn, *, after: int = 0, heartbeat: float = 15) -> AsyncIterator[bytes]:
    """Numbered frames, comments while nothing happens, and `[DONE]` after the closing frame."""
    number = after
    async for batch in turn.listen(after=after, heartbeat=heartbeat):
        if not batch:
            yield b": waiting\n\n"
            continue
        number = batch[-1][0]
        yield "".join([frame(index, event) for index, event in batch]).encode()
    yield f"id: {number + 1}\ndata: [DONE]\n\n".encode()


def frame(number: int, event: TurnEvent) -> str:
    """One event. JSON is ASCII without line breaks, so nothing in it can begin another frame."""
    if type(event) is ContentDelta and not event.warning:  # nearly all of them
        return f'id: {number}\ndata: {{"content":{_encode_text(event.text)}}}\n\n'
    return f"id: {number}\ndata: {_encode(payload(event))}\n\n"


def payload(event: TurnEvent) -> dict[str, Any]:
    """What the contract says of each event."""
    match event:
        case ContentDelta(text=text, warning=""):
            return {"content": text}
        case ContentDelta(text=text, warning=warning):
            return {"content": text, "warning": warning}
        case ToolCalled():
            tool = {"name": event.name, "call_id": event.call_id, "status": event.status}
            return {"tool": tool}
        case TurnQueued():
            return {"turn_id": str(event.turn_id), "status": "queued", "ahead": event.ahead}
        case TurnRunning():
            return {"turn_id": str(event.turn_id), "status": "running"}
        case TurnCompleted():
            return {
                "turn_id": str(event.turn_id),
                "status": event.status,
                "message_id": str(event.message_id) if event.message_id else None,
                "user_message_id": str(event.user_message_id) if event.user_message_id else None,
                "usage": usage_payload(event.usage),
            }
        case TurnFailed():
            return {
                "error": event.message,
                "code": event.code,
                "retryable": event.retryable,
                "turn_id": str(event.turn_id),
                "status": "failed",
            }


def usage_payload(usage: Usage) -> dict[str, int]:
    return {
        "requests": usage.requests,
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "total_tokens": usage.total_tokens,
    }
