"""An entry of the log as a piece of a page: what it is called, and what may be seen of it.

All text in it is text. The one thing that is HTML is made by `markdown`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from django.utils.safestring import SafeString, mark_safe

from conversations.history import OUTPUT_OF, REASONS
from conversations.ids import storable
from conversations.items import decode_item
from conversations.markdown import plain_to_html, to_html
from conversations.store.thread_items import HIDDEN_KINDS
from conversations.store.transcripts import ITEM_CHARS, TEXT_CHARS, Entry, File, Judged

MARKDOWN_CHARS: Final = 100_000
"""Of one page. What comes after is shown as it was written."""
WITHHELD: Final = "You may not see this entry."
_ANSWERS: Final = frozenset(OUTPUT_OF.values())
# Marks that turn the direction of text, or that no page can show.
_UNSEEN: Final = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u202a-\u202e\u2066-\u2069\ufeff]"
)


@dataclass(frozen=True, slots=True)
class Fold:
    """Something that is folded away: its name, its text, and how much of it is shown."""

    name: str
    text: str
    cut: str = ""


@dataclass(frozen=True, slots=True)
class Piece:
    """One entry as a page shows it. `sort` is a word that the stylesheet knows."""

    sort: str
    label: str
    id: UUID | None = None
    position: int | None = None
    time: str = ""
    iso: str = ""
    html: SafeString | None = None
    cut: str = ""
    folds: list[Fold] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    why: str = ""
    judged: Judged | None = None
    files: list[File] = field(default_factory=list)
    is_set_aside: bool = False


class Pieces:
    """Makes pieces of the entries of one page."""

    def __init__(
        self,
        entries: Sequence[Entry],
        *,
        sees_hidden: bool,
        feedback: Mapping[UUID, Judged] | None = None,
        files: Mapping[UUID, list[File]] | None = None,
    ) -> None:
        self._sees_hidden = sees_hidden
        self._feedback, self._files = feedback or {}, files or {}
        self._markdown_left = MARKDOWN_CHARS
        self._tools: dict[str, str] = {}
        for entry in entries:
            if entry.kind in OUTPUT_OF and entry.call_id:
                self._tools[entry.call_id] = _tool_name(entry)

    def of(self, entry: Entry) -> Piece:
        """The entry, as far as it may be seen."""
        sort, label = self._named(entry)
        common: dict[str, Any] = {
            "id": entry.id,
            "position": entry.position,
            **_times(entry.created_at),
            "notes": _notes(entry),
            "is_set_aside": entry.is_set_aside,
        }
        if entry.is_set_aside:
            common["why"] = f"Set aside: {_why(entry.quarantine_reason)}."
        if sort == "inner" and not self._sees_hidden:
            return Piece("withheld", label, **common | {"why": common.get("why", "") or WITHHELD})
        if entry.is_set_aside:
            common["folds"] = [_fold("As it is stored", entry.item, entry.item_length)]
            if sort in {"said", "answer"}:
                common["html"] = self._html(entry, sort)
                common["cut"] = _cut(entry.text_length, TEXT_CHARS)
            return Piece("aside" if sort == "inner" else sort, label, **common)
        if entry.id is not None:
            common |= {
                "judged": self._feedback.get(entry.id),
                "files": self._files.get(entry.id, []),
            }
        return Piece(sort, label, **self._content(entry, sort), **common)

    def exact(self, entry: Entry) -> Piece:
        """The same, with the item as the model gets it."""
        piece = self.of(entry)
        if piece.sort == "withheld" or entry.item is None or entry.is_set_aside:
            return piece
        return replace(piece, folds=[_fold("Exact item", entry.item, entry.item_length)])

    def _named(self, entry: Entry) -> tuple[str, str]:
        """What sort of piece an entry is, and what it is called."""
        if entry.kind == "message" and entry.shown:
            return ("said", "Person") if entry.role == "user" else ("answer", "Assistant")
        if entry.kind in _ANSWERS:
            return "tool", f"{self._tools.get(entry.call_id) or _words(entry.kind)}: output"
        if entry.kind in OUTPUT_OF or entry.kind.endswith("_call"):
            return "tool", f"{_tool_name(entry)}: called"
        if entry.shown or (entry.thread_item is not None and entry.kind not in HIDDEN_KINDS):
            return "item", _words(entry.kind)
        if entry.kind == "reasoning":
            return "inner", "Reasoning"
        if entry.kind == "message":
            return "inner", f"Hidden message ({entry.role or 'nobody'})"
        return "inner", f"Hidden entry ({_words(entry.kind).lower()})"

    def _content(self, entry: Entry, sort: str) -> dict[str, Any]:
        if sort in {"said", "answer"}:
            cut = _cut(entry.text_length, TEXT_CHARS)
            folds = []
            if entry.thread_item is not None and self._sees_hidden:
                folds = [_fold("Thread item", entry.thread_item, entry.thread_item_length)]
            return {"html": self._html(entry, sort), "cut": cut, "folds": folds}
        html = mark_safe(plain_to_html(entry.text)) if entry.text else None  # noqa: S308 - escaped
        return {"html": html, "folds": _folds(entry)}

    def _html(self, entry: Entry, sort: str) -> SafeString:
        """A person's words as typed; the assistant's as the Markdown they are."""
        is_marked = sort == "answer" and self._markdown_left > 0
        if is_marked:
            self._markdown_left -= len(entry.text)
        text = to_html(entry.text) if is_marked else plain_to_html(entry.text)
        return mark_safe(text)  # noqa: S308 - made by `markdown`, which passes no HTML on


def waiting_piece(text: str) -> Piece:
    """What somebody has said that no turn has taken up yet."""
    html = mark_safe(plain_to_html(text))  # noqa: S308 - escaped
    return Piece("said", "Person, waiting", html=html)


def visible(text: str) -> str:
    """Text of a machine, with what cannot be seen, or would turn its direction, spelled out."""
    return _UNSEEN.sub(lambda found: f"\\u{ord(found[0]):04x}", storable(text))


def _folds(entry: Entry) -> list[Fold]:
    """What is folded away of an entry that is no message."""
    if entry.item is None:
        return (
            [_fold("Thread item", entry.thread_item, entry.thread_item_length)]
            if entry.thread_item is not None
            else []
        )
    item = decode_item(entry.item) if entry.item_length <= ITEM_CHARS else None
    if item is None:
        return [_fold("As it is stored", entry.item, entry.item_length)]
    if entry.kind in _ANSWERS and "output" in item:
        return [_fold_of("Output", item["output"])]
    if "arguments" in item:
        return [_fold_of("Arguments", item["arguments"])]
    if entry.kind == "reasoning" and (text := _summary(item)):
        return [_fold_of("Summary", text)]
    if entry.kind == "message":
        return [_fold_of("Content", item.get("content"))]
    return [_fold_of("Item", item)]


def _fold_of(name: str, value: Any) -> Fold:
    """A value of an item: text as it is, JSON in lines."""
    text = value if isinstance(value, str) else None
    try:
        decoded = json.loads(text) if text is not None and text[:1] in "{[" else value
        if not isinstance(decoded, str):
            text = json.dumps(decoded, indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        pass
    text = str(value) if text is None else text
    return _fold(name, text, len(text))


def _fold(name: str, text: str | None, length: int) -> Fold:
    return Fold(name, visible((text or "")[:TEXT_CHARS]), _cut(length, TEXT_CHARS))


def _cut(length: int, limit: int) -> str:
    return f"The first {limit:,} of {length:,} characters." if length > limit else ""


def _notes(entry: Entry) -> list[str]:
    notes = []
    if entry.incomplete:
        notes.append("Cut short")
    if entry.position is None:
        notes.append("Its place is no number")
    if entry.forgotten_at is not None:
        notes.append("Kept for a hold; no longer in the memory")
    return notes


def _times(moment: datetime | None) -> dict[str, str]:
    """A time for people and one for programs, in UTC."""
    if moment is None:
        return {}
    return {"time": f"{moment:%Y-%m-%d %H:%M:%S}", "iso": moment.isoformat()}


def _why(reason: str) -> str:
    return REASONS.get(reason, visible(reason) or "no reason is stored")


def _tool_name(entry: Entry) -> str:
    item = decode_item(entry.item) if entry.item_length <= ITEM_CHARS else None
    name = item.get("name") if item else None
    return visible(name)[:100] if isinstance(name, str) and name else _words(entry.kind)


def _summary(item: Mapping[str, Any]) -> str:
    parts = [
        part["text"]
        for key in ("summary", "content")
        if isinstance(item.get(key), list)
        for part in item[key]
        if isinstance(part, dict) and isinstance(part.get("text"), str)
    ]
    return "\n\n".join(parts)


def _words(kind: str) -> str:
    return visible(kind).replace("_", " ").strip().capitalize() or "No kind"
