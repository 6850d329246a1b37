"""Between the SDK's items and our rows: exact JSON one way and back, and what people may read."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

import jiter

from conversations.ids import new_id, storable

_PEOPLE: Final = {"user", "assistant"}
_encode: Final = json.JSONEncoder(separators=(",", ":")).encode


@dataclass(frozen=True, slots=True)
class Row:
    """One entry of the log before it has a position."""

    kind: str
    role: str = ""
    call_id: str = ""
    text: str = ""
    shown: bool = False
    agent_item: str | None = None
    thread_item: str | None = None
    incomplete: bool = False
    id: UUID = field(default_factory=new_id)


@dataclass(frozen=True, slots=True)
class Memory:
    """What was read back: the items, and the positions of rows that hold no item."""

    items: list[dict[str, Any]]
    unreadable: tuple[int, ...] = ()


def encode_item(item: Any) -> str:
    """The item as JSON text that decodes to the same value, on any engine.

    ASCII only, so NUL and lone surrogates are stored as escapes; key order, NaN, -0.0 and 1e22
    survive. Raises TypeError for what JSON cannot hold.
    """
    return _encode(item)


def row_from_item(item: Mapping[str, Any]) -> Row:
    """The row that remembers `item`."""
    role, kind, call_id = item.get("role"), item.get("type"), item.get("call_id")
    role = _word(role, 20) if role else ""
    kind = _word(kind, 40) if kind else "message" if role else "unknown"
    text = storable(message_text(item)) if kind == "message" and role in _PEOPLE else ""
    return Row(
        kind,
        role,
        _word(call_id, 200) if call_id else "",
        text,
        bool(text),
        encode_item(item),
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


def decode_rows(rows: Sequence[tuple[int, str]]) -> Memory:
    """Items from (position, JSON text) rows, in their order; a bad row costs only itself."""
    try:
        items = jiter.from_json(("[" + ",".join([text for _, text in rows]) + "]").encode())
    except (ValueError, TypeError):
        return _decode_one_by_one(rows)  # also what only the standard library reads: surrogates
    if len(items) != len(rows) or any(type(item) is not dict for item in items):
        return _decode_one_by_one(rows)
    return Memory(items)


def _decode_one_by_one(rows: Iterable[tuple[int, Any]]) -> Memory:
    items: list[dict[str, Any]] = []
    unreadable: list[int] = []
    for position, text in rows:
        item = decode_item(text)
        if item is None:
            unreadable.append(position)
        else:
            items.append(item)
    return Memory(items, tuple(unreadable))


def decode_item(text: Any) -> dict[str, Any] | None:
    """One item, or None where the row holds none."""
    try:
        item = json.loads(text)
    except (ValueError, TypeError, RecursionError):
        return None
    return item if isinstance(item, dict) else None


def _part_text(part: Mapping[str, Any]) -> str:
    for key in ("text", "refusal"):
        if isinstance(part.get(key), str):
            return str(part[key])
    return ""


def _word(value: Any, limit: int) -> str:
    return storable(value)[:limit] if isinstance(value, str) else ""
