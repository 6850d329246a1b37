"""Answers that need no tool: what was said earlier, what is known, small talk."""

from __future__ import annotations

import re
from datetime import date
from typing import Final

from chatsite.todo.offline.facts import (
    Preference,
    facts_about,
    known_facts,
    known_preferences,
)
from chatsite.todo.offline.history import Conversation
from chatsite.todo.offline.intents import (
    AskFact,
    Change,
    Complete,
    CountMessages,
    Create,
    Delete,
    Intent,
    Prefer,
    RecallAnswer,
    RecallMessage,
    RecallTasks,
    Show,
    SmallTalk,
    State,
    Unknown,
)
from chatsite.todo.offline.memory import Memory
from chatsite.todo.offline.understanding import understand
from chatsite.todo.offline.wording import capitalize, quote, stems, to_second_person

WHO_I_AM: Final = "I am the offline model of this todo assistant"
ABILITIES: Final = (
    "I can create, list, change, complete and delete your tasks, and answer from what you told "
    "me in this conversation."
)
_NOTHING_EARLIER: Final = (
    "I do not know: this is the first message of our conversation that I have."
)
_SMALL_TALK: Final = {
    "greeting": (f"Hello! {WHO_I_AM}.", ABILITIES),
    "help": (
        f"{WHO_I_AM}: no language model is connected, I follow fixed rules.",
        f"{ABILITIES} Try “Add a task to call mom by Friday, high priority”, “Show my tasks”, "
        "“Mark the first one as done”, or “What did I ask first?”.",
    ),
    "thanks": ("You are welcome!", ""),
    "dismissal": ("All right.", ""),
    "farewell": ("Goodbye!", "Your tasks stay on your list."),
    "wellbeing": (f"{WHO_I_AM}, so I am always fine.", "What shall we get done?"),
}
_SORT_WORDS: Final = {
    "priority": "by priority",
    "due": "by due date",
    "title": "by title",
    "newest": "newest first",
    "oldest": "oldest first",
}
_SOME_DAY: Final = date(2000, 1, 3)  # for meanings in which days play no part


def answer(intent: Intent, conversation: Conversation, memory: Memory, *, short: bool) -> str:
    """The words for every intent that is no action."""
    if isinstance(intent, SmallTalk):
        return _talk(intent, conversation, short=short)
    if isinstance(intent, State):
        return _acknowledge(intent)
    if isinstance(intent, Prefer):
        return _promise(intent.preference)
    if isinstance(intent, AskFact):
        return _tell_fact(intent, conversation)
    if isinstance(intent, RecallMessage):
        return _recall_message(intent, conversation)
    if isinstance(intent, RecallTasks):
        return _recall_tasks(intent, memory)
    if isinstance(intent, RecallAnswer):
        replies = [reply for exchange in conversation.earlier for reply in exchange.replies]
        return f"I said: {quote(replies[-1])}" if replies else _NOTHING_EARLIER
    if isinstance(intent, CountMessages):
        count = len(conversation.messages)
        return f"You have sent {count} message{'s' if count > 1 else ''}, this one included."
    text = intent.text if isinstance(intent, Unknown) else conversation.now.message
    hint = "" if short else f" {ABILITIES}"
    return (
        f"{WHO_I_AM} and did not understand that, but I have noted your message: "
        f"{quote(text, limit=120)}.{hint}"
    )


def _talk(intent: SmallTalk, conversation: Conversation, *, short: bool) -> str:
    words, more = _SMALL_TALK[intent.kind]
    if intent.kind == "greeting" and conversation.earlier_messages:
        name = [fact for fact in known_facts(conversation.messages) if fact.key == "name"]
        known_as = f", {name[-1].sentence.removeprefix('Your name is ')}" if name else ""
        return f"Hello again{known_as}! What shall we get done?"
    return words if short or not more else f"{words} {more}"


def _acknowledge(intent: State) -> str:
    if any(fact.forgets for fact in intent.facts):
        return "I will not use that any more."
    names = [fact.sentence for fact in intent.facts if fact.key == "name"]
    others = [fact.sentence for fact in intent.facts if fact.key != "name"]
    words = [f"Nice to meet you, {names[-1].removeprefix('Your name is ')}."] if names else []
    return " ".join([*words, *(f"Noted: {_lower(sentence)}." for sentence in others)])


def _promise(preference: Preference) -> str:
    if preference.kind == "sort":
        return f"Understood: I will sort your tasks {_SORT_WORDS[preference.value]}."
    if preference.kind == "length":
        return f"Understood: I will keep my answers {preference.value}."
    return f"Noted, your preference is: {quote(preference.sentence)}."


def _tell_fact(question: AskFact, conversation: Conversation) -> str:
    facts = known_facts(conversation.messages)
    if question.about == "preference":
        return _tell_preferences(question, conversation)
    if question.about == "name":
        found = [fact for fact in facts if fact.key == "name"][-1:]
    elif question.about == "remembered":
        found = [fact for fact in facts if fact.remembered]
    elif question.about == "everything":
        preferences = known_preferences(conversation.messages)
        told = [fact.sentence for fact in facts]
        told += [capitalize(one.sentence) for one in preferences]
        return _tell(told) if told else _unknown(conversation, "anything about you")
    else:
        found = facts_about(question.question, facts)
    if found:
        return _tell([fact.sentence for fact in found])
    unknown = _unknown(conversation, _topic(question))
    if question.about != "fact":
        return unknown
    return f"{unknown} I am the offline model: I know only what is said here."


def _tell_preferences(question: AskFact, conversation: Conversation) -> str:
    preferences = known_preferences(conversation.messages)
    told = []
    for preference in preferences:
        if preference.kind == "sort":
            told.append(f"You prefer tasks sorted {_SORT_WORDS[preference.value]}")
        elif preference.kind == "length":
            told.append(f"You prefer {preference.value} answers")
        else:
            told.append(f"You said: {quote(preference.sentence)}")
    likes = facts_about(question.question, known_facts(conversation.messages))
    told += [fact.sentence for fact in likes if not told]
    return _tell(told) if told else _unknown(conversation, "your preference")


def _tell(told: list[str]) -> str:
    return " ".join(f"{sentence}." for sentence in dict.fromkeys(told))


def _unknown(conversation: Conversation, topic: str) -> str:
    if not conversation.earlier_messages:
        return f"I do not know {topic}: I have no earlier message of yours in this conversation."
    return f"I do not know {topic}: you have not told me in this conversation."


def _topic(question: AskFact) -> str:
    if question.about == "name":
        return "your name"
    if question.about == "remembered":
        return "of anything I should remember"
    asked = re.match(
        r"(?:what|who|when|where|which)(?:'s| is| are| was)\s+(?P<key>(?:my|our|the)\s+.+)$",
        question.question,
        re.IGNORECASE,
    )
    return to_second_person(asked["key"]) if asked else "that"


def _recall_message(wanted: RecallMessage, conversation: Conversation) -> str:
    earlier = conversation.earlier_messages
    if not earlier:
        return _NOTHING_EARLIER
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
    wanted = stems(topic)
    found = [message for message in messages if wanted and wanted <= stems(message)]
    found = [message for message in found if "?" not in message] or found
    if not found:
        return f"I find no earlier message of yours about {quote(topic, limit=80)}."
    return f"You said: {quote(found[-1])}."


def _recall_previous(wanted: RecallMessage, messages: list[str]) -> str:
    if wanted.which == "previous":
        return f"Your last message was: {quote(messages[-1])}."
    depth = 2
    remaining = list(messages)
    while remaining and (which := _looks_back(remaining[-1])):
        depth += which == "before"
        remaining.pop()
    if len(remaining) < depth:
        return "I have no message of yours before that."
    return f"Before that, you wrote: {quote(remaining[-depth])}."


def _looks_back(message: str) -> str | None:
    intent = understand(message, _SOME_DAY)[0]
    if isinstance(intent, RecallMessage) and intent.which in {"previous", "before"}:
        return intent.which
    return None


def _recall_tasks(wanted: RecallTasks, memory: Memory) -> str:
    titles = memory.deeds[wanted.done_to_them]
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


def _lower(sentence: str) -> str:
    """A sentence inside another one: only our own first word loses its capital."""
    head, _, rest = sentence.partition(" ")
    return f"{head.lower()} {rest}" if head in {"You", "Your", "The", "His", "Her"} else sentence
