"""The worker's tasks: sync, without arguments, and silent about what people said."""

from __future__ import annotations

import ast
import inspect
import traceback
from pathlib import Path
from typing import Any

import pytest
from django.db import DatabaseError
from django.utils import timezone

from conversations import measuring, retention, schedules, sweeps, task_results, tasks
from conversations.errors import CleanupRunning
from conversations.models import ChatTurn, TaskRun
from conversations.store import records
from conversations.tests import factories
from conversations.tests.other_process import run_python
from conversations.tests.retention_helpers import idle, leave
from conversations.tests.sweeps_helpers import (
    answer,
    recorded,
    remember,
    sessions,
    speak,
    statuses,
)

ALL = [getattr(tasks, row.task.removeprefix(schedules.TASKS)) for row in schedules.build_table()]


def test_no_task_is_async_for_the_queue_would_run_it_for_ever():
    tree = ast.parse(Path(tasks.__file__).read_text())
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.AsyncFunctionDef)]
    assert not [task for task in ALL if inspect.iscoroutinefunction(task)]


@pytest.mark.parametrize("task", ALL)
def test_a_task_takes_no_arguments(task):
    assert not inspect.signature(task).parameters
    assert (task.__module__, task.__doc__) != (tasks.__name__, None)


def test_the_worker_need_not_load_the_sdk():
    loaded = run_python(
        """
        import sys
        import chatsite, django
        django.setup()
        import conversations.tasks, conversations.schedules
        print([name for name in ("agents", "openai") if name in sys.modules])
        """
    )
    assert loaded == "[]"


def test_a_task_does_what_its_sweep_does_as_of_now(user, gone, settings):
    settings.CHAT_EVENTS_KEPT_SECONDS = 0
    settings.AGENT_SESSION_MAX_MESSAGES = 3
    abandoned, ended, long = sessions(user, 3)
    speak(abandoned, process=gone)
    answer(ended, gone, ended=timezone.now())
    assert [tasks.recover_turns(), tasks.recover_turns()] == [1, 0]
    assert statuses(abandoned) == ["interrupted"]
    assert [tasks.forget_events(), tasks.forget_events()] == [1, 0]
    assert recorded() == set()
    remember(long, 5)
    assert [tasks.prune_sessions(), tasks.prune_sessions()] == [2, 0]
    factories.AttachmentFactory(owner=user, created_at=timezone.now() - sweeps.UNUSED_KEPT)
    assert [tasks.sweep_orphans(), tasks.sweep_orphans()] == [1, 0]
    leave(ended)
    assert [tasks.cleanup_sessions(), tasks.cleanup_sessions()] == [1, 0]


def test_a_cleanup_that_was_cut_short_is_gone_on_with(user, monkeypatch):
    idle(user)
    with monkeypatch.context() as patch:
        patch.setattr(tasks, "CLEANUP_SECONDS", -1)
        assert tasks.cleanup_sessions() == 0
    assert [tasks.finish_cleanup(), tasks.finish_cleanup()] == [1, 0]


@pytest.mark.parametrize("task", [tasks.cleanup_sessions, tasks.finish_cleanup])
def test_a_task_that_finds_another_at_work_leaves_it_alone(monkeypatch, task):
    def refuse(**options: Any) -> None:
        raise CleanupRunning

    monkeypatch.setattr(retention, "cleanup", refuse)
    monkeypatch.setattr(retention, "finish_cleanup", refuse)
    assert task() == 0


@pytest.mark.parametrize("task", ALL)
@pytest.mark.django_db(transaction=True)
def test_every_task_leaves_in_its_row_that_it_ran(task):
    task()
    run = TaskRun.objects.get(name=task.__name__)
    assert (run.run_count, run.failure_count) == (1, 0)
    assert run.started_at <= run.succeeded_at <= run.beat_at


def stored_by_the_queue(task: Any) -> str:
    """What django-q2 keeps and logs of a task that fails."""
    try:
        task()
    except Exception as error:
        return f"{error} : {traceback.format_exc()}"
    raise AssertionError("it did not fail")


PLACES = {
    "measure_sessions": (measuring, "measure_sessions"),
    "forget_results": (task_results, "forget_results"),
    "cleanup_sessions": (retention, "cleanup"),
    "finish_cleanup": (retention, "finish_cleanup"),
}
WORK = [task.__name__ for task in ALL if task is not tasks.heartbeat]


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("name", WORK)
def test_a_failure_names_types_and_lines_and_nothing_that_was_said(monkeypatch, name):
    def fail(**options: Any) -> int:
        try:
            raise DatabaseError("Failing row contains (a secret)")
        except DatabaseError as error:
            raise LookupError("a secret") from error

    monkeypatch.setattr(*PLACES.get(name, (sweeps, name)), fail)
    said = stored_by_the_queue(getattr(tasks, name))
    assert "LookupError from DatabaseError, at tasks.py:" in said
    assert " > test_tasks.py:" in said
    assert "a secret" not in said.replace(inspect.getsource(fail), "")


def test_what_the_engine_quotes_of_a_row_is_not_kept(session, gone, monkeypatch):
    speak(session, process=gone)

    def break_a_rule(db: Any, **options: Any) -> int:
        secret = "input = 'a secret', status = 'unheard of'"
        return db.run(f"UPDATE {ChatTurn._meta.db_table} SET {secret}")

    monkeypatch.setattr(records, "forget_ended", break_a_rule)
    said = stored_by_the_queue(tasks.forget_events)
    assert "IntegrityError" in said
    assert "a secret" not in said.replace(inspect.getsource(break_a_rule), "")
