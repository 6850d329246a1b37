"""What sentences mean, in many phrasings."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest

from chatsite.todo.offline.dates import read_day
from chatsite.todo.offline.intents import (
    AskFact,
    Change,
    Complete,
    CountMessages,
    Create,
    Delete,
    Prefer,
    RecallAnswer,
    RecallMessage,
    RecallTasks,
    Show,
    SmallTalk,
    State,
    Target,
    Unknown,
)
from chatsite.todo.offline.understanding import understand
from chatsite.todo.tests.conftest import MONDAY

TOMORROW, FRIDAY = date(2026, 11, 24), date(2026, 11, 27)
IT = Target("focus")


def meaning(text: str) -> Any:
    intents = understand(text, MONDAY)
    assert len(intents) == 1, intents
    return intents[0]


@pytest.mark.parametrize(
    ("text", "wish"),
    [
        (
            "Create a task: Buy groceries for the party",
            Create("Buy groceries for the party"),
        ),
        ("CREATE A TASK: BUY GROCERIES", Create("BUY GROCERIES")),
        ("create task buy bread", Create("buy bread")),
        (
            "Add a task to call mom by Friday, high priority",
            Create("call mom", FRIDAY, "high"),
        ),
        ("remind me to water the plants tomorrow", Create("water the plants", TOMORROW)),
        ("Remind me tomorrow to call mom", Create("call mom", TOMORROW)),
        ("New task: Pay rent on 1 December", Create("Pay rent", date(2026, 12, 1))),
        (
            "Create a high priority task to finish the report by next Monday",
            Create("finish the report", date(2026, 11, 30), "high"),
        ),
        ("Please add “Buy milk” to my list!", Create("Buy milk")),
        ("Add a task due tomorrow: buy milk", Create("buy milk", TOMORROW)),
        ("Could you please create a new todo called “Book flights”?", Create("Book flights")),
        ("I need to add a task: call the dentist", Create("call the dentist")),
        (
            "Can you remind me to send the invoice in 3 days?",
            Create("send the invoice", date(2026, 11, 26)),
        ),
        ("Don\u2019t forget to buy eggs", Create("buy eggs")),
        ("Remember to call grandma on Sunday", Create("call grandma", date(2026, 11, 29))),
        (
            "create a task called Finish report due 2026-12-24 with low priority",
            Create("Finish report", date(2026, 12, 24), "low"),
        ),
        ("add eggs and bacon to the shopping list", Create("eggs and bacon")),
        ("Add a task: call Dr. Smith", Create("call Dr. Smith")),
        ("Please add 'Pick up laundry' as a task", Create("Pick up laundry")),
        ("add a task", Create("")),
    ],
)
def test_a_wish_for_a_task_is_heard_with_its_day_and_priority(text: str, wish: Create) -> None:
    assert meaning(text) == wish


@pytest.mark.parametrize(
    ("text", "change"),
    [
        ("Actually, make that due tomorrow", Change(IT, due=TOMORROW)),
        ("actually it's due tomorrow.", Change(IT, due=TOMORROW)),
        ("set the due date to Friday", Change(IT, due=FRIDAY)),
        ("Move it to Friday please", Change(IT, due=FRIDAY)),
        ("change its priority to high", Change(IT, priority="high")),
        ("Make it high priority", Change(IT, priority="high")),
        ("make that urgent", Change(IT, priority="high")),
        ("rename it to Buy food", Change(IT, title="Buy food")),
        ("Remove its due date", Change(IT, removes_due=True)),
        (
            "Set the priority of the first one to low",
            Change(Target("nth", number=1), priority="low"),
        ),
        (
            "Set the groceries task to high priority",
            Change(Target("title", words="groceries"), priority="high"),
        ),
        (
            "Rename the first task to “Plan trip”",
            Change(Target("nth", number=1), title="Plan trip"),
        ),
    ],
)
def test_a_change_is_heard(text: str, change: Change) -> None:
    assert meaning(text) == change


@pytest.mark.parametrize(
    ("text", "intent"),
    [
        ("mark the first one as done", Complete(Target("nth", number=1))),
        ("Mark the last one as complete!", Complete(Target("nth", number=-1))),
        ("mark it done", Complete(IT)),
        ("complete the groceries task", Complete(Target("title", words="groceries"))),
        ("I finished the report", Complete(Target("title", words="report"))),
        ("The first one is done", Complete(Target("nth", number=1))),
        ("The second one is done", Complete(Target("nth", number=2))),
        ("Check off task 12", Complete(Target("number", number=12))),
        ("Mark both as done", Complete(Target("all", number=2))),
        ("reopen it", Complete(IT, done=False)),
        ("mark that task as not done", Complete(IT, done=False)),
        ("delete that task", Delete(IT)),
        ("Remove milk from my list", Delete(Target("title", words="milk"))),
        ("Please delete the last task I added", Delete(Target("created", number=-1))),
        ("Delete all completed tasks", Delete(Target("all", words="done"))),
    ],
)
def test_completing_and_deleting_name_their_task(text: str, intent: Any) -> None:
    assert meaning(text) == intent


@pytest.mark.parametrize(
    ("text", "show"),
    [
        ("Show me my tasks", Show()),
        ("list all my tasks, please", Show()),
        ("what\u2019s on my list?", Show()),
        ("what tasks do I have?", Show()),
        ("show my tasks sorted by title", Show(sort="title")),
        ("which tasks are high priority?", Show("open", priority="high")),
        ("what's left?", Show("open")),
        ("what is open?", Show("open")),
        ("Is the eggs task done?", Show()),
        ("WHAT'S DONE?", Show("done")),
        ("How many tasks do I have left?", Show("open", counts=True)),
    ],
)
def test_a_wish_to_see_the_list_is_heard(text: str, show: Show) -> None:
    assert meaning(text) == show


@pytest.mark.parametrize(
    ("text", "first", "last"),
    [
        ("what's due tomorrow?", TOMORROW, TOMORROW),
        ("Do I have any tasks due this week?", MONDAY, date(2026, 11, 29)),
        ("What is due by Friday?", None, FRIDAY),
        ("Is anything overdue?", None, date(2026, 11, 22)),
    ],
)
def test_a_question_about_days_is_heard(text: str, first: date | None, last: date) -> None:
    span = meaning(text).span
    assert (span.first, span.last) == (first, last)


@pytest.mark.parametrize(
    ("text", "intent"),
    [
        (
            "What was the first thing I asked you to do?",
            RecallMessage("request", topic="to do"),
        ),
        ("What did I ask first?", RecallMessage("request")),
        ("what was my first message?", RecallMessage("nth", number=1)),
        ("What was my second question?", RecallMessage("nth", number=2)),
        ("What did I just say?", RecallMessage("previous")),
        ("what was my last message?", RecallMessage("previous")),
        ("What did I ask before that?", RecallMessage("before")),
        ("And before that?", RecallMessage("before")),
        ("what did I say about the party?", RecallMessage("about", topic="the party")),
        ("Summarise our conversation", RecallMessage("every")),
        ("how many messages have I sent?", CountMessages()),
        ("how many tasks have I created?", RecallTasks("created", counts=True)),
        ("How many tasks did I add so far?", RecallTasks("created", counts=True)),
        ("What was the first task I created?", RecallTasks("created", number=1)),
        ("Did I complete any tasks?", RecallTasks("completed")),
        ("What did I ask before?", RecallMessage("previous")),
        ("What did you say?", RecallAnswer()),
    ],
)
def test_a_look_back_is_heard(text: str, intent: Any) -> None:
    assert meaning(text) == intent


@pytest.mark.parametrize(
    "text",
    [
        "What did I say last?",
        "what was the last thing I said?",
        "What's the last thing I asked you to do?",
        "What did I ask you to do last?",
        "Which message did I send last?",
        "what did I say just now?",
        "What did I say right before this?",
        "What did I say before this message?",
        "What was the message before this one?",
        "Could you tell me what I said last?",
        "Remind me what I just said",
        "remind me of my last message",
        "Repeat what I just said",
        "Do you remember the last thing I said?",
        "Show me my last message",
        "The last thing I said?",
        "And what did I last ask you?",
        "What did we talk about last?",
    ],
)
def test_a_question_for_the_last_message_is_heard(text: str) -> None:
    assert meaning(text) == RecallMessage("previous")


@pytest.mark.parametrize(
    ("text", "intent"),
    [
        ("What was the first thing?", RecallMessage("nth", number=1)),
        ("what was the first message in this conversation?", RecallMessage("nth", number=1)),
        ("What is the first thing you remember?", RecallMessage("nth", number=1)),
        ("How did our conversation begin?", RecallMessage("nth", number=1)),
        ("Where did we start?", RecallMessage("nth", number=1)),
        ("What did we talk about first?", RecallMessage("nth", number=1)),
        ("show me my first message", RecallMessage("nth", number=1)),
        ("what did I say first?", RecallMessage("nth", number=1)),
        ("The first thing I asked?", RecallMessage("request")),
        ("What was the first thing I asked you?", RecallMessage("request")),
        ("What did I ask you to do first?", RecallMessage("request", topic="to do")),
        ("What was my first task?", RecallTasks("created", number=1)),
    ],
)
def test_a_question_for_the_beginning_is_heard(text: str, intent: Any) -> None:
    assert meaning(text) == intent


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("My name is Ada", "Your name is Ada"),
        ("Call me Ada!", "Your name is Ada"),
        ("Hi, I\u2019m Ada.", "Your name is Ada"),
        ("I live in Paris", "You live in Paris"),
        ("I moved to London", "You live in London"),
        ("my favourite colour is green", "Your favourite colour is green"),
        ("Remember that the party is on Saturday", "The party is on Saturday"),
        ("I'm allergic to nuts", "You are allergic to nuts"),
        ("Actually my name is Bea", "Your name is Bea"),
    ],
)
def test_a_statement_is_turned_to_the_person(text: str, told: str) -> None:
    state = meaning(text)
    assert isinstance(state, State)
    assert [fact.sentence for fact in state.facts] == [told]


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("I prefer tasks sorted by priority", "sort", "priority"),
        ("I'd like my tasks sorted by due date please", "sort", "due"),
        ("From now on, sort by title", "sort", "title"),
        ("I prefer the newest tasks first", "sort", "newest"),
        ("Always keep it short", "length", "short"),
        ("please keep your answers short", "length", "short"),
        ("I prefer tea over coffee", "other", "I prefer tea over coffee"),
    ],
)
def test_a_preference_is_heard(text: str, kind: str, value: str) -> None:
    prefer = meaning(text)
    assert isinstance(prefer, Prefer)
    assert (prefer.preference.kind, prefer.preference.value) == (kind, value)


@pytest.mark.parametrize(
    ("text", "about"),
    [
        ("What's my name?", "name"),
        ("Do you remember my name?", "name"),
        ("Who am I?", "name"),
        ("Where do I live?", "fact"),
        ("When is the party?", "fact"),
        ("What do you know about me?", "everything"),
        ("What did I tell you to remember?", "remembered"),
        ("What is my preference?", "preference"),
        ("How do I like my tasks sorted?", "preference"),
    ],
)
def test_a_question_for_something_told_is_heard(text: str, about: str) -> None:
    question = meaning(text)
    assert isinstance(question, AskFact)
    assert question.about == about


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("Hello!", "greeting"),
        ("good morning", "greeting"),
        ("Thanks a lot!", "thanks"),
        ("What can you do?", "help"),
        ("Who are you?", "help"),
        ("are you an AI?", "help"),
        ("never mind", "dismissal"),
        ("bye", "farewell"),
    ],
)
def test_small_talk_is_heard(text: str, kind: str) -> None:
    assert meaning(text) == SmallTalk(kind)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text", ["", "???", "\x00", "\ud800", "blah blah", "🦆" * 50, "a" * 100_000]
)
def test_anything_else_is_unknown_and_harmless(text: str) -> None:
    assert isinstance(meaning(text), Unknown)


@pytest.mark.parametrize(
    "text",
    [
        "add a task " * 400,
        "my name is " * 400,
        "by Friday " * 400,
        "(" * 4000,
        "what did i " * 400,
        "make " * 900 + "due tomorrow",
        "remember that " * 300,
        " " * 4000 + "x",
        "i'm " * 1000,
        "what i " * 500,
        "the first thing i " * 200,
    ],
)
@pytest.mark.timeout(10)
def test_long_repetitions_do_not_slow_the_rules_down(text: str) -> None:
    assert understand(text, MONDAY)


def test_several_sentences_are_several_wishes() -> None:
    intents = understand("Hi! My name is Ada. Add a task to buy milk and make it urgent.", MONDAY)
    assert [type(intent) for intent in intents] == [State, Create, Change]


def test_a_list_of_tasks_becomes_one_task_each() -> None:
    for text in ("Add these tasks: milk, eggs and tea", "New tasks:\n- milk\n- eggs\n- tea"):
        assert understand(text, MONDAY) == [Create("milk"), Create("eggs"), Create("tea")]


@pytest.mark.parametrize(
    ("words", "day"),
    [
        ("today", MONDAY),
        ("tonight", MONDAY),
        ("tomorrow morning", TOMORROW),
        ("the day after tomorrow", date(2026, 11, 25)),
        ("by Friday", FRIDAY),
        ("monday", date(2026, 11, 30)),
        ("next friday", date(2026, 12, 4)),
        ("next week", date(2026, 11, 30)),
        ("in two weeks", date(2026, 12, 7)),
        ("in a few days", date(2026, 11, 26)),
        ("next month", date(2026, 12, 23)),
        ("this weekend", date(2026, 11, 28)),
        ("the end of the month", date(2026, 11, 30)),
        ("2027-02-28", date(2027, 2, 28)),
        ("24.12.2026", date(2026, 12, 24)),
        ("5 May", date(2027, 5, 5)),
        ("December 24th", date(2026, 12, 24)),
        ("the 1st of March 2028", date(2028, 3, 1)),
        ("the 15th", date(2026, 12, 15)),
        ("31 February", None),
        ("2026-13-01", None),
        ("someday", None),
    ],
)
def test_days_are_resolved_from_today(words: str, day: date | None) -> None:
    assert read_day(words, MONDAY) == day
