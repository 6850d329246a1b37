"""Numbers for operators, as Prometheus reads them: what all processes share, and what this one did.

What the worker did is in the database, so that any web process tells it. What web processes did is
counted by each for itself (`tally`): with several, ask each, or add up what is scraped over time.
Nothing here grows with what is stored.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Final

from django.db import connection
from django.db.models import Count, F, Max, Sum
from django.utils import timezone

from conversations import exposition, lanes, tally
from conversations.exposition import Family, Sample
from conversations.models import Cleanup, Measurement, TaskRun
from conversations.store.leases import LIVE
from conversations.store.log import TURN

_STARTED: Final = time.time()

_MEASURED: Final = {
    "sessions": "Conversations, as the worker counted them last.",
    "held_sessions": "Conversations on hold.",
    "expired_sessions": "Conversations that are due for cleanup.",
    "remembered_rows": "Entries that models are given, of all conversations.",
    "stored_rows": "Entries of all logs, hidden ones too.",
    "messages": "Messages that people see.",
    "quarantined_rows": "Entries that are set aside because they are damaged.",
}


_CLEANED: Final = {
    "sessions": "Conversations that they removed.",
    "rows": "Conversations, messages and attachments that they removed.",
    "bytes": "How much that was.",
    "failed": "Conversations that they could not remove.",
}


def render(health: Mapping[str, bool | None]) -> str:
    """The page: what is stored, what this process did, and how the parts of the site are."""
    return exposition.render([*_of_health(health), *_of_process(), *_of_database()])


def _of_health(health: Mapping[str, bool | None]) -> Iterator[Family]:
    samples = [
        Sample(float(ok), (("check", name),)) for name, ok in health.items() if ok is not None
    ]
    yield _gauge("health", "1 where a part is well, 0 where not, as /readyz says.", samples)


def _of_process() -> Iterator[Family]:
    yield _gauge(
        "process_start_timestamp_seconds",
        "When this process began to count: what is counted per process begins with it.",
        [Sample(round(_STARTED, 3))],
    )
    yield from tally.families()


def _of_database() -> Iterator[Family]:
    yield from lanes.look_up(_of_turns)
    yield from _of_tasks()
    yield from _of_cleanups()
    yield from _of_measurements()
    yield _gauge("database_bytes", "Size of the database.", [Sample(_database_bytes())])


def _of_turns(db: lanes.Database) -> list[Family]:
    rows = db.all(
        f"SELECT status, COUNT(*), MIN(queued_at) FROM {TURN} WHERE {LIVE} GROUP BY status"
    )
    (active,) = db.one(f"SELECT COUNT(DISTINCT session_id) FROM {TURN} WHERE {LIVE}")
    counts = {status: count for status, count, _ in rows}
    oldest = next((lanes.to_moment(at) for status, _, at in rows if status == "queued"), None)
    waited = (timezone.now() - oldest).total_seconds() if oldest else 0
    return [
        _gauge("active_sessions", "Conversations in which a turn runs or waits.", [Sample(active)]),
        _gauge("running_turns", "Turns that run.", [Sample(counts.get("running", 0))]),
        _gauge("queue_depth", "Turns that wait.", [Sample(counts.get("queued", 0))]),
        _gauge(
            "oldest_queued_seconds",
            "How long the turn that waits longest has waited.",
            [Sample(max(0, waited))],
        ),
    ]


def _of_tasks() -> Iterator[Family]:
    runs = list(TaskRun.objects.order_by("name"))

    def by_task(values: Iterable[float | None]) -> list[Sample]:
        pairs = zip(runs, values, strict=True)
        return [Sample(value, (("task", run.name),)) for run, value in pairs if value is not None]

    yield _counter(
        "task_runs_total", "Runs of background tasks.", by_task(run.run_count for run in runs)
    )
    yield _counter(
        "task_failures_total", "Those that failed.", by_task(run.failure_count for run in runs)
    )
    yield _counter(
        "task_seconds_total", "How long they took.", by_task(run.seconds for run in runs)
    )
    yield _counter(
        "task_amount_total",
        "What they did: turns closed (recover_turns), entries forgotten (prune_sessions).",
        by_task(run.amount for run in runs),
    )
    yield _gauge(
        "task_last_success_timestamp_seconds",
        "When each succeeded last.",
        by_task(_seconds(run.succeeded_at) for run in runs),
    )


def _of_cleanups() -> Iterator[Family]:
    """Of all that ended, whoever began them: about one row a day."""
    done = Cleanup.objects.filter(status=Cleanup.Status.DONE)
    sums = done.aggregate(
        count=Count("id"),
        all_sessions=Sum("sessions"),
        all_rows=Sum(F("sessions") + F("messages") + F("attachments")),
        all_bytes=Sum("byte_count"),
        all_milliseconds=Sum("milliseconds"),
        all_failed=Sum("failed"),
        last=Max("finished_at"),
    )
    yield _counter("cleanups_total", "Cleanups that ended.", [Sample(sums["count"])])
    for name, help in _CLEANED.items():
        yield _counter(f"cleanup_{name}_total", help, [Sample(sums[f"all_{name}"] or 0)])
    seconds = (sums["all_milliseconds"] or 0) / 1000
    yield _counter("cleanup_seconds_total", "How long they worked.", [Sample(seconds)])
    last = _seconds(sums["last"])
    yield _gauge(
        "cleanup_last_success_timestamp_seconds",
        "When the last one ended.",
        [] if last is None else [Sample(last)],
    )


def _of_measurements() -> Iterator[Family]:
    measured = {row.name: row for row in Measurement.objects.all()}
    for name, help in _MEASURED.items():
        if name in measured:
            yield _gauge(name, help, [Sample(measured[name].value)])
    if measured:
        oldest = min(row.measured_at for row in measured.values())
        yield _gauge(
            "measured_timestamp_seconds",
            "When the worker counted what it counts once an hour.",
            [Sample(oldest.timestamp())],
        )


def _database_bytes() -> int:
    """Of the file and its log; PostgreSQL knows its own."""
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_database_size(current_database())")
            return int(cursor.fetchone()[0])
    name = str(connection.settings_dict["NAME"])
    size = 0
    for suffix in ("", "-wal", "-shm", "-journal"):
        try:
            size += os.stat(f"{name}{suffix}").st_size
        except OSError:
            continue
    return size


def _counter(name: str, help: str, samples: list[Sample]) -> Family:
    return Family(f"conversations_{name}", "counter", help, tuple(samples))


def _gauge(name: str, help: str, samples: list[Sample]) -> Family:
    return Family(f"conversations_{name}", "gauge", help, tuple(samples))


def _seconds(moment: datetime | None) -> float | None:
    return moment.timestamp() if moment else None
