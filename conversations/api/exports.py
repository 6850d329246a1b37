"""Conversations as downloads: one of one's own, or all of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from functools import partial
from typing import Any, Final

from django.http import HttpRequest, StreamingHttpResponse
from django.utils import timezone
from ninja import Router

from conversations import exports, lanes
from conversations.api.auth import principal
from conversations.api.schemas import ErrorOut, ExportOut
from conversations.api.threads import thread_uuid
from conversations.exports import MEDIA_TYPES, SUFFIXES, Format

router = Router(tags=["Export"])

_TEXT: Final = {"schema": {"type": "string"}}
_LINES: Final = {"application/x-ndjson": _TEXT}
ONE: Final[dict[str, Any]] = {
    "responses": {
        200: {
            "description": "What was said, as a download.",
            "content": {"text/markdown": _TEXT} | _LINES,
        }
    }
}
ALL: Final[dict[str, Any]] = {
    "responses": {
        200: {
            "description": "A line for each conversation, as `format=json` tells it.",
            "content": _LINES,
        }
    }
}


@router.get(
    "/threads/{thread_id}/export",
    response={200: ExportOut, (401, 403, 404, 422, 503): ErrorOut},
    openapi_extra=ONE,
)
async def export_thread(
    request: HttpRequest, thread_id: str, format: Format = "json"
) -> StreamingHttpResponse:
    """A conversation as a download, with all that one could read in it."""
    session_id = thread_uuid(thread_id)
    pieces = exports.export_session(
        session_id=session_id,
        owner_id=principal(request).user_id,
        format=format,
        now=timezone.now(),
    )
    name = f"conversation-{session_id}.{SUFFIXES[format]}"
    return await _download(pieces, media_type=MEDIA_TYPES[format], name=name)


@router.get(
    "/export",
    response={(401, 403, 503): ErrorOut},
    openapi_extra=ALL,
)
async def export_all(request: HttpRequest) -> StreamingHttpResponse:
    """All conversations of one's own as NDJSON: each is one line."""
    now = timezone.now()
    pieces = exports.export_sessions(owner_id=principal(request).user_id, now=now)
    name = f"conversations-{now:%Y-%m-%d}.ndjson"
    return await _download(pieces, media_type=MEDIA_TYPES["jsonl"], name=name)


async def _download(pieces: Iterator[str], *, media_type: str, name: str) -> StreamingHttpResponse:
    """What can be refused is raised here, before anything is sent."""
    first = await _next(pieces)
    response = StreamingHttpResponse(_rest(first, pieces), content_type=media_type)
    response["Content-Disposition"] = f'attachment; filename="{name}"'
    response["Content-Security-Policy"] = "sandbox; default-src 'none'"
    response["X-Content-Type-Options"] = "nosniff"
    response["Cache-Control"] = "private, no-store"
    return response


async def _rest(piece: str, pieces: Iterator[str]) -> AsyncIterator[bytes]:
    """Where the store fails in the middle, the download breaks off: it never only looks whole."""
    while piece:
        yield piece.encode()
        piece = await _next(pieces)


async def _next(pieces: Iterator[str]) -> str:
    """The next piece that is not empty; empty at the end."""
    return await lanes.call(partial(next, filter(None, pieces), ""))
