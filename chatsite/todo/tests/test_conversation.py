"""Whole conversations with the offline model through the SDK's Runner."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from agents import Runner

from chatsite.todo.models import Task
from chatsite.todo.offline.model import MODEL_NAME, OfflineModel, split_words
from chatsite.todo.tests.conftest import MONDAY, Talk
from conversations import lanes

pytestmark = pytest.mark.django_db(transaction=True)

Say = Callable[[str], Awaitable[str]]


async def rows(owner: Any) -> list[Task]:
    return await lanes.call(lambda: list(Task.objects.owned_by(owner.pk)))


async def test_twenty_messages_that_refer_to_each_other_are_answered_right(
    say: Say, ada: Any
) -> None:
    dialogue = [
        ("Hi, my name is Ada and I live in Paris.", ["Ada", "Paris"]),
        ("Create a task: Buy groceries for the party", ["“Buy groceries for the party”"]),
        ("Actually, make that due tomorrow", ["Buy groceries", "2026-11-24"]),
        ("Add a task to call mom by Friday, high priority", ["call mom", "2026-11-27", "high"]),
        ("remind me to water the plants", ["water the plants"]),
        ("I prefer tasks sorted by priority", ["by priority"]),
        ("Show me my tasks", ["Sorted by priority, as you prefer", "1. “call mom”"]),
        ("mark the first one as done", ["“call mom” is completed"]),
        ("Change its priority to low", ["“call mom” is now low priority"]),
        ("rename the second one to “Buy food”", ["to “Buy food”"]),
        ("delete the last one", ["deleted “water the plants”"]),
        ("What was the first thing I asked you to do?", ["Create a task: Buy groceries"]),
        ("How many tasks have I created?", ["3 tasks"]),
        ("Remember that the party is on Saturday", ["party is on Saturday"]),
        ("What\u2019s my name?", ["Ada"]),
        ("Actually my name is Bea", ["Bea"]),
        ("When is the party and where?", ["on Saturday"]),
        ("complete the food task", ["“Buy food” is completed"]),
        ("What's left?", ["no open tasks"]),
        ("How many messages have I sent, and what's my name?", ["20"]),
    ]
    for text, expected in dialogue:
        reply = await say(text)
        assert all(part in reply for part in expected), (text, reply)
    assert [(task.title, task.completed_at is not None) for task in await rows(ada)] == [
        ("Buy food", True),
        ("call mom", True),
    ]


async def test_the_latest_statement_wins(say: Say) -> None:
    await say("My name is Ada. I live in Paris.")
    await say("Actually my name is Bea, and I moved to Rome")
    assert await say("what is my name?") == "Your name is Bea."
    assert await say("Where do I live?") == "You live in Rome."


async def test_facts_are_told_again(say: Say) -> None:
    await say("My favourite colour is green. I'm allergic to nuts.")
    await say("I'm allergic to eggs")
    assert await say("What\u2019s my favorite color?") == "Your favourite colour is green."
    allergies = await say("What am I allergic to?")
    assert "nuts" in allergies
    assert "eggs" in allergies
    everything = await say("What do you know about me?")
    assert "green" in everything
    assert "nuts" in everything


async def test_what_was_never_told_is_not_known(say: Say) -> None:
    assert "no earlier message" in await say("What's my name?")
    assert "do not know your favourite film" in await say("What is my favourite film?")
    assert "no task" in await say("Which tasks did I add?")


async def test_looking_back_step_by_step(say: Say) -> None:
    await say("Hello")
    await say("Add a task: one")
    await say("Add a task: two")
    assert "“Add a task: two”" in await say("What did I just say?")
    assert "“Add a task: one”" in await say("What did I ask before that?")
    assert "“Hello”" in await say("And before that?")
    assert "“Hello”" in await say("What was my first message?")
    assert "“Add a task: one”" in await say("What did I ask first?")


async def test_without_its_history_a_reference_means_nothing(talk: Talk, ada: Any) -> None:
    await talk.say("Create a task: Buy milk")
    await talk.session.clear_session()
    assert "I do not know which task" in await talk.say("Make that due tomorrow")
    await talk.session.clear_session()
    assert "do not know" in await talk.say("What was the first thing I asked you to do?")
    assert [task.due_date for task in await rows(ada)] == [None]


async def test_a_title_that_fits_two_tasks_is_asked_about(say: Say) -> None:
    await say("Add these tasks: call mom, call dad")
    reply = await say("complete the call task")
    assert "Which one do you mean" in reply
    assert "“call mom”" in reply


async def test_a_task_from_an_earlier_conversation_is_found_on_the_list(say: Say, ada: Any) -> None:
    await lanes.call(Task.objects.create, owner_id=ada.pk, title="Buy groceries")
    assert "“Buy groceries” is completed" in await say("complete the groceries task")


async def test_an_order_asked_for_once_is_no_preference(say: Say) -> None:
    await say("Add these tasks: b, a")
    assert "Sorted by title." in await say("Show my tasks sorted by title")
    assert "Sorted" not in await say("Show my tasks")


async def test_a_missing_title_is_asked_for_and_taken_from_the_next_message(say: Say) -> None:
    assert "title" in await say("Add a task")
    assert "“Feed the cat”" in await say("Feed the cat")


async def test_an_error_of_a_tool_is_told(say: Say) -> None:
    assert "too long" in await say("Create a task: " + "x" * 300)
    assert "no such task" in await say("Make task 9999 high priority")


async def test_it_says_that_it_is_the_offline_model(say: Say) -> None:
    for question in ("Hello!", "who are you?", "What can you do?", "Sing me a song"):
        assert "offline model" in await say(question)


async def test_short_answers_leave_the_hints_out(say: Say) -> None:
    long_answer = await say("blah")
    await say("Always keep it short")
    assert len(await say("blah")) < len(long_answer)


async def test_deltas_are_words_that_join_to_the_final_text(talk: Talk) -> None:
    reply = await talk.say("What can you do?")
    assert "".join(talk.deltas) == reply
    assert len(talk.deltas) == len(reply.split())


async def test_every_call_has_an_id_of_its_own(talk: Talk) -> None:
    await talk.say("Add these tasks: a, b")
    await talk.say("Show my tasks")
    items = await talk.session.get_items()
    calls = [item["call_id"] for item in items if item.get("type") == "function_call"]
    outputs = [item["call_id"] for item in items if item.get("type") == "function_call_output"]
    assert len(set(calls)) == 3
    assert sorted(calls) == sorted(outputs)


async def test_many_deletions_stay_below_the_runs_limit(say: Say, ada: Any) -> None:
    for number in range(9):
        await lanes.call(Task.objects.create, owner_id=ada.pk, title=f"task number {number}")
    assert "more are left" in await say("delete everything")
    await say("delete everything")
    assert await rows(ada) == []


async def test_the_same_answer_comes_without_streaming(talk: Talk) -> None:
    result = await Runner.run(talk.agent, "Hello!")
    assert result.final_output == await talk.say("Hello!")
    usage = result.context_wrapper.usage
    assert (usage.requests, usage.total_tokens) == (1, usage.input_tokens + usage.output_tokens)
    assert usage.output_tokens == len(str(result.final_output).split())


async def test_the_stream_is_numbered_and_ends_with_usage() -> None:
    model = OfflineModel(today=lambda: MONDAY)
    events = [event async for event in _stream(model, "hello")]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = list(dict.fromkeys(event.type for event in events))
    assert kinds == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert events[-1].response.model == MODEL_NAME
    assert events[-1].response.usage.total_tokens > 1


async def test_without_a_tool_it_says_so_instead_of_calling_it() -> None:
    events = [event async for event in _stream(OfflineModel(today=lambda: MONDAY), "my tasks")]
    assert "no tool" in events[-1].response.output[0].content[0].text


@pytest.mark.parametrize("text", ["", "one", " two  words\n\nand more ", "\n"])
def test_split_words_lose_nothing(text: str) -> None:
    assert "".join(split_words(text)) == text


async def test_odd_items_in_the_history_do_not_stop_the_answer() -> None:
    odd: list[Any] = [
        "junk",
        {"type": "reasoning", "summary": []},
        {"type": "function_call_output", "call_id": "lost", "output": "not json"},
        {"type": "function_call", "call_id": "c", "name": "list_tasks", "arguments": "[1"},
        {"type": "function_call_output", "call_id": "c", "output": '{"tasks": [1, {"id": "x"}]}'},
        {"role": "user", "content": [{"type": "input_text", "text": "hello"}, {"type": "odd"}]},
    ]
    events = [event async for event in _stream(OfflineModel(today=lambda: MONDAY), odd)]
    assert events[-1].type == "response.completed"


def _stream(model: OfflineModel, items: Any) -> Any:
    return model.stream_response(
        None,
        items,
        None,
        [],
        None,
        [],
        None,
        previous_response_id=None,
        conversation_id=None,
        prompt=None,
    )
