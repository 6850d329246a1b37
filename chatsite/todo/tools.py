"""The assistant's function tools: what a model may do with the tasks of the person it talks to.

The owner always comes from the run's context. Each tool answers with JSON text: `{"task": …}`,
`{"tasks": […], …}`, or `{"error": "…"}` in words that the model can pass on. A task is known by
its id, and an id of somebody else's task is answered like one that never existed.
"""

from __future__ import annotations

import json
import logging
import re
import unicodedata
from collections.abc import Callable
from datetime import date
from typing import Any, Final, Protocol, TypeAlias

from agents import FunctionTool, RunContextWrapper, function_tool
from agents.exceptions import ModelBehaviorError
from django.db import transaction
from django.utils import timezone

from chatsite.todo.models import TITLE_MAX_CHARS, Priority, Task, TaskQuerySet
from conversations import lanes

logger = logging.getLogger(__name__)

MAX_TASKS_PER_PERSON: Final = 1000
MAX_TASKS_LISTED: Final = 100


class Person(Protocol):
    """What the tools need of a run's context."""

    @property
    def user_id(self) -> Any: ...


Context: TypeAlias = RunContextWrapper[Person]
Answer: TypeAlias = dict[str, Any]


class Refused(Exception):
    """The arguments cannot be used; the message says why, in words for the model."""


def explain_failure(context: RunContextWrapper[Any], error: Exception) -> str:
    """What the model reads when a tool could not run at all: no detail of ours, none of others."""
    if isinstance(error, ModelBehaviorError):
        return _to_text({"error": "These arguments do not fit the tool. Please correct them."})
    logger.error("A task tool failed: %s", type(error).__name__)
    return _to_text({"error": "The task list cannot be reached at the moment."})


@function_tool(failure_error_function=explain_failure)
async def create_task(
    context: Context, title: str, due: str | None = None, priority: str | None = None
) -> str:
    """Add a task to the person's list.

    Args:
        title: What is to be done, in a few words (at most 200 characters).
        due: The day it is due, as YYYY-MM-DD; null for none.
        priority: "high", "normal" or "low"; null for normal.
    """
    return await _answer(_create, context.context.user_id, title, due, priority)


@function_tool(failure_error_function=explain_failure)
async def list_tasks(  # noqa: PLR0917 - the model sees these names
    context: Context,
    status: str | None = None,
    sort: str | None = None,
    priority: str | None = None,
    due_from: str | None = None,
    due_until: str | None = None,
) -> str:
    """Show the person's tasks, open ones before done ones.

    Args:
        status: "open", "done" or "all"; null for all.
        sort: "priority", "due", "title", "newest" or "oldest"; null for oldest.
        priority: Only tasks of this priority: "high", "normal" or "low"; null for any.
        due_from: Only tasks due on or after this day, as YYYY-MM-DD; null for any.
        due_until: Only tasks due on or before this day, as YYYY-MM-DD; null for any.
    """
    return await _answer(
        _list, context.context.user_id, status, sort, priority, due_from, due_until
    )


@function_tool(failure_error_function=explain_failure)
async def update_task(
    context: Context,
    task_id: int,
    title: str | None = None,
    due: str | None = None,
    priority: str | None = None,
) -> str:
    """Change a task of the person; null leaves a value as it is.

    Args:
        task_id: The task's id, as another tool showed it.
        title: The new title.
        due: The new due day as YYYY-MM-DD, or "none" to remove it.
        priority: The new priority: "high", "normal" or "low".
    """
    return await _answer(_update, context.context.user_id, task_id, title, due, priority)


@function_tool(failure_error_function=explain_failure)
async def complete_task(context: Context, task_id: int, done: bool = True) -> str:
    """Mark a task of the person as done, or open it again.

    Args:
        task_id: The task's id, as another tool showed it.
        done: True when it is done; false to open it again.
    """
    return await _answer(_complete, context.context.user_id, task_id, done)


@function_tool(failure_error_function=explain_failure)
async def delete_task(context: Context, task_id: int) -> str:
    """Remove a task from the person's list for good.

    Args:
        task_id: The task's id, as another tool showed it.
    """
    return await _answer(_delete, context.context.user_id, task_id)


TOOLS: Final[tuple[FunctionTool, ...]] = (
    create_task,
    list_tasks,
    update_task,
    complete_task,
    delete_task,
)


async def _answer(work: Callable[..., Answer], *arguments: Any) -> str:
    try:
        return _to_text(await lanes.call(work, *arguments))
    except Refused as refusal:
        return _to_text({"error": str(refusal)})


def _to_text(answer: Answer) -> str:
    return json.dumps(answer, ensure_ascii=False)


@transaction.atomic
def _create(user_id: Any, title: str, due: str | None, priority: str | None) -> Answer:
    task = Task(
        owner_id=user_id,
        title=_read_title(title),
        due_date=_read_day(due),
        priority=_read_priority(priority) or Priority.NORMAL,
    )
    if Task.objects.owned_by(user_id).count() >= MAX_TASKS_PER_PERSON:
        raise Refused(
            f"The list is full: it holds {MAX_TASKS_PER_PERSON} tasks. Delete some first."
        )
    task.save(force_insert=True)
    return {"task": _describe(task)}


def _list(  # noqa: PLR0917 - as the tool above
    user_id: Any,
    status: str | None,
    sort: str | None,
    priority: str | None,
    due_from: str | None,
    due_until: str | None,
) -> Answer:
    tasks = Task.objects.owned_by(user_id)
    tasks = _choice("status", status, _STATUSES, "all")(tasks)
    tasks = _choice("sort", sort, _SORTS, "oldest")(tasks)
    if level := _read_priority(priority):
        tasks = tasks.with_priority(level)
    if first := _read_day(due_from):
        tasks = tasks.due_from(first)
    if last := _read_day(due_until):
        tasks = tasks.due_until(last)
    found = list(tasks[: MAX_TASKS_LISTED + 1])
    return {
        "tasks": [_describe(task) for task in found[:MAX_TASKS_LISTED]],
        "more": len(found) > MAX_TASKS_LISTED,
    }


@transaction.atomic
def _update(
    user_id: Any, task_id: int, title: str | None, due: str | None, priority: str | None
) -> Answer:
    task = _get_task(user_id, task_id)
    if title is None and not _given(due) and not _given(priority):
        raise Refused("Nothing to change was given: say a new title, due or priority.")
    if title is not None:
        task.title = _read_title(title)
    if _given(due):
        task.due_date = _read_day(due)
    if level := _read_priority(priority):
        task.priority = level
    task.save(update_fields=["title", "due_date", "priority"])
    return {"task": _describe(task)}


@transaction.atomic
def _complete(user_id: Any, task_id: int, done: bool) -> Answer:
    task = _get_task(user_id, task_id)
    if done and task.completed_at is None:
        task.completed_at = max(timezone.now(), task.created_at)
    elif not done:
        task.completed_at = None
    task.save(update_fields=["completed_at"])
    return {"task": _describe(task)}


@transaction.atomic
def _delete(user_id: Any, task_id: int) -> Answer:
    task = _get_task(user_id, task_id)
    gone = _describe(task)
    task.delete()
    return {"deleted": gone}


def _get_task(user_id: Any, task_id: int) -> Task:
    task = Task.objects.owned_by(user_id).select_for_update().filter(pk=task_id).first()
    if task is None:
        raise Refused("There is no such task on this person's list.")
    return task


def _describe(task: Task) -> Answer:
    return {
        "id": task.pk,
        "title": task.title,
        "due": task.due_date.isoformat() if task.due_date else None,
        "priority": Priority(task.priority).label,
        "done": task.completed_at is not None,
    }


def _read_title(value: str) -> str:
    title = " ".join(value.split())
    if any(unicodedata.category(character) in {"Cc", "Cs"} for character in title):
        raise Refused("The title holds characters that cannot be stored; use plain text.")
    if not any(unicodedata.category(character)[0] in "LMNPS" for character in title):
        raise Refused("The title is empty; say what is to be done.")
    if len(title) > TITLE_MAX_CHARS:
        raise Refused(f"The title is too long: at most {TITLE_MAX_CHARS} characters.")
    return title


def _read_day(value: str | None) -> date | None:
    if not _given(value) or _plain(value) == "none":
        return None
    try:
        if not re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", _plain(value)):
            raise ValueError
        return date.fromisoformat(_plain(value))
    except ValueError:
        raise Refused("That is not a day; write it as YYYY-MM-DD.") from None


def _read_priority(value: str | None) -> Priority | None:
    if not _given(value):
        return None
    try:
        return Priority[_plain(value).upper()]
    except KeyError:
        raise Refused('The priority must be "high", "normal" or "low".') from None


def _choice(
    name: str,
    value: str | None,
    choices: dict[str, Callable[[TaskQuerySet], TaskQuerySet]],
    default: str,
) -> Callable[[TaskQuerySet], TaskQuerySet]:
    chosen = choices.get(_plain(value) if _given(value) else default)
    if chosen is None:
        raise Refused(f"The {name} must be one of: {', '.join(choices)}.")
    return chosen


_STATUSES: dict[str, Callable[[TaskQuerySet], TaskQuerySet]] = {
    "all": lambda tasks: tasks,
    "open": TaskQuerySet.open,
    "done": TaskQuerySet.done,
}
_SORTS: dict[str, Callable[[TaskQuerySet], TaskQuerySet]] = {
    "priority": TaskQuerySet.by_priority,
    "due": TaskQuerySet.by_due_date,
    "title": TaskQuerySet.by_title,
    "newest": TaskQuerySet.newest_first,
    "oldest": TaskQuerySet.oldest_first,
}


def _given(value: str | None) -> bool:
    """Models send an empty text as often as null when they mean nothing."""
    return bool(_plain(value))


def _plain(value: str | None) -> str:
    return (value or "").strip().lower()
