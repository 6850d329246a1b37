"""What a turn is given of a conversation: exactly for the next one, and for an earlier one as far
as its rows still tell.

Nothing is set aside here, and nothing written: staff look, the turns repair.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from conversations.history import Header, header_of, misplaced
from conversations.items import decode_item
from conversations.lanes import Database, from_uuid
from conversations.store.damage import select
from conversations.store.log import MESSAGE, REMEMBERED, TURN
from conversations.store.recall import as_bytes
from conversations.store.transcript_turns import ReviewedTurn
from conversations.store.transcripts import ENTRY, Entry, entry_of

GIVEN: Final = "given"
MAYBE: Final = "maybe"
LEFT_OUT: Final = "left out"
NEVER: Final = "never"


@dataclass(frozen=True, slots=True)
class WindowEntry:
    """One entry, whether it was given, and why not. `item` is what the model gets, whole."""

    entry: Entry
    state: str
    reason: str = ""
    item: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Window:
    """What the next turn is given, in order, with what is left out in its place."""

    entries: list[WindowEntry]

    @property
    def items(self) -> list[dict[str, Any]]:
        return [entry.item for entry in self.entries if entry.item is not None]


@dataclass(frozen=True, slots=True)
class PastWindow:
    """What can be told of what a turn was given.

    `is_certain`: nothing that it may have been given is gone or changed since. `gone_count` is how
    many positions before it stand for nothing any more, and `earlier_count` how many entries came
    before those that are looked at.
    """

    entries: list[WindowEntry]
    said: list[Entry] = field(default_factory=list)
    gone_count: int = 0
    earlier_count: int = 0
    is_certain: bool = False


def next_window(db: Database, *, session_id: UUID) -> Window:
    """What a turn that begins now is given: the rules are those of `recall.load_window`."""
    key = from_uuid(session_id, is_sqlite=db.is_sqlite)
    rest = f"FROM {MESSAGE} WHERE session_id = %s AND {REMEMBERED} ORDER BY position"
    rows = select(db, [*ENTRY, as_bytes(db, "agent_item")], rest, (key,))
    found: list[tuple[Entry, dict[str, Any] | None]] = []
    headers: list[Header] = []
    for row in rows:
        entry = entry_of(row[:-1])
        item = decode_item(row[-1]) if entry.position is not None else None
        found.append((entry, item))
        if entry.position is not None:
            headers.append(
                Header(entry.position, entry.kind, is_lost=True)
                if item is None
                else header_of(entry.position, item)
            )
    lacking = misplaced(headers)
    return Window([_in_window(entry, item, lacking) for entry, item in found])


def window_of_turn(
    db: Database, *, session_id: UUID, turn: ReviewedTurn, begins_at: int | None, limit: int
) -> PastWindow:
    """What an earlier turn was given, of the last `limit` entries before it, as far as rows tell.

    `begins_at` is where the memory begins today: what lost its item before there was pruned, at a
    time that no column holds; after there, it never was remembered.
    """
    key, turn_key = (from_uuid(each, is_sqlite=db.is_sqlite) for each in (session_id, turn.id))
    placed = " AND typeof(position) = 'integer'" if db.is_sqlite else ""
    said_key = from_uuid(turn.user_message_id, is_sqlite=db.is_sqlite)
    of_it = f"session_id = %s AND (turn_id = %s OR id = %s){placed}"
    said = [
        entry_of(row)
        for row in select(
            db,
            ENTRY,
            f"FROM {MESSAGE} WHERE {of_it} ORDER BY position LIMIT %s",
            (key, turn_key, said_key, limit),
        )
    ]
    first = said[0].position if said else _place_after(db, key, turn_key, placed)
    if first is None:
        return PastWindow([], said)
    rest = (
        f"FROM {MESSAGE} WHERE session_id = %s AND position < %s{placed}"
        " ORDER BY position DESC LIMIT %s"
    )
    entries = [entry_of(row) for row in select(db, ENTRY, rest, (key, first, limit))]
    entries.reverse()
    lowest = entries[0].position if entries else first
    (earlier,) = db.one(
        f"SELECT COUNT(*) FROM {MESSAGE} WHERE session_id = %s AND position < %s{placed}",
        (key, lowest),
    )
    gone = first - 1 - len(entries) - int(earlier)
    windowed = [_as_it_was(entry, turn, begins_at=begins_at) for entry in entries]
    is_certain = not (gone or earlier or any(entry.state == MAYBE for entry in windowed))
    return PastWindow(windowed, said, gone, int(earlier), is_certain)


def _in_window(entry: Entry, item: dict[str, Any] | None, lacking: dict[int, str]) -> WindowEntry:
    if entry.position is None:
        return WindowEntry(entry, LEFT_OUT, "no position")
    if item is None:
        return WindowEntry(entry, LEFT_OUT, "unreadable")
    if entry.position in lacking:
        return WindowEntry(entry, LEFT_OUT, lacking[entry.position])
    return WindowEntry(entry, GIVEN, item=item)


def _as_it_was(entry: Entry, turn: ReviewedTurn, *, begins_at: int | None) -> WindowEntry:
    started, ended = turn.started_at or turn.queued_at, turn.finished_at
    if entry.is_set_aside:
        if _is_after(entry.quarantined_at, ended):
            return WindowEntry(entry, MAYBE, "set aside later: " + entry.quarantine_reason)
        return WindowEntry(entry, LEFT_OUT, entry.quarantine_reason)
    if entry.forgotten_at is not None:
        if _is_after(entry.forgotten_at, started):
            return WindowEntry(entry, GIVEN, "forgotten later")
        return WindowEntry(entry, LEFT_OUT, "forgotten before")
    if entry.item is not None:
        return WindowEntry(entry, GIVEN)
    if begins_at is None or entry.position is None or entry.position < begins_at:
        return WindowEntry(entry, MAYBE, "pruned")
    return WindowEntry(entry, NEVER)


def _is_after(moment: datetime | None, other: datetime | None) -> bool:
    return moment is not None and other is not None and moment > other


def _place_after(db: Database, key: Any, turn_key: Any, placed: str) -> int | None:
    """Where a turn without entries stood: where the next turn with some begins."""
    row = db.one(
        f"SELECT MIN(position) FROM {MESSAGE} WHERE session_id = %s{placed} AND turn_id IN"
        f" (SELECT id FROM {TURN} WHERE session_id = %s AND number >"
        f" (SELECT number FROM {TURN} WHERE id = %s))",
        (key, key, turn_key),
    )
    return int(row[0]) if row and row[0] is not None else None
