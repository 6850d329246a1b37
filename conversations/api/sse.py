"""A turn's events as server-sent events: the frames of the contract, byte by byte.

https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any, Final
from uuid import UUID

from django.http import StreamingHttpResponse

from conversations.conf import get_conf
from conversations.events import (
    ContentDelta,
    ThreadEvent,
    ToolCalled,
    TurnCompleted,
    TurnEvent,
    TurnFailed,
    TurnQueued,
    TurnRunning,
    Usage,
)
from conversations.turns.follow import FollowedTurn
from conversations.turns.live import LiveTurn

WAITING: Final = b": waiting\n\n"
"""A comment, sent while nothing happens: it keeps the way open, and nobody reads it."""

_encode = json.JSONEncoder(separators=(",", ":")).encode
_encode_text = json.encoder.encode_basestring_ascii


def stream_response(turn: LiveTurn | FollowedTurn, *, after: int = 0) -> StreamingHttpResponse:
    """The turn's stream, from event `after` + 1 to `[DONE]`."""
    frames = stream(turn, after=after, heartbeat=get_conf().chat_heartbeat_seconds)
    return event_stream(frames, turn_id=turn.id)


def event_stream(frames: AsyncIterator[bytes], *, turn_id: UUID | None) -> StreamingHttpResponse:
    """Server-sent events, which nothing on the way keeps or holds back."""
    response = StreamingHttpResponse(frames, content_type="text/event-stream; charset=utf-8")
    if turn_id is not None:
        response["X-Turn-Id"] = str(turn_id)
    response["Cache-Control"] = "no-cache"
    response["X-Accel-Buffering"] = "no"
    return response


async def stream(
    turn: LiveTurn | FollowedTurn, *, after: int = 0, heartbeat: float = 15
) -> AsyncIterator[bytes]:
    """Numbered frames, comments while nothing happens, and `[DONE]` after the closing frame.

    A closing frame that is not the turn's own has no number, nor has what follows it: whoever comes
    back then goes on where the numbers ended.
    """
    number: int | None = after
    async for batch in turn.listen(after=after, heartbeat=heartbeat):
        if not batch:
            yield WAITING
            continue
        number = batch[-1][0]
        yield "".join([frame(index, event) for index, event in batch]).encode()
    done = "data: [DONE]\n\n"
    yield (done if number is None else f"id: {number + 1}\n{done}").encode()


def frame(number: int | None, event: TurnEvent) -> str:
    """One event. JSON is ASCII without line breaks, so nothing in it can begin another frame."""
    if number is None:
        return f"data: {_encode(payload(event))}\n\n"
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
        case ThreadEvent(json=told):
            return {"thread_event": json.loads(told)}
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
