"""Who has read what: written down once, changed by nobody, told the owner alone."""

from __future__ import annotations

from functools import partial
from typing import Any
from uuid import uuid4

import pytest
from django.db import DatabaseError, connection, transaction
from django.utils import timezone

from conversations import lanes, threads
from conversations.errors import ThreadNotFound
from conversations.models import ChatSession, StaffRead
from conversations.store import reads
from conversations.tests.factories import ChatSessionFactory, UserFactory
from conversations.tests.test_store_thread_items import Explained


def record(session_id: Any, reader: Any, how: str = "page") -> None:
    now = timezone.now()
    lanes.perform(
        partial(reads.record, session_id=session_id, reader_id=reader.pk, how=how, now=now)
    )


def listed(session: Any, **options: Any) -> list[reads.ReadRow]:
    options = {"owner_id": session.owner_id, "limit": 10} | options
    return lanes.look_up(partial(reads.list_reads, session_id=session.id, **options))


def test_reads_are_listed_newest_first_a_page_at_a_time(session, stranger):
    for how in ("page", "model", "export", "search"):
        record(session.id, stranger, how)
    found = listed(session)
    assert {row.how for row in found} == {"page", "model", "export", "search"}
    assert found == sorted(found, key=lambda row: row.id, reverse=True)
    assert {row.reader for row in found} == {stranger.username}
    first = listed(session, limit=2)
    assert first + listed(session, limit=2, after=first[-1].id) == found


def test_a_conversation_that_is_not_there_is_not_read(session, stranger):
    with pytest.raises(ThreadNotFound):
        record(uuid4(), stranger)
    assert not StaffRead.objects.exists()


def test_a_read_is_not_rewritten(session, stranger):
    record(session.id, stranger)
    for change in ({"how": "export"}, {"reader_id": None}, {"read_at": timezone.now()}):
        with pytest.raises(DatabaseError), transaction.atomic():
            StaffRead.objects.update(**change)


def test_the_key_of_a_reader_outlives_the_account(session):
    reader = UserFactory()
    key = reader.pk
    record(session.id, reader)
    reader.delete()
    assert StaffRead.objects.get().reader_id == key
    assert [row.reader for row in listed(session)] == [""]


async def test_reads_go_with_their_conversation(session, stranger):
    def others() -> Any:
        other = ChatSessionFactory()
        for each in (session, other):
            record(each.id, stranger)
        return other

    other = await lanes.call(others)
    await threads.delete_thread(session_id=session.id, owner_id=session.owner_id)
    left = await lanes.call(lambda: list(StaffRead.objects.values_list("session_id", flat=True)))
    assert left == [other.id]
    await lanes.call(other.delete)
    assert not await lanes.call(ChatSession.objects.exists)
    assert not await lanes.call(StaffRead.objects.exists)


def test_reads_are_found_by_an_index(session, stranger):
    record(session.id, stranger)

    def job(db: lanes.Database) -> list[str]:
        explained = Explained(db)
        reads.list_reads(
            explained, session_id=session.id, owner_id=session.owner_id, limit=5, after=uuid4()
        )
        return explained.plans

    plans = lanes.perform(job)
    assert any("chat_staff_read_of_session" in plan for plan in plans)
    if connection.vendor == "sqlite":
        assert not [plan for plan in plans if plan.startswith("SCAN") or "B-TREE" in plan]
