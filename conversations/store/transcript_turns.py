"""The turns of a conversation, for staff: what each cost, and how it ended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from conversations.errors import ItemNotFound
from conversations.lanes import Database, from_uuid
from conversations.store.damage import (
    Columns,
    count_of,
    moment_of,
    select,
    text_of,
    turn_status_of,
    uuid_of,
    values_of,
)
from conversations.store.log import TURN
from conversations.store.transcripts import TEXT_CHARS

_MOST_TURNS: Final = 1_000
_TURN: Final[Columns] = {
    "id": uuid_of,
    "number": count_of,
    "status": turn_status_of,
    "model": text_of,
    "requests": count_of,
    "input_tokens": count_of,
    "output_tokens": count_of,
    "error_code": text_of,
    "warning": text_of,
    "user_message_id": uuid_of,
    "stop_requested_at": moment_of,
    "queued_at": moment_of,
    "started_at": moment_of,
    "first_token_at": moment_of,
    "finished_at": moment_of,
    f"SUBSTR(input, 1, {TEXT_CHARS})": text_of,
}


@dataclass(frozen=True, slots=True)
class ReviewedTurn:
    """One turn, with what it cost and how it ended."""

    id: UUID
    number: int
    status: str
    model: str
    requests: int
    input_tokens: int
    output_tokens: int
    error_code: str
    warning: str
    user_message_id: UUID | None
    stop_requested_at: datetime | None
    queued_at: datetime | None
    started_at: datetime | None
    first_token_at: datetime | None
    finished_at: datetime | None
    waiting: str
    """What was said, while the turn waits."""


def read_turns(
    db: Database,
    *,
    session_id: UUID,
    ids: Sequence[UUID],
    from_first: bool,
    to_last: bool,
) -> list[ReviewedTurn]:
    """These turns and all between them; those before the first and after the last, if asked for."""
    key = from_uuid(session_id, is_sqlite=db.is_sqlite)
    where, params = "session_id = %s", [key]
    keys = [from_uuid(each, is_sqlite=db.is_sqlite) for each in ids]
    marks = ", ".join(["%s"] * len(keys)) or "NULL"
    if not from_first:
        where += f" AND number >= (SELECT MIN(number) FROM {TURN} WHERE id IN ({marks}))"
        params += keys
    if not to_last:
        where += f" AND number <= (SELECT MAX(number) FROM {TURN} WHERE id IN ({marks}))"
        params += keys
    rest = f"FROM {TURN} WHERE {where} ORDER BY number DESC LIMIT %s"
    rows = select(db, _TURN, rest, (*params, _MOST_TURNS))
    turns = [turn for row in rows if (turn := _turn_of(row)) is not None]
    turns.reverse()
    return turns


def find_turn(db: Database, *, session_id: UUID, turn_id: UUID) -> ReviewedTurn:
    """One turn of this conversation. Raises ItemNotFound."""
    keys = [from_uuid(each, is_sqlite=db.is_sqlite) for each in (turn_id, session_id)]
    rows = select(db, _TURN, f"FROM {TURN} WHERE id = %s AND session_id = %s", keys)
    turn = _turn_of(rows[0]) if rows else None
    if turn is None:
        raise ItemNotFound
    return turn


def _turn_of(row: Any) -> ReviewedTurn | None:
    turn = ReviewedTurn(*values_of(row, _TURN))
    if turn.status != "queued":
        turn = replace(turn, waiting="")
    return turn if uuid_of(row[0]) else None
