"""From a conversation to the next step of its answer: tool calls, or the final words.

Each intent is worked on by a generator that yields the tool calls it needs, is sent what the
tools answered, and returns its words. The tools' answers of the running turn are in the items as
well, so that every step starts the generators anew and replays them: nothing is kept between
steps.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from datetime import date
from typing import Any, TypeAlias

from chatsite.todo.offline import phrases, recalling
from chatsite.todo.offline.facts import known_preferences
from chatsite.todo.offline.history import Answered, Call, Conversation, Json
from chatsite.todo.offline.intents import (
    Action,
    Change,
    Complete,
    Create,
    Delete,
    Intent,
    Show,
    Target,
    Unknown,
)
from chatsite.todo.offline.memory import KnownTask, Memory, match_title, read_task, read_tasks
from chatsite.todo.offline.understanding import understand
from chatsite.todo.offline.wording import quote

Work: TypeAlias = Generator[Call, Answered, str]
Step: TypeAlias = Call | str

MAX_CALLS = 8
"""Calls of one turn, well below the ten model turns that the SDK allows a run."""


def next_step(conversation: Conversation, today: date) -> Step:
    """The tool call that comes next, or the answer."""
    work = _converse(conversation, today)
    answered = iter(conversation.now.answered)
    try:
        call = next(work)
        while True:
            known = next((one for one in answered if one.call.name == call.name), None)
            if known is None:
                return call
            call = work.send(known)
    except StopIteration as finished:
        return str(finished.value)


def _converse(conversation: Conversation, today: date) -> Work:
    memory = Memory(conversation.earlier, is_whole=conversation.is_whole)
    preferences = known_preferences(conversation.messages)
    sort = next((one.value for one in preferences if one.kind == "sort"), None)
    short = any(one.kind == "length" and one.value == "short" for one in preferences)
    intents = _intents(conversation, today)
    worker = _Worker(memory=memory, today=today, preferred_sort=sort)
    words: list[str] = []
    for intent in intents:
        if isinstance(intent, Action) and worker.calls >= MAX_CALLS:
            words.append("That is all I can do in one go; please ask for the rest again.")
            break
        if isinstance(intent, Action):
            words.append((yield from worker.perform(intent)))
        else:
            words.append(recalling.answer(intent, conversation, memory, short=short))
    return ("\n" if any("\n" in word for word in words) else " ").join(words)


def _intents(conversation: Conversation, today: date) -> Sequence[Intent]:
    """What the last message means; a bare title may answer our own question for one."""
    intents = understand(conversation.now.message, today)
    if conversation.earlier and isinstance(intents[0], Unknown):
        asked = understand(conversation.earlier[-1].message, today)[-1]
        if isinstance(asked, Create) and not asked.title:
            return [Create(intents[0].text, asked.due, asked.priority)]
    return intents


class _Worker:
    """Carries actions out, one tool call after the other."""

    def __init__(self, *, memory: Memory, today: date, preferred_sort: str | None) -> None:
        self.calls = 0
        self._memory = memory
        self._today = today
        self._preferred_sort = preferred_sort

    def perform(self, action: Action) -> Work:
        if isinstance(action, Create):
            return self._create(action)
        if isinstance(action, Show):
            return self._show(action)
        return self._act(action)

    def _create(self, wish: Create) -> Work:
        if not wish.title:
            return "What should the task be? Tell me its title."
        output = yield from self._call(
            "create_task",
            title=wish.title,
            due=wish.due.isoformat() if wish.due else None,
            priority=wish.priority,
        )
        task = read_task(output.get("task"))
        if task is None:
            return phrases.failure(f"I could not add {quote(wish.title, limit=80)}", output)
        return f"I added {phrases.describe(task, self._today)}."

    def _show(self, wish: Show) -> Work:
        sort = wish.sort or self._preferred_sort
        output = yield from self._call(
            "list_tasks",
            status=wish.status,
            sort=sort,
            priority=wish.priority,
            due_from=wish.span.first.isoformat() if wish.span and wish.span.first else None,
            due_until=wish.span.last.isoformat() if wish.span and wish.span.last else None,
            shown=True,
        )
        if "tasks" not in output:
            return phrases.failure("I could not read your list", output)
        preferred = sort is not None and sort == self._preferred_sort
        return phrases.describe_list(
            read_tasks(output),
            wish,
            today=self._today,
            sort=sort,
            preferred=preferred,
            more=bool(output.get("more")),
        )

    def _act(self, wish: Change | Complete | Delete) -> Work:
        if wish.target.kind == "all":
            return (yield from self._act_on_all(wish))
        tasks = self._memory.find(wish.target)
        if len(tasks) == 1 and wish.target.kind == "title" and tasks[0].done:
            tasks = []  # an open task of that name may have come since
        if not tasks and wish.target.kind == "title":
            tasks = yield from self._look_up(wish.target)
        if not tasks and wish.target.kind == "number" and self._memory.is_whole:
            return (yield from self._act_on(wish, wish.target.number, None))
        if not tasks:
            return phrases.unknown_target(
                wish.target,
                has_tasks=bool(self._memory.tasks),
                is_whole=self._memory.is_whole,
            )
        if len(tasks) > 1:
            return phrases.which_one(tasks)
        return (yield from self._act_on(wish, tasks[0].id, tasks[0]))

    def _act_on_all(self, wish: Change | Complete | Delete) -> Work:
        status = "done" if wish.target.words else "all" if isinstance(wish, Delete) else "open"
        if isinstance(wish, Complete) and not wish.done:
            status = "done"
        output = yield from self._call("list_tasks", status=status, shown=False)
        tasks = read_tasks(output)
        if not tasks:
            return "There are no such tasks on your list."
        if wish.target.number and len(tasks) != wish.target.number:
            return phrases.which_one(tasks)
        words: list[str] = []
        for task in tasks:
            if self.calls >= MAX_CALLS:
                words.append(f"{len(tasks) - len(words)} more are left: ask me again for those.")
                break
            words.append((yield from self._act_on(wish, task.id, task)))
        return " ".join(words)

    def _act_on(
        self, wish: Change | Complete | Delete, task_id: int, known: KnownTask | None
    ) -> Work:
        if isinstance(wish, Complete):
            output = yield from self._call("complete_task", task_id=task_id, done=wish.done)
        elif isinstance(wish, Delete):
            output = yield from self._call("delete_task", task_id=task_id)
        else:
            due = "none" if wish.removes_due else wish.due.isoformat() if wish.due else None
            output = yield from self._call(
                "update_task",
                task_id=task_id,
                title=wish.title,
                due=due,
                priority=wish.priority,
            )
        task = read_task(output.get("task") or output.get("deleted"))
        if task is None:
            name = quote(known.title, limit=80) if known else "that task"
            return phrases.failure(f"That did not work for {name}", output)
        return phrases.describe_deed(wish, task, known, self._today)

    def _look_up(self, target: Target) -> Generator[Call, Answered, list[KnownTask]]:
        output = yield from self._call("list_tasks", status="all", shown=False)
        return match_title(target.words, read_tasks(output))

    def _call(
        self, name: str, *, shown: bool = False, **arguments: Any
    ) -> Generator[Call, Answered, Json]:
        given = {key: value for key, value in arguments.items() if value is not None}
        self.calls += 1
        answered = yield Call(name, given)
        self._memory.observe(answered, shown=shown)
        return answered.output
