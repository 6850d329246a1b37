"""That a task ran is in its row: when, how it ended, and what all its runs did together."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.db import DatabaseError
from django.utils import timezone

from conversations import task_runs
from conversations.models import TaskRun

pytestmark = pytest.mark.django_db(transaction=True)


def run(task: Any = lambda: 3, name: str = "sweep") -> int:
    return task_runs.record_run(name, task, outline=lambda error: "outlined")


def row(name: str = "sweep") -> TaskRun:
    return TaskRun.objects.get(name=name)


def failing() -> int:
    raise LookupError("a secret")


def test_runs_are_summed_up_and_the_last_is_dated() -> None:
    before = timezone.now()
    assert [run(), run()] == [3, 3]
    found = row()
    assert (found.run_count, found.failure_count, found.amount) == (2, 0, 6)
    assert before <= found.since <= found.started_at <= found.succeeded_at <= found.beat_at
    assert 0 < found.seconds < 60
    assert (found.failed_at, found.error, str(found)) == (None, "", "sweep")


def test_a_failure_is_kept_by_its_outline_and_goes_on_to_the_caller() -> None:
    run()
    with pytest.raises(LookupError, match="a secret"):
        run(failing)
    found = row()
    assert (found.run_count, found.failure_count, found.amount) == (2, 1, 3)
    assert found.failed_at > found.succeeded_at
    assert found.error == "outlined"


def test_a_failure_that_cannot_be_kept_is_the_callers_all_the_same(monkeypatch) -> None:
    def away(*args: Any, **options: Any) -> None:
        raise DatabaseError

    monkeypatch.setattr(task_runs, "_end", away)
    with pytest.raises(LookupError):
        run(failing)
    assert row().run_count == 0


def test_a_task_that_takes_long_gives_signs_of_life(monkeypatch) -> None:
    long_ago = timezone.now() - timedelta(hours=1)

    def long_task() -> int:
        TaskRun.objects.update(beat_at=long_ago)
        task_runs.beat()
        assert row().beat_at == long_ago  # not that often
        monkeypatch.setattr(task_runs, "_beat_due", 0.0)
        task_runs.beat()
        assert row().beat_at > long_ago
        return 0

    run(long_task)
    assert row().run_count == 1


def test_a_sign_of_life_that_is_not_stored_is_no_failure(monkeypatch) -> None:
    def away(**_: Any) -> None:
        raise DatabaseError

    def task() -> int:
        with monkeypatch.context() as patch:
            patch.setattr(task_runs, "_beat_due", 0.0)
            patch.setattr(TaskRun.objects, "filter", away)
            task_runs.beat()
        return 1

    assert run(task) == 1


def test_who_is_no_task_gives_no_sign_of_life(django_assert_num_queries, monkeypatch) -> None:
    monkeypatch.setattr(task_runs, "_beat_due", 0.0)
    with django_assert_num_queries(0):
        task_runs.beat()


def test_what_is_expected_is_known_since_then_and_not_anew() -> None:
    first, later = timezone.now(), timezone.now() + timedelta(days=1)
    task_runs.expect(["sweep"], now=first)
    task_runs.expect(["sweep", "prune"], now=later)
    assert dict(TaskRun.objects.values_list("name", "since")) == {"sweep": first, "prune": later}
    assert row().beat_at is None
