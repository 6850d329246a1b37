"""Files that people attach: taken once, as they were announced, for one owner, and erased."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from django.core.files.storage import storages
from django.db import connection

from conversations import attachments as service
from conversations import lanes
from conversations.errors import (
    AlreadyUploaded,
    AttachmentNotFound,
    Invalid,
    StoreBusy,
    StoreError,
    StoreSilent,
    ThreadHeld,
    Throttled,
    TooLarge,
)
from conversations.models import Attachment, ChatSession
from conversations.store import attachments as store
from conversations.tests import factories
from conversations.tests.factories import PNG

TEXT = b"Hello, world"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, settings: Any) -> Path:
    """Where the files of this test are."""
    place = tmp_path / "attachments"
    storage = settings.STORAGES["attachments"]
    options = storage["OPTIONS"] | {"location": str(place)}
    settings.STORAGES = settings.STORAGES | {"attachments": storage | {"OPTIONS": options}}
    return place


def kept(folder: Path) -> list[bytes]:
    return sorted(file.read_bytes() for file in folder.glob("*"))


async def arriving(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        await asyncio.sleep(0)
        yield chunk


async def announce(owner: Any, **changes: Any) -> Any:
    values = {"name": "a.png", "size": len(PNG), "mime_type": "image/png"}
    return await service.announce(owner_id=owner.pk, **values | changes)


async def upload(owner: Any, row: Any, *chunks: bytes) -> Any:
    return await service.receive(
        owner_id=owner.pk, attachment_id=row.id, chunks=arriving(*(chunks or (PNG,)))
    )


async def uploaded(owner: Any) -> Any:
    return await upload(owner, await announce(owner))


async def rows() -> list[Any]:
    return await lanes.call(lambda: list(Attachment.objects.order_by("pk").values()))


def failing(error: Exception) -> Callable[..., Any]:
    def fail(*args: Any, **kwargs: Any) -> Any:
        raise error

    return fail


# --- Announced ----------------------------------------------------------------------------------


async def test_a_file_is_announced_before_it_comes(user):
    row = await announce(user, name="../Übung\u202e.PNG", mime_type="Image/PNG; a=b")
    assert (row.name, row.mime_type, row.is_ready) == ("_Übung.PNG", "image/png", False)
    assert await service.get_attachments(owner_id=user.pk, ids=[row.id]) == [row]


@pytest.mark.parametrize(
    ("changes", "fields"),
    [
        ({"name": ""}, ["name"]),
        ({"name": " .. "}, ["name"]),
        ({"name": "a" * 256}, ["name"]),
        ({"name": "a\x00b"}, ["name"]),
        ({"name": "a\ud800b"}, ["name"]),
        ({"size": 0}, ["size"]),
        ({"size": -1}, ["size"]),
        ({"mime_type": ""}, ["mime_type"]),
        ({"mime_type": "image/svg+xml"}, ["mime_type"]),
        ({"mime_type": "text/html"}, ["mime_type"]),
        ({"mime_type": "image/png\x00"}, ["mime_type"]),
        ({"name": "", "size": 0, "mime_type": "x"}, ["name", "mime_type", "size"]),
    ],
    ids=ascii,
)
async def test_what_is_announced_badly_is_told_by_field(user, changes, fields):
    with pytest.raises(Invalid) as refusal:
        await announce(user, **changes)
    assert [field["field"] for field in refusal.value.fields] == fields
    assert await rows() == []


async def test_a_site_may_take_other_files_or_none(user, settings):
    settings.CHAT_ATTACHMENT_MIME_TYPES = ("application/zip",)
    assert (await announce(user, mime_type="application/zip")).mime_type == "application/zip"
    settings.CHAT_ATTACHMENT_MIME_TYPES = ()
    with pytest.raises(Invalid, match="taken: none"):
        await announce(user)


async def test_what_is_announced_too_large_never_comes(user, settings):
    settings.CHAT_ATTACHMENT_MAX_BYTES = 10
    assert (await announce(user, size=10)).size == 10
    for size in (11, 10**30):
        with pytest.raises(TooLarge):
            await announce(user, size=size)


# --- Uploaded -----------------------------------------------------------------------------------


async def test_bytes_come_in_pieces_and_are_kept_privately(user, folder):
    row = await announce(user)
    stored = await upload(user, row, PNG[:3], b"", PNG[3:])
    assert (stored.id, stored.is_ready) == (row.id, True)
    (file,) = folder.glob("*")
    assert file.read_bytes() == PNG
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert len(file.name) == 32
    assert str(row.id.hex) not in file.name


async def test_bytes_are_on_the_disk_before_anybody_is_told(user, folder, monkeypatch):
    flushed = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: flushed.append(os.fstat(descriptor).st_ino))
    await uploaded(user)
    (file,) = folder.glob("*")
    assert {file.stat().st_ino, folder.stat().st_ino} <= set(flushed)


async def test_any_storage_will_do(user, settings):
    memory = {"BACKEND": "django.core.files.storage.InMemoryStorage"}
    settings.STORAGES = settings.STORAGES | {"attachments": memory}
    row = await uploaded(user)
    _, file = await service.open_attachment(owner_id=user.pk, attachment_id=row.id)
    with file:
        assert file.read() == PNG
    await service.delete_attachment(owner_id=user.pk, attachment_id=row.id)
    assert storages["attachments"].listdir("") == ([], [])


async def test_a_file_that_is_more_than_memory_holds_comes_whole(user, folder, monkeypatch):
    monkeypatch.setattr(service, "MEMORY_BYTES", 50)
    await uploaded(user)
    assert kept(folder) == [PNG]


@pytest.mark.parametrize(
    ("chunks", "complaint"),
    [
        ([PNG[:-1]], "has 207 bytes, and 208 were announced"),
        ([PNG, b"x"], "has 209 bytes"),
        ([b""], "has 0 bytes"),
        ([b"<html>".ljust(len(PNG))], "is not image/png"),
        ([b"\xff\xd8\xff".ljust(len(PNG))], "is not image/png"),
    ],
    ids=["short", "long", "empty", "html", "jpeg"],
)
async def test_what_is_not_as_announced_is_refused_and_may_be_sent_again(
    user, folder, chunks, complaint
):
    row = await announce(user)
    with pytest.raises(Invalid, match=complaint) as refusal:
        await upload(user, row, *chunks)
    assert [field["field"] for field in refusal.value.fields] == ["file"]
    assert kept(folder) == []
    await upload(user, row)
    assert kept(folder) == [PNG]


async def test_nothing_is_read_beyond_the_limit(user, folder, settings):
    settings.CHAT_ATTACHMENT_MAX_BYTES = len(PNG)
    row, read = await announce(user), []

    async def endless() -> AsyncIterator[bytes]:
        while True:
            read.append(1)
            yield b"x" * 100

    with pytest.raises(TooLarge):
        await service.receive(owner_id=user.pk, attachment_id=row.id, chunks=endless())
    assert len(read) == 3
    assert kept(folder) == []


async def test_nothing_is_read_for_a_file_that_is_not_awaited(user, stranger):
    row, ready = await announce(user), await uploaded(user)

    async def unread() -> AsyncIterator[bytes]:
        raise AssertionError("read")
        yield b""

    for owner, attachment_id, error in (
        (stranger, row.id, AttachmentNotFound),
        (user, uuid4(), AttachmentNotFound),
        (user, ready.id, AlreadyUploaded),
    ):
        with pytest.raises(error):
            await service.receive(owner_id=owner.pk, attachment_id=attachment_id, chunks=unread())


async def test_who_is_too_slow_is_not_waited_for(user, folder, monkeypatch):
    monkeypatch.setattr(service, "UPLOAD_SECONDS", 0.01)
    row = await announce(user)

    async def stalled() -> AsyncIterator[bytes]:
        yield PNG[:1]
        await asyncio.Event().wait()

    with pytest.raises(Invalid, match="took too long"):
        await service.receive(owner_id=user.pk, attachment_id=row.id, chunks=stalled())
    assert kept(folder) == []


async def test_of_two_uploads_at_once_one_is_kept(user, folder):
    row = await announce(user, mime_type="text/plain", size=3)
    chunks = [[b"one"], [b"two"], [b"six"]]
    outcomes = await asyncio.gather(
        *(upload(user, row, *some) for some in chunks), return_exceptions=True
    )
    lost = [outcome for outcome in outcomes if isinstance(outcome, Exception)]
    assert [type(error) for error in lost] == [AlreadyUploaded, AlreadyUploaded]
    await lanes.call_patiently(service.erase_removed)
    (stored,) = kept(folder)
    assert [stored] == chunks[next(i for i, out in enumerate(outcomes) if out not in lost)]
    assert [row["status"] for row in await rows()] == ["ready"]


async def test_only_so_many_of_one_person_come_at_once(user, stranger, monkeypatch):
    monkeypatch.setattr(service, "UPLOADS_AT_ONCE", 1)
    (one, other), theirs = [await announce(user) for _ in range(2)], await announce(stranger)
    gate, begun = asyncio.Event(), asyncio.Event()

    async def slowly() -> AsyncIterator[bytes]:
        begun.set()
        await gate.wait()
        yield PNG

    first = asyncio.create_task(
        service.receive(owner_id=user.pk, attachment_id=one.id, chunks=slowly())
    )
    await begun.wait()
    with pytest.raises(Throttled):
        await upload(user, other)
    await upload(stranger, theirs)
    gate.set()
    assert (await first).is_ready
    await upload(user, other)
    assert not service._under_way


async def test_a_file_removed_while_it_comes_leaves_nothing(user, folder, monkeypatch):
    row = await announce(user)
    storage = storages["attachments"]
    save = storage.save

    def saved_too_late(*args: Any) -> str:
        Attachment.objects.filter(id=row.id).delete()
        connection.close()
        return str(save(*args))

    monkeypatch.setattr(storage, "save", saved_too_late)
    with pytest.raises(AttachmentNotFound):
        await upload(user, row)
    assert kept(folder) == []
    assert await rows() == []


async def test_a_storage_that_fails_is_a_store_that_fails(user, folder, monkeypatch, caplog):
    row = await announce(user)
    with monkeypatch.context() as patch:
        patch.setattr(storages["attachments"], "save", failing(OSError("a secret")))
        with pytest.raises(StoreError):
            await upload(user, row)
    assert "secret" not in caplog.text
    await upload(user, row)  # what the first try may have left is not forgotten
    assert await lanes.call_patiently(service.erase_removed) == 1
    assert kept(folder) == [PNG]


async def test_bytes_whose_row_is_in_doubt_are_not_erased(user, folder, monkeypatch):
    row = await announce(user)
    monkeypatch.setattr(store, "finish_upload", failing(StoreSilent()))
    with pytest.raises(StoreSilent):
        await upload(user, row)
    assert kept(folder) == [PNG]


# --- Handed out and erased ----------------------------------------------------------------------


async def test_the_owner_alone_opens_a_file(user, stranger):
    row, pending = await uploaded(user), await announce(user)
    found, file = await service.open_attachment(owner_id=user.pk, attachment_id=row.id)
    with file:
        assert (found, file.read()) == (row, PNG)
    for owner, attachment_id in ((stranger, row.id), (user, pending.id), (user, uuid4())):
        with pytest.raises(AttachmentNotFound):
            await service.open_attachment(owner_id=owner.pk, attachment_id=attachment_id)


async def test_a_file_that_lost_its_bytes_is_not_found(user, folder, caplog):
    row = await uploaded(user)
    for file in folder.glob("*"):
        os.remove(file)
    with pytest.raises(AttachmentNotFound):
        await service.open_attachment(owner_id=user.pk, attachment_id=row.id)
    assert "has lost its bytes" in caplog.text


async def test_a_file_is_deleted_with_its_bytes(user, stranger, folder):
    row, pending = await uploaded(user), await announce(user)
    with pytest.raises(AttachmentNotFound):
        await service.delete_attachment(owner_id=stranger.pk, attachment_id=row.id)
    assert kept(folder) == [PNG]
    for each in (row, pending):
        await service.delete_attachment(owner_id=user.pk, attachment_id=each.id)
    assert (kept(folder), await rows()) == ([], [])


async def test_a_file_on_hold_stays(user, session, folder):
    row = await uploaded(user)
    await lanes.call(Attachment.objects.update, session=session, message_id=uuid4())
    await lanes.call(ChatSession.objects.update, hold=True)
    with pytest.raises(ThreadHeld):
        await service.delete_attachment(owner_id=user.pk, attachment_id=row.id)
    assert kept(folder) == [PNG]


async def test_bytes_that_cannot_be_erased_now_are_erased_later(user, folder, monkeypatch, caplog):
    row = await uploaded(user)
    with monkeypatch.context() as patch:
        patch.setattr(storages["attachments"], "delete", failing(OSError("a secret")))
        await service.delete_attachment(owner_id=user.pk, attachment_id=row.id)
    assert kept(folder) == [PNG]
    assert "secret" not in caplog.text
    await service.erase_soon()
    assert (kept(folder), await rows()) == ([], [])


async def test_bytes_that_are_gone_already_are_erased(user, folder):
    row = await uploaded(user)
    for file in folder.glob("*"):
        os.remove(file)
    await service.delete_attachment(owner_id=user.pk, attachment_id=row.id)
    assert await rows() == []


async def test_a_busy_store_leaves_erasing_to_the_sweep(user, folder, monkeypatch, caplog):
    row = await uploaded(user)

    async def busy(*args: Any) -> Any:
        raise StoreBusy

    with monkeypatch.context() as patch:
        patch.setattr(lanes, "call_patiently", busy)
        await service.delete_attachment(owner_id=user.pk, attachment_id=row.id)
    assert "not erased yet: StoreBusy" in caplog.text
    assert kept(folder) == [PNG]


def test_many_are_erased_and_one_that_fails_keeps_none(user, folder, monkeypatch):
    monkeypatch.setattr(service, "ERASE_AT_ONCE", 2)
    for _ in range(5):
        factories.AttachmentFactory(owner=user, status="removed")
    storage = storages["attachments"]
    delete, last = storage.delete, Attachment.objects.order_by("pk")[1].storage_name
    monkeypatch.setattr(
        storage, "delete", lambda name: failing(OSError())() if name == last else delete(name)
    )
    assert service.erase_removed() == 4
    assert [file.name for file in folder.glob("*")] == [last]
    assert Attachment.objects.count() == 1
