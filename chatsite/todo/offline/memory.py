"""The tasks a conversation speaks of, as the tools' answers in its history show them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from itertools import zip_longest
from typing import Any

from chatsite.todo.offline.history import Answered, Exchange, Json
from chatsite.todo.offline.intents import Target
from chatsite.todo.offline.wording import stems


@dataclass(frozen=True, slots=True)
class KnownTask:
    id: int
    title: str
    due: date | None
    priority: str
    done: bool


class Memory:
    """What "it", "the first one" and "the groceries task" mean at this point.

    When it is not whole, nothing is counted from a beginning that it does not know.
    """

    def __init__(self, exchanges: Iterable[Exchange] = (), *, is_whole: bool = True) -> None:
        self.is_whole = is_whole
        self.tasks: dict[int, KnownTask] = {}
        self.deeds: dict[str, list[str]] = {"created": [], "completed": [], "deleted": []}
        self._focus: int | None = None
        self._created: list[int] = []
        self._shown: list[int] = []
        for exchange in exchanges:
            for answered, following in zip_longest(exchange.answered, exchange.answered[1:]):
                looked_up = following is not None and following.call.name != "list_tasks"
                self.observe(answered, shown=not looked_up)

    def observe(self, answered: Answered, *, shown: bool) -> None:
        """Take in a tool's answer; `shown` says whether the person saw the list."""
        output = answered.output
        if task := read_task(output.get("task")):
            self._observe_change(answered.call.name, task)
        elif task := read_task(output.get("deleted")):
            self.tasks.pop(task.id, None)
            self.deeds["deleted"].append(task.title)
            self._focus = None if self._focus == task.id else self._focus
            self._created = [known for known in self._created if known != task.id]
        elif "tasks" in output:
            listed = read_tasks(output)
            self.tasks |= {task.id: task for task in listed}
            if shown:
                self._shown = [task.id for task in listed]
                self._focus = listed[0].id if len(listed) == 1 else self._focus

    def find(self, target: Target) -> list[KnownTask]:
        """The tasks meant: one when it is clear, several when it is not, none when unknown."""
        if target.kind == "focus":
            ids = [self._focus] if self._focus is not None else []
        elif target.kind == "created":
            ids = self._nth_created(target.number)
        elif target.kind == "nth" and self._shown:
            ids = _nth(self._shown, target.number)
        elif target.kind == "nth":
            ids = self._nth_created(target.number)
        elif target.kind == "number":
            ids = [target.number] if target.number in self.tasks else []
            ids = ids or _nth(self._shown, target.number)
        else:
            return match_title(target.words, list(self.tasks.values()))
        return [self.tasks[task_id] for task_id in ids if task_id in self.tasks]

    def _nth_created(self, number: int) -> list[int]:
        return _nth(self._created, number) if self.is_whole or number < 0 else []

    def _observe_change(self, tool: str, task: KnownTask) -> None:
        self.tasks[task.id] = task
        self._focus = task.id
        if tool == "create_task":
            self._created.append(task.id)
            self.deeds["created"].append(task.title)
            if self._shown:
                self._shown.append(task.id)
        elif tool == "complete_task" and task.done:
            self.deeds["completed"].append(task.title)


def match_title(words: str, tasks: list[KnownTask]) -> list[KnownTask]:
    """The tasks whose title holds all words of the phrase; open ones count before done ones."""
    exact = [task for task in tasks if task.title.lower() == words.lower().strip()]
    wanted = stems(words)
    found = exact or [task for task in tasks if wanted and wanted <= stems(task.title)]
    if not found and len(wanted) > 1:
        half = [task for task in tasks if 2 * len(wanted & stems(task.title)) > len(wanted)]
        found = half if len(half) == 1 else []
    still_open = [task for task in found if not task.done]
    return still_open or found


def read_tasks(output: Json) -> list[KnownTask]:
    listed = output.get("tasks")
    tasks = [read_task(value) for value in (listed if isinstance(listed, list) else [])]
    return [task for task in tasks if task is not None]


def read_task(value: Any) -> KnownTask | None:
    if not isinstance(value, dict) or not isinstance(value.get("id"), int):
        return None
    try:
        due = date.fromisoformat(str(value.get("due") or ""))
    except ValueError:
        due = None
    return KnownTask(
        id=value["id"],
        title=str(value.get("title", "")),
        due=due,
        priority=str(value.get("priority", "normal")),
        done=bool(value.get("done")),
    )


def _nth(ids: list[int], number: int) -> list[int]:
    index = number if number < 0 else number - 1
    return [ids[index]] if number and -len(ids) <= index < len(ids) else []
