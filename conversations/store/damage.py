"""Reading rows that hold what their columns should not: what can be shown of them is shown.

SQLite stores anything anywhere, and one value that is not UTF-8 kills the whole query; PostgreSQL
has times that no calendar of Python's knows, with the same effect.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, TypeVar
from uuid import UUID

from django.db import DataError

from conversations.lanes import Database, to_moment, to_uuid
from conversations.models import ChatTurn

T = TypeVar("T")
Columns = Mapping[str, Callable[[Any], Any]]
"""What is selected, in order, and the function below that takes the value of each."""

FIRST_YEAR: Final = 1970
LAST_YEAR: Final = 8999
"""Times beyond these years are taken for damage: a retention added to them must be a time too."""
LONG_AGO: Final = datetime(FIRST_YEAR, 1, 1, tzinfo=UTC)
"""What stands for a time that is not known."""
_TURN_STATUSES: Final = frozenset(ChatTurn.Status.values)
_TIMES: Final = f"BETWEEN '{FIRST_YEAR}-01-01' AND '{LAST_YEAR}-12-31'"


def is_text_damage(error: Exception) -> bool:
    """Whether SQLite's driver met text that is not UTF-8."""
    return isinstance(error, UnicodeDecodeError) or "Could not decode to UTF-8" in str(error)


def select(
    db: Database, columns: Collection[str], rest: str, params: Sequence[Any] = ()
) -> list[Any]:
    """`SELECT columns rest`; where a value cannot be read, with all values as the text they are.

    The functions below take both.
    """
    try:
        return db.all(f"SELECT {', '.join(columns)} {rest}", params)
    except ValueError:  # not UTF-8, or not what Django's converters take: 2026-02-31
        if not db.is_sqlite:
            raise
    except Exception as error:
        if not (is_text_damage(error) if db.is_sqlite else isinstance(error, DataError)):
            raise
    kind = "BLOB" if db.is_sqlite else "TEXT"
    plain = ", ".join(f"CAST({column} AS {kind})" for column in columns)
    return db.all(f"SELECT {plain} {rest}", params)


def first_readable(
    ask: Callable[[int], list[Any]], *, count: int, read: Callable[[Any], T | None]
) -> list[T]:
    """The first `count` rows that `read` makes something of; `ask(n)` gives the first n rows."""
    asked = count
    while True:
        rows = ask(asked)
        found = [value for row in rows if (value := read(row)) is not None]
        if len(found) >= count or len(rows) < asked:
            return found[:count]
        asked *= 2


def values_of(row: Sequence[Any], columns: Columns) -> list[Any]:
    """What a row of these columns holds, as far as it can be read."""
    return [read(value) for read, value in zip(columns.values(), row, strict=True)]


def as_stored(value: Any) -> Any:
    """The value itself: a key or a number that only the engine is asked for again."""
    return value


def text_of(value: Any) -> str:
    """The text, with U+FFFD where it is none."""
    if isinstance(value, str):
        return value
    return value.decode(errors="replace") if isinstance(value, bytes) else ""


def maybe_text_of(value: Any) -> str | None:
    """The text, or None where the column is empty."""
    return None if value is None else text_of(value)


def word_of(value: Any, words: Collection[str], *, otherwise: str) -> str:
    """The text where it is one of these words."""
    word = text_of(value)
    return word if word in words else otherwise


def turn_status_of(value: Any) -> str:
    """The status of a turn; where it is none, the turn was interrupted."""
    return word_of(value, _TURN_STATUSES, otherwise="interrupted")


def count_of(value: Any) -> int:
    """The number; 0 where it is none."""
    try:
        return max(0, int(value))
    except (ValueError, TypeError, OverflowError):
        return 0


def position_of(value: Any) -> int | None:
    """The whole number; None where it is none."""
    is_number = type(value) is int or text_of(value).lstrip("-").isdecimal()
    return int(value) if is_number else None


def flag_of(value: Any) -> bool:
    """Whether the flag is set."""
    return value is True or value == 1 or value in {b"1", "true"}


def uuid_of(value: Any) -> UUID | None:
    """The id; None where it is none."""
    if value is None or isinstance(value, UUID):
        return value
    try:
        return to_uuid(value if isinstance(value, str) else text_of(value))
    except ValueError:
        return None


def moment_of(value: Any) -> datetime | None:
    """The time; None where it is none."""
    try:
        moment = to_moment(value if isinstance(value, datetime) else text_of(value))
    except (ValueError, OverflowError):
        return None
    return moment if moment and FIRST_YEAR <= moment.year <= LAST_YEAR else None


def is_time(column: str, *, is_sqlite: bool) -> str:
    """The SQL condition that a column holds what `moment_of` reads as a time."""
    if not is_sqlite:
        return f"({column} {_TIMES})"
    return (
        f"(typeof({column}) = 'text' AND {column} GLOB '????-??-?? ??:??:??*'"
        f" AND datetime({column}) IS NOT NULL AND {column} {_TIMES})"
    )
