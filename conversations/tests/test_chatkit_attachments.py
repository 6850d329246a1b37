"""Attachments over the ChatKit protocol: two phases, one owner, and an address that is ours."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import pytest
from chatkit import types

from conversations import lanes
from conversations.chatkit_attachments import ConversationAttachmentStore
from conversations.chatkit_context import ChatKitContext, Prepared, UnknownAttachment
from conversations.chatkit_store import ConversationStore
from conversations.models import Attachment, ChatMessage, ChatSession
from conversations.tests.test_api_chatkit import ask, error_of, said

PNG = b"\x89PNG\r\n\x1a\n" + b"\x00" * 24
IMAGE = {"name": "x.png", "size": len(PNG), "mime_type": "image/png"}
TEXT = {"name": "a.txt", "size": 2, "mime_type": "text/plain"}
STORE = ConversationStore()


async def create(client: Any, **announced: Any) -> dict[str, Any]:
    response = await ask(client, "attachments.create", **announced)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


async def upload(client: Any, attachment: dict[str, Any], content: bytes) -> Any:
    told = attachment["upload_descriptor"]
    return await client.request(
        told["method"], told["url"], content=content, headers=told["headers"]
    )


async def test_a_file_is_announced_uploaded_and_then_known_without_its_upload(client, user):
    announced = await create(client, **IMAGE)
    assert UUID(announced["id"])
    assert announced["type"] == "image"
    told = announced["upload_descriptor"]
    assert told["url"] == f"http://localhost/chatkit/attachments/{announced['id']}"
    assert (told["method"], [*told["headers"]]) == ("PUT", ["X-Upload-Token"])
    assert "metadata" not in announced
    assert (await upload(client, announced, PNG)).status_code == 200
    found = await STORE.load_attachment(announced["id"], ChatKitContext(user.pk))
    assert isinstance(found, types.ImageAttachment)
    assert found.upload_descriptor is None
    shown = await client.get(urlsplit(announced["preview_url"]).path)
    assert (shown.status_code, shown.content) == (200, PNG)
    gone = await ask(client, "attachments.delete", attachment_id=announced["id"])
    assert gone.json() == {}
    assert error_of(await ask(client, "attachments.delete", attachment_id=announced["id"])) == (
        404,
        "not_found",
    )


async def test_what_is_no_image_has_no_preview(client):
    announced = await create(client, **TEXT)
    assert announced["type"] == "file"
    assert "preview_url" not in announced


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"size": 0}, 422),
        ({"size": -1}, 422),
        ({"size": 10**12}, 413),
        ({"mime_type": "text/html"}, 422),
        ({"name": ""}, 422),
        ({"name": "a\x00b"}, 422),
    ],
    ids=range(6),
)
async def test_what_cannot_be_attached_is_refused(changes, status, client):
    response = await ask(client, "attachments.create", **TEXT | changes)
    assert response.status_code == status
    assert await lanes.call(Attachment.objects.count) == 0


async def test_anothers_file_is_as_unknown_as_none(client, strangers_client, stranger):
    announced = await create(client, **TEXT)
    for attachment_id in (announced["id"], str(uuid4()), "atc_1"):
        response = await ask(strangers_client, "attachments.delete", attachment_id=attachment_id)
        assert error_of(response) == (404, "not_found")
        with pytest.raises(UnknownAttachment):
            await STORE.load_attachment(attachment_id, ChatKitContext(stranger.pk))
    assert (await upload(strangers_client, announced, b"Hi")).status_code == 404
    assert (await upload(client, announced, b"Hi")).status_code == 200


async def test_a_stored_image_is_shown_from_where_the_site_is_now(client, session, user):
    announced = await create(client, **IMAGE)
    attachment = announced | {"preview_url": "http://elsewhere/x", "upload_descriptor": None}
    item = {
        "type": "user_message",
        "content": [],
        "attachments": [attachment],
        "inference_options": {},
    }
    message = await lanes.call(said, session)
    await lanes.call(ChatMessage.objects.filter(id=message.id).update, thread_item=json.dumps(item))
    listed = (await ask(client, "items.list", thread_id=str(session.id))).json()["data"]
    assert listed[0]["attachments"][0]["preview_url"] == announced["preview_url"]
    found = await STORE.load_item(
        str(session.id), str(message.id), ChatKitContext(user.pk, address="https://b.example")
    )
    assert isinstance(found, types.UserMessageItem)
    (shown,) = found.attachments
    assert str(shown.preview_url).startswith("https://b.example/chatkit/attachments/")


async def test_files_of_a_prepared_message_are_not_read_again(session):
    file = types.FileAttachment(id="a", name="n", mime_type="text/plain")
    now = datetime.now(UTC)
    thread = types.ThreadMetadata(id=str(session.id), created_at=now)
    item = types.UserMessageItem(
        id="m",
        thread_id=thread.id,
        created_at=now,
        content=[],
        attachments=[file],
        inference_options=types.InferenceOptions(),
    )
    turn: Any = None
    context = ChatKitContext(session.owner_id, prepared=Prepared(thread, turn, item))
    assert await STORE.load_attachment("a", context) == file
    await STORE.save_attachment(file, context)
    with pytest.raises(UnknownAttachment):
        await STORE.load_attachment("b", context)


async def test_a_file_that_was_sent_begins_no_other_thread(client, session):
    announced = await create(client, **TEXT)
    await upload(client, announced, b"Hi")
    await lanes.call(Attachment.objects.update, session_id=session.id, message_id=uuid4())
    said_again = {"content": [], "attachments": [announced["id"]], "inference_options": {}}
    assert error_of(await ask(client, "threads.create", input=said_again)) == (422, "invalid")
    assert await lanes.call(ChatSession.objects.count) == 1


async def test_a_file_goes_with_the_item_it_came_with(client, session, user):
    announced = await create(client, **TEXT)
    message = await lanes.call(said, session)
    await lanes.call(
        Attachment.objects.update, status="ready", session_id=session.id, message_id=message.id
    )
    await STORE.delete_thread_item(str(session.id), str(message.id), ChatKitContext(user.pk))
    assert await lanes.call(Attachment.objects.count) == 0
    assert announced["id"]


def test_ids_of_files_are_ours():
    made = ConversationAttachmentStore().generate_attachment_id("image/png", ChatKitContext(1))
    assert UUID(made).version == 7
