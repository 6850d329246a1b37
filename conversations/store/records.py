"""What a stream has told, recorded so that any process can tell it again, from any number on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from conversations.events import ContentDelta, TurnEvent, decode_events
from conversations.ids import lowest_id
from conversations.lanes import Database, from_moment, from_uuid
from conversations.store.log import EVENTS, TURN, Lease

TYPICAL_CHARS: Final = 8_192
_INSERT: Final = f"INSERT INTO {EVENTS} (turn_id, first_number, last_number, events)"
_OR_REPLACE: Final = (  # recorded before, although its process did not hear of it
    " ON CONFLICT (turn_id, first_number)"
    " DO UPDATE SET last_number = excluded.last_number, events = excluded.events"
)


@dataclass(frozen=True, slots=True)
class Recording:
    """Events of a turn from `first_number` to `last_number`, as `encode_events` wrote them."""

    first_number: int
    last_number: int
    events: str


def record(db: Database, recordings: Sequence[tuple[Lease, Recording]]) -> set[UUID]:
    """Keep what several turns of this process have told; returns those it has lost meanwhile."""
    lock = "" if db.is_sqlite else " FOR SHARE"  # whoever closes the turn waits, and reads this
    lost: set[UUID] = set()
    for lease, recording in recordings:
        key = from_uuid(lease.turn_id, is_sqlite=db.is_sqlite)
        kept = db.run(
            f"{_INSERT} SELECT %s, %s, %s, %s WHERE EXISTS (SELECT 1 FROM {TURN}"
            f" WHERE id = %s AND fence = %s AND status = 'running'{lock})"
            f"{_OR_REPLACE}",
            (
                key,
                recording.first_number,
                recording.last_number,
                recording.events,
                key,
                lease.fence,
            ),
        )
        if not kept:
            lost.add(lease.turn_id)
    return lost


def record_last(db: Database, *, turn_id: Any, recordings: Sequence[Recording]) -> None:
    """Keep the end of what a turn has told, within the transaction that closes it.

    The turn's key is as the engine stores it.
    """
    for each in recordings:
        db.run(
            f"{_INSERT} VALUES (%s, %s, %s, %s){_OR_REPLACE}",
            (turn_id, each.first_number, each.last_number, each.events),
        )


def read_after(
    db: Database, *, turn_id: UUID, after: int, most_chars: int = 2**40
) -> list[tuple[int, TurnEvent]]:
    """The recorded events of a turn with a number above `after`, with their numbers.

    Ends after some `most_chars` of text, and where a record cannot be read or one is missing: what
    follows could not be told in order.
    """
    rows = db.all(
        f"SELECT first_number, events FROM {EVENTS} WHERE turn_id = %s AND last_number > %s"
        " ORDER BY first_number LIMIT %s",
        (from_uuid(turn_id, is_sqlite=db.is_sqlite), after, max(1, most_chars // TYPICAL_CHARS)),
    )
    found: list[tuple[int, TurnEvent]] = []
    following, size = after + 1, 0
    for first_number, text in rows:
        size += len(text)
        if found and size > most_chars:
            break
        try:
            events = decode_events(text, turn_id=turn_id)
        except ValueError:
            break
        if first_number > following:
            break
        found += [
            (number, event)
            for number, event in enumerate(events, start=first_number)
            if number >= following
        ]
        following = max(following, first_number + len(events))
    return found


def recorded_answer(db: Database, *, turn_id: UUID) -> tuple[str, int]:
    """All that was recorded of a turn's answer, and the number of the last recorded event."""
    events = read_after(db, turn_id=turn_id, after=0)
    said = "".join(event.text for _, event in events if isinstance(event, ContentDelta))
    return said, events[-1][0] if events else 0


def last_recorded(db: Database, *, turn_id: UUID) -> int:
    """The number of the last recorded event of a turn; 0 where nothing is recorded (any more)."""
    key = from_uuid(turn_id, is_sqlite=db.is_sqlite)
    (last,) = db.one(f"SELECT MAX(last_number) FROM {EVENTS} WHERE turn_id = %s", (key,))
    return int(last or 0)


def forget_ended(db: Database, *, ended_before: datetime, limit: int) -> int:
    """Drop what is recorded of up to `limit` turns that ended before that; returns how many.

    A turn begins before it ends: by their ids, later ones are not even looked at.
    """
    rows = db.all(
        f"SELECT DISTINCT recorded.turn_id FROM {EVENTS} recorded"
        f" JOIN {TURN} turn ON turn.id = recorded.turn_id"
        " WHERE recorded.turn_id < %s AND turn.finished_at < %s LIMIT %s",
        (
            from_uuid(lowest_id(ended_before), is_sqlite=db.is_sqlite),
            from_moment(ended_before, is_sqlite=db.is_sqlite),
            limit,
        ),
    )
    keys = [key for (key,) in rows]
    if keys:
        marks = ", ".join(["%s"] * len(keys))
        db.run(f"DELETE FROM {EVENTS} WHERE turn_id IN ({marks})", keys)
    return len(keys)
