"""Sentences that want a task created, changed, completed or deleted."""

from __future__ import annotations

import re
from datetime import date
from typing import Final

from chatsite.todo.offline.dates import DAY, read_day
from chatsite.todo.offline.intents import Change, Complete, Create, Delete, Intent, Target
from chatsite.todo.offline.targets import read_target

_FLAGS: Final = re.IGNORECASE | re.DOTALL
_TASK: Final = r"(?:to-?\s?do(?: item| task)?|tasks?|reminder|item|entry)"
_LEVEL: Final = r"(?:highest|high|top|urgent|important|normal|medium|regular|standard|lowest|low)"
_PRIORITIES: Final = {"highest": "high", "top": "high", "urgent": "high", "important": "high"} | {
    "medium": "normal",
    "regular": "normal",
    "standard": "normal",
    "lowest": "low",
}
_DAY: Final = re.sub(r"\s+", "", DAY)  # it is written in verbose style

_PRIORITY_TAIL: Final = re.compile(
    rf"[\s,;(-]*(?:\b(?:with|at|as|and|it'?s|it is|that'?s|of|set to|make it)\s+)*(?:a\s+|an\s+)?"
    rf"(?:\b(?P<level>{_LEVEL})[\s-]+priority|\bpriority(?:\s+is|\s*[:=])?\s*(?P<after>{_LEVEL})"
    rf"|[,;(-]\s*(?:it'?s\s+|it is\s+|that'?s\s+)?(?P<alone>urgent|important))\)?$",
    _FLAGS,
)
_DAY_TAIL: Final = re.compile(
    rf"[\s,;(-]*(?:\b(?:and|it'?s|it is|that'?s|which is|with|to be done)\s+)*"
    rf"(?:\b(?:a\s+)?(?:due|deadline|due date)(?:\s+(?:date|day|is|of|on|by|for))*\s*:?\s*"
    rf"|\b(?:by|on|for|until|till|before)\s+|(?<=[\s,;(]))(?P<day>{_DAY})"
    rf"(?P<time>\s+(?:at|around|by)\s+\d{{1,2}}(?:[:.]\d{{2}})?\s*(?:am|pm|h|o'clock)?"
    r"|\s+at\s+noon)?\)?$",
    _FLAGS,
)
_LEADING_DAY: Final = re.compile(
    rf"(?:(?:due|for|by|on|until)\s+)*(?P<day>{_DAY})\s*(?:[:,-]|\bto\b)\s*(?P<title>.+)$", _FLAGS
)
_LEADING_PRIORITY: Final = re.compile(
    rf"(?:with\s+|at\s+|of\s+)?(?:a\s+)?(?P<level>{_LEVEL})[\s-]+priority\s*(?:[:,-]"
    r"|\bto\b)\s*(?P<title>.+)$",
    _FLAGS,
)
_TITLE_OPENING: Final = re.compile(
    r"\s*(?:[:,-]+|(?:to|called|named|titled|entitled|saying|that says|which says|about|for me to"
    r"|for|that i (?:have|need) to|with (?:the )?title|i (?:have|need) to)\b(?:\s*[:,])?)\s*",
    _FLAGS,
)
_CREATES: Final = tuple(
    re.compile(pattern, _FLAGS)
    for pattern in (
        rf"(?:create|add|make|set up|put|write(?: down)?|enter|record|log|insert|register|give me"
        rf"|i (?:need|want)|i'd like|another|new|schedule|save|start)(?: me| yourself| in)?"
        r"(?: a| an| one| another| one more| this| the| my)?(?: new| another| quick|"
        r" simple| second"
        rf"| third| next)?(?: (?P<level>{_LEVEL})(?:[\s-]+priority)?,?)?(?: new)? {_TASK}\b"
        rf"(?: (?:on|to|in|into) (?:my|the) (?:\w+ )?list)?(?P<rest>.*)$",
        r"(?:remind me|don't let me forget|do not let me forget|set a reminder)"
        r"(?P<rest>\s+.+)$",
        r"(?:don't forget|do not forget|remember|make sure|i (?:must|should) not forget"
        r"|i (?:must|have to|need to) remember)(?P<rest>\s+to\s+.+)$",
        r"(?:add|put|write|include|place|note)\s+(?P<rest>.+?)\s+(?:to|on|onto|in|into|down on) "
        r"(?:my|the) (?:\w+ )?(?:list|todos?|to-?dos?|tasks)(?P<more>.*)$",
        r"(?:add|put|write(?: down)?|save|create|note)\s+(?P<rest>.+?)\s+as (?:a|an|my)(?: new)?"
        rf" {_TASK}\b(?P<more>.*)$",
        rf"(?:new |next |another )?{_TASK}\s*[:-]\s*(?P<rest>.+)$",
        r"(?:add|create|schedule|jot down|note down|note to self)\b\s*:?\s*(?P<rest>.+)$",
    )
)
_SEVERAL: Final = re.compile(
    r"(?:create|add|make|put|new|write down)?\s*(?:these|the following|those|some|my|two"
    r"|three|four"
    r"|five|six|seven|eight|nine|ten|\d+|a few|several)?\s*(?:new )?(?:tasks|todos|to-dos"
    r"|items|things)"
    r"(?: (?:on|to) (?:my|the) list)?\s*:\s*(?P<items>.+)$",
    _FLAGS,
)

_T: Final = r"(?P<target>.+?)"
_ITS: Final = r"(?:its|the|that task's|this task's|that one's)"
_OF: Final = rf"(?:\s+(?:of|for|on)\s+{_T})?"
_DUE: Final = r"(?:due[\s-]?date|due day|deadline|due)"
_CHANGES: Final = tuple(
    re.compile(pattern, _FLAGS)
    for pattern in (
        r"(?:remove|clear|delete|drop|unset)\s+(?:its|the"
        rf"|that)\s+(?P<nodue>{_DUE})(?:\s+(?:of|from|for|on)\s+{_T})?$",
        r"(?:set|change|update|move|make|put|adjust|edit"
        rf"|push)\s+{_ITS}\s+{_DUE}{_OF}\s+(?:to|be|as|for)\s+(?P<value>.+)$",
        r"(?:set|change|update|make|raise|lower|increase|decrease|adjust|put|bump"
        rf"|edit)\s+{_ITS}\s+priority{_OF}\s+(?:to|be|as)\s+(?P<level>.+)$",
        rf"(?:change|set|edit|update)\s+{_ITS}\s+(?:title|name|text|wording){_OF}\s+(?:to"
        r"|into)\s+(?P<title>.+)$",
        rf"(?P<up>raise|increase|bump|lower|decrease)\s+(?:up\s+)?{_ITS}\s+priority{_OF}$",
        rf"(?:set|change|update|move)\s+{_T}(?:'s|s')\s+{_DUE}\s+(?:to|for)\s+(?P<value>.+)$",
        rf"(?:set|change|update|raise|lower)\s+{_T}(?:'s|s')\s+priority\s+to\s+(?P<level>.+)$",
        rf"rename\s+{_T}\s+(?:to|as|into)\s+(?P<title>.+)$",
        r"(?:call|name)\s+(?P<target>it|that|this|that one|that task)\s+(?P<title>.+)$",
        rf"(?:add|give|set)\s+(?:it\s+)?(?:a\s+)?{_DUE}(?:\s+(?:of|for|on"
        r"|to))?\s+(?P<value>.+?)(?:\s+(?:to|for)\s+(?P<target>it|that|this|that task))?$",
        rf"give\s+{_T}\s+(?:a\s+)?(?P<level>{_LEVEL})[\s-]+priority$",
        rf"give\s+{_T}\s+(?:a\s+)?{_DUE}(?:\s+of)?\s+(?P<value>.+)$",
        r"(?:move|postpone|reschedule|push|delay|shift|defer|schedule"
        rf"|bring)\s+{_T}\s+(?:back\s+|forward\s+)?(?:to|until|till|for|by"
        r"|on)\s+(?P<value>.+)$",
        rf"(?:move|postpone|reschedule|push|delay)\s+{_T}\s+(?P<value>{_DAY})$",
        rf"(?:mark|flag|set|make|put)\s+{_T}\s+(?:as|to|at|be|with"
        rf"|a)\s+(?:a\s+)?(?P<level>{_LEVEL})(?:[\s-]+priority)?$",
        rf"(?:make|set|mark)\s+{_T}\s+(?P<level>{_LEVEL})(?:[\s-]+priority)?$",
        rf"(?:make|set|change|update|mark|have)\s+{_T}\s+(?:to\s+(?:be\s+)?)?(?:due|for|by"
        r"|on|to|as due)\s+(?P<value>.+)$",
        rf"(?:make|set|change)\s+{_T}\s+(?P<value>{_DAY})$",
        rf"(?P<level>prioriti[sz]e|deprioriti[sz]e)\s+{_T}$",
        r"(?P<target>it|that|this|that task|that one|this one|the .{1,40}?(?:task"
        r"|one))(?:'s|\s+is|\s+should be|\s+needs to be|\s+must be)(?:\s+actually"
        r"|\s+really)?\s+(?:due|done by|for)\s+(?P<value>.+)$",
        rf"{_ITS}\s+{_DUE}\s+(?:is|should be)\s+(?P<value>.+)$",
        r"due\s+(?P<value>.+)$",
        rf"(?P<target>it|that|this|that task|that one|this one|the .{{1,40}}?(?:task"
        rf"|one))(?:'s|\s+is|\s+should be|\s+has)\s+(?P<level>{_LEVEL})(?:[\s-]+priority)?$",
        rf"(?:change|update|edit)\s+{_T}\s+(?:to|into)\s+(?P<title>.+)$",
    )
)
_DONE: Final = r"(?:done|complete[d]?|finished|ticked off|checked off)"
_REOPENS: Final = tuple(
    re.compile(pattern, _FLAGS)
    for pattern in (
        rf"(?:reopen|uncomplete|unmark|untick|uncheck|restore)\s+{_T}(?: as {_DONE})?$",
        rf"(?:mark|set)\s+{_T}\s+(?:as\s+|to\s+)?(?:not done|undone|open|incomplete"
        r"|unfinished|not (?:yet )?(?:complete|finished|done))$",
        rf"{_T}\s+(?:is not|isn't|was not|wasn't|is no longer)\s+(?:yet\s+)?{_DONE}(?: yet)?$",
    )
)
_COMPLETES: Final = tuple(
    re.compile(pattern, _FLAGS)
    for pattern in (
        rf"(?:mark|set|tick|check|cross|flag)\s+{_T}\s+(?:off\s+)?(?:as\s+"
        rf"|to\s+)?(?:{_DONE}|off)(?: now| already)?$",
        rf"(?:mark|set)\s+(?:as\s+)?{_DONE}\s*:?\s+{_T}$",
        rf"(?:complete|finish|tick off|check off|cross off|cross out|close)\s+{_T}$",
        r"i(?:'ve|'m| have| am)?(?: just| already)*\s+(?:finished|completed|done with"
        rf"|done|did)(?: with)?\s+{_T}$",
        rf"(?:i'm|we're|i am) (?:done|finished) with\s+{_T}$",
        rf"{_T}(?:'s|\s+is|\s+are|\s+was|\s+has been)(?: now| already| all)?\s+{_DONE}(?:"
        r" now| already)?$",
    )
)
_DELETES: Final = re.compile(
    r"(?:delete|remove|erase|cancel|drop|scrap|discard|throw away|get rid of|take off"
    rf"|clear|trash)\s+{_T}(?:\s+(?:from|off) (?:my|the) (?:\w+ )?(?:list|todos?"
    r"|tasks))?$",
    _FLAGS,
)
_TAKES_OFF: Final = re.compile(rf"take\s+{_T}\s+off (?:my|the) (?:\w+ )?list$", _FLAGS)


def read_command(text: str, today: date) -> Intent | None:
    """The change a sentence asks for; `text` is the sentence's core."""
    return (
        _read_change(text, today)
        or _read_completion(text)
        or read_creation(text, today)
        or _read_deletion(text)
    )


def read_several(text: str, today: date) -> list[Create]:
    """ "Add these tasks: A, B and C"; nothing unless it names two or more."""
    match = _SEVERAL.match(text)
    if match is None:
        return []
    items = match["items"]
    split = r"\n" if "\n" in items.strip() else (r";" if ";" in items else r",|\band\b")
    titles = [re.sub(r"^\s*(?:[-*•]|\d+[.)])\s*", "", item) for item in re.split(split, items)]
    found = [read_title(title.strip(" .,;"), today) for title in titles if title.strip(" .,;")]
    return found if len(found) > 1 else []


def read_creation(text: str, today: date) -> Create | None:
    for pattern in _CREATES:
        match = pattern.match(text)
        if match is None:
            continue
        groups = match.groupdict()
        created = read_title(groups["rest"] + (groups.get("more") or ""), today)
        level = groups.get("level")
        priority = _priority(level) if level else created.priority
        return Create(created.title, created.due, priority)
    return None


def read_title(text: str, today: date) -> Create:
    """A title and what is said about it before and after; a quoted title is taken as it is."""
    due: date | None = None
    priority: str | None = None
    if quoted := re.match(r'[^"]{0,40}?"(?P<title>[^"]+)"(?P<more>.*)$', text, _FLAGS):
        about = read_title(
            f"x {quoted['more'].strip(' ,')}" if quoted["more"].strip() else "x", today
        )
        return Create(quoted["title"].strip(), about.due, about.priority)
    text = text.strip()
    for pattern in (_LEADING_DAY, _LEADING_PRIORITY, _LEADING_DAY):
        match = pattern.match(text)
        if match is None:
            continue
        if pattern is _LEADING_PRIORITY:
            text, priority = match["title"], _priority(match["level"])
        elif day := read_day(match["day"], today):
            text, due = match["title"], day
    if opening := _TITLE_OPENING.match(text):
        text = text[opening.end() :]
    text, due, priority = _strip_tails(text.strip(" ,;"), today, due, priority)
    return Create(text.strip(" ,;:\"'"), due, priority)


def _strip_tails(
    text: str, today: date, due: date | None, priority: str | None
) -> tuple[str, date | None, str | None]:
    while True:
        if match := _PRIORITY_TAIL.search(text):
            priority = priority or _priority(match["level"] or match["after"] or match["alone"])
            text = text[: match.start()]
        elif (match := _DAY_TAIL.search(text)) and (day := read_day(match["day"], today)):
            due = due or day
            text = text[: match.start()] + (match["time"] or "")
            if match["time"]:
                return text, due, priority
        else:
            return text, due, priority


def _read_change(text: str, today: date) -> Change | None:
    for pattern in _CHANGES:
        match = pattern.match(text)
        if match is None:
            continue
        groups = match.groupdict()
        phrase = groups.get("target")
        target = read_target(phrase) if phrase else Target("focus")
        change = _change(target, groups, today)
        if change is not None:
            return change
    return None


def _change(target: Target, groups: dict[str, str | None], today: date) -> Change | None:
    if groups.get("nodue"):
        return Change(target, removes_due=True)
    if up := groups.get("up"):
        return Change(target, priority="low" if up.lower() in {"lower", "decrease"} else "high")
    if level := groups.get("level"):
        return _read_level(target, level)
    if value := groups.get("value"):
        return _read_due(target, value, today)
    title = groups.get("title") or ""
    if day := read_day(title, today):
        return Change(target, due=day)
    return _read_level(target, title) or Change(target, title=title.strip(" \"'"))


def _read_due(target: Target, words: str, today: date) -> Change | None:
    """ "tomorrow", "Friday and high priority", or only "high"."""
    both = read_title(f"x due {words.removeprefix('due ')}", today)
    if both.due and both.title == "x":
        return Change(target, due=both.due, priority=both.priority)
    return _read_level(target, words)


def _read_level(target: Target, words: str) -> Change | None:
    words = words.lower().strip(" .!\"'")
    if words.startswith(("prioriti", "deprioriti")):
        return Change(target, priority="low" if words.startswith("de") else "high")
    match = re.fullmatch(rf"(?:a )?({_LEVEL})(?:[\s-]+priority)?", words)
    return Change(target, priority=_priority(match[1])) if match else None


def _read_completion(text: str) -> Complete | None:
    for patterns, done in ((_REOPENS, False), (_COMPLETES, True)):
        for pattern in patterns:
            if match := pattern.match(text):
                return Complete(read_target(match["target"]), done=done)
    return None


def _read_deletion(text: str) -> Delete | None:
    match = _TAKES_OFF.match(text) or _DELETES.match(text)
    return Delete(read_target(match["target"])) if match else None


def _priority(level: str) -> str:
    level = level.lower()
    return _PRIORITIES.get(level, level)
