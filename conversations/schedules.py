"""Every schedule of the background worker, in one table that is the truth about them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from django.db import connection, transaction
from django.db.models import Q
from django_q.models import Schedule

from conversations import task_runs
from conversations.conf import get_conf
from conversations.task_results import TASKS

OURS: Final = "conversations."
"""A schedule whose name and task begin so, and that is not in the table, was in it once."""

_LOCK: Final = 0x5C8ED01E  # any number that nobody else locks


@dataclass(frozen=True, slots=True)
class Every:
    """Every so many minutes, and at once when it begins."""

    minutes: int

    def __str__(self) -> str:
        return f"every {self.minutes} min"

    def columns(self) -> dict[str, Any]:
        """As django-q2 stores it."""
        return {"schedule_type": Schedule.MINUTES, "minutes": self.minutes, "cron": None}

    def first_run(self, *, now: datetime) -> datetime:
        """When a schedule that begins now runs first."""
        return now


@dataclass(frozen=True, slots=True)
class Daily:
    """Once a day, at an hour of UTC."""

    hour: int

    def __str__(self) -> str:
        return f"daily at {self.hour}"

    def columns(self) -> dict[str, Any]:
        return {"schedule_type": Schedule.DAILY, "minutes": None, "cron": None}

    def first_run(self, *, now: datetime) -> datetime:
        today = now.astimezone(UTC).replace(hour=self.hour, minute=0, second=0, microsecond=0)
        return today if today > now else today + timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Scheduled:
    """A row of the table: `task` is the path of a function without arguments."""

    name: str
    task: str
    timing: Every | Daily


def build_table() -> tuple[Scheduled, ...]:
    """All of them. Built when asked for, because a timing may come from a setting."""
    return (
        Scheduled(f"{OURS}heartbeat", f"{TASKS}heartbeat", Every(minutes=1)),
        Scheduled(f"{OURS}recover_turns", f"{TASKS}recover_turns", Every(minutes=1)),
        Scheduled(f"{OURS}forget_events", f"{TASKS}forget_events", Every(minutes=5)),
        Scheduled(f"{OURS}prune_sessions", f"{TASKS}prune_sessions", Every(minutes=15)),
        Scheduled(f"{OURS}sweep_orphans", f"{TASKS}sweep_orphans", Every(minutes=60)),
        Scheduled(
            f"{OURS}cleanup_sessions",
            f"{TASKS}cleanup_sessions",
            Daily(hour=get_conf().agent_session_cleanup_hour),
        ),
        Scheduled(f"{OURS}finish_cleanup", f"{TASKS}finish_cleanup", Every(minutes=5)),
        Scheduled(f"{OURS}measure_sessions", f"{TASKS}measure_sessions", Every(minutes=60)),
        Scheduled(f"{OURS}forget_results", f"{TASKS}forget_results", Every(minutes=60)),
    )


@dataclass(frozen=True, slots=True)
class Timing:
    """When a stored schedule runs next, and when it was due last."""

    is_paused: bool
    next_run: datetime
    last_due: datetime
    period: timedelta


def is_in_table(name: str) -> bool:
    """Whether a task of ours is to run by itself at all."""
    return any(entry.name == f"{OURS}{name}" for entry in build_table())


def find_timing(name: str, *, now: datetime) -> Timing | None:
    """How a task of ours is stored, as staff may have changed it; None where it is not."""
    row = Schedule.objects.filter(name=f"{OURS}{name}").order_by("pk").first()
    if row is None:
        return None
    if row.next_run is None or row.repeats == 0:
        return Timing(True, now, now, timedelta())
    period = _period_of(row)
    # What is due and was not handed to the queue yet is still its next run.
    last_due = row.next_run if row.next_run <= now else row.next_run - period
    return Timing(False, row.next_run, last_due, period)


def _period_of(row: Any) -> timedelta:
    """From the next run to the one after it."""
    if row.schedule_type == Schedule.MINUTES:
        return timedelta(minutes=row.minutes or 1)
    if row.schedule_type in {Schedule.ONCE, Schedule.CRON}:  # none, and one that needs a library
        return timedelta(days=1)
    period: timedelta = row.calculate_next_run(row.next_run) - row.next_run
    return period


@dataclass(frozen=True, slots=True)
class Synced:
    """What became of the schedules, by their names."""

    created: tuple[str, ...] = ()
    updated: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    unchanged: tuple[str, ...] = ()


def sync_schedules(
    *,
    now: datetime,
    dry_run: bool = False,
    reset: bool = False,
    table: Sequence[Scheduled] | None = None,
) -> Synced:
    """Bring the stored schedules to what the table says; others' are not touched.

    Staff may give a schedule another timing, or pause it: that stays, until the table's own timing
    changes. Then the new one begins as from now, except that what is paused stays paused. A `reset`
    takes all that back: every timing begins anew, as after the clock was wrong.
    Any number of processes may do this at once.
    """
    wanted = {row.name: row for row in (build_table() if table is None else table)}
    left_the_table = Q(name__startswith=OURS, func__startswith=TASKS)
    outcome: dict[str, list[str]] = {}
    with transaction.atomic():
        _let_others_wait()
        # Locked in the scheduler's own order: the two never wait for each other.
        ours = Schedule.objects.select_for_update().filter(Q(name__in=wanted) | left_the_table)
        found: dict[str, Schedule] = {}
        for row in sorted(ours, key=lambda row: int(row.pk)):
            if row.name in wanted and row.name not in found:
                found[row.name] = row
            else:  # a name is not unique there
                row.delete()
                outcome.setdefault("removed", []).append(row.name)
        for name, entry in wanted.items():
            became = _bring_up_to_date(found.get(name), entry, now=now, reset=reset)
            outcome.setdefault(became, []).append(name)
        task_runs.expect((entry.task.removeprefix(TASKS) for entry in wanted.values()), now=now)
        if dry_run:
            transaction.set_rollback(True)
    return Synced(**{became: tuple(names) for became, names in outcome.items()})


def _bring_up_to_date(row: Any, entry: Scheduled, *, now: datetime, reset: bool) -> str:
    """Create or correct one schedule; which of these it was."""
    wanted: dict[str, Any] = {
        "func": entry.task,
        # The timing the table had, to tell its changes from those of staff: the queue takes
        # options for itself out of here, and ignores those that it does not know.
        "kwargs": repr({"q_options": {"timing": str(entry.timing)}}),
        "args": None,
        "hook": None,
        "intended_date_kwarg": None,
    }
    timing = entry.timing.columns() | {"next_run": entry.timing.first_run(now=now)}
    if row is None:
        Schedule.objects.create(name=entry.name, **wanted, **timing)
        return "created"
    changes = {
        name: value for name, value in wanted.items() if (getattr(row, name) or None) != value
    }
    if reset:
        changes |= timing | {"repeats": -1}
    elif "kwargs" in changes:
        is_paused = row.next_run is None
        changes |= entry.timing.columns() if is_paused else timing
    if not changes:
        return "unchanged"
    Schedule.objects.filter(pk=row.pk).update(**changes)
    return "updated"


def _let_others_wait() -> None:
    """Until this transaction ends. On SQLite its beginning has done that already."""
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])
