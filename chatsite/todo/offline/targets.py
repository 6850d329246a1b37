"""Which task a phrase such as "it", "the second one" or "the groceries task" points to."""

from __future__ import annotations

import re
from typing import Final

from chatsite.todo.offline.intents import Target

_TASK: Final = r"(?:tasks?|to-?\s?dos?(?: items?)?|items?|ones?|reminders?|entry|entries)"
_NUMBERS: Final = {
    "first": 1, "1st": 1, "second": 2, "2nd": 2, "third": 3, "3rd": 3, "fourth": 4, "fifth": 5,
    "sixth": 6, "seventh": 7, "eighth": 8, "ninth": 9, "tenth": 10, "last": -1, "final": -1,
    "very first": 1, "very last": -1, "top": 1, "bottom": -1,
}  # fmt: skip
_COUNTS: Final = {"one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6}
NTH: Final = (
    r"(?P<nth>very first|very last|\d{1,3}(?:st|nd|rd|th)|"
    + "|".join(word for word in _NUMBERS if " " not in word)
    + ")"
)
_ADDED: Final = (
    r"(?: that)?(?: which)?\s+(?:i|you|we)(?:'ve| have)?(?: just)? (?:added|created|made|asked for"
    r"|mentioned)(?: here| today)?"
)
_FOCUS: Final = re.compile(
    rf"(?:it|that|this|(?:that|this) {_TASK}|(?:the|my)(?: same| new| current)? {_TASK})",
    re.IGNORECASE,
)
_LATEST: Final = re.compile(
    rf"(?:the |my )?(?:(?:newest|latest|most recent) {_TASK}|{_TASK}{_ADDED})", re.IGNORECASE
)
_ORDINAL: Final = re.compile(
    rf"(?:the |my )?{NTH}(?: {_TASK})?(?P<added>{_ADDED})?(?: (?:on|in|from|of) (?:the|my"
    r"|that|this) list)?",
    re.IGNORECASE,
)
_NUMBER: Final = re.compile(
    r"(?P<word>number|no\.?|task|item|#|task #|task number|the task with (?:the )?id|id)\s*"
    r"(?P<number>\d{1,18}|one|two|three|four|five|six)",
    re.IGNORECASE,
)
_ALL: Final = re.compile(
    rf"(?:all|both|everything|them|all of (?:it|them)|both of them|them (?:all|both)|every {_TASK}"
    rf"|(?:all )?(?:of )?(?:my|the|these|those)(?: open| remaining| done| completed| finished)?"
    rf" (?:tasks|todos|to-dos|items|list)|all(?: open| done| completed| finished)? {_TASK}"
    r"|the (?:whole|entire) list)",
    re.IGNORECASE,
)
_WRAPPING: Final = (
    re.compile(r"^(?:the|my|a|an|this|that)\s+", re.IGNORECASE),
    re.compile(
        rf"^{_TASK}\s+(?:(?:that is |which is )?(?:to|called|named|titled|about|for|with"
        r"|saying)|:)\s+",
        re.IGNORECASE,
    ),
    re.compile(rf"\s+{_TASK}$", re.IGNORECASE),
    re.compile(r"\s+(?:from|off|on|in) (?:my|the) (?:\w+ )?list$", re.IGNORECASE),
)


def read_target(phrase: str) -> Target:
    """The task a whole phrase names; words that are no reference are words of its title."""
    text = phrase.strip(" .,;:!?")
    text = re.sub(r"\s+(?:from|off) (?:my|the) (?:\w+ )?list$", "", text, flags=re.IGNORECASE)
    if _FOCUS.fullmatch(text):
        return Target("focus")
    if _LATEST.fullmatch(text):
        return Target("created", number=-1)
    if match := _ORDINAL.fullmatch(text):
        return Target("created" if match["added"] else "nth", number=read_nth(match["nth"]))
    if match := _NUMBER.fullmatch(text):
        number = _COUNTS.get(match["number"].lower()) or int(match["number"])
        by_position = match["word"].lower() in {"number", "no", "no."}
        return Target("nth" if by_position else "number", number=number)
    if _ALL.fullmatch(text):
        done = re.search(r"\b(?:done|completed|finished)\b", text, re.IGNORECASE)
        both = re.match(r"(?:them )?both\b", text, re.IGNORECASE)
        return Target("all", number=2 if both else 0, words="done" if done else "")
    if quoted := re.search(r'"([^"]+)"|\'([^\']+)\'$', text):
        return Target("title", words=quoted[1] or quoted[2])
    for pattern in _WRAPPING:
        text = pattern.sub("", text)
    return Target("title", words=text)


def read_nth(word: str) -> int:
    word = word.lower()
    return _NUMBERS[word] if word in _NUMBERS else int(re.sub(r"\D", "", word) or 0)
