"""Two engines, one behaviour: hand-written SQL and the ORM mean the same rows, by an index."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from functools import partial
from typing import Any

import pytest
from django.db import IntegrityError, connection

from conversations import lanes, sqlite
from conversations.events import Usage
from conversations.items import row_from_item
from conversations.models import ChatMessage, ChatSession
from conversations.store import log, recall, threads
from conversations.tests.factories import ChatSessionFactory

pytestmark = pytest.mark.django_db(transaction=True)

TOKYO = timezone(timedelta(hours=9))
MOMENTS = [
    datetime(2026, 11, 23, 12, 0, 0, 123456, tzinfo=UTC),
    datetime(2026, 11, 23, 12, tzinfo=UTC),  # no microseconds
    datetime(2026, 11, 23, 0, 30, 0, 1, tzinfo=TOKYO),
]


async def begin(name: str, *, now: datetime, **values: Any) -> ChatSession:
    await lanes.write(partial(log.create_session, agent_session_id=name, now=now, **values))
    return await lanes.call(ChatSession.objects.get, agent_session_id=name)


# One meaning


@pytest.mark.parametrize("moment", MOMENTS)
async def test_a_time_written_by_hand_is_read_by_the_orm_and_back(user, moment):
    session = await begin("s", now=moment, owner_id=user.pk)
    assert session.created_at == moment
    assert session.created_at.utcoffset() == timedelta(0)
    find = partial(threads.find_thread, session_id=session.id, owner_id=user.pk)
    assert (await lanes.read(find)).created_at == moment
    found = ChatSession.objects.filter(last_active_at=moment)
    assert await lanes.call(found.get) == session


@pytest.mark.parametrize("moment", MOMENTS)
async def test_a_time_written_by_the_orm_is_read_by_hand(user, moment):
    session = await lanes.call(
        lambda: ChatSessionFactory(owner=user, created_at=moment, last_active_at=moment)
    )
    find = partial(threads.find_thread, session_id=session.id, owner_id=user.pk)
    found = await lanes.read(find)
    assert (found.id, found.created_at, found.last_active_at) == (session.id, moment, moment)


async def test_times_written_either_way_are_in_one_order(user):
    noon = datetime(2026, 11, 23, 12, tzinfo=UTC)
    steps = [
        timedelta(0),
        timedelta(microseconds=1),
        timedelta(milliseconds=1),
        timedelta(seconds=1),
    ]
    expected = []
    for index, step in enumerate(steps * 2):
        moment = noon + step + timedelta(minutes=index // len(steps))
        if index % 2:
            session = await begin(f"s{index}", now=moment, owner_id=user.pk)
        else:
            session = await lanes.call(
                lambda at=moment: ChatSessionFactory(owner=user, last_active_at=at)
            )
        expected.append(session.id)
    listing = partial(threads.list_threads, owner_id=user.pk, order="asc")
    assert [row.id for row in await lanes.read(partial(listing, limit=20))] == expected
    half = (await lanes.read(partial(listing, limit=4)))[-1]
    after = threads.Place(half.last_active_at, half.id)
    rest = await lanes.read(partial(listing, limit=20, after=after))
    assert [row.id for row in rest] == expected[4:]


async def test_an_id_written_by_hand_is_found_by_the_orm(session):
    row = row_from_item({"role": "user", "content": "Hello"})
    await lanes.write(
        partial(
            log.append,
            agent_session_id=session.agent_session_id,
            rows=[row],
            usage=Usage(),
            now=MOMENTS[0],
        )
    )
    stored = await lanes.call(ChatMessage.objects.get, id=row.id)
    assert (stored.session_id, stored.shown, stored.incomplete) == (session.id, True, False)
    shown = ChatMessage.objects.filter(session=session, shown=True, incomplete=False)
    assert await lanes.call(shown.count) == 1


@pytest.mark.parametrize(
    "text", ["", "ü 🙂 \u202e", "a\r\nb\tc", "%s ? :x {}", "'\"\\", "x" * 200_000]
)
async def test_text_comes_back_as_it_was(text):
    session = await begin("s", now=MOMENTS[0])
    row = row_from_item({"role": "user", "content": text})
    add = partial(log.append, agent_session_id="s", rows=[row], usage=Usage(), now=MOMENTS[0])
    await lanes.write(add)
    stored = await lanes.call(ChatMessage.objects.get, session=session)
    assert stored.text == text


async def test_metadata_written_as_text_is_json_to_the_orm():
    session = await begin("s", now=MOMENTS[0], metadata_json='{"a": [1, null, "ü"]}')
    assert session.metadata == {"a": [1, None, "ü"]}
    found = ChatSession.objects.filter(metadata__a__0=1)
    assert await lanes.call(found.exists)


async def test_a_row_of_nobodys_session_is_refused():
    orphan = ChatMessage(position=1, kind="message")
    orphan.session_id = uuid.uuid4()
    with pytest.raises(IntegrityError):
        await lanes.call(orphan.save)


# By an index: nothing here may grow with the table


def plan_of(sql: str, params: tuple[Any, ...]) -> str:
    """How the engine would run it, for a table of many rows."""
    with connection.cursor() as cursor:
        if connection.vendor == "sqlite":
            cursor.execute(f"EXPLAIN QUERY PLAN {sql}", params)
            return " | ".join(row[3] for row in cursor.fetchall())
        # Of a few rows the planner rather sorts: it does now only what it cannot avoid.
        ways = ("enable_seqscan", "enable_sort", "enable_bitmapscan")
        for way in ways:
            cursor.execute(f"SET {way} = off")
        cursor.execute(f"EXPLAIN {sql}", params)
        lines = [row[0] for row in cursor.fetchall()]
        for way in ways:
            cursor.execute(f"RESET {way}")
        return " | ".join(lines)


def assert_by_index(plan: str) -> None:
    """No table is read as a whole, and nothing is sorted afterwards."""
    for word in ("SCAN conversations", "TEMP B-TREE", "Seq Scan", "Sort"):
        assert word not in plan


class Recorder(lanes.Database):
    """Notes the statements a job would run."""

    is_sqlite = connection.vendor == "sqlite"

    def __init__(self) -> None:
        self.seen: list[tuple[str, tuple[Any, ...]]] = []

    def all(self, sql: str, params: Any = ()) -> list[Any]:
        self.seen.append((sql, tuple(params)))
        return []


@pytest.mark.parametrize("limit", [None, 20])
def test_memory_is_read_by_its_index_without_sorting(session, limit):
    recorder = Recorder()
    recall.load(recorder, agent_session_id=session.agent_session_id, limit=limit)
    recall.load_window(recorder, session_id=session.id)
    for sql, params in recorder.seen:
        assert_by_index(plan_of(sql, params))


@pytest.mark.parametrize("order", ["asc", "desc"])
@pytest.mark.parametrize("title_like", ["", "hello"])
def test_a_list_is_read_by_its_index_from_any_page(user, order, title_like):
    recorder = Recorder()
    after = threads.Place(MOMENTS[0], uuid.uuid4())
    for place in (None, after):
        threads.list_threads(
            recorder, owner_id=user.pk, limit=20, order=order, after=place, title_like=title_like
        )
    for sql, params in recorder.seen:
        plan = plan_of(sql, params)
        assert "chat_session_by_activity" in plan
        assert_by_index(plan)


# This engine


@pytest.mark.skipif("connection.vendor != 'sqlite'", reason="the embedded engine")
def test_the_embedded_engine_is_a_file_in_the_journal_the_gate_allows():
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA journal_mode")
        assert cursor.fetchone() == (sqlite.journal_mode(),)
        cursor.execute("SELECT sqlite_version()")
        assert cursor.fetchone() == (sqlite.driver().sqlite_version,)
    assert not connection.is_in_memory_db()


@pytest.mark.skipif("connection.vendor != 'postgresql'", reason="another engine's pool")
def test_postgresql_is_reached_through_a_bounded_pool():
    assert connection.settings_dict["CONN_MAX_AGE"] == 0
    assert connection.settings_dict["OPTIONS"]["pool"]["max_size"] <= 20
    assert connection.pool is not None


@pytest.mark.skipif("connection.vendor != 'postgresql'", reason="a server's own limits")
async def test_a_lanes_connection_waits_for_no_lock_beyond_the_budget_and_others_may():
    def ask(db: lanes.Database) -> str:
        return db.one("SHOW lock_timeout")[0]

    def ask_django() -> str:
        with connection.cursor() as cursor:
            cursor.execute("SHOW lock_timeout")
            return cursor.fetchone()[0]

    assert await lanes.write(ask) == await lanes.read(ask) == "1500ms"
    assert await lanes.call(ask_django) == "1500ms"
    assert await asyncio.to_thread(on_a_connection_of_its_own, ask_django) == "0"


def on_a_connection_of_its_own(ask: Callable[[], str]) -> str:
    try:
        return ask()
    finally:
        connection.close()
