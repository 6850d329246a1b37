"""What is known of attached files: each belongs to one person and one message, and goes with it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.db import connection
from django.utils import timezone

from conversations import lanes
from conversations.errors import (
    AlreadyUploaded,
    AttachmentNotFound,
    Invalid,
    ThreadHeld,
    Throttled,
)
from conversations.lanes import from_uuid
from conversations.models import Attachment, ChatSession
from conversations.store import attachments as store
from conversations.store.attachments import AttachmentRow
from conversations.store.damage import LONG_AGO
from conversations.store.log import MESSAGE
from conversations.tests import factories

NOW = timezone.now()


def perform(function: Callable[..., Any], **options: Any) -> Any:
    return lanes.perform(partial(function, **options))


def announced(**changes: Any) -> AttachmentRow:
    values = {
        "id": uuid4(),
        "name": "a.png",
        "mime_type": "image/png",
        "size": 7,
        "is_ready": False,
        "session_id": None,
        "message_id": None,
        "storage_name": "",
        "created_at": NOW,
    }
    return AttachmentRow(**values | changes)


def file(owner: Any, **values: Any) -> Any:
    return factories.AttachmentFactory(owner=owner, **values)


def sent(session: Any, message_id: UUID | None = None, **values: Any) -> Any:
    return file(session.owner, session=session, message_id=message_id or uuid4(), **values)


def attach(session: Any, *files: Any, message_id: UUID | None = None, **changes: Any) -> Any:
    options = {
        "session_id": session.id,
        "message_id": message_id or uuid4(),
        "owner_id": session.owner_id,
        "ids": [row.id for row in files],
        "now": NOW,
    }
    return perform(store.attach, **options | changes)


def statuses() -> list[str]:
    return list(Attachment.objects.order_by("pk").values_list("status", flat=True))


def key(session: Any) -> Any:
    return from_uuid(session.id, is_sqlite=connection.vendor == "sqlite")


def rows() -> list[Any]:
    return list(Attachment.objects.order_by("pk").values())


# --- Announced and found ------------------------------------------------------------------------


def test_what_is_announced_is_found_by_its_owner_alone(user, stranger):
    row = announced()
    perform(store.announce, owner_id=user.pk, attachment=row)
    assert perform(store.find, owner_id=user.pk, ids=[row.id]) == [row]
    for owner_id, ids in ((stranger.pk, [row.id]), (user.pk, [uuid4()]), (None, [row.id])):
        with pytest.raises(AttachmentNotFound):
            perform(store.find, owner_id=owner_id, ids=ids)
    with pytest.raises(AttachmentNotFound):
        perform(store.find, owner_id=user.pk, ids=[row.id, uuid4()])


def test_they_come_in_the_order_they_are_asked_for_and_nothing_costs_nothing(user):
    one, other = file(user), file(user)
    ids = [other.id, one.id, other.id]
    assert [row.id for row in perform(store.find, owner_id=user.pk, ids=ids)] == ids
    assert perform(store.find, owner_id=user.pk, ids=[]) == []


def test_only_so_many_may_wait_to_be_sent(user, stranger, session, monkeypatch):
    monkeypatch.setattr(store, "MAX_UNUSED", 2)
    sent(session)
    file(stranger)
    for _ in range(2):
        perform(store.announce, owner_id=user.pk, attachment=announced())
    with pytest.raises(Throttled):
        perform(store.announce, owner_id=user.pk, attachment=announced())
    perform(store.take_of_owner, owner_id=user.pk)
    perform(store.announce, owner_id=user.pk, attachment=announced())


@pytest.mark.skipif("connection.vendor != 'sqlite'", reason="another engine refuses these")
def test_a_damaged_row_is_shown_as_far_as_it_goes(user):
    row = file(user)
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE conversations_attachment SET name = CAST(x'61ff' AS TEXT), size = 'x',"
            " created_at = 'long ago'"
        )
    (found,) = perform(store.find, owner_id=user.pk, ids=[row.id])
    assert (found.id, found.name, found.size) == (row.id, "a\ufffd", 0)
    assert found.created_at == LONG_AGO


# --- Uploaded -----------------------------------------------------------------------------------


def begin(row: Any, name: str, **changes: Any) -> None:
    options = {"owner_id": row.owner_id, "attachment_id": row.id, "storage_name": name}
    perform(store.begin_upload, **options | changes)


def finish(row: Any, name: str, **changes: Any) -> None:
    options = {
        "owner_id": row.owner_id,
        "attachment_id": row.id,
        "begun_as": name,
        "storage_name": name,
        "stored_size": 7,
    }
    perform(store.finish_upload, **options | changes)


def test_bytes_are_known_before_they_are_there(user):
    row = file(user, data=None)
    begin(row, "one")
    assert (row.storage_name, statuses()) == ("", ["pending"])
    row.refresh_from_db()
    assert row.storage_name == "one"
    finish(row, "one", storage_name="one_renamed")
    row.refresh_from_db()
    assert (row.status, row.storage_name, row.stored_size) == ("ready", "one_renamed", 7)


def test_a_second_try_removes_what_the_first_left(user):
    row = file(user, data=None)
    begin(row, "one")
    begin(row, "two")
    (left,) = perform(store.find_removed, limit=10)
    assert left.storage_name == "one"
    with pytest.raises(AlreadyUploaded):
        finish(row, "one")
    finish(row, "two")
    for again in (begin, finish):
        with pytest.raises(AlreadyUploaded):
            again(row, "two")


def test_nobody_uploads_to_what_is_anothers_or_gone(user, stranger):
    row = file(user, data=None)
    for changes in ({"owner_id": stranger.pk}, {"attachment_id": uuid4()}):
        for step in (begin, finish):
            with pytest.raises(AttachmentNotFound):
                step(row, "one", **changes)
    begin(row, "one")
    perform(store.take, owner_id=user.pk, attachment_id=row.id, now=NOW)
    with pytest.raises(AttachmentNotFound):
        finish(row, "one")
    assert statuses() == ["removed"]


# --- Sent with a message ------------------------------------------------------------------------


def test_files_are_sent_with_one_message(session):
    one, other = file(session.owner), file(session.owner)
    message_id = uuid4()
    found = attach(session, other, one, message_id=message_id)
    assert [row.id for row in found] == [other.id, one.id]
    assert {(row.session_id, row.message_id) for row in found} == {(session.id, message_id)}
    before = rows()
    later = NOW + timedelta(minutes=1)
    assert attach(session, other, one, message_id=message_id, now=later) == found
    assert rows() == before
    assert attach(session) == []


def test_a_file_belongs_to_one_message_only(session):
    row, elsewhere = file(session.owner), factories.ChatSessionFactory(owner=session.owner)
    message_id = uuid4()
    attach(session, row, message_id=message_id)
    before = rows()
    for other in ({"message_id": uuid4()}, {"session_id": elsewhere.id, "message_id": message_id}):
        with pytest.raises(Invalid, match="belongs to another message"):
            attach(session, row, **other)
    assert rows() == before


def test_what_is_not_uploaded_or_foreign_is_not_sent(session, stranger):
    mine, pending, foreign = (
        file(session.owner),
        file(session.owner, data=None, name="b.png"),
        file(stranger),
    )
    before = rows()
    with pytest.raises(Invalid, match=r"b\.png is not uploaded yet") as refusal:
        attach(session, mine, pending)
    assert [field["field"] for field in refusal.value.fields] == ["attachments"]
    for ids in ([mine.id, foreign.id], [uuid4()]):
        with pytest.raises(AttachmentNotFound):
            attach(session, ids=ids)
    with pytest.raises(Invalid, match="different"):
        attach(session, mine, mine)
    with pytest.raises(Invalid, match="at most"):
        attach(session, ids=[uuid4() for _ in range(store.MAX_OF_MESSAGE + 1)])
    assert rows() == before


def test_a_conversation_gives_its_model_its_own_files(session, stranger):
    here, pending, unsent = (
        sent(session),
        sent(session, data=None),
        file(session.owner),
    )
    elsewhere = sent(factories.ChatSessionFactory(owner=session.owner))
    foreign = sent(factories.ChatSessionFactory(owner=stranger))
    found = perform(
        store.find_of_session,
        owner_id=session.owner_id,
        session_id=session.id,
        ids=[row.id for row in (here, pending, unsent, elsewhere, foreign)],
    )
    assert {row.id for row in found} == {here.id, unsent.id}


# --- Taken away ---------------------------------------------------------------------------------


def test_what_is_taken_away_tells_nothing_any_more_and_leaves_its_bytes_to_erase(session):
    row, pending = sent(session), file(session.owner, data=None)
    for each in (row, pending):
        perform(store.take, owner_id=session.owner_id, attachment_id=each.id, now=NOW)
    (left,) = rows()
    kept = {"id", "created_at", "attached_at", "storage_name", "status", "size", "stored_size"}
    assert not any(value for name, value in left.items() if name not in kept)
    (removed,) = perform(store.find_removed, limit=10)
    assert removed.storage_name == row.storage_name
    with pytest.raises(AttachmentNotFound):
        perform(store.take, owner_id=session.owner_id, attachment_id=row.id, now=NOW)
    perform(store.forget_removed, keys=[removed.id])
    assert rows() == []


def test_nobody_takes_what_is_anothers_or_on_hold(session, stranger):
    row = sent(session)
    before = rows()
    with pytest.raises(AttachmentNotFound):
        perform(store.take, owner_id=stranger.pk, attachment_id=row.id, now=NOW)
    ChatSession.objects.update(hold=True)
    with pytest.raises(ThreadHeld):
        perform(store.take, owner_id=session.owner_id, attachment_id=row.id, now=NOW)
    assert rows() == before


def test_a_file_that_goes_between_two_looks_is_not_found(user, monkeypatch):
    row = announced()
    monkeypatch.setattr(store, "find", lambda db, **options: [row])
    with pytest.raises(AttachmentNotFound):
        perform(store.take, owner_id=user.pk, attachment_id=row.id, now=NOW)


def test_with_a_conversation_go_its_files_and_no_others(session):
    sent(session)
    sent(session, data=None)
    other = sent(factories.ChatSessionFactory(owner=session.owner))
    unsent = file(session.owner)
    assert perform(store.take_of_session, session_key=key(session)) == 2
    left = Attachment.objects.filter(status="ready")
    assert set(left.values_list("id", flat=True)) == {other.id, unsent.id}


def test_with_messages_go_their_files(session):
    messages = [
        session.messages.create(position=position, kind="message", role="user")
        for position in (1, 2, 3)
    ]
    files = [sent(session, message.id) for message in messages]
    taken = perform(
        store.take_of_messages,
        session_key=key(session),
        messages=f"SELECT id FROM {MESSAGE} WHERE session_id = %s AND position >= %s",
        params=(key(session), 2),
        besides=messages[1].id,
    )
    assert taken == 1
    left = Attachment.objects.filter(status="ready").values_list("id", flat=True)
    assert set(left) == {files[0].id, files[1].id}


def test_with_a_person_go_their_files(session, stranger):
    sent(session)
    file(session.owner)
    other = file(stranger)
    assert perform(store.take_of_owner, owner_id=session.owner_id) == 2
    assert list(Attachment.objects.filter(status="ready")) == [other]


def test_files_nobody_will_miss(session, stranger):
    old = NOW - timedelta(hours=1)
    kept = [sent(session, created_at=old), file(session.owner), file(session.owner, data=None)]
    file(session.owner, created_at=old)
    file(session.owner, created_at=old, data=None)
    sent(factories.ChatSessionFactory(owner=session.owner)).session.delete()
    sent(factories.ChatSessionFactory(owner=stranger)).owner.delete()
    unused_since = NOW - timedelta(minutes=30)
    assert perform(store.take_orphans, unused_since=unused_since, now=NOW, actor="schedule") == 4
    left = Attachment.objects.exclude(status="removed").values_list("id", flat=True)
    assert set(left) == {row.id for row in kept}
    assert perform(store.take_orphans, unused_since=unused_since, now=NOW, actor="schedule") == 0


def test_what_is_to_be_erased_is_found_piece_by_piece(user):
    for _ in range(3):
        file(user)
    perform(store.take_of_owner, owner_id=user.pk)
    first = perform(store.find_removed, limit=2)
    rest = perform(store.find_removed, limit=2, after=first[-1].id)
    assert len({row.storage_name for row in first + rest}) == 3
    assert perform(store.find_removed, limit=2, after=rest[-1].id) == []
