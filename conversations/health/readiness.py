"""The checks of `/readyz`: cheap, and without a word about whom the site serves."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Set
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from typing import Any, Final

from django.apps import apps
from django.db import connection
from django.db.migrations.executor import MigrationExecutor
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.recorder import MigrationRecorder
from django.db.models import Q
from django.utils import timezone

from conversations import lanes, sqlite, task_runs
from conversations.conf import get_conf
from conversations.health.findings import Check, Finding, moment_of, seconds_of
from conversations.models import Cleanup, TaskRun
from conversations.store import cleanups, ledger
from conversations.store.leases import LIVE, lease_clock
from conversations.store.log import TURN

OLDEST_QUEUED: Final = timedelta(minutes=10)
CLEANUP_LATE: Final = timedelta(hours=1)
CLEANUP_AT_WORK: Final = timedelta(hours=6)
"""So long a cleanup may take to begin, and to end."""
CLOCK_TOLERANCE: Final = timedelta(seconds=60)
STUCK_SECONDS: Final = 120
"""Beyond its lease, or beyond the time a turn may take."""

SET_UP_WORKER: Final = "Run manage.py sync_schedules, and start the worker: manage.py serve."


def check_database() -> Finding:
    """It answers; and no journal mode that this library may corrupt it in."""
    with connection.cursor() as cursor:
        if connection.vendor != "sqlite":
            cursor.execute("SHOW server_version")
            return Finding(True, f"PostgreSQL {cursor.fetchone()[0]}")
        cursor.execute("PRAGMA journal_mode")
        (mode,) = cursor.fetchone()
    detail = f"SQLite {sqlite.driver().sqlite_version}, journal {mode}"
    if mode == "wal" and not sqlite.is_wal_safe(sqlite.engine_version()):
        return Finding(
            False,
            f"{detail}: this version may corrupt it",
            "Install pysqlite3, or stop everything and run: "
            "sqlite3 FILE 'PRAGMA journal_mode=DELETE'",
        )
    return Finding(True, detail)


def check_migrations() -> Finding:
    """All are applied that this code knows."""
    missing: Set[tuple[str, str]] = _known_migrations()
    missing = missing - MigrationRecorder(connection).applied_migrations().keys()
    if missing:  # some may be replaced by others
        executor = MigrationExecutor(connection)
        missing = {
            (step.app_label, step.name)
            for step, _ in executor.migration_plan(executor.loader.graph.leaf_nodes())
        }
    if missing:
        return Finding(False, f"{len(missing)} to apply", "Run manage.py migrate.")
    return Finding(True, "0 to apply")


@cache
def _known_migrations() -> frozenset[tuple[str, str]]:
    """Read from the disk once: this process runs the code it has loaded."""
    return frozenset(MigrationLoader(None).graph.nodes)


def check_search_index() -> Finding:
    """There is none yet."""
    return Finding(None, "not there yet")


def check_worker() -> Finding:
    """A task has run lately. That the worker is alive says nothing: it may hang."""
    silent_after = get_conf().chat_worker_silent_seconds
    if not silent_after or not apps.is_installed("django_q"):
        return Finding(None, "no worker is expected")
    now = timezone.now()
    rows = list(TaskRun.objects.values_list("since", "beat_at"))
    if not rows:
        return Finding(False, "nothing is scheduled", SET_UP_WORKER)
    # A beat of a time to come is of a clock that was wrong: it says nothing.
    beats = [beat for _, beat in rows if beat is not None and beat <= now + CLOCK_TOLERANCE]
    latest = max(beats, default=None)
    quiet = now - (latest or min(since for since, _ in rows))
    detail = f"a task ran {seconds_of(quiet)} ago" if latest else "no task has run yet"
    if quiet.total_seconds() <= silent_after:
        return Finding(True, detail)
    return Finding(
        False,
        detail,
        "Start the worker. One that hangs is restarted by manage.py serve; a qcluster of your own "
        "is killed with its process group, and started again.",
    )


def check_cleanup() -> Finding:
    """The last cleanup that was due has run, and it succeeded."""
    if not get_conf().chat_worker_silent_seconds or not apps.is_installed("django_q"):
        return Finding(None, "no worker is expected")
    from conversations import schedules  # noqa: PLC0415 - only where there is a queue

    if not schedules.is_in_table(task_runs.CLEANUP):
        return Finding(None, "no cleanup is scheduled")
    now = timezone.now()
    timing = schedules.find_timing(task_runs.CLEANUP, now=now)
    if timing is None:
        return Finding(False, "the cleanup is not scheduled", SET_UP_WORKER)
    if timing.is_paused:
        return Finding(
            False,
            "the cleanup is paused: nothing is deleted",
            "Give its schedule a next run again, or run manage.py cleanup_sessions.",
        )
    return judge_cleanup(_find_last_cleanup(), due=timing.last_due, now=now)


@dataclass(frozen=True, slots=True)
class LastCleanup:
    """What is known of cleanups: since when they are to run, and what became of the last ones."""

    since: datetime | None
    done_at: datetime | None = None
    left_count: int = 0
    """Sessions that the last one could not remove."""
    failed_at: datetime | None = None
    """When a task of it failed last."""
    is_at_work: bool = False


def _find_last_cleanup() -> LastCleanup:
    """The one place that knows where cleanups leave word of themselves."""
    full = Q(actor=ledger.SCHEDULE) | Q(idle_seconds__lte=get_conf().retention.total_seconds())
    ended = Cleanup.objects.filter(full, status=Cleanup.Status.DONE)
    done = ended.exclude(errors__contains=cleanups.ABANDONED).order_by("-finished_at").first()
    runs = {
        run.name: run
        for run in TaskRun.objects.filter(name__in=[task_runs.CLEANUP, task_runs.FINISH_CLEANUP])
    }
    expected = runs.get(task_runs.CLEANUP)
    return LastCleanup(
        since=expected.since if expected else None,
        done_at=done.finished_at if done else None,
        left_count=done.failed if done else 0,
        failed_at=max(
            (
                run.failed_at
                for run in runs.values()
                if run.failed_at and (run.succeeded_at is None or run.failed_at > run.succeeded_at)
            ),
            default=None,
        ),
        is_at_work=Cleanup.objects.filter(status=Cleanup.Status.RUNNING).exists(),
    )


def judge_cleanup(last: LastCleanup, *, due: datetime, now: datetime) -> Finding:
    """Whether the cleanup that was due has run by now."""
    hint = "Run manage.py cleanup_sessions: it does the same, and says what stands in the way."
    if last.since is None:
        return Finding(False, "no cleanup is known", SET_UP_WORKER)
    done_at, failed_at = last.done_at, last.failed_at
    if failed_at is not None and (done_at is None or failed_at > done_at):
        return Finding(False, f"failed at {moment_of(failed_at)}", hint)
    detail = f"ran at {moment_of(done_at)}" if done_at else "has not been due yet"
    late = CLEANUP_AT_WORK if last.is_at_work else CLEANUP_LATE
    if (done_at or last.since) < due:
        if now > due + late:
            ran = f"last ran at {moment_of(done_at)}" if done_at else "has never run"
            return Finding(False, f"was due at {moment_of(due)}, {ran}", hint)
        detail = f"is due since {moment_of(due)}"
    elif last.left_count:
        return Finding(False, f"{detail}, {last.left_count} sessions could not be removed", hint)
    return Finding(True, detail)


def check_queue() -> Finding:
    """No message waits for its turn for ever."""
    # The first condition lets the index of live turns answer.
    oldest = lanes.to_moment(
        _one(f"SELECT MIN(queued_at) FROM {TURN} WHERE {LIVE} AND status = 'queued'")
    )
    if oldest is None:
        return Finding(True, "none")
    waited = timezone.now() - oldest
    if waited < OLDEST_QUEUED:
        return Finding(True, f"waits for {seconds_of(waited)}")
    return Finding(
        False,
        f"waits for {seconds_of(waited)}",
        "See that a web process runs: messages are answered by those only.",
    )


def check_stuck_turns() -> Finding:
    """What runs has a process that shows signs of life, and does not run for ever."""
    conf, now = get_conf(), timezone.now()
    timeout = timedelta(seconds=conf.chat_turn_timeout_seconds + STUCK_SECONDS)

    def count(db: lanes.Database) -> int:
        began = lanes.from_moment(now - timeout, is_sqlite=db.is_sqlite)
        (stuck,) = db.one(
            f"SELECT COUNT(*) FROM {TURN} WHERE {LIVE} AND status = 'running'"
            " AND (lease_until < %s OR started_at < %s)",
            (lease_clock(db) - STUCK_SECONDS * 1000, began),
        )
        return int(stuck)

    stuck = lanes.look_up(count)
    if not stuck:
        return Finding(True, "none")
    return Finding(
        False,
        f"{stuck} turns run without a sign of life, or for too long",
        "See that the worker and a web process run: they close what is left open. "
        "A web process that hangs has to be restarted.",
    )


def check_file_mode() -> Finding:
    """Only this user can read the file. Its queue is executed: to write it is to run code."""
    if connection.vendor != "sqlite":
        return Finding(None, "no file of ours")
    name = str(connection.settings_dict["NAME"])
    if name == ":memory:" or name.startswith("file:"):
        return Finding(None, "no file of ours")
    open_to_others = []
    for suffix in ("", "-wal", "-shm", "-journal"):
        try:
            mode = stat.S_IMODE(os.stat(f"{name}{suffix}").st_mode)
        except OSError:
            continue
        if mode & 0o077:
            open_to_others.append(f"{mode:o}")
    if not open_to_others:
        return Finding(True, "600")
    return Finding(
        False,
        f"other users of this machine can use it (mode {', '.join(open_to_others)})",
        "chmod 600 the database file and what lies beside it (-wal, -shm).",
    )


def check_clock() -> Finding:
    """It is not behind what was written, nor apart from the database's."""
    now = timezone.now()
    latest = [beat for beat in TaskRun.objects.values_list("beat_at", flat=True) if beat]
    # Ids are in the order of their time.
    turn = lanes.to_moment(_one(f"SELECT queued_at FROM {TURN} ORDER BY id DESC LIMIT 1"))
    latest += [turn] if turn else []
    apart = max((moment - now for moment in latest), default=timedelta())
    if connection.vendor == "postgresql":
        apart = max(apart, abs(_one("SELECT clock_timestamp()") - now))
    if apart <= CLOCK_TOLERANCE:
        return Finding(True, "right")
    return Finding(
        False,
        f"it is {seconds_of(apart)} apart from what was written",
        "Set the clocks of this machine and of the database's. If this one was ahead and is right "
        "now, run manage.py sync_schedules --reset: else schedules wait until then.",
    )


def _one(sql: str) -> Any:
    """The first column of the first row; None where there is none."""
    with connection.cursor() as cursor:
        cursor.execute(sql)
        row = cursor.fetchone()
    return row[0] if row else None


READINESS: Final[Mapping[str, Check]] = {
    "database": check_database,
    "migrations": check_migrations,
    "search_index": check_search_index,
    "worker": check_worker,
    "last_cleanup": check_cleanup,
    "oldest_queued_turn": check_queue,
    "stuck_turns": check_stuck_turns,
    "file_mode": check_file_mode,
    "clock": check_clock,
}
