"""Who of the staff has read one's own conversation, over REST."""

from __future__ import annotations

from typing import Annotated, Any

from django.http import HttpRequest
from ninja import Query, Router

from conversations import lanes
from conversations.api.auth import principal
from conversations.api.schemas import ErrorOut, ReadPage
from conversations.api.threads import thread_uuid
from conversations.errors import Invalid
from conversations.ids import parse_uuid
from conversations.store.reads import list_reads

router = Router(tags=["Threads"])


@router.get(
    "/{thread_id}/reads", response={200: ReadPage, (401, 403, 404, 413, 422, 503): ErrorOut}
)
async def get_reads(
    request: HttpRequest,
    thread_id: str,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    after: Annotated[str, Query(max_length=36, description="A read id: only older ones.")] = "",
) -> dict[str, Any]:
    """Who of the staff has read this conversation, when and how; the latest first."""
    session_id = thread_uuid(thread_id)
    place = parse_uuid(after) if after else None
    if after and place is None:
        raise Invalid(fields=[{"field": "after", "message": "is not the id of a read"}])
    owner_id = principal(request).user_id
    rows = await lanes.read(
        lambda db: list_reads(
            db, session_id=session_id, owner_id=owner_id, limit=limit + 1, after=place
        )
    )
    page = rows[:limit]
    return {
        "data": [
            {
                "read_id": row.id,
                "read_at": row.read_at,
                "how": row.how,
                "reader": row.reader or None,
            }
            for row in page
        ],
        "has_more": len(rows) > limit,
        "after": page[-1].id if page else None,
    }
