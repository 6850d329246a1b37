"""The sentences the offline model says about tasks, and about what it has forgotten."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import Final

from chatsite.todo.offline.dates import name_day
from chatsite.todo.offline.history import Json
from chatsite.todo.offline.intents import Change, Complete, Delete, Show, Target
from chatsite.todo.offline.memory import KnownTask
from chatsite.todo.offline.wording import quote

FORGOTTEN: Final = "I no longer remember the beginning of our conversation."
"""What the person hears when an answer would have to come from there."""

_SORTED_BY: Final = {
    "priority": "Sorted by priority",
    "due": "Sorted by due date",
    "title": "Sorted by title",
    "newest": "Newest first",
    "oldest": "Oldest first",
}


def describe(task: KnownTask, today: date) -> str:
    """“Buy milk” (due tomorrow (2026-11-24), high priority)"""
    details = [f"due {name_day(task.due, today)}"] if task.due else []
    details += [f"{task.priority} priority"] if task.priority != "normal" else []
    return quote(task.title) + (f", {', '.join(details)}" if details else "")


def describe_list(
    tasks: Sequence[KnownTask],
    wish: Show,
    *,
    today: date,
    sort: str | None,
    preferred: bool,
    more: bool,
) -> str:
    kind = _kind(wish)
    span = f" {wish.span.words}" if wish.span else ""
    if not tasks and not kind:
        return "Your list is empty: you have no tasks."
    if not tasks:
        return f"You have no{kind} tasks{span}."
    count = (
        f"{len(tasks)}{' or more' if more else ''}{kind} task{'s' if len(tasks) > 1 else ''}{span}"
    )
    if wish.counts:
        still_open = sum(not task.done for task in tasks)
        split = f", {still_open} of them open" if wish.status == "all" else ""
        return f"You have {count}{split}."
    order = ""
    if sort in _SORTED_BY and len(tasks) > 1:
        order = f" {_SORTED_BY[sort]}{', as you prefer' if preferred else ''}."
    lines = [
        f"{number}. {describe(task, today)}{' (done)' if task.done else ''}"
        for number, task in enumerate(tasks, start=1)
    ]
    return "\n".join([f"You have {count}.{order}", *lines])


def describe_deed(
    wish: Change | Complete | Delete, task: KnownTask, known: KnownTask | None, today: date
) -> str:
    name = quote(task.title)
    if isinstance(wish, Complete):
        return f"Done: {name} is completed." if wish.done else f"{name} is open again."
    if isinstance(wish, Delete):
        return f"I deleted {name}."
    if wish.title and known and known.title != task.title:
        return f"I renamed {quote(known.title)} to {name}."
    if wish.removes_due:
        return f"{name} no longer has a due date."
    changes = [f"due {name_day(task.due, today)}"] if wish.due and task.due else []
    changes += [f"{task.priority} priority"] if wish.priority else []
    return f"{name} is now {' and '.join(changes)}." if changes else f"I updated {name}."


def failure(what: str, output: Json) -> str:
    reason = str(output.get("error") or "the tool gave no clear answer").strip()
    return f"{what}: {reason}" if reason.endswith(".") else f"{what}: {reason}."


def which_one(tasks: Sequence[KnownTask]) -> str:
    names = " or ".join(quote(task.title) for task in tasks[:5])
    return f"Which one do you mean: {names}?"


def unknown_target(target: Target, *, has_tasks: bool, is_whole: bool) -> str:
    if target.kind == "title":
        return f"I found no task about {quote(target.words, limit=80)} on your list."
    if not is_whole:
        return (
            f"I do not know which task you mean. {FORGOTTEN} "
            "Tell me the task's title, or ask me to show your list."
        )
    if has_tasks:
        return "I do not know which task you mean. Tell me its title, or ask me to show your list."
    return (
        "I do not know which task you mean: none was mentioned in this conversation. "
        "Tell me its title, or ask me to show your list."
    )


def _kind(wish: Show) -> str:
    status = "" if wish.status == "all" else f" {wish.status}"
    return status + (f" {wish.priority}-priority" if wish.priority else "")
