"""The SQL of thread items, their threads and what people think of them: by index, and tolerant."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

import pytest
from django.db import connection
from django.utils import timezone

from conversations import lanes
from conversations.chatkit_context import ChatKitContext
from conversations.chatkit_store import ConversationStore
from conversations.items import Row
from conversations.models import ChatMessage, ChatSession
from conversations.store import feedback, places, thread_details, thread_items, threads
from conversations.tests.factories import ChatSessionFactory

on_sqlite = pytest.mark.skipif(
    "connection.vendor != 'sqlite'", reason="another engine refuses what is not of its type"
)


class Explained(lanes.Database):
    """A database that tells how it finds what it is asked for."""

    def __init__(self, db: lanes.Database) -> None:
        self._db = db
        self.is_sqlite = db.is_sqlite
        self.plans: list[str] = []
        if not db.is_sqlite:
            db.run("SET LOCAL enable_seqscan = off")

    def run_many(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        self._db.run_many(sql, rows)

    def _execute(self, sql: str, params: Sequence[Any]) -> Any:
        if sql.startswith(("SELECT", "UPDATE", "DELETE")):
            explain = "EXPLAIN QUERY PLAN " if self.is_sqlite else "EXPLAIN "
            rows = self._db.all(explain + sql, params)
            self.plans += [str(row[-1]) for row in rows]
        return self._db._execute(sql, params)


NOW: Final = timezone.now()
Job = Callable[..., Any]
JOBS: Final[dict[str, Job]] = {
    "the first page": lambda db, m, **of: thread_items.list_items(db, limit=20, **of),
    "a later page": lambda db, m, **of: thread_items.list_items(db, limit=20, after=m, **of),
    "a later page from the oldest on": lambda db, m, **of: thread_items.list_items(
        db, limit=20, after=m, order="asc", **of
    ),
    "one item": lambda db, m, **of: thread_items.find_item(db, item_id=m, **of),
    "a new item": lambda db, m, **of: thread_items.put_item(
        db, row=Row("task", thread_item="{}", agent_item="{}"), created_at=NOW, now=NOW, **of
    ),
    "an item again": lambda db, m, **of: thread_items.put_item(
        db, row=Row("task", thread_item="{}", id=m), created_at=NOW, now=NOW, **of
    ),
    "an item less": lambda db, m, **of: thread_items.delete_item(db, item_id=m, now=NOW, **of),
    "a thread": lambda db, m, **of: thread_details.find_details(db, **of),
    "threads": lambda db, m, owner_id, **of: thread_details.list_details(
        db, owner_id=owner_id, limit=20
    ),
    "more threads": lambda db, m, owner_id, session_id: thread_details.list_details(
        db,
        owner_id=owner_id,
        limit=20,
        after=threads.Place(NOW, session_id),
    ),
    "a change": lambda db, m, **of: thread_details.change_details(
        db, changes=thread_details.Changes("T", "locked", {"a": 1}), now=NOW, **of
    ),
    "a judgement": lambda db, m, **of: feedback.give(
        db, message_ids=[m], kind="positive", comment=None, now=NOW, **of
    ),
    "judgements": lambda db, m, owner_id, **of: feedback.judgements(
        db, owner_id=owner_id, message_ids=[m]
    ),
}


@pytest.mark.parametrize("name", JOBS)
async def test_nothing_reads_a_whole_table(name, session):
    def fill() -> ChatMessage:
        others = ChatSessionFactory.create_batch(3)
        rows = [
            ChatMessage(session=each, position=place, kind="message", role="user", shown=True,
                        agent_item="{}")
            for each in [*others, session]
            for place in range(1, 4)
        ]  # fmt: skip
        ChatMessage.objects.bulk_create(rows)
        ChatSession.objects.update(last_position=3, item_count=3, message_count=3)
        return rows[-1]

    message = await lanes.call(fill)

    def run(db: lanes.Database) -> list[str]:
        explained = Explained(db)
        JOBS[name](explained, message.id, session_id=session.id, owner_id=session.owner_id)
        return explained.plans

    plans = await lanes.write(run)
    assert plans
    for plan in plans:
        assert "Seq Scan" not in plan
        is_last_entry = "ledgerentry USING INDEX" in plan  # backwards, for one row
        assert not plan.startswith("SCAN ") or "CONSTANT ROW" in plan or is_last_entry, plan
        if "page" in name:
            assert "TEMP B-TREE" not in plan
            assert "Sort" not in plan


DAMAGE: Final = {
    "id": "UPDATE conversations_chatmessage SET id = 'nonsense' WHERE position = 2",
    "text": "UPDATE conversations_chatmessage SET text = X'FF' WHERE position = 2",
    "thread item": "UPDATE conversations_chatmessage SET thread_item = X'FF' WHERE position = 2",
    "time": "UPDATE conversations_chatmessage SET created_at = 'nonsense' WHERE position = 2",
    "role": "UPDATE conversations_chatmessage SET role = X'FF' WHERE position = 2",
    "kind": "UPDATE conversations_chatmessage SET kind = X'FF' WHERE position = 2",
    "metadata": "UPDATE conversations_chatsession SET metadata = X'FF'",
    "extras": "UPDATE conversations_chatsession SET thread_extras = X'FF'",
    "metadata that are no object": "UPDATE conversations_chatsession SET metadata = '[1]'",
    "status": "UPDATE conversations_chatsession SET status = X'FF'",
}


@on_sqlite
@pytest.mark.parametrize("damage", DAMAGE)
async def test_damage_costs_only_itself(damage, session):
    def spoil() -> None:
        for place in (1, 2, 3):
            ChatMessage.objects.create(
                session=session, position=place, kind="message", role="user", text=str(place),
                shown=True,
            )  # fmt: skip
        with connection.cursor() as cursor:
            cursor.execute("PRAGMA ignore_check_constraints = on")
            cursor.execute(DAMAGE[damage])
            cursor.execute("PRAGMA ignore_check_constraints = off")

    await lanes.call(spoil)
    store, context = ConversationStore(), ChatKitContext(session.owner_id)
    thread_id = str(session.id)
    texts = []
    for order in ("asc", "desc"):
        after, has_more = None, True
        while has_more:
            page = await store.load_thread_items(thread_id, after, 1, order, context)
            texts += [part.text for item in page.data for part in item.content]
            after, has_more = page.after, page.has_more
    lost = [] if damage in {"id", "role"} else ["\ufffd" if damage == "text" else "2"]
    assert texts == ["1", *lost, "3", "3", *lost, "1"]
    thread = await store.load_thread(thread_id, context)
    assert thread.metadata == {}
    assert thread.status.type == ("locked" if damage == "status" else "active")
    assert [each.id for each in (await store.load_threads(5, None, "asc", context)).data] == [
        thread_id
    ]
    thread.metadata = {"a": 1}
    thread.allowed_image_domains = []
    await store.save_thread(thread, context)
    again = await store.load_thread(thread_id, ChatKitContext(session.owner_id))
    assert (again.metadata, again.allowed_image_domains) == ({"a": 1}, [])


async def test_a_page_goes_on_from_the_place_it_ended(session):
    thread = await lanes.read(
        partial(threads.find_thread, session_id=session.id, owner_id=session.owner_id)
    )
    written = places.write_place(thread)
    assert places.read_place(written) == threads.Place(thread.last_active_at, thread.id)
    for nonsense in ("x", written[:-3], "\ud800", "MjAyNi0wMS0wMX5h", "0" * 400):
        assert places.read_place(nonsense) is None
