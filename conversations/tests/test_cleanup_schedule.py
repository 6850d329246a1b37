"""The cleanup by itself: once a day at its hour, by however many workers, also after a downtime."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connections
from django.utils import timezone
from django_q.models import OrmQ, Schedule
from django_q.scheduler import scheduler

from conversations import lanes, schedules, tasks
from conversations.store import ledger
from conversations.tests.ledger_helpers import entries
from conversations.tests.retention_helpers import idle, left

pytestmark = pytest.mark.django_db(transaction=True)

MIDNIGHT = datetime(2026, 5, 1, tzinfo=UTC)


@pytest.fixture
def clock(monkeypatch: Any) -> Callable[[datetime], None]:
    """`clock(moment)`: it stands still there."""
    moments = [MIDNIGHT]
    monkeypatch.setattr(timezone, "now", lambda: moments[-1])
    return moments.append


def at_once(job: Callable[[], Any], *, threads: int = 2) -> None:
    """In so many threads, as so many workers would."""

    def work() -> None:
        try:
            job()
        finally:
            connections.close_all()

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


def due() -> list[str]:
    """What the workers have queued by now, which is taken from the queue."""
    found = [row.task["func"] for row in OrmQ.objects.order_by("id")]
    OrmQ.objects.all().delete()
    return found


def sync(now: datetime) -> None:
    name = f"{schedules.OURS}cleanup_sessions"
    table = [row for row in schedules.build_table() if row.name == name]
    schedules.sync_schedules(now=now, table=table)


@pytest.mark.parametrize("hour", [2, 23])
def test_in_a_day_it_is_due_once_at_its_hour_with_two_workers(clock, settings, hour):
    settings.AGENT_SESSION_CLEANUP_HOUR = hour
    sync(MIDNIGHT)
    found = []
    for minutes in range(0, 24 * 60, 20):
        now = MIDNIGHT + timedelta(minutes=minutes, seconds=1)
        clock(now)
        at_once(scheduler)
        found += [(now, func) for func in due()]
    moment = MIDNIGHT.replace(hour=hour, second=1)
    assert found == [(moment, "conversations.tasks.cleanup_sessions")]


def test_after_five_days_down_it_is_due_once(clock):
    sync(MIDNIGHT)
    clock(MIDNIGHT + timedelta(days=5, hours=12))
    at_once(scheduler)
    scheduler()
    assert due() == ["conversations.tasks.cleanup_sessions"]
    assert Schedule.objects.get().next_run == MIDNIGHT + timedelta(days=6, hours=2)


def test_an_hour_that_staff_chose_stays(clock):
    sync(MIDNIGHT)
    Schedule.objects.update(next_run=MIDNIGHT + timedelta(hours=5))
    sync(MIDNIGHT + timedelta(hours=1))
    clock(MIDNIGHT + timedelta(hours=4))
    scheduler()
    assert due() == []
    clock(MIDNIGHT + timedelta(hours=5, seconds=1))
    scheduler()
    assert due() == ["conversations.tasks.cleanup_sessions"]


def test_its_arguments_hold_nothing(clock):
    sync(MIDNIGHT)
    clock(MIDNIGHT + timedelta(hours=3))
    scheduler()
    task = OrmQ.objects.get().task
    assert (task["args"], task["kwargs"]) == ((), {})


def test_two_workers_at_once_remove_everything_once(user):
    for _ in range(10):
        idle(user, since=timezone.now() - timedelta(days=8))
    removed: list[int] = []
    at_once(lambda: removed.append(tasks.cleanup_sessions()))
    assert (sum(removed), left()) == (10, {})
    told = [entry.get("counts", {}).get("sessions", 0) for entry in entries()]
    assert sum(told) == 10
    assert lanes.look_up(ledger.verify).is_whole
