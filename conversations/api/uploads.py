"""The body of an upload: read as it arrives, never whole in memory, and never before it is due."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import IO, Any, Final, cast

from django.conf import settings
from django.core.exceptions import SuspiciousOperation
from django.core.files.uploadedfile import UploadedFile
from django.core.files.uploadhandler import TemporaryFileUploadHandler
from django.http import HttpRequest
from django.http.multipartparser import MultiPartParser, MultiPartParserError

from conversations.errors import Invalid, TooLarge

BODY: Final = "conversations.body"
"""Where `request.META` has the body of an upload, if nobody has read it yet."""
CHUNK_BYTES: Final = 262_144
FORM_BYTES: Final = 65_536
"""So much larger than its file a form may be."""
_UPLOADS: Final = "/chatkit/attachments/"
_FIELD: Final = "file"


def is_upload(scope: Mapping[str, Any]) -> bool:
    """Whether a request is one whose body is left to its route to read."""
    return scope["method"] in {"PUT", "POST"} and scope["path"].startswith(_UPLOADS)


async def read_body(receive: Callable[[], Awaitable[Mapping[str, Any]]]) -> AsyncIterator[bytes]:
    """A request's body as it arrives. Raises Invalid where the client leaves before its end."""
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Invalid("The upload was cut short.")
        yield message.get("body", b"")
        more = message.get("more_body", False)


async def uploaded(request: HttpRequest, *, limit: int) -> AsyncGenerator[bytes, None]:
    """The bytes of the file that a request brings: its body, or the field `file` of a form.

    Raises TooLarge where the body says, or turns out, to be larger than a file of `limit` bytes;
    Invalid where it is a form without one file.
    """
    is_form = request.content_type == "multipart/form-data"
    limit += FORM_BYTES if is_form else 0
    declared = request.META.get("CONTENT_LENGTH") or ""
    if declared.isdecimal() and (len(declared) > 18 or int(declared) > limit):
        raise TooLarge
    chunks = _bounded(_body(request), limit=limit)
    if is_form:
        chunks = _of_form(chunks, request.META["CONTENT_TYPE"])
    async with aclosing(chunks):
        async for chunk in chunks:
            yield chunk


async def _bounded(chunks: AsyncIterator[bytes], *, limit: int) -> AsyncGenerator[bytes, None]:
    async for chunk in chunks:
        limit -= len(chunk)
        if limit < 0:
            raise TooLarge
        yield chunk


async def _body(request: HttpRequest) -> AsyncIterator[bytes]:
    """Under another handler than ours the body has been read, and is bounded, already."""
    body = request.META.pop(BODY, None)
    if body is None:
        yield request.body
    else:
        async for chunk in body:
            yield chunk


async def _of_form(chunks: AsyncIterator[bytes], content_type: str) -> AsyncGenerator[bytes, None]:
    with tempfile.TemporaryFile(dir=settings.FILE_UPLOAD_TEMP_DIR) as form:
        async for chunk in chunks:
            await asyncio.to_thread(form.write, chunk)
        file = await asyncio.to_thread(_file_of, form, content_type)
        try:
            while chunk := await asyncio.to_thread(file.read, CHUNK_BYTES):
                yield chunk
        finally:
            file.close()


def _file_of(form: IO[bytes], content_type: str) -> UploadedFile[Any]:
    """The one file of a form. Raises Invalid."""
    head = {"CONTENT_TYPE": content_type, "CONTENT_LENGTH": str(form.tell())}
    form.seek(0)
    try:
        _, files = MultiPartParser(head, cast(Any, form), [TemporaryFileUploadHandler()]).parse()
    except (MultiPartParserError, SuspiciousOperation):
        raise Invalid("The form cannot be read.") from None
    found: list[UploadedFile[Any]] = [file for _, some in files.lists() for file in some]
    if len(found) == 1 and _FIELD in files:
        found[0].seek(0)
        return found[0]
    for file in found:
        file.close()
    message = "must be there, and be the only file"
    raise Invalid(f"{_FIELD}: {message}", fields=[{"field": _FIELD, "message": message}])
