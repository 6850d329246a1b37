"""Files in what the model is given: references in the memory, bytes for one call."""

from __future__ import annotations

import base64
import copy
import json
from typing import Any
from uuid import uuid4

import pytest
from django.core.files.storage import storages
from django.utils import timezone

from conversations import attachments as service
from conversations import lanes
from conversations.errors import StoreError
from conversations.models import Attachment
from conversations.store.attachments import AttachmentRow
from conversations.tests.factories import PNG, AttachmentFactory
from conversations.turns.attachments import expand, part_of


def row(name: str = "a.png", mime_type: str = "image/png") -> AttachmentRow:
    return AttachmentRow(uuid4(), name, mime_type, 3, True, None, None, "x", timezone.now())


def said(*attachments: Any, text: str = "Look") -> dict[str, Any]:
    parts = [part_of(each.id, each.name, each.mime_type) for each in attachments]
    content = [{"type": "input_text", "text": text}, *parts] if parts else text
    return {"role": "user", "content": content}


async def files(session: Any, *given: dict[str, Any]) -> list[AttachmentRow]:
    """Uploaded, and sent in the session."""

    def make() -> list[Any]:
        common = {"owner": session.owner, "session": session, "message_id": uuid4()}
        return [AttachmentFactory(**common | values).id for values in given]

    ids = await lanes.call(make)
    return await service.get_attachments(owner_id=session.owner_id, ids=ids)


async def given_to_model(session: Any, *items: Any, **changes: Any) -> list[Any]:
    options = {"owner_id": session.owner_id, "session_id": session.id}
    return await expand(items, **options | changes)


def url(mime_type: str, data: bytes) -> str:
    return f"data:{mime_type};base64,{base64.b64encode(data).decode()}"


# --- What is remembered -------------------------------------------------------------------------


def test_files_are_remembered_as_references():
    image, paper = row(), row("b.pdf", "application/pdf")
    assert said(image, paper)["content"][1:] == [
        {"type": "input_image", "image_url": f"attachment:{image.id}", "detail": "auto"},
        {"type": "input_file", "file_data": f"attachment:{paper.id}", "filename": "b.pdf"},
    ]


# --- What the model is given --------------------------------------------------------------------


async def test_references_become_bytes_in_copies(session):
    pdf = b"%PDF-1.7 ..."
    image, paper = await files(
        session, {}, {"name": "b.pdf", "mime_type": "application/pdf", "data": pdf}
    )
    remembered = said(image, paper)
    before = copy.deepcopy(remembered)
    (given,) = await given_to_model(session, remembered)
    assert remembered == before
    assert given["content"] == [
        {"type": "input_text", "text": "Look"},
        {"type": "input_image", "image_url": url("image/png", PNG), "detail": "auto"},
        {
            "type": "input_file",
            "file_data": url("application/pdf", pdf),
            "filename": "b.pdf",
        },
    ]


async def test_what_refers_to_nothing_is_the_same_object_and_asks_nobody(session, monkeypatch):
    async def fail(*args: Any) -> Any:
        raise AssertionError("the store was asked")

    monkeypatch.setattr(lanes, "read", fail)
    reference = f"attachment:{uuid4()}"
    items = [
        {"role": "user", "content": reference},
        {"role": "user", "content": [{"type": "input_text", "text": reference}]},
        {"role": "user", "content": [{"type": "input_image", "image_url": "https://x.example/"}]},
        {"role": "user", "content": [{"type": "input_image"}, {"type": []}, "text", None]},
        {"role": "user", "content": [{"type": "input_image", "image_url": {"a": 1}}]},
        {"role": "assistant", "content": [{"type": "input_image", "image_url": reference}]},
        {"type": "function_call_output", "output": [{"type": "input_image"}]},
        {"role": "user"},
        "no item",
    ]
    given = await given_to_model(session, *items)
    assert all(one is other for one, other in zip(given, items, strict=True))


async def test_only_what_refers_to_a_file_is_copied(session):
    (image,) = await files(session, {})
    words, answer = said(), {"role": "assistant", "content": "I see"}
    given = await given_to_model(session, words, said(image), answer)
    assert given[0] is words
    assert given[2] is answer
    assert given[1]["content"][1]["image_url"] == url("image/png", PNG)


async def test_a_file_that_was_removed_is_a_sentence(session):
    image, paper = await files(session, {}, {"name": "b.pdf", "mime_type": "application/pdf"})
    remembered = said(image, paper)
    for row in (image, paper):
        await service.delete_attachment(owner_id=session.owner_id, attachment_id=row.id)
    (given,) = await given_to_model(session, remembered)
    assert given["content"] == [
        {"type": "input_text", "text": "Look"},
        {"type": "input_text", "text": "[an attachment was removed]"},
        {"type": "input_text", "text": "[attachment b.pdf was removed]"},
    ]


async def test_nobody_gets_the_files_of_others_or_of_another_conversation(session, stranger):
    (image,) = await files(session, {})
    for changes in ({"owner_id": stranger.pk}, {"owner_id": None}, {"session_id": uuid4()}):
        (given,) = await given_to_model(session, said(image), **changes)
        assert given["content"][1]["text"] == "[an attachment was removed]"


@pytest.mark.parametrize("name", ["x", "../../etc/passwd", "0" * 36])
async def test_a_reference_that_names_nothing_is_a_removed_file(session, name):
    item = {"role": "user", "content": [{"type": "input_image", "image_url": f"attachment:{name}"}]}
    (image,) = await files(session, {})
    given = await given_to_model(session, item, said(image))
    assert given[0]["content"] == [{"type": "input_text", "text": "[an attachment was removed]"}]


async def test_where_all_are_too_large_together_the_newest_are_given(session, monkeypatch):
    monkeypatch.setattr(service, "MODEL_BYTES", len(PNG) + 10)
    old, new = await files(session, {"name": "old.png"}, {"name": "new.png"})
    given = await given_to_model(session, said(old), said(new), said(new))
    assert given[0]["content"][1]["text"] == (
        "[attachment old.png was left out: all together are too large]"
    )
    assert given[1]["content"][1]["image_url"] == url("image/png", PNG)
    assert given[1]["content"] == given[2]["content"]


@pytest.mark.parametrize("fault", [FileNotFoundError, PermissionError, RuntimeError])
async def test_the_turn_goes_on_where_the_bytes_cannot_be_read(session, monkeypatch, fault, caplog):
    (image,) = await files(session, {})

    def fail(*args: Any, **kwargs: Any) -> Any:
        raise fault("a.png is a secret")

    monkeypatch.setattr(storages["attachments"], "open", fail)
    (given,) = await given_to_model(session, said(image))
    assert given["content"][1]["text"] == "[attachment a.png cannot be read at the moment]"
    assert "secret" not in caplog.text


async def test_a_store_that_is_down_is_told(session, monkeypatch):
    async def fail(job: Any) -> Any:
        raise StoreError

    monkeypatch.setattr(lanes, "read", fail)
    with pytest.raises(StoreError):
        await given_to_model(session, said(row()))


async def test_a_memory_survives_its_json(session):
    (image,) = await files(session, {})
    remembered = json.loads(json.dumps(said(image)))
    (given,) = await given_to_model(session, remembered)
    assert given["content"][1]["image_url"].startswith("data:image/png;base64,")
    assert len(json.dumps(remembered)) < 200


async def test_a_file_that_was_only_announced_is_given_to_no_model(session):
    (image,) = await files(session, {"data": None})
    assert await lanes.call(Attachment.objects.filter(status="pending").count) == 1
    (given,) = await given_to_model(session, said(image))
    assert given["content"][1]["text"] == "[an attachment was removed]"
