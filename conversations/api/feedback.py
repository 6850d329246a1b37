"""What people think of an answer, over REST."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest
from ninja import Router

from conversations import feedback
from conversations.api.auth import principal
from conversations.api.schemas import ErrorOut, FeedbackIn, FeedbackOut
from conversations.api.threads import thread_uuid
from conversations.ids import parse_uuid

router = Router(tags=["Messages"])


@router.post(
    "/{thread_id}/messages/{message_id}/feedback",
    response={200: FeedbackOut, (401, 403, 404, 413, 422, 503): ErrorOut},
)
async def post_feedback(
    request: HttpRequest, thread_id: str, message_id: str, payload: FeedbackIn
) -> Any:
    """Say what you think of a message; the last judgement counts, and staff see it.

    Without a comment, an earlier one stays.
    """
    judged = await feedback.give(
        session_id=thread_uuid(thread_id),
        owner_id=principal(request).user_id,
        message_ids=[parse_uuid(message_id)],
        kind=payload.kind,
        comment=payload.comment,
    )
    return next(iter(judged.values()))
