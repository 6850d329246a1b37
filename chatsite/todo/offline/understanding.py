"""From a message to what it means: pure rules over the words, without any history."""

from __future__ import annotations

import re
from datetime import date
from typing import Final

from chatsite.todo.offline.commands import read_command, read_several
from chatsite.todo.offline.dates import find_span
from chatsite.todo.offline.facts import find_facts, find_preference, find_sort
from chatsite.todo.offline.intents import (
    AskFact,
    Create,
    Intent,
    Prefer,
    Show,
    SmallTalk,
    State,
    Unknown,
)
from chatsite.todo.offline.questions import QUESTION, read_recall
from chatsite.todo.offline.wording import core, sentences, straighten

_FLAGS: Final = re.IGNORECASE
_GREETING: Final = re.compile(
    r"(?:hi|hiya|hello|hey|howdy|greetings|good (?:morning|afternoon|evening|day))"
    r"(?:\s+(?:there|assistant|again|everyone|you))*\b[\s,.!-]*",
    _FLAGS,
)
_THANKS: Final = re.compile(
    r"(?:many )?(?:thanks|thank you|thx|cheers|ty)\b",
    _FLAGS,
)
_DISMISSAL: Final = re.compile(
    r"(?:great|perfect|awesome|nice|cool|good job|ok|okay|got it|never ?mind|all right|yes"
    r"|no)$",
    _FLAGS,
)
_FAREWELL: Final = re.compile(
    r"(?:good ?bye|bye|see you|good night|that's all|that is all)\b", _FLAGS
)
_WELLBEING: Final = re.compile(r"how are you|how do you do|how's it going|what's up$", _FLAGS)
_HELP: Final = re.compile(
    r"help(?: me)?$|what can (?:you|i) (?:do|ask|say|help)|what do you do|how (?:can|do)"
    r" (?:you|i) (?:help|use|work)"
    r"|who are you|what are you|are you (?:an? )?(?:ai|bot|human|real|offline|online|robot"
    r"|person|gpt|chatgpt|model|llm)"
    r"|which (?:ai |language )?model|what (?:ai |language |kind of )?model|your name"
    r"|introduce yourself"
    r"|what are your (?:capabilities|features|skills)|tell me about yourself|your"
    r" capabilities|commands$",
    _FLAGS,
)
_TASKS: Final = r"(?:tasks?|to-?\s?dos?|to-?do list|list|reminders|agenda)"
_STATUS: Final = re.compile(
    r"(?:is|are|was|were|has|what's the status|what is the status)\b.*"
    r"\b(?:task|tasks|done|finished|completed?|due|status)\b",
    _FLAGS,
)
_SHOWS: Final = re.compile(
    r"(?:show|list|display|give|tell|read|see|get|view|print|check|open|fetch|sort|order"
    rf"|let me see|what about|i(?:'d| would) like to see)\b.*\b{_TASKS}\b"
    r"|(?:what|which|how many|are there|is there|do i|have i|any|anything|how"
    rf" does)\b.*\b{_TASKS}\b"
    r"|(?:what|which|anything|is anything|do i have|have i got|when is|how many|show"
    r"|list)\b.*\b(?:due|overdue|left|open|done|finished|completed|remaining|pending"
    r"|outstanding|urgent|to do|high[- ]priority|low[- ]priority)\b"
    rf"|(?:all |my |the |open |done )*{_TASKS}$|what should i (?:do|work on)|what's next"
    r"|what do i (?:have|need) to do|what have i (?:done|finished|completed)",
    _FLAGS,
)


def understand(message: str, today: date) -> list[Intent]:
    """The meaning of each sentence, in order; `Unknown` alone when nothing was understood."""
    text = straighten(message)
    greeting = _GREETING.match(text)
    if greeting:
        text = text[greeting.end() :]
    if several := read_several(core(text), today):
        return list(several)
    intents: list[Intent] = []
    for sentence in sentences(text):
        intent = understand_sentence(sentence, today)
        previous = intents[-1] if intents else None
        if isinstance(intent, Unknown) and isinstance(previous, Create) and previous.title:
            if re.match(r"[a-z]|and\b", sentence, 0) and not sentence.endswith("?"):
                title = f"{previous.title} {core(sentence)}"
                intents[-1] = Create(title, previous.due, previous.priority)
            continue
        intents.append(intent)
    telling: list[Intent] = [
        intent for intent in intents if not isinstance(intent, Unknown | SmallTalk)
    ]
    if telling:
        return telling
    talk: list[Intent] = [intent for intent in intents if isinstance(intent, SmallTalk)]
    if talk or (greeting and not intents):
        return talk[:1] or [SmallTalk("greeting")]
    return [Unknown(" ".join(message.split()))]


def understand_sentence(sentence: str, today: date) -> Intent:
    """The meaning of one straightened sentence."""
    text = core(sentence)
    recall = read_recall(text)
    if recall is not None:
        return recall
    if preference := find_preference(sentence):
        sorts_now = re.match(r"(?:sort|order|arrange|show|list)\b", text, _FLAGS)
        if preference.kind == "sort" and sorts_now:
            return _read_show(text, today)
        return Prefer(preference)
    asks = bool(QUESTION.match(text)) or sentence.endswith("?")
    if not asks or not QUESTION.match(text):
        if command := read_command(text, today):
            return command
        if facts := find_facts(sentence):
            return State(facts)
    if _SHOWS.match(text):
        return _read_show(text, today)
    if talk := _read_small_talk(text):
        return talk
    if _STATUS.match(text):
        return Show()
    return AskFact(text) if asks else Unknown(sentence)


def _read_show(text: str, today: date) -> Show:
    lowered = text.lower()
    status: str = "all"
    if re.search(r"\b(?:done|finished|completed?|closed)\b", lowered):
        status = "done"
    if re.search(
        r"\b(?:left|open|remaining|pending|outstanding|overdue|to do|unfinished|incomplete"
        r"|still|not (?:yet )?done|next)\b",
        lowered,
    ):
        status = "open"
    level = re.search(r"\b(high|low|normal|urgent|important)\b(?![\w\s-]*\bfirst\b)", lowered)
    words = {"urgent": "high", "important": "high"}
    priority = words.get(level[1], level[1]) if level else None
    sorted_by = re.search(
        r"\b(?:sort\w*|order\w*|arranged?) by\b|\bby (?:priority|due|title|date|name"
        r"|deadline)|\bfirst\b|\balphabetical",
        lowered,
    )
    span = find_span(text, today)
    if (span or priority) and status == "all" and "all" not in lowered.split():
        status = "open"
    return Show(
        status=status,  # type: ignore[arg-type]
        sort=find_sort(text) if sorted_by and not span else None,
        priority=None if sorted_by and "by" in lowered.split() else priority,
        span=span,
        counts=lowered.startswith("how many"),
    )


def _read_small_talk(text: str) -> Intent | None:
    if _WELLBEING.match(text):
        return SmallTalk("wellbeing")
    if _HELP.search(text):
        return SmallTalk("help")
    if _FAREWELL.match(text):
        return SmallTalk("farewell")
    if _THANKS.match(text):
        return SmallTalk("thanks")
    if _DISMISSAL.match(text):
        return SmallTalk("dismissal")
    return SmallTalk("greeting") if _GREETING.fullmatch(text) else None
