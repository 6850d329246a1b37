"""The conversation told again: what the person wrote, what was done to tasks, what was answered."""

from __future__ import annotations

from datetime import date
from typing import Final

from chatsite.todo.offline.history import Conversation
from chatsite.todo.offline.intents import (
    AskFact,
    Change,
    Complete,
    CountMessages,
    Create,
    Delete,
    RecallAnswer,
    RecallMessage,
    RecallTasks,
    Show,
    Unknown,
)
from chatsite.todo.offline.memory import Memory
from chatsite.todo.offline.phrases import FORGOTTEN
from chatsite.todo.offline.understanding import understand
from chatsite.todo.offline.wording import quote, stems

_NOTHING_EARLIER: Final = (
    "I do not know: this is the first message of our conversation that I have."
)
_SOME_DAY: Final = date(2000, 1, 3)  # for meanings in which days play no part


def recall_message(wanted: RecallMessage, conversation: Conversation) -> str:
    earlier = conversation.earlier_messages
    if not earlier:
        return _nothing_earlier(conversation)
    if not conversation.is_whole and (words := _recall_remembered_message(wanted, earlier)):
        return words
    if wanted.which == "request":
        first = _first_request(earlier, to_do=wanted.topic == "to do")
        return f"The first thing you asked me was: {quote(first)}."
    if wanted.which == "nth":
        index = wanted.number - 1
        if index >= len(earlier):
            return f"You have sent only {len(earlier)} messages before this one."
        name = "first message" if index == 0 else f"message number {wanted.number}"
        return f"Your {name} was: {quote(earlier[index])}."
    if wanted.which == "about":
        return _recall_topic(wanted.topic, earlier)
    if wanted.which == "every":
        lines = [f"{number}. {quote(text)}" for number, text in enumerate(earlier, start=1)]
        return "\n".join(["So far you wrote:", *lines])
    return _recall_previous(wanted, earlier)


def recall_tasks(wanted: RecallTasks, memory: Memory) -> str:
    titles = memory.deeds[wanted.done_to_them]
    if not memory.is_whole and (words := _recall_remembered_tasks(wanted, titles)):
        return words
    if wanted.counts:
        count = len(titles)
        return (
            f"You have {wanted.done_to_them} {count} task{'' if count == 1 else 's'} "
            "in this conversation."
        )
    if not titles:
        return f"I know of no task {wanted.done_to_them} in this conversation."
    if wanted.number is not None:
        index = wanted.number - 1 if wanted.number > 0 else wanted.number
        if not -len(titles) <= index < len(titles):
            return f"Only {len(titles)} were {wanted.done_to_them} in this conversation."
        name = "last" if wanted.number < 0 else f"number {wanted.number}"
        name = "first" if wanted.number == 1 else name
        return f"The {name} task {wanted.done_to_them} here was {quote(titles[index])}."
    names = ", ".join(quote(title) for title in titles)
    return f"In this conversation you {wanted.done_to_them}: {names}."


def recall_answer(conversation: Conversation) -> str:
    replies = [reply for exchange in conversation.earlier for reply in exchange.replies]
    return f"I said: {quote(replies[-1])}" if replies else _nothing_earlier(conversation)


def count_messages(conversation: Conversation) -> str:
    count = len(conversation.messages)
    messages = f"{count} message{'s' if count > 1 else ''}"
    if conversation.is_whole:
        return f"You have sent {messages}, this one included."
    return f"I remember {messages} of yours, this one included. {FORGOTTEN}"


def _nothing_earlier(conversation: Conversation) -> str:
    if conversation.is_whole:
        return _NOTHING_EARLIER
    return f"{FORGOTTEN} The earliest I remember is this message."


def _recall_remembered_message(wanted: RecallMessage, earlier: list[str]) -> str | None:
    """The words where the forgotten beginning matters; None where it does not."""
    if wanted.which == "request":
        earliest = _first_request(earlier, to_do=wanted.topic == "to do")
        request = "" if earliest == earlier[0] else "request "
        return f"{FORGOTTEN} The earliest {request}I remember is: {quote(earliest)}."
    if wanted.which == "nth":
        return f"{FORGOTTEN} The earliest I remember is: {quote(earlier[0])}."
    if wanted.which == "every":
        lines = [f"- {quote(text)}" for text in earlier]
        return "\n".join([f"{FORGOTTEN} Of what you wrote I still remember:", *lines])
    if wanted.which == "about" and not _find_topic(wanted.topic, earlier):
        return f"{_recall_topic(wanted.topic, earlier)} {FORGOTTEN}"
    if wanted.which == "before" and _find_before(earlier) is None:
        return f"{FORGOTTEN} I have no message of yours before that."
    return None


def _first_request(messages: list[str], *, to_do: bool) -> str:
    """The first message that asks; "to do" passes over questions that only recall."""
    requests = (Create, Change, Complete, Delete, Show, Unknown)
    questions = (RecallMessage, RecallTasks, RecallAnswer, CountMessages, AskFact)
    for kinds in (requests, questions) if to_do else ((*requests, *questions),):
        for message in messages:
            if any(isinstance(intent, kinds) for intent in understand(message, _SOME_DAY)):
                return message
    return messages[0]


def _recall_topic(topic: str, messages: list[str]) -> str:
    found = _find_topic(topic, messages)
    if not found:
        return f"I find no earlier message of yours about {quote(topic, limit=80)}."
    return f"You said: {quote(found[-1])}."


def _find_topic(topic: str, messages: list[str]) -> list[str]:
    wanted = stems(topic)
    found = [message for message in messages if wanted and wanted <= stems(message)]
    return [message for message in found if "?" not in message] or found


def _recall_previous(wanted: RecallMessage, messages: list[str]) -> str:
    if wanted.which == "previous":
        return f"Your last message was: {quote(messages[-1])}."
    before = _find_before(messages)
    if before is None:
        return "I have no message of yours before that."
    return f"Before that, you wrote: {quote(before)}."


def _find_before(messages: list[str]) -> str | None:
    """The message before the one that was looked back to last."""
    depth = 2
    remaining = list(messages)
    while remaining and (which := _looks_back(remaining[-1])):
        depth += which == "before"
        remaining.pop()
    return remaining[-depth] if len(remaining) >= depth else None


def _looks_back(message: str) -> str | None:
    intent = understand(message, _SOME_DAY)[0]
    if isinstance(intent, RecallMessage) and intent.which in {"previous", "before"}:
        return intent.which
    return None


def _recall_remembered_tasks(wanted: RecallTasks, titles: list[str]) -> str | None:
    """The words where the forgotten beginning matters: nothing remembered is a first, or all."""
    done = wanted.done_to_them
    if not titles:
        return f"{FORGOTTEN} I remember no task that was {done}."
    if wanted.counts:
        count = "1 task that was" if len(titles) == 1 else f"{len(titles)} tasks that were"
        return f"{FORGOTTEN} I remember {count} {done}."
    if wanted.number is None:
        names = ", ".join(quote(title) for title in titles)
        return f"{FORGOTTEN} Of the tasks you {done} I remember: {names}."
    if wanted.number > 0:
        return f"{FORGOTTEN} The earliest task {done} that I remember is {quote(titles[0])}."
    return None
