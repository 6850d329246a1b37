"""Statistics: the numbers of one session, and of all, without a word of what was said."""

from __future__ import annotations

from dataclasses import astuple, fields, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import uuid4

import pytest
from django.db import connection

from conversations import lanes
from conversations.events import Usage
from conversations.ids import stored_session_id
from conversations.models import ChatMessage, ChatSession
from conversations.store import statistics
from conversations.store.damage import LONG_AGO
from conversations.store.statistics import AllStatistics, Counters, SessionStatistics
from conversations.sweeps import prune_sessions
from conversations.tests.sweeps_helpers import remember, sessions, statements

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
TABLE = ChatSession._meta.db_table
COUNTERS = [field.name for field in fields(Counters)]
TIMES = ["created_at", "updated_at", "last_active_at"]

pytestmark = pytest.mark.django_db(transaction=True)

on_sqlite = pytest.mark.skipif(
    "connection.vendor != 'sqlite'", reason="another engine refuses what is not of its type"
)
on_postgresql = pytest.mark.skipif(
    "connection.vendor != 'postgresql'", reason="a time that only PostgreSQL knows"
)


def find(now: datetime = NOW, **which: Any) -> SessionStatistics | None:
    return lanes.look_up(partial(statistics.find_statistics, now=now, **which))


def sum_all(now: datetime = NOW) -> AllStatistics:
    return lanes.look_up(partial(statistics.sum_statistics, now=now))


def change(session: Any, **values: Any) -> None:
    ChatSession.objects.filter(id=session.id).update(**values)


def damage(session: Any, columns: list[str], value: Any) -> None:
    kind = "TIMESTAMPTZ" if connection.vendor == "postgresql" else "TEXT"
    changes = ", ".join(f"{column} = CAST(%s AS {kind})" for column in columns)
    with connection.cursor() as cursor:
        if connection.vendor == "sqlite":
            cursor.execute("PRAGMA ignore_check_constraints = ON")
        cursor.execute(
            f"UPDATE {TABLE} SET {changes} WHERE agent_session_id = %s",
            [*[value] * len(columns), session.agent_session_id],
        )
        if connection.vendor == "sqlite":
            cursor.execute("PRAGMA ignore_check_constraints = OFF")


# One


def test_a_session_in_numbers(session, settings):
    settings.AGENT_SESSION_MAX_MESSAGES = 3
    settings.AGENT_SESSION_RETENTION_DAYS = 10
    remember(session, 5, usage=Usage(1, 100, 7))
    prune_sessions(now=NOW)
    began, active = NOW - timedelta(hours=2), NOW - timedelta(minutes=5)
    change(session, created_at=began, last_active_at=active, quarantined_count=1, status="closed")
    expected = SessionStatistics(
        session_id=session.id,
        agent_session_id=session.agent_session_id,
        owner_id=session.owner_id,
        status="closed",
        hold=False,
        age_seconds=7200,
        created_at=began,
        last_active_at=active,
        expires_at=active + timedelta(days=10),
        remembered_count=3,
        message_count=5,
        item_count=5,
        pruned_count=2,
        quarantined_count=1,
        input_tokens=500,
        output_tokens=35,
    )
    assert find(session_id=session.id) == expected
    assert find(agent_session_id=session.agent_session_id) == expected


def test_what_was_said_is_not_told(session):
    remember(session, 1)
    change(session, title="a secret", metadata={"a": "secret"}, hold_reason="a secret")
    found = find(session_id=session.id)
    assert "secret" not in repr(found)
    assert {type(value) for value in astuple(found)} <= {int, bool, str, datetime, type(session.id)}


def test_it_is_one_query_of_the_sessions_row(session):
    remember(session, 3)
    with statements() as seen:
        find(session_id=session.id)
        find(agent_session_id=session.agent_session_id)
        sum_all()
    assert len(seen) == 3
    assert ChatMessage._meta.db_table not in "".join(seen)


def test_on_hold_nothing_expires(session):
    change(session, hold=True)
    found = find(session_id=session.id)
    assert (found.hold, found.expires_at) == (True, None)


def test_a_session_that_only_code_uses_has_no_owner_and_may_have_any_name():
    name = "x" * 500
    row = ChatSession.objects.create(agent_session_id=stored_session_id(name))
    found = find(agent_session_id=stored_session_id(name))
    assert (found.session_id, found.owner_id) == (row.id, None)


def test_what_is_not_there_has_no_numbers(session):
    assert find(session_id=uuid4()) is None
    assert find(agent_session_id="nobody's") is None
    assert find() is None


def test_a_session_from_the_future_is_not_younger_than_new(session):
    change(session, created_at=NOW + timedelta(days=1))
    assert find(session_id=session.id).age_seconds == 0


@on_sqlite
@pytest.mark.parametrize("value", ["odd", b"\xff", "-3", "1e999", ""])
def test_damaged_values_cost_only_themselves(session, value):
    remember(session, 2, usage=Usage(1, 10, 1))
    whole = find(session_id=session.id)
    damage(session, ["last_active_at", "item_count", "title", "metadata"], value)
    found = find(session_id=session.id)
    active_at = found.last_active_at
    expires_at = active_at + timedelta(days=7)
    changed = {"last_active_at": active_at, "expires_at": expires_at, "item_count": 0}
    assert found == replace(whole, **changed)
    assert abs(active_at - whole.last_active_at) < timedelta(minutes=1)  # the nearest known
    damage(session, [*TIMES, *COUNTERS, "status", "hold"], value)
    found = find(session_id=session.id)
    assert (found.owner_id, found.status, found.hold) == (session.owner_id, "locked", True)
    assert {getattr(found, column) for column in COUNTERS} == {0}
    assert found.created_at == found.last_active_at == LONG_AGO


@on_postgresql
@pytest.mark.parametrize("value", ["infinity", "0044-03-15 BC"])
def test_a_time_that_no_calendar_here_knows_costs_only_itself(session, value):
    remember(session, 2)
    damage(session, TIMES, value)
    found = find(session_id=session.id)
    assert found.created_at == found.last_active_at == LONG_AGO
    assert (found.remembered_count, sum_all().remembered_count) == (2, 2)
    assert sum_all().newest_active_at is None


@on_sqlite
def test_an_owner_that_is_no_key_is_none(session):
    with connection.constraint_checks_disabled():
        damage(session, ["owner_id"], "odd")
        assert find(session_id=session.id).owner_id is None
        change(session, owner_id=session.owner_id)


@on_sqlite
def test_a_session_whose_id_is_none_is_not_found(session):
    damage(session, ["id"], "odd")
    assert find(agent_session_id=session.agent_session_id) is None


# All


def test_all_sessions_in_numbers(user, settings):
    settings.AGENT_SESSION_MAX_MESSAGES = 2
    found = sessions(user, 4)
    for session, count in zip(found, (1, 3, 5, 0), strict=True):
        remember(session, count, usage=Usage(1, 10, 1))
    day = timedelta(days=1)
    for session, idle, hold in zip(found, (1, 7, 8, 90), (False, False, False, True), strict=True):
        change(session, last_active_at=NOW - idle * day, hold=hold)
    assert sum_all() == AllStatistics(
        session_count=4,
        over_budget_count=2,
        held_count=1,
        expired_count=1,  # one that has been idle for exactly a week is not
        oldest_active_at=NOW - 90 * day,
        newest_active_at=NOW - day,
        remembered_count=9,
        message_count=9,
        item_count=9,
        pruned_count=0,
        quarantined_count=0,
        input_tokens=90,
        output_tokens=9,
    )


def test_where_there_is_no_session_every_number_is_zero():
    found = astuple(sum_all())
    assert set(found) == {0, None}


@on_sqlite
@pytest.mark.parametrize("value", ["odd", b"\xff", "-3", "1e999", str(2**63 - 1)])
def test_damaged_values_of_one_session_are_left_out_of_the_sums(user, value):
    damaged, whole = sessions(user, 2)
    for session in (damaged, whole):
        remember(session, 2, usage=Usage(1, 10, 1))
    damage(damaged, [*COUNTERS, "last_active_at"], value)
    found, expected = sum_all(), find(session_id=whole.id)
    assert found.session_count == 2
    for column in COUNTERS:
        assert getattr(found, column) == getattr(expected, column)
    assert found.oldest_active_at == found.newest_active_at == expected.last_active_at
