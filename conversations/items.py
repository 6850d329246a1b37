"""Between the SDK's items and our rows: exact JSON one way and back, and what people may read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import jiter

from conversations.history import header_of
from conversations.ids import new_id, storable

_PEOPLE: Final = {"user", "assistant"}
MAX_LEVELS: Final = 300  # a copy of an item of 470 levels reaches Python's recursion limit
_encode: Final = json.JSONEncoder(separators=(",", ":")).encode


@dataclass(frozen=True, slots=True)
class Row:
    """One entry of the log before it has a position."""

    kind: str
    role: str = ""
    call_id: str = ""
    caller_id: str = ""
    text: str = ""
    shown: bool = False
    agent_item: str | None = None
    thread_item: str | None = None
    incomplete: bool = False
    id: UUID = field(default_factory=new_id)
    created_at: datetime | None = None
    """Where it is not the moment in which it is stored."""


@dataclass(frozen=True, slots=True)
class Memory:
    """What was read back: the items, and the positions of rows that are to be set aside, with why.

    Those hold no item, or one that has lost what it belongs to (`history.REASONS`). None stands for
    all rows whose position is no number: SQLite stores anything anywhere.
    """

    items: list[dict[str, Any]]
    unreadable: Mapping[int | None, str] = field(default_factory=dict)


def encode_item(item: Any) -> str:
    """The item as JSON text that decodes to the same value, on any engine.

    ASCII only, so NUL and lone surrogates are stored as escapes; key order, NaN, -0.0 and 1e22
    survive. Raises TypeError for what JSON cannot hold.
    """
    return _encode(item)


def row_from_item(item: Mapping[str, Any]) -> Row:
    """The row that remembers `item`."""
    role, kind = item.get("role"), item.get("type")
    role = _word(role, 20) if role else ""
    kind = _word(kind, 40) if kind else "message" if role else "unknown"
    if kind == "message":
        text = storable(message_text(item)) if role in _PEOPLE else ""
        return Row(kind, role, text=text, shown=bool(text), agent_item=encode_item(item))
    header = header_of(0, item)
    return Row(
        kind,
        role,
        _word(header.pair_id, 200),
        _word(header.program_id, 200),
        agent_item=encode_item(item),
    )


def note_row(text: str) -> Row:
    """A hidden word to the model about the conversation, such as that an answer was cut short."""
    return Row("message", "system", agent_item=encode_item({"role": "system", "content": text}))


def message_text(item: Mapping[str, Any]) -> str:
    """The plain text of a message item."""
    content = item.get("content")
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence):
        return ""
    return "".join(_part_text(part) for part in content if isinstance(part, Mapping))


def decode_items(texts: Sequence[Any]) -> list[dict[str, Any]] | None:
    """The item of each text, all decoded in one go; None when one of them holds no item."""
    try:
        items: list[Any] = jiter.from_json(("[" + ",".join(texts) + "]").encode())
    except (ValueError, TypeError):
        items = []  # perhaps what only the standard library reads: lone surrogates, deep nesting
    if len(items) == len(texts) and set(map(type, items)) <= {dict}:
        return items
    one_by_one = [item for text in texts if (item := decode_item(text)) is not None]
    return one_by_one if len(one_by_one) == len(texts) else None


def decode_item(text: Any) -> dict[str, Any] | None:
    """One item, or None where the row holds none."""
    try:
        item = json.loads(text)
    except (ValueError, TypeError, RecursionError):
        return None
    return item if isinstance(item, dict) and not _is_too_deep(item) else None


def _is_too_deep(item: dict[str, Any]) -> bool:
    """Whether it can be read but not copied: the SDK does that on every turn, and fails."""
    level: list[Any] = [item]
    for _ in range(MAX_LEVELS):
        level = [
            inner
            for value in level
            if isinstance(value, dict | list)
            for inner in (value.values() if isinstance(value, dict) else value)
        ]
        if not level:
            return False
    return True


def _part_text(part: Mapping[str, Any]) -> str:
    for key in ("text", "refusal"):
        if isinstance(part.get(key), str):
            return str(part[key])
    return ""


def _word(value: Any, limit: int) -> str:
    return storable(value)[:limit] if isinstance(value, str) else ""
