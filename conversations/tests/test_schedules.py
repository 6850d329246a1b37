"""The one table of schedules, and the stored ones: brought to it by any number of processes."""

from __future__ import annotations

import ast
import importlib
import inspect
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django_q.models import Schedule

from conversations import schedules
from conversations.models import TaskRun
from conversations.schedules import Daily, Every, Scheduled, Synced, sync_schedules
from conversations.tests.other_process import SITE, finish, start_python

NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)
LATER = NOON + timedelta(days=30)
NAMES = tuple(row.name for row in schedules.build_table())

pytestmark = pytest.mark.django_db(transaction=True)


def entry(timing: Every | Daily, name: str = "sweep") -> Scheduled:
    return Scheduled(f"conversations.{name}", f"conversations.tasks.{name}", timing)


def sync(*table: Scheduled, now: datetime = NOON, **options: Any) -> dict[str, tuple[str, ...]]:
    """What changed, without what did not."""
    found = asdict(sync_schedules(now=now, table=table, **options))
    return {became: names for became, names in found.items() if names and became != "unchanged"}


def row(name: str = "sweep") -> Schedule:
    return Schedule.objects.get(name=f"conversations.{name}")


def rows() -> list[Any]:
    return list(Schedule.objects.order_by("pk").values())


@pytest.fixture
def foreign() -> list[Any]:
    """Schedules of others: one with our task, one with our prefix, one without a name."""
    for name, task in (
        ("nightly", "conversations.tasks.recover_turns"),
        ("conversations.backup", "shop.tasks.back_up"),
        (None, "shop.tasks.count"),
    ):
        Schedule.objects.create(name=name, func=task, schedule_type=Schedule.DAILY, next_run=NOON)
    return rows()


def test_every_schedule_names_a_task_of_its_own():
    table = schedules.build_table()
    assert len(set(NAMES)) == len(table)
    for scheduled in table:
        assert scheduled.name.startswith(schedules.OURS)
        assert scheduled.task.startswith(schedules.TASKS)
        module, _, name = scheduled.task.rpartition(".")
        assert inspect.isfunction(getattr(importlib.import_module(module), name))


def test_a_new_schedule_runs_by_the_table(foreign):
    assert sync_schedules(now=NOON) == Synced(created=NAMES)
    found = row("recover_turns")
    assert (found.func, found.args) == ("conversations.tasks.recover_turns", None)
    assert (found.schedule_type, found.minutes, found.repeats) == (Schedule.MINUTES, 1, -1)
    assert found.next_run == NOON
    assert (row("forget_events").minutes, row("prune_sessions").minutes) == (5, 15)
    assert row("sweep_orphans").minutes == 60
    assert rows()[: len(foreign)] == foreign


def test_a_second_time_nothing_changes(foreign):
    sync_schedules(now=NOON)
    before = rows()
    assert sync_schedules(now=LATER) == Synced(unchanged=NAMES)
    assert rows() == before


@pytest.mark.parametrize(
    ("now", "first"),
    [
        (datetime(2026, 5, 1, 1, 59, tzinfo=UTC), datetime(2026, 5, 1, 2, tzinfo=UTC)),
        (datetime(2026, 5, 1, 2, 0, tzinfo=UTC), datetime(2026, 5, 2, 2, tzinfo=UTC)),
        (datetime(2026, 12, 31, 12, tzinfo=UTC), datetime(2027, 1, 1, 2, tzinfo=UTC)),
    ],
)
def test_a_daily_one_waits_for_its_hour_and_keeps_it(now, first):
    sync(entry(Daily(hour=2)), now=now)
    assert (row().schedule_type, row().next_run) == (Schedule.DAILY, first)
    assert row().calculate_next_run() == first + timedelta(days=1)


@pytest.mark.parametrize("timing", [Every(minutes=9), Daily(hour=4)])
def test_a_timing_that_changed_in_the_table_begins_as_from_now(timing):
    sync(entry(Daily(hour=2)))
    assert sync(entry(timing), now=LATER) == {"updated": ("conversations.sweep",)}
    assert row().next_run == timing.first_run(now=LATER)
    assert {name: getattr(row(), name) for name in timing.columns()} == timing.columns()
    assert sync(entry(timing), now=LATER) == {}


STAFFS = [
    {"schedule_type": Schedule.HOURLY, "next_run": LATER},
    {"minutes": 30},
    {"repeats": 0},
    {"next_run": None},
    {"cluster": "other"},
]


@pytest.mark.parametrize("changes", STAFFS)
def test_a_timing_that_staff_changed_stays(changes):
    sync(entry(Every(minutes=5)))
    Schedule.objects.update(**changes)
    assert sync(entry(Every(minutes=5)), now=LATER) == {}
    assert {name: getattr(row(), name) for name in changes} == changes


def test_it_ends_with_another_timing_in_the_table_but_what_is_paused_stays_so():
    table = [entry(Every(minutes=5), name) for name in ("hourly", "paused", "stopped")]
    sync(*table)
    for name, changes in (
        ("hourly", {"schedule_type": Schedule.HOURLY}),
        ("paused", {"next_run": None}),
        ("stopped", {"repeats": 0}),
    ):
        Schedule.objects.filter(name=f"conversations.{name}").update(**changes)
    sync(*(entry(Every(minutes=7), name) for name in ("hourly", "paused", "stopped")), now=LATER)
    found = [row(name) for name in ("hourly", "paused", "stopped")]
    assert {(each.schedule_type, each.minutes) for each in found} == {(Schedule.MINUTES, 7)}
    assert [each.next_run for each in found] == [LATER, None, LATER]
    assert [each.repeats for each in found] == [-1, -1, 0]


@pytest.mark.parametrize("changes", STAFFS)
def test_a_reset_begins_every_timing_anew(changes):
    sync(entry(Every(minutes=5)))
    Schedule.objects.exclude(next_run=None).update(**changes)
    reset = {"reset": True, "now": NOON + timedelta(hours=1)}
    assert sync(entry(Every(minutes=5)), **reset) == {"updated": ("conversations.sweep",)}
    assert (row().schedule_type, row().minutes, row().repeats) == (Schedule.MINUTES, 5, -1)
    assert row().next_run == NOON + timedelta(hours=1)


@pytest.mark.parametrize(
    "changes",
    [
        {"func": "os.system"},
        {"args": "'rm'"},
        {"hook": "os.system"},
        {"intended_date_kwarg": "when"},
        {"kwargs": "{"},
    ],
)
def test_what_is_run_is_the_tables_business_alone(changes):
    sync(entry(Every(minutes=5)))
    before = rows()
    Schedule.objects.update(**changes)
    assert sync(entry(Every(minutes=5))) == {"updated": ("conversations.sweep",)}
    assert rows() == before


def test_a_name_is_there_once_and_the_oldest_stays():
    sync(entry(Every(minutes=5)))
    Schedule.objects.update(minutes=30)
    oldest = row().pk
    Schedule.objects.create(name="conversations.sweep", func="conversations.tasks.sweep")
    assert sync(entry(Every(minutes=5))) == {"removed": ("conversations.sweep",)}
    assert (row().pk, row().minutes) == (oldest, 30)


def test_what_left_the_table_goes_and_what_others_made_stays(foreign):
    sync(entry(Every(minutes=5), "old"), entry(Every(minutes=5), "kept"))
    assert sync(entry(Every(minutes=5), "kept")) == {"removed": ("conversations.old",)}
    assert [found["name"] for found in rows()[len(foreign) :]] == ["conversations.kept"]
    assert sync() == {"removed": ("conversations.kept",)}
    assert rows() == foreign


def test_a_dry_run_says_the_same_and_stores_nothing(foreign):
    sync(entry(Every(minutes=5), "old"), entry(Every(minutes=5), "changed"))
    before = rows()
    table = (entry(Every(minutes=6), "changed"), entry(Every(minutes=5), "new"))
    said = sync(*table, dry_run=True)
    assert rows() == before
    assert sync(*table) == said
    assert set(said) == {"created", "updated", "removed"}


def test_what_is_scheduled_is_expected_to_run_from_then_on():
    sync(entry(Daily(hour=2)), dry_run=True)
    assert not TaskRun.objects.exists()
    sync(entry(Daily(hour=2)))
    sync(entry(Daily(hour=3)), now=LATER)
    assert TaskRun.objects.get().since == NOON
    assert TaskRun.objects.get().name == "sweep"


@pytest.mark.parametrize(
    ("changes", "last_due", "period"),
    [
        ({}, NOON.replace(hour=2), timedelta(days=1)),
        ({"next_run": NOON - timedelta(days=3)}, NOON - timedelta(days=3), timedelta(days=1)),
        ({"schedule_type": Schedule.WEEKLY}, NOON.replace(day=25, month=4, hour=2), 7),
        ({"schedule_type": Schedule.MINUTES, "minutes": 30, "next_run": NOON}, NOON, 0.5 / 24),
        ({"schedule_type": Schedule.CRON, "cron": "0 2 * * *"}, NOON.replace(hour=2), 1),
    ],
    ids=["as planned", "overdue", "weekly", "half-hourly", "cron"],
)
def test_when_a_schedule_was_due_last_follows_what_staff_made_of_it(changes, last_due, period):
    sync(entry(Daily(hour=2)))
    Schedule.objects.update(**changes)
    timing = schedules.find_timing("sweep", now=NOON)
    assert timing is not None
    days = period if isinstance(period, timedelta) else timedelta(days=period)
    assert (timing.is_paused, timing.last_due, timing.period) == (False, last_due, days)


@pytest.mark.parametrize("changes", [{"next_run": None}, {"repeats": 0}])
def test_a_schedule_that_is_paused_is_known_as_such(changes):
    assert schedules.find_timing("sweep", now=NOON) is None
    sync(entry(Every(minutes=5)))
    Schedule.objects.update(**changes)
    timing = schedules.find_timing("sweep", now=NOON)
    assert timing is not None
    assert timing.is_paused


def test_what_runs_by_itself_is_in_the_table():
    assert schedules.is_in_table("heartbeat")
    assert not schedules.is_in_table("unheard_of")


def test_the_queue_is_handed_the_task_and_nothing_else():
    """What tells the table's timing from staff's is no argument of the task."""
    sync(entry(Every(minutes=5)))
    stored = ast.literal_eval(row().kwargs)
    assert set(stored) == {"q_options"}
    assert stored["q_options"] == {"timing": "every 5 min"}


@pytest.mark.slow
def test_processes_that_sync_at_once_leave_one_schedule_of_a_name(tmp_path):
    script = (
        SITE
        + """
    import time
    from django.db import connection
    from django.utils import timezone
    from conversations import schedules
    create = schedules._bring_up_to_date

    def create_slowly(*arguments, **options):  # time for the others to look, and find nothing yet
        time.sleep(0.1)
        return create(*arguments, **options)

    schedules._bring_up_to_date = create_slowly
    connection.ensure_connection()
    print("ready", flush=True)
    while not os.path.exists(sys.argv[1]):
        time.sleep(0.001)  # the others need the machine to get here
    schedules.sync_schedules(now=timezone.now())
"""
    )
    go = tmp_path / "go"
    processes = [start_python(script, str(go)) for _ in range(3)]
    try:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        go.touch()
        for process in processes:
            finish(process)
    finally:
        for process in processes:
            process.kill()
    assert sorted(Schedule.objects.values_list("name", flat=True)) == sorted(NAMES)
