"""Saying something: the answer streams back; and how a turn went."""

from __future__ import annotations

from typing import Annotated, Any, Final

from django.http import HttpRequest, StreamingHttpResponse
from ninja import Header, Router

from conversations import lanes, turns
from conversations.api.auth import principal
from conversations.api.schemas import ErrorOut, MessageIn, TurnOut
from conversations.api.sse import stream_response, usage_payload
from conversations.api.threads import thread_uuid
from conversations.errors import Invalid, TurnNotFound
from conversations.events import Usage
from conversations.ids import is_storable, parse_uuid
from conversations.store.threads import find_turn

router = Router(tags=["Messages"])

_STREAM: Final = {
    "responses": {
        200: {
            "description": "The answer, as it is written: see docs/api.md for the frames.",
            "headers": {"X-Turn-Id": {"schema": {"type": "string", "format": "uuid"}}},
            "content": {"text/event-stream": {"schema": {"type": "string"}}},
        }
    }
}


@router.post(
    "/{thread_id}/messages",
    response={(401, 403, 404, 409, 413, 422, 429, 503): ErrorOut},
    openapi_extra=_STREAM,
)
async def post_message(
    request: HttpRequest,
    thread_id: str,
    payload: MessageIn,
    idempotency_key: Annotated[str, Header(alias="Idempotency-Key", max_length=255)] = "",
) -> StreamingHttpResponse:
    """Say something; the answer streams back as server-sent events.

    Refusals are plain JSON, before the stream opens.
    """
    if not is_storable(idempotency_key):
        raise Invalid(fields=[{"field": "Idempotency-Key", "message": "is not valid text"}])
    turn = await turns.send(
        session_id=thread_uuid(thread_id),
        owner_id=principal(request).user_id,
        text=payload.text,
        idempotency_key=idempotency_key or None,
    )
    return stream_response(turn)


@router.get(
    "/{thread_id}/turns/{turn_id}",
    response={200: TurnOut, (401, 403, 404, 503): ErrorOut},
)
async def get_turn(request: HttpRequest, thread_id: str, turn_id: str) -> dict[str, Any]:
    """How a turn stands or ended, and what it cost."""
    session_id, found = thread_uuid(thread_id), parse_uuid(turn_id)
    if found is None:
        raise TurnNotFound
    owner_id = principal(request).user_id
    turn = await lanes.read(
        lambda db: find_turn(db, session_id=session_id, owner_id=owner_id, turn_id=found)
    )
    usage = Usage(turn.requests, turn.input_tokens, turn.output_tokens)
    return {
        "turn_id": turn.id,
        "thread_id": session_id,
        "status": turn.status,
        "ahead": turn.ahead if turn.status == "queued" else 0,
        "model": turn.model,
        "usage": usage_payload(usage),
        "error": turn.error_code or None,
        "warning": turn.warning or None,
        "message_id": turn.answer_message_id,
        "user_message_id": turn.user_message_id,
        "queued_at": turn.queued_at,
        "started_at": turn.started_at,
        "first_token_at": turn.first_token_at,
        "finished_at": turn.finished_at,
    }
