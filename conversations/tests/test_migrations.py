"""Migrations meet rows: what was there before is there after, on the engine of the test run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from django.db import connection
from django.db.migrations.executor import MigrationExecutor

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
