"""Files that people attach to their messages: announced, uploaded, handed out, given to the model.

Their bytes are in a storage (`attachment_storage`), what is known of them in the table
(`store.attachments`). Every call is for one owner: what is another's is as unknown as what never
was.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import IO, Any, Final, Literal
from uuid import UUID

from django.conf import settings
from django.contrib.auth import get_user_model
from django.core import signing
from django.core.exceptions import ValidationError
from django.core.files import File
from django.utils import timezone

from conversations import attachment_storage, lanes
from conversations.conf import get_conf
from conversations.errors import (
    AlreadyUploaded,
    AttachmentNotFound,
    ConversationsError,
    Invalid,
    StoreError,
    Throttled,
    TooLarge,
    Unauthenticated,
)
from conversations.ids import is_storable, new_id
from conversations.media import (
    HEAD_BYTES,
    INLINE_TYPES,
    MAX_NAME_CHARS,
    clean_name,
    is_what_it_says,
    read_media_type,
)
from conversations.store import attachments as store
from conversations.store.attachments import AttachmentRow

logger = logging.getLogger(__name__)

MEMORY_BYTES: Final = 262_144
"""So much of an upload is in memory; the rest waits in a file without a name."""
MODEL_BYTES: Final = 33_554_432
"""So much is given to the model at once: providers take about 50 MB, and base64 adds a third."""
UPLOAD_SECONDS: Final = 600.0
UPLOADS_AT_ONCE: Final = 20
"""So many of one owner may be under way in a process: each fills a file of its own meanwhile."""
UPLOAD_TOKEN_SECONDS: Final = 3600
ERASE_AT_ONCE: Final = 100
_SALT: Final = "conversations.upload"

_under_way: Counter[Any] = Counter()


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A file as the model is given it, or why it is not."""

    name: str
    url: str = ""
    """`data:<type>;base64,...`"""
    lacks: Literal["", "bytes", "room"] = ""


async def announce(*, owner_id: Any, name: str, size: int, mime_type: str) -> AttachmentRow:
    """Take a file's name, size and type; its bytes may then come.

    Raises Invalid, TooLarge, and Throttled where too many files wait to be sent.
    """
    conf, media_type = get_conf(), read_media_type(mime_type)
    problems = {}
    kept_name = clean_name(name) if is_storable(name) else ""
    if not kept_name or len(kept_name) > MAX_NAME_CHARS:
        problems["name"] = f"must be a file name of 1 to {MAX_NAME_CHARS} characters"
    if media_type not in conf.chat_attachment_mime_types:
        kinds = ", ".join(conf.chat_attachment_mime_types) or "none"
        problems["mime_type"] = f"must be one of those that are taken: {kinds}"
    if size < 1:
        problems["size"] = "must be at least 1 byte"
    if problems:
        raise _invalid(**problems)
    if size > conf.chat_attachment_max_bytes:
        raise _too_large()
    announced = AttachmentRow(
        new_id(), kept_name, media_type, size, False, None, None, "", timezone.now()
    )
    await lanes.write(partial(store.announce, owner_id=owner_id, attachment=announced))
    return announced


def upload_token(*, owner_id: Any, attachment_id: UUID) -> str:
    """What one upload needs in place of signing in: signed, for that file only, for an hour.

    ChatKit's frontend uploads from a frame that has no other word of who it is.
    """
    return signing.dumps([attachment_id.hex, str(owner_id)], salt=_SALT)


def read_upload_token(text: str, *, attachment_id: UUID) -> Any:
    """Whose file may be uploaded with it. Raises Unauthenticated."""
    try:
        file, owner = signing.loads(text, salt=_SALT, max_age=UPLOAD_TOKEN_SECONDS)
        if file != attachment_id.hex:
            raise Unauthenticated
        return get_user_model()._meta.pk.to_python(owner)
    except (signing.BadSignature, ValueError, TypeError, ValidationError):
        raise Unauthenticated from None


async def get_attachments(*, owner_id: Any, ids: Iterable[UUID]) -> list[AttachmentRow]:
    """One's own files, in the order of `ids`. Raises AttachmentNotFound where one is not there."""
    wanted = list(ids)
    return await lanes.read(lambda db: store.find(db, owner_id=owner_id, ids=wanted))


async def receive(
    *, owner_id: Any, attachment_id: UUID, chunks: AsyncIterator[bytes]
) -> AttachmentRow:
    """Store the bytes of a file that was announced; nothing is read of them before it is found.

    Once only: of several at once, one is stored. Raises AttachmentNotFound, AlreadyUploaded,
    Throttled, TooLarge, Invalid where they are not what was announced, StoreError.
    """
    (announced,) = await get_attachments(owner_id=owner_id, ids=[attachment_id])
    if announced.is_ready:
        raise AlreadyUploaded
    with (
        _one_of_few(owner_id),
        tempfile.SpooledTemporaryFile(
            max_size=MEMORY_BYTES, dir=settings.FILE_UPLOAD_TEMP_DIR
        ) as spool,
    ):
        try:
            async with asyncio.timeout(UPLOAD_SECONDS):
                size = await _spool(chunks, spool)
        except TimeoutError:
            raise _invalid(file="took too long to arrive") from None
        spool.seek(0)
        head = spool.read(HEAD_BYTES)
        if size != announced.size:
            raise _invalid(file=f"has {size} bytes, and {announced.size} were announced")
        if not is_what_it_says(announced.mime_type, head):
            raise _invalid(file=f"is not {announced.mime_type}, as was announced")
        spool.seek(0)
        await _keep(spool, owner_id=owner_id, attachment_id=attachment_id, size=size)
    (stored,) = await get_attachments(owner_id=owner_id, ids=[attachment_id])
    return stored


async def open_attachment(*, owner_id: Any, attachment_id: UUID) -> tuple[AttachmentRow, File[Any]]:
    """A file of one's own and its bytes, to be closed. Raises AttachmentNotFound, StoreError."""
    (row,) = await get_attachments(owner_id=owner_id, ids=[attachment_id])
    if not row.is_ready:
        raise AttachmentNotFound
    try:
        return row, await attachment_storage.open_file(row.storage_name)
    except FileNotFoundError:
        logger.error("attachment %s has lost its bytes", row.id)
        raise AttachmentNotFound from None


async def delete_attachment(*, owner_id: Any, attachment_id: UUID) -> None:
    """Remove a file and its bytes. Raises AttachmentNotFound; ThreadHeld where it is on hold."""
    take = partial(store.take, owner_id=owner_id, attachment_id=attachment_id, now=timezone.now())
    await lanes.write(take)
    await erase_soon()


async def read_for_model(
    *, owner_id: Any, session_id: UUID, ids: Sequence[UUID]
) -> dict[UUID, ModelFile]:
    """Files of a conversation as the model is given them; those that were removed are left out.

    The first of `ids` come first where all are too large together.
    """
    rows = {
        row.id: row
        for row in await lanes.read(
            lambda db: store.find_of_session(db, owner_id=owner_id, session_id=session_id, ids=ids)
        )
    }
    found, room = {}, MODEL_BYTES
    for row in (rows[attachment_id] for attachment_id in ids if attachment_id in rows):
        if row.size > room:
            found[row.id] = ModelFile(row.name, lacks="room")
            continue
        room -= row.size
        try:
            url = await attachment_storage.read_url(row.storage_name, row.mime_type)
        except (FileNotFoundError, StoreError):
            logger.error("attachment %s cannot be read", row.id)
            found[row.id] = ModelFile(row.name, lacks="bytes")
        else:
            found[row.id] = ModelFile(row.name, url)
    return found


async def erase_soon() -> None:
    """Erase the bytes of what was removed, after its commit; what fails is left to the sweep."""
    try:
        if await lanes.read(partial(store.find_removed, limit=1)):
            await lanes.call_patiently(erase_removed)
    except StoreError as error:
        logger.warning("removed attachments not erased yet: %s", type(error).__name__)


def erase_removed() -> int:
    """Erase the bytes of files that were removed, then the last trace of them; how many.

    Sync; any number of processes may do it at once. What cannot be erased is left for the next.
    """
    erased, after = 0, None
    find = partial(store.find_removed, limit=ERASE_AT_ONCE)
    while removed := lanes.look_up(partial(find, after=after)):
        keys = [row.id for row in removed if attachment_storage.erase(row.storage_name)]
        if keys:
            lanes.perform(partial(store.forget_removed, keys=keys))
        erased, after = erased + len(keys), removed[-1].id
    return erased


def is_image(row: AttachmentRow) -> bool:
    """Whether it is an image that a browser may show."""
    return row.mime_type in INLINE_TYPES


@contextmanager
def _one_of_few(owner_id: Any) -> Iterator[None]:
    """Raises Throttled where too many uploads of the owner are under way."""
    if _under_way[owner_id] >= UPLOADS_AT_ONCE:
        raise Throttled("Too many files arrive at once; wait for some of them.", retry_after=5)
    _under_way[owner_id] += 1
    try:
        yield
    finally:
        _under_way[owner_id] -= 1
        if not _under_way[owner_id]:
            del _under_way[owner_id]


async def _spool(chunks: AsyncIterator[bytes], spool: IO[bytes]) -> int:
    """Write what arrives, off the loop once it is more than memory holds; how much that is."""
    limit, size, waiting = get_conf().chat_attachment_max_bytes, 0, bytearray()
    async for chunk in chunks:
        size += len(chunk)
        if size > limit:
            raise _too_large()
        waiting += chunk
        if len(waiting) >= MEMORY_BYTES:
            await asyncio.to_thread(spool.write, bytes(waiting))
            waiting.clear()
    spool.write(waiting)
    return size


async def _keep(spool: IO[bytes], *, owner_id: Any, attachment_id: UUID, size: int) -> None:
    """Save the bytes under a name of no meaning, which the row knows before."""
    name = secrets.token_hex(16)
    whose = {"owner_id": owner_id, "attachment_id": attachment_id}
    await lanes.write(partial(store.begin_upload, **whose, storage_name=name))
    saved = await attachment_storage.save(name, spool)
    try:
        await lanes.write(
            partial(
                store.finish_upload,
                **whose,
                begun_as=name,
                storage_name=saved,
                stored_size=size,
            )
        )
    except StoreError:
        raise  # nobody knows whether they are: the row tells whoever looks later
    except ConversationsError:
        await asyncio.to_thread(attachment_storage.erase, saved)
        raise


def _too_large() -> TooLarge:
    return TooLarge(f"The file is larger than {get_conf().chat_attachment_max_bytes} bytes.")


def _invalid(**problems: str) -> Invalid:
    fields = [{"field": field, "message": message} for field, message in problems.items()]
    sentence = "; ".join(f"{field['field']}: {field['message']}" for field in fields)
    return Invalid(sentence, fields=fields)
