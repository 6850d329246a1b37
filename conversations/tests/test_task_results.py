"""The queue's rows of tasks that ended: the newest stay, for a while, and no other's go."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone
from django_q.models import Task

from conversations import task_results

pytestmark = pytest.mark.django_db(transaction=True)

OURS = "conversations.tasks.heartbeat"


def end(count: int, *, success: bool, func: str = OURS, ago: timedelta = timedelta()) -> None:
    now = timezone.now()
    first = Task.objects.count()
    Task.objects.bulk_create(
        Task(
            id=f"{first + number:032}",
            name=f"{number}",
            func=func,
            started=now - ago,
            stopped=now - ago - timedelta(seconds=number),
            success=success,
        )
        for number in range(count)
    )


def left() -> Counter[Any]:
    return Counter(Task.objects.values_list("success", flat=True))


@pytest.fixture(autouse=True)
def _few_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_results, "KEPT_COUNT", 5)
    monkeypatch.setattr(task_results, "BATCH", 3)


def test_failures_are_bounded_as_successes_are():
    end(12, success=False)
    end(8, success=True)
    assert task_results.forget_results(now=timezone.now()) == 10
    assert left() == {False: 5, True: 5}
    assert {row.name for row in task_results.ours()} == {"0", "1", "2", "3", "4"}  # the newest
    assert task_results.forget_results(now=timezone.now()) == 0


def test_none_is_kept_longer_than_a_month():
    end(2, success=False, ago=task_results.KEPT + timedelta(days=1))
    end(2, success=True, ago=task_results.KEPT - timedelta(days=1))
    assert task_results.forget_results(now=timezone.now()) == 2
    assert left() == {True: 2}


def test_what_others_ran_is_theirs():
    end(20, success=False, func="shop.tasks.count", ago=timedelta(days=400))
    assert task_results.forget_results(now=timezone.now()) == 0
    assert left() == {False: 20}


def test_the_constants_bound_what_is_stored():
    assert timedelta(days=31) >= task_results.KEPT
