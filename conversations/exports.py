"""Conversations as files: all that their owner could read, told piece by piece.

However long a conversation is, one page of it is in memory. Every piece is read by itself, so that
an export waits for nobody and nobody for it; what is said meanwhile may be in it or not.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final, Literal
from uuid import UUID

from conversations import lanes
from conversations.errors import ThreadNotFound
from conversations.items import decode_item
from conversations.store import exporting
from conversations.store.exporting import Entry, File, Head, Turn
from conversations.store.thread_items import HIDDEN_KINDS

Format = Literal["json", "markdown", "jsonl"]
MEDIA_TYPES: Final[dict[Format, str]] = {
    "json": "application/json",
    "markdown": "text/markdown; charset=utf-8",
    "jsonl": "application/x-ndjson",
}
SUFFIXES: Final[dict[Format, str]] = {"json": "json", "markdown": "md", "jsonl": "jsonl"}
_SPEAKERS: Final = {"user": "You", "assistant": "Assistant"}


@dataclass(frozen=True, slots=True)
class Told:
    """How much was exported so far."""

    conversations: int = 0
    messages: int = 0


def export_session(
    *, session_id: UUID, owner_id: Any, format: Format, now: datetime
) -> Iterator[str]:
    """One conversation in pieces of text, to be joined; sync, like all that reads with `lanes`.

    Without an owner it is anybody's. Raises ThreadNotFound before the first piece.
    """
    head = lanes.look_up(partial(exporting.read_head, session_id=session_id, owner_id=owner_id))
    tell = {"json": _as_json, "markdown": _as_markdown, "jsonl": _as_lines}[format]
    yield from tell(head, now)


def export_sessions(
    *,
    owner_id: Any,
    now: datetime,
    told: Callable[[Told], object] = lambda so_far: None,
    only: UUID | None = None,
) -> Iterator[str]:
    """All conversations of one owner, or of everybody, as NDJSON in pieces: each is one line.

    A line is what `export_session` tells as JSON. What is deleted meanwhile is left out.
    """
    conversations = messages = 0
    for session_id in _session_ids(owner_id) if only is None else [only]:
        read = partial(exporting.read_head, session_id=session_id, owner_id=owner_id)
        try:
            head = lanes.look_up(read)
        except ThreadNotFound:
            if only is not None:
                raise
            continue
        yield from _as_json(head, now)
        conversations, messages = conversations + 1, messages + head.message_count
        told(Told(conversations, messages))


def _session_ids(owner_id: Any) -> Iterator[UUID]:
    last = None
    while found := lanes.look_up(partial(exporting.list_ids, owner_id=owner_id, after=last)):
        yield from found
        last = found[-1]


def _as_json(head: Head, now: datetime) -> Iterator[str]:
    """One object on one line, its lists told page by page."""
    yield _encode(_head(head, now))[:-1]
    lists: dict[str, Iterator[list[dict[str, Any]]]] = {
        "messages": ([*map(_message, page)] for page in _entries(head)),
        "turns": ([*map(_turn, page)] for page in _turns(head)),
        "attachments": ([*map(_file, page)] for page in _files(head)),
    }
    for name, pages in lists.items():
        yield f',"{name}":['
        separator = ""
        for page in pages:
            if page:
                yield separator + ",".join(map(_encode, page))
                separator = ","
        yield "]"
    yield "}\n"


def _as_lines(head: Head, now: datetime) -> Iterator[str]:
    """A line for the conversation, and one for each message, turn and file: `type` says which."""
    yield _encode({"type": "conversation"} | _head(head, now)) + "\n"
    pages: list[tuple[str, Iterator[list[dict[str, Any]]]]] = [
        ("message", ([*map(_message, page)] for page in _entries(head))),
        ("turn", ([*map(_turn, page)] for page in _turns(head))),
        ("attachment", ([*map(_file, page)] for page in _files(head))),
    ]
    for kind, found in pages:
        for page in found:
            yield "".join(_encode({"type": kind} | each) + "\n" for each in page)


def _as_markdown(head: Head, now: datetime) -> Iterator[str]:
    """For people: what was said, by whom and when."""
    title = " ".join(head.title.split()) or "Conversation"
    yield f"# {title}\n\nConversation {head.id}, begun {_day(head.created_at)}.\n"
    for page in _entries(head):
        yield "".join(map(_section, page))


def _section(entry: Entry) -> str:
    who = _SPEAKERS.get(entry.role, "Assistant")
    when = f", {_day(entry.created_at)}" if entry.created_at else ""
    words = entry.text
    if not entry.shown:
        words = f"*[{entry.kind.replace('_', ' ')}]*" + (f"\n\n{words}" if words else "")
    if entry.incomplete:
        words += "\n\n*[cut short]*"
    if entry.feedback is not None:
        kind, comment = entry.feedback
        words += f"\n\n*[{kind} feedback{': ' if comment else ''}{' '.join(comment.split())}]*"
    return f"\n## {who}{when}\n\n{words.rstrip()}\n"


def _entries(head: Head) -> Iterator[list[Entry]]:
    last, read = None, partial(exporting.read_entries, head=head)
    while (page := lanes.look_up(partial(read, after=last))) is not None:
        entries, last = page
        yield [entry for entry in entries if not _is_hidden(entry)]


def _turns(head: Head) -> Iterator[list[Turn]]:
    last, read = None, partial(exporting.read_turns, key=head.key)
    while page := lanes.look_up(partial(read, after=last)):
        yield page
        last = page[-1].number


def _files(head: Head) -> Iterator[list[File]]:
    last, read = None, partial(exporting.read_files, key=head.key)
    while page := lanes.look_up(partial(read, after=last)):
        yield page
        last = page[-1].key


def _is_hidden(entry: Entry) -> bool:
    """Also where a damaged kind does not say so."""
    if entry.shown or entry.thread_item is None:
        return False
    item = decode_item(entry.thread_item)
    return item is None or item.get("type") in HIDDEN_KINDS


def _head(head: Head, now: datetime) -> dict[str, Any]:
    return {
        "thread_id": head.id,
        "title": head.title,
        "status": head.status,
        "metadata": head.metadata,
        "created_at": head.created_at,
        "updated_at": head.updated_at,
        "last_active_at": head.last_active_at,
        "exported_at": now.astimezone(UTC),
    }


def _message(entry: Entry) -> dict[str, Any]:
    """A message as REST tells it; `item` where ChatKit's thread item says more than its text."""
    told: dict[str, Any] = {
        "message_id": entry.id,
        "role": entry.role,
        "content": entry.text,
        "created_at": entry.created_at,
        "turn_id": entry.turn_id,
        "incomplete": entry.incomplete,
    }
    if entry.feedback is not None:
        told["feedback"] = dict(zip(("kind", "comment"), entry.feedback, strict=True))
    item = decode_item(entry.thread_item) if entry.thread_item is not None else None
    if item is not None:
        told["item"] = item
    return told


def _turn(turn: Turn) -> dict[str, Any]:
    told = {
        "turn_id": turn.id,
        "status": turn.status,
        "model": turn.model,
        "input_tokens": turn.input_tokens,
        "output_tokens": turn.output_tokens,
        "error": turn.error_code or None,
        "warning": turn.warning or None,
        "queued_at": turn.queued_at,
        "started_at": turn.started_at,
        "finished_at": turn.finished_at,
    }
    return told | ({"waiting": turn.waiting_text} if turn.waiting_text else {})


def _file(file: File) -> dict[str, Any]:
    return {
        "attachment_id": file.id,
        "message_id": file.message_id,
        "name": file.name,
        "mime_type": file.mime_type,
        "size": file.size,
        "created_at": file.created_at,
    }


def _encode(value: Any) -> str:
    """JSON that every reader takes: no NaN, and escapes for what UTF-8 cannot hold."""
    dump = partial(json.dumps, default=_as_text, separators=(",", ":"), allow_nan=False)
    try:
        text = dump(value, ensure_ascii=False)
        text.encode()
    except UnicodeEncodeError:
        return dump(value)
    except ValueError:
        return _encode(_finite(value))
    return text


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    return [_finite(inner) for inner in value] if isinstance(value, list) else value


def _as_text(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _day(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"
