"""One turn: how it stands, its stream once more, its stop, and its question once more."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final
from uuid import UUID

from django.http import HttpRequest, StreamingHttpResponse
from ninja import Header, Router, Status

from conversations import lanes, turns
from conversations.api.auth import TokenOrSession, principal
from conversations.api.messages import STREAM, IdempotencyKey, read_key
from conversations.api.schemas import ErrorOut, RetryIn, StopOut, TurnOut
from conversations.api.sse import stream_response, usage_payload
from conversations.api.threads import thread_uuid
from conversations.errors import Invalid, TurnNotFound
from conversations.events import Usage
from conversations.ids import parse_uuid
from conversations.store.threads import find_turn

router = Router(tags=["Turns"])

_EVENT_ID: Final = re.compile(r"[0-9]{1,9}", re.ASCII)


@router.get(
    "/{thread_id}/turns/{turn_id}",
    response={200: TurnOut, (401, 403, 404, 503): ErrorOut},
)
async def get_turn(request: HttpRequest, thread_id: str, turn_id: str) -> dict[str, Any]:
    """How a turn stands or ended, and what it cost."""
    session_id, found = thread_uuid(thread_id), _turn_uuid(turn_id)
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


@router.get(
    "/{thread_id}/turns/{turn_id}/events",
    response={(401, 403, 404, 409, 422, 503): ErrorOut},
    openapi_extra=STREAM,
    auth=TokenOrSession(is_enough_signed=True),
)
async def get_events(
    request: HttpRequest,
    thread_id: str,
    turn_id: str,
    last_event_id: Annotated[
        str,
        Header(alias="Last-Event-ID", description="The number of the last frame that arrived."),
    ] = "",
) -> StreamingHttpResponse:
    """The stream of a turn again, from the frame after `Last-Event-ID` on, from any process."""
    turn, after = await turns.pick_up(
        session_id=thread_uuid(thread_id),
        owner_id=principal(request).user_id,
        turn_id=_turn_uuid(turn_id),
        after=_event_number(last_event_id),
        is_verified=principal(request).is_verified,
    )
    return stream_response(turn, after=after)


@router.post(
    "/{thread_id}/turns/{turn_id}/stop",
    response={(200, 202): StopOut, (401, 403, 404, 503): ErrorOut},
    auth=TokenOrSession(is_enough_signed=True),
)
async def stop_turn(request: HttpRequest, thread_id: str, turn_id: str) -> Status[Any]:
    """Stop an answer; what was written so far stays, marked as incomplete.

    202: it will stop, or was taken out of the line. 200: it had ended already.
    """
    found = _turn_uuid(turn_id)
    stop = await turns.stop(
        session_id=thread_uuid(thread_id),
        owner_id=principal(request).user_id,
        turn_id=found,
        is_verified=principal(request).is_verified,
    )
    return Status(200 if stop.had_ended else 202, {"turn_id": found, "status": stop.status})


@router.post(
    "/{thread_id}/turns/{turn_id}/retry",
    response={(401, 403, 404, 409, 413, 422, 503): ErrorOut},
    openapi_extra=STREAM,
)
async def retry_turn(
    request: HttpRequest,
    thread_id: str,
    turn_id: str,
    payload: RetryIn | None = None,
    idempotency_key: IdempotencyKey = "",
) -> StreamingHttpResponse:
    """Ask once more what this turn was asked, or `text`: it and all that followed is taken back.

    The body may be empty. The answer streams back as for a message. What runs or waits in the
    conversation is ended first.
    """
    turn = await turns.retry(
        session_id=thread_uuid(thread_id),
        owner_id=principal(request).user_id,
        turn_id=_turn_uuid(turn_id),
        text=payload.text if payload else None,
        idempotency_key=read_key(idempotency_key),
    )
    return stream_response(turn)


def _turn_uuid(turn_id: str) -> UUID:
    """The id in the address; what cannot be one is as unknown as any other."""
    found = parse_uuid(turn_id)
    if found is None:
        raise TurnNotFound
    return found


def _event_number(header: str) -> int:
    """0 where nothing was heard yet. Raises Invalid for anything but a number of a frame."""
    if not header:
        return 0
    if not _EVENT_ID.fullmatch(header):
        message = "is not the number of a frame"
        raise Invalid(fields=[{"field": "Last-Event-ID", "message": message, "code": "invalid"}])
    return int(header)
