"""A conversation as it happened: stretches of the log, whatever is in its rows."""

from __future__ import annotations

from functools import partial
from typing import Any
from uuid import uuid4

import pytest
from django.db import connection

from conversations import lanes
from conversations.errors import ItemNotFound
from conversations.models import ChatMessage, Feedback
from conversations.store import transcript_turns, transcripts
from conversations.store.transcripts import Entry, EntryPage, Judged
from conversations.tests.factories import AttachmentFactory, ChatSessionFactory
from conversations.tests.staff_helpers import answered, output, said, take_turn
from conversations.tests.test_store_thread_items import Explained, on_sqlite


def entries(session: Any, **options: Any) -> EntryPage:
    options = {"limit": 50} | options
    return lanes.look_up(partial(transcripts.read_entries, session_id=session.id, **options))


def places(page: EntryPage) -> list[int | None]:
    return [entry.position for entry in page.entries]


@pytest.fixture
def ten(session: Any) -> Any:
    take_turn(session, *[said(f"{n}") for n in range(10)])
    return session


def test_the_newest_come_by_themselves_oldest_first(ten):
    page = entries(ten, limit=4)
    assert (places(page), page.previous, page.next) == ([7, 8, 9, 10], 6, None)


def test_pages_follow_each_other_both_ways(ten):
    page = entries(ten, limit=4, since=0)
    assert (places(page), page.previous, page.next) == ([1, 2, 3, 4], None, 5)
    page = entries(ten, limit=4, since=page.next)
    assert (places(page), page.previous, page.next) == ([5, 6, 7, 8], 4, 9)
    page = entries(ten, limit=4, until=page.previous)
    assert (places(page), page.previous, page.next) == ([1, 2, 3, 4], None, 5)


def test_an_empty_conversation_has_no_page(session):
    assert entries(session) == EntryPage([], None, None, has_odd=False)


def test_a_page_is_found_around_an_entry(ten):
    def place(position: int, before: int = 3) -> int:
        message = ChatMessage.objects.get(session=ten, position=position)
        job = partial(transcripts.place_of, session_id=ten.id, before=before)
        return lanes.look_up(partial(job, message_id=message.id))

    assert (place(8), place(2)) == (5, 0)
    other = ChatSessionFactory()
    take_turn(other, said("theirs"))
    for key in (uuid4(), ChatMessage.objects.get(session=other).id):
        job = partial(transcripts.place_of, session_id=ten.id, before=1, message_id=key)
        with pytest.raises(ItemNotFound):
            lanes.look_up(job)


def test_long_texts_come_cut_with_their_length(session):
    take_turn(session, said("a" * 30_000), output("b" * 5_000_000))
    first, second = entries(session).entries
    assert (len(first.text), first.text_length) == (transcripts.TEXT_CHARS, 30_000)
    assert len(second.item or "") == transcripts.ITEM_CHARS
    assert second.item_length > 5_000_000


def test_turns_on_the_page_come_with_those_between_and_at_the_ends(session):
    made = [take_turn(session) for _ in range(5)]

    def read(ids: list[Any], **ends: bool) -> list[int]:
        job = partial(transcript_turns.read_turns, session_id=session.id, ids=ids)
        return [turn.number for turn in lanes.look_up(partial(job, **ends))]

    ids = [made[1].id, made[3].id]
    assert read(ids, from_first=False, to_last=False) == [2, 3, 4]
    assert read(ids, from_first=True, to_last=False) == [1, 2, 3, 4]
    assert read([], from_first=True, to_last=True) == [1, 2, 3, 4, 5]
    assert read([], from_first=False, to_last=False) == []


def test_a_turn_of_another_conversation_is_not_found(session):
    turn = take_turn(ChatSessionFactory())
    for key in (turn.id, uuid4()):
        job = partial(transcript_turns.find_turn, session_id=session.id, turn_id=key)
        with pytest.raises(ItemNotFound):
            lanes.look_up(job)


def test_what_is_remembered_is_told_in_order(ten):
    ChatMessage.objects.filter(position__lte=7).update(agent_item=None)
    job = partial(transcripts.remembered_places, session_id=ten.id)
    found = lanes.look_up(partial(job, remembered_count=3))
    assert found == [(8, "message"), (9, "message"), (10, "message")]
    assert lanes.look_up(partial(job, remembered_count=0)) == []


def test_feedback_and_files_are_found_by_their_messages(session, user):
    row = answered("Hello")
    take_turn(session, row)
    message = ChatMessage.objects.get(id=row.id)
    Feedback.objects.create(
        message=message, session=session, user=user, kind="negative", comment="No"
    )
    file = AttachmentFactory(owner=user, session=session, message_id=row.id)
    judged = lanes.look_up(partial(transcripts.read_feedback, message_ids=[row.id]))
    assert judged == {row.id: Judged("negative", "No")}
    job = partial(transcripts.read_files, session_id=session.id)
    files = lanes.look_up(partial(job, message_ids=[row.id]))
    assert [each.id for each in files[row.id]] == [file.id]
    assert lanes.look_up(partial(transcripts.read_feedback, message_ids=[])) == {}
    assert lanes.look_up(partial(job, message_ids=[])) == {}


@on_sqlite
def test_damage_costs_only_itself(ten):
    changes = {
        1: "text = CAST(x'ff' AS TEXT)",
        2: "agent_item = x'ff00'",
        3: "created_at = 'never', kind = x'ff'",
        4: "turn_id = 'x'",
        5: "position = 'five'",
        6: "shown = 'perhaps', quarantined_at = 'then'",
        7: "id = 'none'",
        8: "position = 8.5",
    }
    with connection.cursor() as cursor:
        for position, change in changes.items():
            table = ChatMessage._meta.db_table
            cursor.execute("PRAGMA foreign_keys = OFF")
            cursor.execute(f"UPDATE {table} SET {change} WHERE position = %s", [position])
    page = entries(ten)
    assert places(page) == [1, 2, 3, 4, 6, 7, 9, 10]
    assert page.has_odd
    assert page.entries[0].text == "\ufffd"
    assert page.entries[5].id is None
    odd: list[Entry] = lanes.look_up(partial(transcripts.read_odd_entries, session_id=ten.id))
    assert {entry.position for entry in odd} == {None}
    assert sorted(entry.text for entry in odd) == ["4", "7"]
    with connection.cursor() as cursor:
        cursor.execute(f"DELETE FROM {ChatMessage._meta.db_table}")


@on_sqlite
def test_every_stretch_is_found_by_an_index(ten):
    message = ChatMessage.objects.first()
    assert message is not None

    def job(db: lanes.Database) -> list[str]:
        explained = Explained(db)
        of: dict[str, Any] = {"session_id": ten.id}
        transcripts.read_entries(explained, limit=5, **of)
        transcripts.read_entries(explained, limit=5, since=3, **of)
        transcripts.read_entries(explained, limit=5, until=3, **of)
        transcripts.place_of(explained, message_id=message.id, before=2, **of)
        transcript_turns.read_turns(
            explained, ids=[message.turn_id], from_first=False, to_last=False, **of
        )
        transcripts.remembered_places(explained, remembered_count=5, **of)
        transcripts.read_feedback(explained, message_ids=[message.id])
        transcripts.read_files(explained, message_ids=[message.id], **of)
        return explained.plans

    scans = [plan for plan in lanes.perform(job) if plan.startswith("SCAN")]
    assert [plan for plan in scans if "CONSTANT" not in plan] == []
