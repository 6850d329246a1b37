"""Conversations whose beginning the model no longer remembers, through the SDK's Runner."""

from __future__ import annotations

from typing import Any

import pytest

from chatsite.todo.instructions import BEGINNING_IS_FORGOTTEN
from chatsite.todo.models import Task
from chatsite.todo.offline.phrases import FORGOTTEN
from chatsite.todo.tests.conftest import Talk
from conversations import lanes

pytestmark = pytest.mark.django_db(transaction=True)


async def titles_of_done(owner: Any) -> list[str]:
    done = Task.objects.owned_by(owner.pk).done().oldest_first()
    return await lanes.call(lambda: [task.title for task in done])


async def all_titles(owner: Any) -> list[str]:
    return await lanes.call(lambda: sorted(task.title for task in Task.objects.owned_by(owner.pk)))


@pytest.fixture
async def pruned(talk: Talk) -> Talk:
    """Two tasks were created, and only the second is remembered."""
    await talk.say("Add a task: buy milk")
    await talk.say("Add a task: feed the cat")
    await talk.forget_before("Add a task: feed the cat")
    return talk


@pytest.fixture
async def emptied(talk: Talk) -> Talk:
    """Two tasks were created, and the memory begins after both."""
    await talk.say("Add a task: buy milk")
    await talk.say("Add a task: feed the cat")
    await talk.say("Hello")
    await talk.forget_before("Hello")
    return talk


async def test_after_thirty_exchanges_and_a_pruning_first_and_last_are_told_right(
    talk: Talk,
) -> None:
    said = []
    for number in range(10):
        said += [f"Add a task: errand {number}", "Make that due tomorrow", f"Note {number}: ok"]
    for text in said:
        await talk.say(text)
    assert await talk.say("What was the first thing I asked you to do?") == (
        "The first thing you asked me was: “Add a task: errand 0”."
    )
    await talk.forget_before("Add a task: errand 7")
    assert await talk.say("What did I say last?") == (
        "Your last message was: “What was the first thing I asked you to do?”."
    )
    honest = f"{FORGOTTEN} The earliest I remember is: “Add a task: errand 7”."
    for question in (
        "What was the first thing?",
        "What was the first thing I asked you to do?",
        "What was the first thing I asked you?",
        "What did I say first?",
        "What was my first message?",
        "What was my second message?",
        "How did our conversation begin?",
    ):
        assert await talk.say(question) == honest
    assert "“How did our conversation begin?”" in await talk.say("what was the last thing I said?")
    assert await talk.say("Make the errand 8 task high priority") == (
        "“errand 8” is now high priority."
    )


async def test_a_request_after_a_greeting_is_called_the_earliest_request(pruned: Talk) -> None:
    await pruned.say("Hello")
    await pruned.say("Add a task: water the plants")
    await pruned.forget_before("Hello")
    assert "The earliest I remember is: “Hello”" in await pruned.say("What did I say first?")
    assert await pruned.say("What was the first thing I asked you to do?") == (
        f"{FORGOTTEN} The earliest request I remember is: “Add a task: water the plants”."
    )


async def test_what_is_still_remembered_is_used_as_ever(pruned: Talk, ada: Any) -> None:
    assert "“feed the cat” is completed" in await pruned.say("Mark that as done")
    assert await titles_of_done(ada) == ["feed the cat"]
    assert await pruned.say("Which task did I just add?") == (
        "The last task created here was “feed the cat”."
    )


@pytest.mark.parametrize(
    "wish",
    [
        "Mark the first one as done",
        "Delete the first task I added",
        "Complete task 999999",
        "Rename the second one to “Nothing”",
    ],
)
async def test_the_first_task_is_not_guessed_from_the_rest(
    pruned: Talk, ada: Any, wish: str
) -> None:
    reply = await pruned.say(wish)
    assert "I do not know which task you mean" in reply
    assert FORGOTTEN in reply
    assert await titles_of_done(ada) == []
    assert await all_titles(ada) == ["buy milk", "feed the cat"]


@pytest.mark.parametrize(
    "wish", ["Make that task due tomorrow", "Complete it", "Delete the last one", "Delete that"]
)
async def test_a_task_that_is_no_longer_remembered_is_asked_about(
    emptied: Talk, ada: Any, wish: str
) -> None:
    reply = await emptied.say(wish)
    assert reply == (
        f"I do not know which task you mean. {FORGOTTEN} "
        "Tell me the task's title, or ask me to show your list."
    )
    assert await all_titles(ada) == ["buy milk", "feed the cat"]


async def test_the_list_makes_the_first_one_clear_again(emptied: Talk, ada: Any) -> None:
    await emptied.say("Show my tasks")
    assert "“buy milk” is completed" in await emptied.say("Mark the first one as done")
    assert "“feed the cat” is completed" in await emptied.say("Complete the cat task")
    assert await titles_of_done(ada) == ["buy milk", "feed the cat"]


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("How many tasks have I created?", "I remember 1 task that was created."),
        (
            "What was the first task?",
            "The earliest task created that I remember is “feed the cat”.",
        ),
        ("Which tasks did I add?", "Of the tasks you created I remember: “feed the cat”."),
        ("Which tasks did I delete?", "I remember no task that was deleted."),
        ("Summarise our conversation", "I still remember:\n- “Add a task: feed the cat”"),
        ("How many messages have I sent?", "I remember 2 messages of yours, this one included."),
        ("What did I say about the milk?", "I find no earlier message of yours about “the milk”."),
        ("What did I ask before that?", "I have no message of yours before that."),
        ("What's my name?", "I do not know your name"),
        ("Where do I live?", "you have not told me in what I still remember"),
    ],
)
async def test_nothing_remembered_is_told_as_all_there_was(
    pruned: Talk, question: str, answer: str
) -> None:
    reply = await pruned.say(question)
    assert answer in reply
    assert FORGOTTEN in reply


async def test_a_question_that_is_all_that_is_left_says_so(talk: Talk) -> None:
    talk.pruned_count = 12
    assert await talk.say("What was the first thing I asked you?") == (
        f"{FORGOTTEN} The earliest I remember is this message."
    )


async def test_what_a_person_writes_makes_nothing_forgotten(talk: Talk) -> None:
    await talk.say(BEGINNING_IS_FORGOTTEN)
    assert FORGOTTEN not in await talk.say("What was my first message?")
