"""Conversations over REST: list, read, rename, close, clear, delete."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from uuid import UUID

from django.http import HttpRequest
from django.utils import timezone
from ninja import Query, Router, Status

from conversations import lanes, threads
from conversations.api.auth import principal
from conversations.api.schemas import (
    ClearedOut,
    ErrorOut,
    ThreadCreated,
    ThreadIn,
    ThreadOut,
    ThreadPage,
    ThreadPatch,
    TranscriptOut,
)
from conversations.conf import get_conf
from conversations.errors import Invalid, ThreadNotFound
from conversations.ids import is_storable, parse_uuid
from conversations.store.feedback import Judgement, judgements
from conversations.store.places import read_place, write_place
from conversations.store.threads import ThreadRow, Transcript, list_threads, read_transcript

router = Router(tags=["Threads"])

Refused = {(401, 403, 404, 413, 422, 503): ErrorOut}


@router.post("", response={201: ThreadCreated, (401, 403, 413, 422, 503): ErrorOut})
async def create_thread(request: HttpRequest, payload: ThreadIn | None = None) -> Status[Any]:
    """Begin a conversation. The body may be empty."""
    given = payload or ThreadIn()
    thread = await threads.create_thread(
        owner_id=principal(request).user_id, title=given.title or "", metadata=given.metadata
    )
    return Status(201, _thread(thread))


@router.get("", response={200: ThreadPage, (401, 403, 422, 503): ErrorOut})
async def get_threads(
    request: HttpRequest,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    after: Annotated[str, Query(max_length=200)] = "",
    order: Literal["asc", "desc"] = "desc",
    q: Annotated[str, Query(max_length=200, description="Part of the title.")] = "",
) -> dict[str, Any]:
    """One's own conversations, newest activity first, in pages that no write disturbs."""
    if not is_storable(q):
        raise Invalid(fields=[{"field": "q", "message": "holds NUL or lone surrogates"}])
    place = read_place(after) if after else None
    if after and place is None:
        raise Invalid(fields=[{"field": "after", "message": "is not the end of a page"}])
    owner_id = principal(request).user_id
    rows = await lanes.read(
        lambda db: list_threads(
            db,
            owner_id=owner_id,
            limit=limit + 1,
            order=order,
            after=place,
            title_like=q.strip(),
        )
    )
    page = rows[:limit]
    return {
        "data": [_thread(row) for row in page],
        "has_more": len(rows) > limit,
        "after": write_place(page[-1]) if page else None,
    }


@router.get("/{thread_id}", response={200: TranscriptOut} | Refused, exclude_unset=True)
async def get_thread(
    request: HttpRequest,
    thread_id: str,
    limit: Annotated[int, Query(ge=1, le=50)] = 50,
    before: Annotated[str, Query(max_length=36, description="A message id: only older ones.")] = "",
) -> dict[str, Any]:
    """A conversation with its newest messages, oldest first."""
    session_id = thread_uuid(thread_id)
    earlier_than = parse_uuid(before) if before else None
    if before and earlier_than is None:
        raise Invalid(fields=[{"field": "before", "message": "is not a message id"}])
    owner_id = principal(request).user_id

    def read(db: lanes.Database) -> tuple[Transcript, dict[UUID, Judgement]]:
        page = read_transcript(
            db, session_id=session_id, owner_id=owner_id, limit=limit, before=earlier_than
        )
        ids = [message.id for message in page.messages]
        return page, judgements(db, owner_id=owner_id, message_ids=ids)

    page, judged = await lanes.read(read)
    thread = page.thread
    return {
        **_thread(thread),
        "messages": [
            {
                "message_id": message.id,
                "role": message.role,
                "content": message.text,
                "created_at": message.created_at,
                "turn_id": message.turn_id,
                "incomplete": message.incomplete,
                **({"feedback": judged[message.id]} if message.id in judged else {}),
            }
            for message in page.messages
        ],
        "has_more": page.has_more,
        "session": {
            "remembered_count": thread.remembered_count,
            "message_count": thread.message_count,
            "age_seconds": int((timezone.now() - thread.created_at).total_seconds()),
            "last_active_at": thread.last_active_at,
            "expires_at": thread.last_active_at + get_conf().retention,
        },
    }


@router.patch("/{thread_id}", response={200: ThreadOut} | Refused)
async def patch_thread(
    request: HttpRequest, thread_id: str, payload: ThreadPatch
) -> dict[str, Any]:
    """Change the title, the metadata or the status; what is not given stays."""
    thread = await threads.update_thread(
        session_id=thread_uuid(thread_id),
        owner_id=principal(request).user_id,
        title=payload.title,
        metadata=payload.metadata,
        status=payload.status,
    )
    return _thread(thread)


@router.delete("/{thread_id}", response={204: None, 409: ErrorOut} | Refused)
async def delete_thread(request: HttpRequest, thread_id: str) -> Status[None]:
    """Delete a conversation and all that was said in it; a running answer is stopped first."""
    await threads.delete_thread(
        session_id=thread_uuid(thread_id), owner_id=principal(request).user_id
    )
    return Status(204, None)


@router.post("/{thread_id}/clear", response={200: ClearedOut, 409: ErrorOut} | Refused)
async def clear_thread(request: HttpRequest, thread_id: str) -> dict[str, Any]:
    """Forget what was said and keep the conversation; a running answer is stopped first."""
    cleared = await threads.clear_thread(
        session_id=thread_uuid(thread_id), owner_id=principal(request).user_id
    )
    return {"cleared": cleared}


def thread_uuid(thread_id: str) -> UUID:
    """The id in the address; what cannot be one is as unknown as any other."""
    found = parse_uuid(thread_id)
    if found is None:
        raise ThreadNotFound
    return found


def _thread(thread: ThreadRow) -> dict[str, Any]:
    return {
        "thread_id": thread.id,
        "title": thread.title,
        "created_at": thread.created_at,
        "updated_at": thread.updated_at,
        "message_count": thread.message_count,
        "status": thread.status,
    }
