"""Putting entries that are set aside back into the memory, where it stays valid with them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple
from uuid import UUID

from conversations.errors import ThreadBusy, ThreadNotFound
from conversations.history import REASONS, Header, header_of, misplaced
from conversations.items import decode_item, row_from_item
from conversations.lanes import Database, from_uuid
from conversations.store.damage import count_of, text_of, uuid_of
from conversations.store.log import MESSAGE, SESSION, TURN
from conversations.store.recall import as_bytes, count_again, position_in

WHY_NOT: Final = REASONS | {
    "forgotten": "it is older than what is remembered by now",
    "in the way": "what is remembered does not go together with it",
    "not set aside": "it is not set aside any more",
}
"""Why an entry is not put back."""

_SUMMARY: Final = frozenset({"reasoning", "compaction"})  # kept from before the memory's beginning


@dataclass(frozen=True, slots=True)
class Restored:
    """Which entries are remembered again, and which are not: each with a key of `WHY_NOT`."""

    message_ids: tuple[UUID, ...]
    left: Mapping[UUID, str]


class _Entry(NamedTuple):
    id: UUID | None
    header: Header | None
    """None where the position is no number."""
    item: dict[str, Any] | None
    is_aside: bool


def restore(
    db: Database, *, session_id: UUID, message_ids: Iterable[UUID] | None = None
) -> Restored:
    """Put back those of the entries, or of all that are set aside, that fit into the memory.

    An entry fits that holds an item, is not older than the memory, and finds what it belongs to
    there or among those that come back with it; and nothing that is remembered is misplaced by it.
    An entry whose id cannot be read is left alone. Like pruning, this is no activity.

    Raises ThreadNotFound, and ThreadBusy while a turn runs: it has read its memory already.
    """
    key = from_uuid(session_id, is_sqlite=db.is_sqlite)
    is_pruned = _lock(db, key)
    entries = _read(db, key)
    remembered = [entry.header for entry in entries if entry.header and not entry.is_aside]
    aside = {entry.id: entry for entry in entries if entry.id and entry.is_aside}
    asked = dict.fromkeys(aside if message_ids is None else message_ids)
    wanted = {
        entry.header.position: entry for entry in map(aside.get, asked) if entry and entry.header
    }
    misfits = find_misfits(
        remembered,
        [entry.header for entry in entries if entry.header and entry.is_aside],
        wanted=wanted,
        begins_at=_begins_at(remembered) if is_pruned else None,
    )
    fitting = {position: entry for position, entry in wanted.items() if position not in misfits}
    if fitting:
        _put_back(db, key, fitting)
    left = {name: _why_not(aside.get(name), misfits) for name in asked}
    return Restored(
        tuple(name for name, why in left.items() if not why),
        {name: why for name, why in left.items() if why},
    )


def find_misfits(
    remembered: Sequence[Header],
    aside: Sequence[Header],
    *,
    wanted: Collection[int],
    begins_at: int | None = None,
) -> dict[int, str]:
    """The wanted positions among those set aside that must stay there, each with a reason.

    What stays there is lost to what belongs to it: an item does not come back without its
    reasoning.
    """
    left = {
        header.position: "unreadable" if header.is_lost else "forgotten"
        for header in aside
        if header.position in wanted
        and (header.is_lost or (begins_at is not None and header.position < begins_at))
    }
    chosen = set(wanted) - left.keys()
    headers = sorted([*remembered, *aside], key=lambda header: header.position)
    known = misplaced(remembered)
    while chosen:
        outside = {header.position for header in aside} - chosen
        lacking = misplaced([header for header in headers if header.position not in outside])
        lost = misplaced(
            [
                header._replace(is_lost=True) if header.position in outside else header
                for header in headers
            ]
        )
        refused = {
            position: why for position, why in (lost | lacking).items() if position in chosen
        } or {
            _nearest(chosen, position, after=why == "no follower"): "in the way"
            for position, why in lacking.items()
            if position not in known
        }
        if not refused:
            break
        left |= refused
        chosen -= refused.keys()
    return left


def _nearest(positions: Collection[int], position: int, *, after: bool) -> int:
    """The nearest of the positions, on the given side if there is one."""
    return min(positions, key=lambda other: ((other > position) != after, abs(other - position)))


def _begins_at(remembered: Sequence[Header]) -> int | None:
    """Where a memory begins that was pruned: after its summary."""
    for header in remembered:
        if header.kind not in _SUMMARY:
            return header.position
    return remembered[-1].position if remembered else None


def _lock(db: Database, key: Any) -> bool:
    """Hold the session's row, and say whether its memory was pruned."""
    lock = "" if db.is_sqlite else " FOR UPDATE"
    found = db.one(
        f"SELECT pruned_count, EXISTS (SELECT 1 FROM {TURN} WHERE session_id = {SESSION}.id"
        f" AND status = 'running') FROM {SESSION} WHERE id = %s{lock}",
        (key,),
    )
    if found is None:
        raise ThreadNotFound
    pruned_count, is_running = found
    if is_running:
        raise ThreadBusy
    return count_of(pruned_count) > 0


def _read(db: Database, key: Any) -> list[_Entry]:
    """What is remembered and what is set aside, in order, whatever is in the columns."""
    rows = db.all(
        f"SELECT {as_bytes(db, 'id')}, {position_in(db)}, {as_bytes(db, 'kind')},"
        f" {as_bytes(db, 'agent_item')}, CASE WHEN quarantined_at IS NULL THEN 0 ELSE 1 END"
        f" FROM {MESSAGE} WHERE session_id = %s AND forgotten_at IS NULL"
        " AND (agent_item IS NOT NULL OR quarantined_at IS NOT NULL) ORDER BY position",
        (key,),
    )
    entries = []
    for message_id, position, kind, agent_item, is_aside in rows:
        item, header = decode_item(agent_item), None
        if position is not None and item is not None:
            header = header_of(position, item)
        elif position is not None:
            header = Header(position, text_of(kind), is_lost=True)
        entries.append(_Entry(uuid_of(message_id), header, item, bool(is_aside)))
    return entries


def _put_back(db: Database, key: Any, fitting: Mapping[int, _Entry]) -> None:
    """Remember the entries again; their columns are to tell what their items tell."""
    rows = [
        (row_from_item(entry.item), position)
        for position, entry in fitting.items()
        if entry.item is not None
    ]
    db.run_many(
        f"UPDATE {MESSAGE} SET quarantined_at = NULL, quarantine_reason = '', kind = %s, role = %s,"
        " call_id = %s, caller_id = %s WHERE session_id = %s AND position = %s",
        [(row.kind, row.role, row.call_id, row.caller_id, key, position) for row, position in rows],
    )
    count_again(db, session_id=key)


def _why_not(entry: _Entry | None, misfits: Mapping[int, str]) -> str:
    if entry is None:
        return "not set aside"
    return misfits.get(entry.header.position, "") if entry.header else "no position"
