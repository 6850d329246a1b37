"""The queue's own rows about tasks that ended: bounded, for django-q2 keeps every failure."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from django.db.models import QuerySet
from django_q.models import Task

TASKS: Final = "conversations.tasks."
"""The paths of our tasks begin so."""

KEPT: Final = timedelta(days=30)
KEPT_COUNT: Final = 500
"""So many failures are kept, and so many successes, and none for longer."""

BATCH: Final = 500


def ours() -> QuerySet[Task]:
    """The rows of our tasks, without what is pickled in them: to read that is to run it."""
    rows: QuerySet[Task] = Task.objects.filter(func__startswith=TASKS)
    return rows.defer("args", "kwargs", "result")


def forget_results(*, now: datetime) -> int:
    """Drop what is kept no longer of tasks that ended; how many rows."""
    forgotten = _drop(ours().filter(stopped__lt=now - KEPT))
    for success in (True, False):
        newest = ours().filter(success=success).order_by("-stopped", "-id")
        last = newest.values_list("stopped", flat=True)[KEPT_COUNT - 1 : KEPT_COUNT].first()
        if last is not None:
            forgotten += _drop(ours().filter(success=success, stopped__lt=last))
    return forgotten


def _drop(rows: QuerySet[Task]) -> int:
    dropped = 0
    while ids := list(rows.values_list("id", flat=True)[:BATCH]):
        dropped += Task.objects.filter(id__in=ids)._raw_delete(using=rows.db)
    return dropped
