"""Answers that need no tool: small talk, what is known, what was said and done earlier."""

from __future__ import annotations

import re
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
    CountMessages,
    Intent,
    Prefer,
    RecallAnswer,
    RecallMessage,
    RecallTasks,
    SmallTalk,
    State,
    Unknown,
)
from chatsite.todo.offline.memory import Memory
from chatsite.todo.offline.phrases import FORGOTTEN
from chatsite.todo.offline.retelling import (
    count_messages,
    recall_answer,
    recall_message,
    recall_tasks,
)
from chatsite.todo.offline.wording import capitalize, quote, to_second_person

WHO_I_AM: Final = "I am the offline model of this todo assistant"
ABILITIES: Final = (
    "I can create, list, change, complete and delete your tasks, and answer from what you told "
    "me in this conversation."
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
        return recall_message(intent, conversation)
    if isinstance(intent, RecallTasks):
        return recall_tasks(intent, memory)
    if isinstance(intent, RecallAnswer):
        return recall_answer(conversation)
    if isinstance(intent, CountMessages):
        return count_messages(conversation)
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
    if not conversation.is_whole:
        return f"I do not know {topic}: you have not told me in what I still remember. {FORGOTTEN}"
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


def _lower(sentence: str) -> str:
    """A sentence inside another one: only our own first word loses its capital."""
    head, _, rest = sentence.partition(" ")
    return f"{head.lower()} {rest}" if head in {"You", "Your", "The", "His", "Her"} else sentence
