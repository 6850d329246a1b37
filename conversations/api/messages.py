"""Saying something: the answer streams back."""

from __future__ import annotations

from typing import Annotated, Any, Final

from django.http import HttpRequest, StreamingHttpResponse
from ninja import Header, Router

from conversations import turns
from conversations.api.auth import TokenOrSession, principal, verifier
from conversations.api.schemas import ErrorOut, MessageIn
from conversations.api.sse import stream_response
from conversations.api.threads import thread_uuid
from conversations.errors import Invalid
from conversations.ids import is_storable

router = Router(tags=["Messages"])

STREAM: Final[dict[str, Any]] = {
    "responses": {
        200: {
            "description": "The answer, as it is written: see docs/api.md for the frames.",
            "headers": {"X-Turn-Id": {"schema": {"type": "string", "format": "uuid"}}},
            "content": {"text/event-stream": {"schema": {"type": "string"}}},
        }
    }
}


IdempotencyKey = Annotated[str, Header(alias="Idempotency-Key", max_length=255)]


@router.post(
    "/{thread_id}/messages",
    response={(401, 403, 404, 409, 413, 422, 429, 503): ErrorOut},
    openapi_extra=STREAM,
    auth=TokenOrSession(is_enough_signed=True),
)
async def post_message(
    request: HttpRequest,
    thread_id: str,
    payload: MessageIn,
    idempotency_key: IdempotencyKey = "",
) -> StreamingHttpResponse:
    """Say something; the answer streams back as server-sent events.

    Refusals are plain JSON, before the stream opens. While the store is away there is an answer all
    the same, with a warning.
    """
    who = principal(request)
    turn = await turns.send(
        session_id=thread_uuid(thread_id),
        owner_id=who.user_id,
        text=payload.text,
        idempotency_key=read_key(idempotency_key),
        verify=None if who.is_verified else verifier(request),
    )
    return stream_response(turn)


def read_key(idempotency_key: str) -> str | None:
    """The key a client gave its message, if it did. Raises Invalid where no engine can store it."""
    if not is_storable(idempotency_key):
        raise Invalid(fields=[{"field": "Idempotency-Key", "message": "is not valid text"}])
    return idempotency_key or None
