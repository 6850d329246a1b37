"""Migrations meet rows: what was there before is there after, on the engine of the test run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from django.db import DatabaseError, connection, transaction
from django.db.migrations.executor import MigrationExecutor

from conversations.tests.factories import UserFactory

NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)


@pytest.fixture
def migrated_to(transactional_db: None) -> Iterator[Any]:
    """`migrated_to("0001_core")`: the models as they were then; afterwards all is applied again."""

    def migrate(name: str) -> Any:
        executor = MigrationExecutor(connection)
        executor.migrate([("conversations", name)])
        return MigrationExecutor(connection).loader.project_state([("conversations", name)]).apps

    yield migrate
    executor = MigrationExecutor(connection)
    executor.migrate(executor.loader.graph.leaf_nodes())


def test_a_turn_that_ran_when_the_site_stopped_is_recovered_with_what_it_had_said(migrated_to):
    old = migrated_to("0001_core")
    session = old.get_model("conversations", "ChatSession").objects.create(agent_session_id="s")
    turns = old.get_model("conversations", "ChatTurn").objects
    common = {"session": session, "lease_owner": "host:1:ab", "lease_expires_at": NOON}
    running = turns.create(number=2, status="running", partial='Once "upon', **common)
    ended = turns.create(number=1, status="completed", **common)
    new = migrated_to("0003_record_events")
    turns = new.get_model("conversations", "ChatTurn").objects
    assert (turns.get(id=running.id).lease_until, turns.get(id=running.id).lease_owner) == (0, "")
    assert turns.get(id=ended.id).lease_until is None
    (told,) = new.get_model("conversations", "RecordedEvents").objects.all()
    assert (told.turn_id, told.first_number, told.last_number) == (running.id, 1, 1)
    assert json.loads(told.events) == ['Once "upon']


def test_what_was_remembered_before_is_counted_and_knows_what_it_belongs_to(migrated_to):
    old = migrated_to("0003_record_events")
    sessions = old.get_model("conversations", "ChatSession").objects
    session, empty = (sessions.create(agent_session_id=name) for name in ("s", "empty"))
    messages = old.get_model("conversations", "ChatMessage").objects
    items: list[Any] = [
        {"role": "user", "content": 'the "caller"'},
        {"type": "mcp_approval_request", "id": "ask"},
        {"type": "mcp_approval_response", "approval_request_id": "ask"},
        {"type": "function_call", "caller": {"type": "program", "caller_id": "p" * 300}},
        {"type": "function_call", "caller": {"type": "program", "caller_id": "\0"}},
        '["caller"]',
        '{"caller"',
    ]
    for position, item in enumerate(items, start=1):
        kind = item.get("type", "message") if isinstance(item, dict) else "function_call"
        text = json.dumps(item) if isinstance(item, dict) else item
        messages.create(session=session, position=position, kind=kind, agent_item=text)
    messages.filter(position=7).update(quarantined_at=NOON)
    if connection.vendor == "sqlite":
        with connection.cursor() as cursor:
            cursor.execute(
                "UPDATE conversations_chatmessage"
                " SET agent_item = CAST(agent_item || x'ff' AS TEXT) WHERE position = 6"
            )
    new = migrated_to("0005_fill_counts_and_callers")
    sessions = new.get_model("conversations", "ChatSession").objects
    counters = ("item_count", "quarantined_count", "pruned_count")
    assert sessions.values_list(*counters).get(id=session.id) == (7, 1, 0)
    assert sessions.values_list(*counters).get(id=empty.id) == (0, 0, 0)
    messages = new.get_model("conversations", "ChatMessage").objects.order_by("position")
    assert list(messages.values_list("call_id", flat=True)) == ["", "ask", "ask", "", "", "", ""]
    assert [len(name) for name in messages.values_list("caller_id", flat=True)] == [
        *[0, 0, 0],
        *[200, 0, 0, 0],
    ]


def test_feedback_that_was_there_before_learns_its_conversation(migrated_to):
    old = migrated_to("0015_staff_read")
    session = old.get_model("conversations", "ChatSession").objects.create(agent_session_id="s")
    messages = old.get_model("conversations", "ChatMessage").objects
    message = messages.create(session=session, position=1, kind="message")
    user = UserFactory()
    feedback = old.get_model("conversations", "Feedback").objects
    feedback.create(message_id=message.id, user_id=user.pk, kind="positive")
    new = migrated_to("0017_fill_conversations_of_feedback")
    assert new.get_model("conversations", "Feedback").objects.get().session_id == session.id


def test_the_trace_of_reads_can_be_taken_back_and_made_again(migrated_to):
    migrated_to("0014_staff_rights")
    new = migrated_to("0015_staff_read")
    session = new.get_model("conversations", "ChatSession").objects.create(agent_session_id="s")
    reads = new.get_model("conversations", "StaffRead").objects
    reads.create(session=session, how="page")
    with pytest.raises(DatabaseError), transaction.atomic():
        reads.update(how="model")
