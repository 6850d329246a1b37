"""The tools: what they do, whose tasks they touch, and how they refuse."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from datetime import date
from typing import Any
from uuid import uuid4

import pytest
from agents import FunctionTool
from agents.tool_context import ToolContext
from django.db import DatabaseError, IntegrityError, transaction

from chatsite.todo import tools
from chatsite.todo.models import Priority, Task
from conversations import lanes
from conversations.assistant import TurnContext

pytestmark = pytest.mark.django_db(transaction=True)

Use = Callable[..., Awaitable[dict[str, Any]]]


async def invoke(tool: FunctionTool, owner: Any, arguments: str) -> dict[str, Any]:
    context = ToolContext(
        TurnContext(user_id=owner.pk, session_id=uuid4(), turn_id=uuid4()),
        tool_name=tool.name,
        tool_call_id="call",
        tool_arguments=arguments,
    )
    answer = json.loads(await tool.on_invoke_tool(context, arguments))
    assert isinstance(answer, dict)
    return answer


@pytest.fixture
def use(ada: Any) -> Use:
    async def use(tool: FunctionTool, **arguments: Any) -> dict[str, Any]:
        return await invoke(tool, arguments.pop("owner", ada), json.dumps(arguments))

    return use


async def test_a_task_is_created_for_the_person_of_the_run(use: Use, ada: Any) -> None:
    answer = await use(tools.create_task, title="  Buy \n milk ", due="2026-11-24", priority="high")
    task = await lanes.call(Task.objects.get)
    assert (task.owner_id, task.title) == (ada.pk, "Buy milk")
    assert (task.due_date, task.priority) == (date(2026, 11, 24), Priority.HIGH)
    assert answer["task"] == {
        "id": task.pk,
        "title": "Buy milk",
        "due": "2026-11-24",
        "priority": "high",
        "done": False,
    }


async def test_no_tool_takes_an_owner_from_the_model(use: Use, ada: Any, stranger: Any) -> None:
    for tool in tools.TOOLS:
        assert not {"owner", "user", "user_id", "context"} & set(
            tool.params_json_schema["properties"]
        )
    await use(tools.create_task, title="mine", user_id=stranger.pk)
    assert await lanes.call(lambda: Task.objects.owned_by(stranger.pk).count()) == 0


async def test_a_task_is_changed_completed_opened_again_and_deleted(use: Use) -> None:
    task_id = (await use(tools.create_task, title="a", due="2026-11-24"))["task"]["id"]
    changed = await use(tools.update_task, task_id=task_id, title="b", due="none", priority="low")
    assert changed["task"] | {"id": 0} == {
        "id": 0,
        "title": "b",
        "due": None,
        "priority": "low",
        "done": False,
    }
    assert (await use(tools.complete_task, task_id=task_id, done=True))["task"]["done"]
    assert not (await use(tools.complete_task, task_id=task_id, done=False))["task"]["done"]
    assert (await use(tools.delete_task, task_id=task_id))["deleted"]["id"] == task_id
    assert (await use(tools.list_tasks))["tasks"] == []


async def test_completing_twice_keeps_the_first_time(use: Use) -> None:
    task_id = (await use(tools.create_task, title="a"))["task"]["id"]
    await use(tools.complete_task, task_id=task_id)
    first = (await lanes.call(Task.objects.get)).completed_at
    await use(tools.complete_task, task_id=task_id)
    assert (await lanes.call(Task.objects.get)).completed_at == first


@pytest.mark.parametrize(
    ("filters", "titles"),
    [
        ({}, ["Bread", "apples", "cake", "done one"]),
        ({"sort": "priority"}, ["cake", "Bread", "apples", "done one"]),
        ({"sort": "due"}, ["apples", "cake", "Bread", "done one"]),
        ({"sort": "title"}, ["apples", "Bread", "cake", "done one"]),
        ({"sort": "newest"}, ["cake", "apples", "Bread", "done one"]),
        ({"status": "open"}, ["Bread", "apples", "cake"]),
        ({"status": "done"}, ["done one"]),
        ({"priority": "high"}, ["cake"]),
        ({"due_from": "2026-11-25"}, ["cake"]),
        ({"due_until": "2026-11-24"}, ["apples"]),
        ({"due_from": "", "priority": ""}, ["Bread", "apples", "cake", "done one"]),
    ],
)
async def test_the_list_is_filtered_and_sorted(
    use: Use, filters: dict[str, str], titles: list[str]
) -> None:
    done = await use(tools.create_task, title="done one")
    await use(tools.complete_task, task_id=done["task"]["id"])
    await use(tools.create_task, title="Bread")
    await use(tools.create_task, title="apples", due="2026-11-24", priority="low")
    await use(tools.create_task, title="cake", due="2026-11-25", priority="high")
    listed = await use(tools.list_tasks, **filters)
    assert [task["title"] for task in listed["tasks"]] == titles


async def test_a_long_list_is_cut_and_says_so(use: Use, ada: Any) -> None:
    many = tools.MAX_TASKS_LISTED + 1
    await lanes.call(
        lambda: Task.objects.bulk_create(Task(owner=ada, title=f"t{n}") for n in range(many))
    )
    listed = await use(tools.list_tasks)
    assert (len(listed["tasks"]), listed["more"]) == (tools.MAX_TASKS_LISTED, True)


async def test_a_full_list_takes_no_more(use: Use, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools, "MAX_TASKS_PER_PERSON", 1)
    await use(tools.create_task, title="a")
    assert "full" in (await use(tools.create_task, title="b"))["error"]


async def test_a_strangers_task_is_answered_like_one_that_never_was(
    use: Use, stranger: Any
) -> None:
    secret = await use(tools.create_task, title="secret", owner=stranger)
    for tool, more in (
        (tools.update_task, {"title": "stolen"}),
        (tools.complete_task, {}),
        (tools.delete_task, {}),
    ):
        theirs = await use(tool, task_id=secret["task"]["id"], **more)
        missing = await use(tool, task_id=987_654, **more)
        assert theirs == missing
        assert set(theirs) == {"error"}
    assert (await use(tools.list_tasks))["tasks"] == []
    untouched = await use(tools.list_tasks, owner=stranger)
    assert untouched["tasks"] == [secret["task"]]


@pytest.mark.parametrize(
    ("tool", "arguments", "reason"),
    [
        ("create_task", {"title": ""}, "empty"),
        ("create_task", {"title": " \n\t "}, "empty"),
        ("create_task", {"title": "\u200b"}, "empty"),
        ("create_task", {"title": "x" * 10_000}, "too long"),
        ("create_task", {"title": "a\x00b"}, "cannot be stored"),
        ("create_task", {"title": "a", "due": "tomorrow"}, "YYYY-MM-DD"),
        ("create_task", {"title": "a", "due": "2026-02-31"}, "YYYY-MM-DD"),
        ("create_task", {"title": "a", "due": "20261124"}, "YYYY-MM-DD"),
        ("create_task", {"title": "a", "priority": "urgent"}, "priority"),
        ("create_task", {}, "do not fit"),
        ("create_task", {"title": 5}, "do not fit"),
        ("list_tasks", {"sort": "colour"}, "sort"),
        ("list_tasks", {"status": "lost"}, "status"),
        ("update_task", {"task_id": 1}, "Nothing to change"),
        ("update_task", {"task_id": 1, "title": ""}, "empty"),
        ("update_task", {"task_id": 0, "title": "a"}, "no such task"),
        ("delete_task", {"task_id": -1}, "no such task"),
        ("delete_task", {"task_id": 10**30}, "no such task"),
        ("delete_task", {"task_id": "1 OR 1=1"}, "do not fit"),
        ("complete_task", {"task_id": None}, "do not fit"),
    ],
)
async def test_odd_arguments_are_refused_in_words(
    use: Use, tool: str, arguments: dict[str, Any], reason: str
) -> None:
    await use(tools.create_task, title="first")
    await lanes.call(lambda: Task.objects.update(id=1))
    answer = await use(getattr(tools, tool), **arguments)
    assert reason in answer["error"]
    assert await lanes.call(Task.objects.count) == 1


@pytest.mark.parametrize("arguments", ["", "not json", "[1]", '{"title": "\\ud800"}', "{"])
async def test_arguments_that_are_no_json_object_of_ours_are_refused(
    ada: Any, arguments: str
) -> None:
    assert set(await invoke(tools.create_task, ada, arguments)) == {"error"}


async def test_a_failing_database_is_told_without_details(
    use: Use, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any) -> None:
        raise DatabaseError("secret detail")

    monkeypatch.setattr(tools, "_list", fail)
    assert await use(tools.list_tasks) == {
        "error": "The task list cannot be reached at the moment."
    }


@pytest.mark.parametrize("wrong", [{"title": ""}, {"title": "a", "priority": 4}])
def test_the_database_itself_refuses_what_must_not_be(ada: Any, wrong: dict[str, Any]) -> None:
    with pytest.raises(IntegrityError), transaction.atomic():
        Task.objects.create(owner=ada, **wrong)


def test_a_task_ends_with_its_owner(ada: Any) -> None:
    Task.objects.create(owner=ada, title="a")
    ada.delete()
    assert not Task.objects.exists()
