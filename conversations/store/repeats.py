"""A message sent again with the same idempotency key: which turn it began, and how that ended."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from conversations.errors import IdempotencyConflict
from conversations.events import Usage
from conversations.lanes import Database, from_uuid, to_moment, to_uuid
from conversations.store.damage import select, text_of
from conversations.store.leases import Held
from conversations.store.log import MESSAGE, TURN

KEY_LIFETIME: Final = timedelta(hours=24)
_LIVE: Final = {"queued", "running"}


@dataclass(frozen=True, slots=True)
class Repeat:
    """The turn that this key began already."""

    turn_id: UUID
    session_id: UUID
    number: int


@dataclass(frozen=True, slots=True)
class Ending:
    """How a turn stands."""

    status: str
    has_started: bool
    held: Held
    event_count: int
    error_code: str
    warning: str
    usage: Usage
    user_message_id: UUID | None
    answer_message_id: UUID | None

    @property
    def is_live(self) -> bool:
        return self.status in _LIVE


def find_repeat(
    db: Database,
    *,
    session_id: UUID,
    key: str,
    text: str | None,
    now: datetime,
    frees: bool = True,
) -> Repeat | None:
    """The turn `key` began in the last 24 hours; an older one gives the key back, if it `frees`.

    Raises IdempotencyConflict when something else was said; without a `text`, anything may have
    been. What was said and then cleared counts as the same.
    """
    row = db.one(
        f"SELECT turn.id, turn.number, turn.queued_at, CASE WHEN turn.status = 'queued'"
        f" THEN turn.input ELSE message.text END FROM {TURN} turn"
        f" LEFT JOIN {MESSAGE} message ON message.id = turn.user_message_id"
        " WHERE turn.session_id = %s AND turn.idempotency_key = %s",
        (from_uuid(session_id, is_sqlite=db.is_sqlite), key),
    )
    if row is None:
        return None
    turn_id, number, queued_at, said = row
    if (to_moment(queued_at) or now) <= now - KEY_LIFETIME:
        if frees:
            db.run(f"UPDATE {TURN} SET idempotency_key = NULL WHERE id = %s", (turn_id,))
        return None
    if said is not None and text is not None and said != text:
        raise IdempotencyConflict
    return Repeat(to_uuid(turn_id), session_id, number)


def find_ending(db: Database, *, turn_id: UUID) -> Ending | None:
    """How a turn stands; None when it is gone with its conversation."""
    row = db.one(
        "SELECT status, started_at, lease_owner, lease_until, event_count, error_code, warning,"
        " requests, input_tokens, output_tokens, user_message_id, answer_message_id"
        f" FROM {TURN} WHERE id = %s",
        (from_uuid(turn_id, is_sqlite=db.is_sqlite),),
    )
    if row is None:
        return None
    status, started_at, owner, until, event_count, error_code, warning, *usage = row[:10]
    user_message_id, answer_message_id = (to_uuid(key) if key else None for key in row[10:])
    return Ending(
        status=status,
        has_started=started_at is not None,
        held=Held(owner, until),
        event_count=event_count,
        error_code=error_code,
        warning=warning,
        usage=Usage(*usage),
        user_message_id=user_message_id,
        answer_message_id=answer_message_id,
    )


def read_answer(db: Database, *, message_id: UUID | None) -> str:
    """The stored answer of a turn, as far as it can be read; it may be long."""
    key = from_uuid(message_id, is_sqlite=db.is_sqlite)
    rows = select(db, ["text"], f"FROM {MESSAGE} WHERE id = %s", (key,)) if key else []
    return text_of(rows[0][0]) if rows else ""
