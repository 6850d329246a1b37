"""What each background task did last, in a row of its own: that it ran, not that it was to."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import datetime
from typing import Any, Final

from django.db import DatabaseError, transaction
from django.db.models import F
from django.utils import timezone

from conversations.models import TaskRun

HEARTBEAT: Final = "heartbeat"
CLEANUP: Final = "cleanup_sessions"
FINISH_CLEANUP: Final = "finish_cleanup"
"""The tasks whose runs say whether the worker works, and whether retention is kept."""

BEAT_SECONDS: Final = 20.0

_running = ""
_beat_due = 0.0


def record_run(name: str, task: Callable[[], int], *, outline: Callable[[Exception], str]) -> int:
    """Run a task, and keep when it began, how it ended, and what it returned.

    Of a failure its `outline` is kept; the error itself goes to the caller.
    """
    global _running, _beat_due  # noqa: PLW0603 - a worker's process runs one task at a time
    began = time.monotonic()
    _begin(name, now=timezone.now())
    before, _running, _beat_due = _running, name, began + BEAT_SECONDS
    try:
        amount = task()
    except Exception as error:
        with suppress(DatabaseError):
            _end(name, began, error=outline(error)[:500])
        raise
    finally:
        _running = before
    _end(name, began, amount)
    return amount


def beat() -> None:
    """A sign of life of the task that runs in this process, now and then; without one, nothing.

    For tasks that may take minutes: who waits for the heartbeat behind them knows that they work.
    """
    global _beat_due  # noqa: PLW0603
    if not _running or time.monotonic() < _beat_due:
        return
    _beat_due = time.monotonic() + BEAT_SECONDS
    with suppress(DatabaseError):  # the task's own work will meet it
        TaskRun.objects.filter(name=_running).update(beat_at=timezone.now())


def expect(names: Iterable[str], *, now: datetime) -> None:
    """From now on these are to run; of those that are expected already, nothing changes."""
    rows = [TaskRun(name=name, since=now) for name in names]
    TaskRun.objects.bulk_create(rows, ignore_conflicts=True)


def _begin(name: str, *, now: datetime) -> None:
    with transaction.atomic():
        expect([name], now=now)
        TaskRun.objects.filter(name=name).update(started_at=now, beat_at=now)


def _end(name: str, began: float, amount: int = 0, *, error: str | None = None) -> None:
    now = timezone.now()
    ended: dict[str, Any] = {"succeeded_at": now}
    if error is not None:
        ended = {"failed_at": now, "error": error, "failure_count": F("failure_count") + 1}
    TaskRun.objects.filter(name=name).update(
        **ended,
        beat_at=now,
        run_count=F("run_count") + 1,
        amount=F("amount") + amount,
        seconds=F("seconds") + (time.monotonic() - began),
    )
