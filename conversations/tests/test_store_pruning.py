"""Pruning: the oldest leave the memory, people keep what they could read, the counters fit."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
from django.db import connection

from conversations import lanes, processes
from conversations.events import Usage
from conversations.history import Header, find_window, header_of
from conversations.items import row_from_item
from conversations.models import ChatMessage, ChatSession, ChatTurn
from conversations.store import log, pruning, recall
from conversations.tests import factories
from conversations.tests.sweeps_helpers import speak

pytestmark = pytest.mark.django_db(transaction=True)

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
LATER = NOW + timedelta(hours=1)


@pytest.fixture(autouse=True)
def budget(settings: Any) -> None:
    settings.AGENT_SESSION_MAX_MESSAGES = 6


def said(text: str = "Hi", role: str = "user") -> dict[str, Any]:
    return {"role": role, "content": text}


def tool_turn(number: int) -> list[list[dict[str, Any]]]:
    """What the Runner adds in one turn with a tool: five items in three batches."""
    name = f"call_{number}"
    return [
        [said(f"Question {number}")],
        [
            {"type": "reasoning", "id": f"rs_{number}", "summary": []},
            {"type": "function_call", "call_id": name, "name": "look_up", "arguments": "{}"},
            {"type": "function_call_output", "call_id": name, "output": "found"},
        ],
        [said(f"Answer {number}", "assistant")],
    ]


def add(session: ChatSession, *batches: list[dict[str, Any]], now: datetime = NOW) -> None:
    for number, batch in enumerate(batches):
        lanes.perform(
            partial(
                log.append,
                agent_session_id=session.agent_session_id,
                rows=[row_from_item(item) for item in batch],
                usage=Usage(),
                now=now + timedelta(milliseconds=number),
            )
        )


def prune(session: ChatSession, now: datetime = LATER) -> int:
    return lanes.perform(partial(pruning.prune, session_id=session.id, now=now))


def remembered(session: ChatSession) -> list[dict[str, Any]]:
    return lanes.perform(partial(recall.load_window, session_id=session.id)).items


def transcript(session: ChatSession) -> list[str]:
    shown = ChatMessage.objects.filter(session=session, shown=True).order_by("position")
    return list(shown.values_list("text", flat=True))


def counters(session: ChatSession) -> tuple[int, int, int, int]:
    session.refresh_from_db()
    return (
        session.remembered_count,
        session.pruned_count,
        session.item_count,
        session.message_count,
    )


@pytest.fixture
def long(session: Any) -> Any:
    """A session of four turns with a tool: twenty entries."""
    add(session, *[batch for number in range(4) for batch in tool_turn(number)])
    return session


# What stays


def test_the_memory_keeps_its_newest_whole_turns(long):
    before = remembered(long)
    assert prune(long) == 15
    assert remembered(long) == before[15:]
    assert remembered(long)[0] == said("Question 3")


def test_people_keep_what_they_could_read_and_the_rest_is_deleted(long):
    spoken = transcript(long)
    prune(long)
    assert transcript(long) == spoken
    rows = ChatMessage.objects.filter(session=long, agent_item=None)
    assert {(row.kind, row.shown) for row in rows} == {("message", True)}
    assert counters(long) == (5, 15, 11, 8)
    assert ChatMessage.objects.filter(session=long).count() == 11


def test_survivors_are_not_touched(long):
    before = {row["id"]: row for row in ChatMessage.objects.filter(session=long).values()}
    prune(long)
    for row in ChatMessage.objects.filter(session=long, agent_item__isnull=False).values():
        assert row == before[row["id"]]


def test_pruning_is_no_activity_and_takes_no_position(long):
    long.refresh_from_db()
    before = (long.last_active_at, long.updated_at, long.last_position, long.fence)
    prune(long)
    long.refresh_from_db()
    assert (long.last_active_at, long.updated_at, long.last_position, long.fence) == before


def test_pruning_twice_changes_nothing(long):
    prune(long)
    before = list(ChatMessage.objects.filter(session=long).order_by("position").values())
    assert prune(long) == 0
    assert list(ChatMessage.objects.filter(session=long).order_by("position").values()) == before
    assert counters(long) == (5, 15, 11, 8)


def test_a_newest_turn_that_is_longer_than_the_budget_stays_whole(long):
    calls = [{"type": "function_call", "call_id": f"c{n}"} for n in range(10)]
    outputs = [{"type": "function_call_output", "call_id": f"c{n}"} for n in range(10)]
    add(long, [said("Look up ten words")], [*calls, *outputs], now=LATER)
    assert prune(long) == 20
    assert len(remembered(long)) == 21


def test_the_last_summary_stays(session):
    add(session, [said("old"), {"type": "compaction", "encrypted_content": "x"}])
    add(session, *[[said(f"{number}")] for number in range(10)], now=LATER)
    assert prune(session) == 6
    assert [item.get("type") for item in remembered(session)] == ["compaction", *[None] * 5]


def test_what_a_frontend_shows_is_kept_without_its_memory(session):
    add(session, *tool_turn(1), *tool_turn(2))
    ChatMessage.objects.filter(session=session, kind="reasoning").update(thread_item="{}")
    prune(session)
    (kept,) = ChatMessage.objects.filter(session=session, kind="reasoning", agent_item=None)
    assert kept.thread_item == "{}"


def test_rows_that_are_set_aside_stay_for_staff(long):
    ChatMessage.objects.filter(session=long, position=2).update(quarantined_at=NOW)
    ChatSession.objects.filter(id=long.id).update(remembered_count=19, quarantined_count=1)
    assert prune(long) == 14
    assert ChatMessage.objects.get(session=long, position=2).agent_item is not None


def test_on_hold_the_model_forgets_and_no_row_changes_but_for_that(long):
    ChatSession.objects.filter(id=long.id).update(hold=True)
    before = {row["id"]: row for row in ChatMessage.objects.filter(session=long).values()}
    assert prune(long) == 15
    assert len(remembered(long)) == 5
    assert counters(long) == (5, 15, 20, 8)
    after = ChatMessage.objects.filter(session=long).values()
    assert [row | {"forgotten_at": None} for row in after] == list(before.values())
    assert prune(long) == 0


# When


def test_a_session_whose_turn_runs_is_left_to_it(long):
    speak(long, process=processes.new_name())
    assert prune(long) == 0
    ChatTurn.objects.filter(session=long).update(status="completed")
    assert prune(long) == 15


def test_a_session_within_its_budget_costs_one_query(session):
    add(session, *tool_turn(1))
    asked: list[str] = []

    def job(db: Any) -> int:
        execute = db._execute
        db._execute = lambda sql, params: (asked.append(sql), execute(sql, params))[1]
        return pruning.prune(db, session_id=session.id, now=LATER)

    assert lanes.perform(job) == 0
    assert len(asked) == 1


def test_a_session_that_is_not_there_has_nothing_to_forget():
    missing = factories.ChatSessionFactory.build()
    assert prune(missing) == 0


def test_sessions_over_their_budget_are_found_page_by_page(user):
    sessions = sorted(
        (factories.ChatSessionFactory(owner=user) for _ in range(5)), key=lambda row: row.id
    )
    for session, count in zip(sessions, (7, 6, 8, 0, 300), strict=True):
        ChatSession.objects.filter(id=session.id).update(remembered_count=count)
    expected = [sessions[0].id, sessions[2].id, sessions[4].id]
    assert lanes.perform(pruning.find_over_budget) == expected
    first = lanes.perform(partial(pruning.find_over_budget, limit=1))
    assert first == expected[:1]
    assert lanes.perform(partial(pruning.find_over_budget, after=first[0])) == expected[1:]


def test_the_sessions_over_the_usual_budget_are_found_by_their_index(settings, session):
    settings.AGENT_SESSION_MAX_MESSAGES = 250
    statements: list[str] = []
    if connection.vendor != "sqlite":
        pytest.skip("the planner of a small table reads the table")

    def explain(db: lanes.Database) -> None:
        sql = "SELECT id FROM conversations_chatsession WHERE remembered_count > 200"
        plan = db.all(f"EXPLAIN QUERY PLAN {sql} AND remembered_count > %s ORDER BY id", (250,))
        statements.extend(str(row[-1]) for row in plan)

    lanes.perform(explain)
    assert "chat_session_over_budget" in "".join(statements)


# What the columns tell is what the items tell


def test_headers_are_read_without_the_items(long):
    add(
        long,
        [
            {"type": "program", "call_id": "p"},
            {
                "type": "function_call",
                "call_id": "c",
                "caller": {"type": "program", "caller_id": "p"},
            },
            {"type": "mcp_approval_request", "id": "ask"},
            {"type": "mcp_approval_response", "approval_request_id": "ask"},
            {"type": "local_shell_call", "id": "shell", "call_id": "sh"},
            {"type": "local_shell_call_output", "id": "shell"},
        ],
        now=LATER,
    )
    headers = lanes.perform(
        lambda db: pruning.read_headers(
            db, session_key=lanes.from_uuid(long.id, is_sqlite=db.is_sqlite)
        )
    )
    expected = [header_of(n, item) for n, item in enumerate(remembered(long), start=1)]
    assert [header._replace(moment=None) for header in headers] == [
        header._replace(own_id="", kind=header.kind or "message") for header in expected
    ]
    assert headers[1].moment == headers[3].moment != headers[4].moment
    assert find_window(headers, limit=6) == find_window(
        [
            header._replace(moment=read.moment)
            for header, read in zip(expected, headers, strict=True)
        ],
        limit=6,
    )


@pytest.mark.parametrize("column", ["kind", "role", "call_id"])
def test_a_row_whose_columns_cannot_be_read_does_not_keep_the_others(long, column):
    if connection.vendor != "sqlite":
        pytest.skip("PostgreSQL refuses such values")
    with connection.cursor() as cursor:
        cursor.execute(
            f"UPDATE conversations_chatmessage SET {column} = CAST(x'ff' AS TEXT)"
            " WHERE position = 3"
        )
    assert prune(long) == 15
    assert remembered(long)[0] == said("Question 3")


def test_no_row_is_no_header():
    assert find_window([], limit=1) == (0, frozenset())
    assert find_window([Header(7, "message", "user")], limit=1) == (7, frozenset())
