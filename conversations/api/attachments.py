"""Attached files over HTTP: their bytes come in once, and go out to their owner only."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any, Final
from uuid import UUID

from django.core.files import File
from django.http import HttpRequest, StreamingHttpResponse
from django.utils.http import content_disposition_header
from ninja import Router

from conversations import attachments
from conversations.api.auth import MayUpload, principal
from conversations.api.schemas import AttachmentOut, ErrorOut
from conversations.api.uploads import CHUNK_BYTES, uploaded
from conversations.conf import get_conf
from conversations.errors import AttachmentNotFound
from conversations.ids import parse_uuid
from conversations.media import served_type
from conversations.store.attachments import AttachmentRow

router = Router(tags=["Attachments"])

_BINARY: Final = {"schema": {"type": "string", "format": "binary"}}
_FORM: Final = {
    "schema": {
        "type": "object",
        "properties": {"file": {"type": "string", "format": "binary"}},
        "required": ["file"],
    }
}
UPLOAD: Final[dict[str, Any]] = {
    "requestBody": {
        "description": "The bytes themselves, or a form with the one field `file`.",
        "required": True,
        "content": {"application/octet-stream": _BINARY, "multipart/form-data": _FORM},
    }
}
DOWNLOAD: Final[dict[str, Any]] = {
    "responses": {
        200: {
            "description": "The bytes of the file.",
            "content": {"*/*": _BINARY},
        }
    }
}
Uploaded = {200: AttachmentOut, (401, 403, 404, 409, 413, 422, 429, 503): ErrorOut}


@router.put(
    "/{attachment_id}",
    response=Uploaded,
    openapi_extra=UPLOAD,
    operation_id="put_attachment",
    auth=MayUpload(),
)
async def put_attachment(request: HttpRequest, attachment_id: str) -> dict[str, Any]:
    """Upload the bytes of a file that was announced; once only.

    ChatKit's frontend sends what its upload descriptor says, and need not sign in besides.
    """
    chunks = uploaded(request, limit=get_conf().chat_attachment_max_bytes)
    async with aclosing(chunks):
        row = await attachments.receive(
            owner_id=principal(request).user_id,
            attachment_id=_attachment_uuid(attachment_id),
            chunks=chunks,
        )
    return _attachment(row)


@router.post(
    "/{attachment_id}",
    response=Uploaded,
    openapi_extra=UPLOAD,
    operation_id="post_attachment",
    auth=MayUpload(),
)
async def post_attachment(request: HttpRequest, attachment_id: str) -> dict[str, Any]:
    """The same, for clients that send a form."""
    return await put_attachment(request, attachment_id)


@router.get(
    "/{attachment_id}",
    response={(401, 403, 404, 503): ErrorOut},
    openapi_extra=DOWNLOAD,
)
async def get_attachment(request: HttpRequest, attachment_id: str) -> StreamingHttpResponse:
    """The bytes of a file of one's own: to be saved, or shown where it is an image.

    Nothing in it is executed by a browser, whatever it is.
    """
    row, file = await attachments.open_attachment(
        owner_id=principal(request).user_id, attachment_id=_attachment_uuid(attachment_id)
    )
    response = StreamingHttpResponse(Chunks(file), content_type=served_type(row.mime_type))
    disposition = content_disposition_header(not attachments.is_image(row), row.name)
    response["Content-Disposition"] = disposition or "attachment"
    response["Content-Length"] = str(row.size)
    response["Content-Security-Policy"] = "sandbox; default-src 'none'"
    response["X-Content-Type-Options"] = "nosniff"
    response["Cache-Control"] = "private, no-store"
    return response


class Chunks:
    """A file's bytes, piece by piece; Django closes it with the response, also an unread one."""

    def __init__(self, file: File[Any]) -> None:
        self._file = file

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while chunk := await asyncio.to_thread(self._file.read, CHUNK_BYTES):
            yield chunk

    def close(self) -> None:
        self._file.close()


def _attachment_uuid(attachment_id: str) -> UUID:
    """The id in the address; what cannot be one is as unknown as any other."""
    found = parse_uuid(attachment_id)
    if found is None:
        raise AttachmentNotFound
    return found


def _attachment(row: AttachmentRow) -> dict[str, Any]:
    return {
        "id": row.id,
        "type": "image" if attachments.is_image(row) else "file",
        "name": row.name,
        "mime_type": row.mime_type,
        "size": row.size,
    }
