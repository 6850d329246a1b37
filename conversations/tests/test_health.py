"""Each part of a site: well, not well with what to do about it, or not asked after."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.db import OperationalError, connection
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.recorder import MigrationRecorder
from django.test import override_settings
from django.utils import timezone
from django_q.models import Schedule

from conversations import health, lanes, retention, schedules, sqlite, tasks
from conversations.health import Finding, readiness
from conversations.health.findings import seconds_of
from conversations.health.readiness import LastCleanup
from conversations.models import ChatTurn, Cleanup, TaskRun
from conversations.schedules import sync_schedules
from conversations.store import ledger
from conversations.store.leases import lease_clock
from conversations.tests.health_helpers import (
    CLEANUP,
    SILENT_AFTER,
    grow_silent,
    set_up,
)

pytestmark = pytest.mark.django_db(transaction=True)

on_sqlite = pytest.mark.skipif("connection.vendor != 'sqlite'", reason="about the embedded file")
NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)


@pytest.fixture
def site(monkeypatch: Any, settings: Any) -> None:
    """With a worker that works."""
    set_up(monkeypatch, settings)


def find(name: str) -> Finding:
    found = health.examine(health.DOCTOR[name])
    assert found.status == {True: "ok", False: "failed", None: "skipped"}[found.ok]
    assert bool(found.hint) is (found.ok is False), "what is wrong says what to do"
    assert found.detail
    return found


def turn(session: Any, **values: Any) -> ChatTurn:
    return ChatTurn.objects.create(session=session, number=1, input="a secret", **values)


# --- All of them --------------------------------------------------------------------------


@pytest.mark.parametrize("name", health.READINESS)
@pytest.mark.usefixtures("site")
def test_a_site_that_works_is_well_in_every_part(name):
    assert find(name).ok is not False


@pytest.mark.parametrize("name", health.READINESS)
def test_what_is_asked_every_few_seconds_asks_little(name, site, django_assert_max_num_queries):
    find(name)
    with django_assert_max_num_queries(4):
        find(name)


def test_a_database_that_fails_a_check_is_a_finding(monkeypatch):
    def fail() -> Finding:
        raise OperationalError("a secret")

    found = health.examine(fail)
    assert (found.ok, found.detail) == (False, "The conversation store cannot be used right now.")
    assert "database" in found.hint


@pytest.mark.parametrize(
    ("span", "said"),
    [
        (timedelta(seconds=1.4), "1 seconds"),
        (timedelta(seconds=119), "119 seconds"),
        (timedelta(minutes=119), "119 minutes"),
        (timedelta(hours=47), "47 hours"),
        (timedelta(days=9), "9 days"),
    ],
)
def test_a_span_is_told_in_a_unit_that_says_something(span, said):
    assert seconds_of(span) == said


# --- Database, migrations, file -----------------------------------------------------------


@on_sqlite
def test_a_journal_that_this_library_may_corrupt_is_not_well(monkeypatch):
    monkeypatch.setattr(sqlite, "is_wal_safe", lambda version: False)
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA journal_mode")
        (mode,) = cursor.fetchone()
    assert find("database").ok is (mode != "wal")


def test_a_migration_that_is_missing_is_told():
    recorder = MigrationRecorder(connection)
    ((_, last),) = MigrationLoader(connection).graph.leaf_nodes("conversations")
    recorder.record_unapplied("conversations", last)
    try:
        found = find("migrations")
    finally:
        recorder.record_applied("conversations", last)
    assert (found.ok, found.detail) == (False, "1 to apply")
    assert find("migrations").ok is True


def test_migrations_that_others_replace_are_not_missing(monkeypatch):
    known = readiness._known_migrations() | {("gone", "0001_initial")}
    monkeypatch.setattr(readiness, "_known_migrations", lambda: known)
    assert find("migrations").ok is True


@on_sqlite
def test_a_file_that_others_can_read_is_told_and_so_is_its_log(monkeypatch, tmp_path):
    name = tmp_path / "chat.db"
    monkeypatch.setitem(connection.settings_dict, "NAME", str(name))
    for path in (name, tmp_path / "chat.db-wal"):
        path.touch(mode=0o600)
    assert readiness.check_file_mode().ok is True
    for path, shown in ((name, "640"), (tmp_path / "chat.db-wal", "640")):
        os.chmod(path, 0o640)
        found = readiness.check_file_mode()
        assert (found.ok, shown in found.detail) == (False, True)
        os.chmod(path, 0o600)


@pytest.mark.parametrize("name", [":memory:", "file:chat?mode=memory"])
@on_sqlite
def test_what_is_in_memory_has_no_mode(monkeypatch, name):
    monkeypatch.setitem(connection.settings_dict, "NAME", name)
    assert readiness.check_file_mode().ok is None


# --- The worker ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "is_well"), [(SILENT_AFTER - 10, True), (SILENT_AFTER + 10, False)]
)
def test_a_worker_is_known_by_what_ran(site, seconds, is_well):
    grow_silent(timedelta(seconds=seconds))
    assert find("worker").ok is is_well


def test_that_a_task_is_scheduled_and_queued_is_no_sign_of_life(site):
    grow_silent(timedelta(hours=1))
    sync_schedules(now=timezone.now())
    assert find("worker").ok is False
    tasks.heartbeat()
    assert find("worker").ok is True


def test_a_task_that_takes_long_is_a_sign_of_life(site):
    grow_silent(timedelta(hours=1))
    TaskRun.objects.create(name="sweep", since=timezone.now(), beat_at=timezone.now())
    assert find("worker").ok is True


@pytest.mark.parametrize(("hours", "is_well"), [(0, True), (1, False)])
def test_a_worker_that_never_ran_is_given_its_time(site, hours, is_well):
    since = timezone.now() - timedelta(hours=hours)
    TaskRun.objects.update(beat_at=None, since=since)
    found = find("worker")
    assert (found.ok, found.detail) == (is_well, "no task has run yet")


def test_where_nothing_was_ever_scheduled_that_is_said(site):
    TaskRun.objects.all().delete()
    found = find("worker")
    assert (found.ok, found.detail) == (False, "nothing is scheduled")
    assert "sync_schedules" in found.hint


@pytest.mark.parametrize("name", ["worker", "last_cleanup"])
def test_a_site_without_a_worker_is_not_asked_after_it(site, name):
    with override_settings(CHAT_WORKER_SILENT_SECONDS=0):
        assert find(name).ok is None
    others = [app for app in django_settings.INSTALLED_APPS if app != "django_q"]
    with override_settings(INSTALLED_APPS=others):
        assert find(name).ok is None


# --- The cleanup --------------------------------------------------------------------------


def test_no_cleanup_in_the_table_is_not_asked_after(monkeypatch, settings):
    settings.CHAT_WORKER_SILENT_SECONDS = SILENT_AFTER
    monkeypatch.setattr(schedules, "build_table", lambda: ())
    assert find("last_cleanup").ok is None


def test_a_cleanup_that_is_not_stored_or_is_paused_is_told(site):
    Schedule.objects.filter(name=CLEANUP).update(next_run=None)
    assert "paused" in find("last_cleanup").detail
    Schedule.objects.filter(name=CLEANUP).update(next_run=timezone.now(), repeats=0)
    assert "paused" in find("last_cleanup").detail
    Schedule.objects.filter(name=CLEANUP).delete()
    assert find("last_cleanup").detail == "the cleanup is not scheduled"


DAY = timedelta(days=1)
DUE = NOON.replace(hour=2)


@pytest.mark.parametrize(
    ("last", "said"),
    [
        ({"since": NOON}, "has not been due yet"),
        ({"done_at": DUE}, "ran at 2026-05-01 02:00 UTC"),
        (
            {"done_at": DUE - DAY},
            "was due at 2026-05-01 02:00 UTC, last ran at 2026-04-30 02:00 UTC",
        ),
        ({}, "was due at 2026-05-01 02:00 UTC, has never run"),
        ({"done_at": DUE - DAY, "failed_at": DUE}, "failed at 2026-05-01 02:00 UTC"),
        ({"failed_at": DUE - DAY, "done_at": DUE}, "ran at "),
        ({"done_at": DUE, "left_count": 3}, ", 3 sessions could not be removed"),
        ({"since": None}, "no cleanup is known"),
    ],
    ids=["new", "ran", "overdue", "never", "failed", "mended", "left some", "unknown"],
)
def test_a_cleanup_is_judged_by_whether_it_ran_when_it_was_due(last, said):
    known = LastCleanup(**{"since": NOON - 9 * DAY} | last)
    found = readiness.judge_cleanup(known, due=DUE, now=NOON)
    assert said in found.detail
    assert found.ok is said.startswith(("has not", "ran"))


@pytest.mark.parametrize(
    ("is_at_work", "minutes", "is_well"),
    [(False, 59, True), (False, 61, False), (True, 61, True), (True, 361, False)],
)
def test_a_cleanup_has_an_hour_to_begin_and_some_to_end(is_at_work, minutes, is_well):
    last = LastCleanup(since=NOON - 9 * DAY, done_at=DUE - DAY, is_at_work=is_at_work)
    now = DUE + timedelta(minutes=minutes)
    found = readiness.judge_cleanup(last, due=DUE, now=now)
    assert found.ok is is_well
    assert "due" in found.detail


def test_five_days_of_downtime_are_seen_until_it_has_run(site):
    now = timezone.now()
    Schedule.objects.filter(name=CLEANUP).update(next_run=now - 5 * DAY)
    TaskRun.objects.filter(name="cleanup_sessions").update(since=now - 30 * DAY)
    assert find("last_cleanup").ok is False
    tasks.cleanup_sessions()
    assert find("last_cleanup").ok is True


def test_a_person_may_clean_up_but_not_for_appearance(site):
    now = timezone.now()
    Schedule.objects.filter(name=CLEANUP).update(next_run=now - 5 * DAY)
    TaskRun.objects.filter(name="cleanup_sessions").update(since=now - 30 * DAY)
    retention.cleanup(now=now, actor=ledger.COMMAND, idle_for=timedelta(days=400))
    assert find("last_cleanup").ok is False
    retention.cleanup(now=now, actor=ledger.COMMAND)
    assert find("last_cleanup").ok is True


def test_a_cleanup_that_was_given_up_has_not_run(site):
    now = timezone.now()
    Schedule.objects.filter(name=CLEANUP).update(next_run=now - 5 * DAY)
    TaskRun.objects.filter(name="cleanup_sessions").update(since=now - 30 * DAY)
    tasks.cleanup_sessions()
    Cleanup.objects.update(errors='{"abandoned": 1}')
    assert find("last_cleanup").ok is False


def test_a_cleanup_whose_task_failed_is_told(site, monkeypatch):
    def fail(**options: Any) -> int:
        raise LookupError("a secret")

    with monkeypatch.context() as patch:
        patch.setattr(retention, "cleanup", fail)
        with pytest.raises(tasks.TaskFailed):
            tasks.cleanup_sessions()
    assert find("last_cleanup").detail.startswith("failed at ")
    tasks.cleanup_sessions()
    assert find("last_cleanup").ok is True


def test_a_cleanup_that_left_no_row_is_told(site):
    TaskRun.objects.filter(name="cleanup_sessions").delete()
    assert find("last_cleanup").detail == "no cleanup is known"


# --- Turns --------------------------------------------------------------------------------


@pytest.mark.parametrize(("minutes", "is_well"), [(9, True), (11, False)])
def test_a_message_that_waits_too_long_is_told(session, minutes, is_well):
    turn(session, queued_at=timezone.now() - timedelta(minutes=minutes))
    found = find("oldest_queued_turn")
    assert (found.ok, f"{minutes} minutes" in found.detail) == (is_well, True)


@pytest.mark.parametrize(
    ("lease", "began", "is_well"),
    [(60, 10, True), (-60, 10, True), (-180, 10, False), (60, 10_000, False)],
    ids=["runs", "late", "no sign of life", "for hours"],
)
def test_a_turn_that_runs_and_does_not_is_told(session, lease, began, is_well):
    until = lanes.look_up(lease_clock) + lease * 1000
    now = timezone.now()
    turn(session, status="running", lease_until=until, started_at=now - timedelta(seconds=began))
    assert find("stuck_turns").ok is is_well


# --- The clock ----------------------------------------------------------------------------


def test_a_clock_behind_what_was_written_is_told(site, session):
    grow_silent(timedelta(seconds=-30))
    assert find("clock").ok is True
    grow_silent(timedelta(hours=-1))
    assert "60 minutes apart" in find("clock").detail
    TaskRun.objects.all().delete()
    turn(session, queued_at=timezone.now() + timedelta(hours=1))
    assert find("clock").ok is False


def test_a_sign_of_life_of_a_time_to_come_hides_no_dead_worker(site):
    TaskRun.objects.update(since=timezone.now() - timedelta(hours=1))
    grow_silent(timedelta(hours=-1))
    assert find("worker").ok is False


@pytest.mark.skipif("connection.vendor != 'postgresql'", reason="SQLite has no clock of its own")
def test_a_clock_apart_from_the_databases_is_told(monkeypatch):
    now = timezone.now()
    monkeypatch.setattr(readiness.timezone, "now", lambda: now + timedelta(minutes=5))
    assert find("clock").ok is False
