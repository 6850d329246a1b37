"""Days in English: "tomorrow", "by Friday", "next week", "5 May"."""

from __future__ import annotations

import calendar
import re
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Final

_WEEKDAYS: Final = tuple(day.lower() for day in calendar.day_name)
_MONTHS: Final = tuple(month.lower() for month in calendar.month_name)
_COUNTS: Final = {
    "a": 1, "an": 1, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7,
    "eight": 8, "nine": 9, "ten": 10, "a couple of": 2, "a few": 3,
}  # fmt: skip
_WEEKDAY: Final = "|".join((*_WEEKDAYS, "mon", "tues?", "weds?", "thurs?", "thu", "fri"))
_MONTH: Final = "|".join(f"{month[:3]}(?:{month[3:]})?\\.?" for month in _MONTHS[1:]) + "|sept"
_COUNT: Final = r"\d{1,3}|" + "|".join(
    count.replace(" ", r"\s") for count in sorted(_COUNTS, key=len, reverse=True)
)

DAY: Final = rf"""(?:
    (?:the\s+)?day\s+after\s+tomorrow | today | tonight | yesterday
  | tomorrow (?:\s+(?:morning|afternoon|evening|night))?
  | (?:next|this|coming|on)?\s*\b(?:{_WEEKDAY})\b
  | in\s+(?:{_COUNT})\s+(?:day|week|month|year)s? | (?:{_COUNT})\s+(?:day|week|month)s?\s+from\s+now
  | next\s+(?:week|month|year) | (?:this|the|next)\s+weekend
  | (?:the\s+)?end\s+of\s+(?:the|this)\s+(?:week|month|year)
  | \d{{4}}-\d{{2}}-\d{{2}} | \d{{1,2}}\.\d{{1,2}}\.\d{{4}}
  | (?:the\s+)?\d{{1,2}}(?:st|nd|rd|th)?\s+(?:of\s+)?(?:{_MONTH})\b(?:,?\s+\d{{4}})?
  | (?:{_MONTH})\s+(?:the\s+)?\d{{1,2}}(?:st|nd|rd|th)?\b(?:,?\s+\d{{4}})?
  | the\s+\d{{1,2}}(?:st|nd|rd|th)\b
)"""
_ONE_DAY: Final = re.compile(rf"(?<![\w-])(?P<day>{DAY})(?![\w-])", re.IGNORECASE | re.VERBOSE)


@dataclass(frozen=True, slots=True)
class Span:
    """The days a question is about; an end may be open."""

    first: date | None
    last: date | None
    words: str


def read_day(text: str, today: date) -> date | None:
    """The day that the whole text names, with or without "by" or "on" before it."""
    text = re.sub(
        r"^(?:(?:due|by|on|for|until|till|before|to|at|from)\s+)+",
        "",
        text.strip(" .,;!?"),
        flags=re.I,
    )
    match = _ONE_DAY.fullmatch(text)
    return _resolve(match["day"], today) if match else None


def find_span(text: str, today: date) -> Span | None:
    """The days a question such as "what is due this week?" asks for."""
    lowered = text.lower()
    monday = today - timedelta(days=today.weekday())
    if re.search(r"\boverdue\b|\bpast due\b|\blate\b", lowered):
        return Span(None, today - timedelta(days=1), "overdue")
    if "this week" in lowered and "weekend" not in lowered:
        return Span(today, monday + timedelta(days=6), "due this week")
    if "next week" in lowered and "weekend" not in lowered:
        return Span(monday + timedelta(days=7), monday + timedelta(days=13), "due next week")
    if "this month" in lowered:
        return Span(today, _month_end(today), "due this month")
    if match := re.search(rf"\b(?:in|within) the next ({_COUNT}) days?\b", lowered):
        last = today + timedelta(days=_count(match[1]))
        return Span(today, last, f"due by {name_day(last, today)}")
    match = _ONE_DAY.search(text)
    day = _resolve(match["day"], today) if match else None
    if match is None or day is None:
        return None
    if "weekend" in match["day"].lower():
        return Span(day, day + timedelta(days=1), "due at the weekend")
    before = re.search(r"\b(by|until|before)\s+$", text[: match.start()], re.IGNORECASE)
    if before:
        return Span(None, day, f"due by {name_day(day, today)}")
    return Span(day, day, f"due {name_day(day, today)}")


def name_day(day: date, today: date) -> str:
    near = {0: "today", 1: "tomorrow", -1: "yesterday"}.get((day - today).days)
    return f"{near or f'{day:%A}'} ({day.isoformat()})"


def _resolve(words: str, today: date) -> date | None:
    words = " ".join(words.lower().split())
    try:
        return _resolve_near(words, today) or _resolve_calendar(words, today)
    except (ValueError, OverflowError):  # 31 February, or beyond the calendar
        return None


def _resolve_near(words: str, today: date) -> date | None:
    monday = today - timedelta(days=today.weekday())
    days = {"today": 0, "tonight": 0, "yesterday": -1, "the day after tomorrow": 2}
    days |= {"day after tomorrow": 2}
    if words in days:
        return today + timedelta(days=days[words])
    if words.startswith("tomorrow"):
        return today + timedelta(days=1)
    if "weekend" in words:
        saturday = monday + timedelta(days=12 if words.startswith("next") else 5)
        return max(saturday, today)
    if match := re.fullmatch(rf"(?:in )?({_COUNT}) (day|week|month|year)s?(?: from now)?", words):
        return _later(today, _count(match[1]), match[2])
    if words == "next week":
        return monday + timedelta(days=7)
    if match := re.fullmatch(r"next (month|year)", words):
        return _later(today, 1, match[1])
    if match := re.search(r"end of (?:the|this) (week|month|year)", words):
        ends = {"week": monday + timedelta(days=6), "month": _month_end(today)}
        return ends.get(match[1], date(today.year, 12, 31))
    if match := re.fullmatch(rf"(?:(next|this|coming|on) ?)?({_WEEKDAY})", words):
        number = next(n for n, name in enumerate(_WEEKDAYS) if name.startswith(match[2][:3]))
        if match[1] == "next":
            return monday + timedelta(days=7 + number)
        ahead = (number - today.weekday()) % 7
        return today + timedelta(days=ahead if ahead or match[1] == "this" else 7)
    return None


def _resolve_calendar(words: str, today: date) -> date | None:
    if re.fullmatch(r"\d{4}-\d{2}-\d{2}", words):
        return date.fromisoformat(words)
    if match := re.fullmatch(r"(\d{1,2})\.(\d{1,2})\.(\d{4})", words):
        return date(int(match[3]), int(match[2]), int(match[1]))
    number = re.search(r"\b(\d{1,2})(?:st|nd|rd|th)?\b", words)
    month = re.search(rf"\b({_MONTH})", words)
    if number is None:
        return None
    if month is None:
        day = date(today.year, today.month, int(number[1]))
        return day if day >= today else _later(day, 1, "month")
    year = re.search(r"\b(\d{4})\b", words)
    index = next(n for n, name in enumerate(_MONTHS) if n and name.startswith(month[1][:3]))
    day = date(int(year[1]) if year else today.year, index, int(number[1]))
    return day if year or day >= today else day.replace(year=day.year + 1)


def _count(word: str) -> int:
    return int(word) if word.isdigit() else _COUNTS[word]


def _later(day: date, count: int, unit: str) -> date:
    if unit in {"day", "week"}:
        return day + timedelta(days=count * (7 if unit == "week" else 1))
    months = day.month - 1 + count * (12 if unit == "year" else 1)
    year, month = day.year + months // 12, months % 12 + 1
    return date(year, month, min(day.day, calendar.monthrange(year, month)[1]))


def _month_end(day: date) -> date:
    return day.replace(day=calendar.monthrange(day.year, day.month)[1])
