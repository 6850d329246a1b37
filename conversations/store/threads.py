"""What a person sees of their conversations: the list, one transcript, one turn."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal
from uuid import UUID

from conversations.errors import ThreadNotFound, TurnNotFound
from conversations.lanes import Database, from_moment, from_uuid, to_moment, to_uuid
from conversations.store.log import MESSAGE, SESSION, TURN

_THREAD: Final = (
    "id, title, created_at, updated_at, last_active_at, message_count, remembered_count, status"
)


@dataclass(frozen=True, slots=True)
class ThreadRow:
    """One conversation, as a list shows it."""

    id: UUID
    title: str
    created_at: datetime
    updated_at: datetime
    last_active_at: datetime
    message_count: int
    remembered_count: int
    status: str


@dataclass(frozen=True, slots=True)
class MessageRow:
    """One message, as people read it."""

    id: UUID
    turn_id: UUID | None
    role: str
    text: str
    incomplete: bool
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Transcript:
    """A page of a conversation: messages oldest first, and whether there are older ones."""

    thread: ThreadRow
    messages: list[MessageRow]
    has_more: bool


@dataclass(frozen=True, slots=True)
class TurnRow:
    """One turn, as its owner may see it."""

    id: UUID
    status: str
    ahead: int
    model: str
    requests: int
    input_tokens: int
    output_tokens: int
    error_code: str
    warning: str
    user_message_id: UUID | None
    answer_message_id: UUID | None
    queued_at: datetime
    started_at: datetime | None
    first_token_at: datetime | None
    finished_at: datetime | None


@dataclass(frozen=True, slots=True)
class Place:
    """Where a page of the list ended: keyset, so that no write moves it."""

    last_active_at: datetime
    id: UUID


def list_threads(
    db: Database,
    *,
    owner_id: Any,
    limit: int,
    order: Literal["asc", "desc"] = "desc",
    after: Place | None = None,
    title_like: str = "",
) -> list[ThreadRow]:
    """Up to `limit` conversations of one owner by their last activity, from `after` on."""
    where = "owner_id = %s"
    params: list[Any] = [_key(owner_id, db)]
    if after is not None:
        sign = "<" if order == "desc" else ">"
        where += f" AND (last_active_at, id) {sign} (%s, %s)"  # an OR would defeat the index
        params += [
            from_moment(after.last_active_at, is_sqlite=db.is_sqlite),
            from_uuid(after.id, is_sqlite=db.is_sqlite),
        ]
    if title_like:
        like = "LIKE" if db.is_sqlite else "ILIKE"
        where += f" AND title {like} %s ESCAPE '\\'"
        params.append("%" + _escaped(title_like) + "%")
    direction = "DESC" if order == "desc" else "ASC"
    rows = db.all(
        f"SELECT {_THREAD} FROM {SESSION} WHERE {where}"
        f" ORDER BY last_active_at {direction}, id {direction} LIMIT %s",
        [*params, limit],
    )
    return [_thread(row) for row in rows]


def find_thread(db: Database, *, session_id: UUID, owner_id: Any) -> ThreadRow:
    """One conversation; raises ThreadNotFound for a missing one and another's alike."""
    row = db.one(
        f"SELECT {_THREAD} FROM {SESSION} WHERE id = %s AND owner_id = %s",
        (from_uuid(session_id, is_sqlite=db.is_sqlite), _key(owner_id, db)),
    )
    if row is None:
        raise ThreadNotFound
    return _thread(row)


def read_transcript(
    db: Database, *, session_id: UUID, owner_id: Any, limit: int, before: UUID | None = None
) -> Transcript:
    """The newest `limit` messages (before one of them), oldest first. Raises ThreadNotFound."""
    thread = find_thread(db, session_id=session_id, owner_id=owner_id)
    key = from_uuid(session_id, is_sqlite=db.is_sqlite)
    where, params = "session_id = %s AND shown = %s", [key, True]
    if before is not None:
        where += (
            f" AND position < COALESCE((SELECT position FROM {MESSAGE}"
            " WHERE id = %s AND session_id = %s), 0)"
        )
        params += [from_uuid(before, is_sqlite=db.is_sqlite), key]
    rows = db.all(
        f"SELECT id, turn_id, role, text, incomplete, created_at FROM {MESSAGE} WHERE {where}"
        " ORDER BY position DESC LIMIT %s",
        [*params, limit + 1],
    )
    messages = [
        MessageRow(
            to_uuid(row[0]),
            to_uuid(row[1]) if row[1] else None,
            row[2],
            row[3],
            bool(row[4]),
            _moment(row[5]),
        )
        for row in rows[:limit]
    ]
    messages.reverse()
    return Transcript(thread, messages, len(rows) > limit)


def find_turn(db: Database, *, session_id: UUID, owner_id: Any, turn_id: UUID) -> TurnRow:
    """One turn of one's own conversation. Raises ThreadNotFound, TurnNotFound."""
    find_thread(db, session_id=session_id, owner_id=owner_id)
    key = from_uuid(session_id, is_sqlite=db.is_sqlite)
    row = db.one(
        "SELECT id, status, (SELECT COUNT(*) FROM"
        f" {TURN} other WHERE other.session_id = turn.session_id"
        " AND other.status IN ('queued', 'running') AND other.number < turn.number), model,"
        " requests, input_tokens, output_tokens, error_code, warning, user_message_id,"
        " answer_message_id, queued_at, started_at, first_token_at, finished_at"
        f" FROM {TURN} turn WHERE id = %s AND session_id = %s",
        (from_uuid(turn_id, is_sqlite=db.is_sqlite), key),
    )
    if row is None:
        raise TurnNotFound
    user_message_id, answer_message_id = (to_uuid(value) if value else None for value in row[9:11])
    started_at, first_token_at, finished_at = (to_moment(value) for value in row[12:15])
    return TurnRow(
        id=to_uuid(row[0]),
        status=row[1],
        ahead=row[2],
        model=row[3],
        requests=row[4],
        input_tokens=row[5],
        output_tokens=row[6],
        error_code=row[7],
        warning=row[8],
        user_message_id=user_message_id,
        answer_message_id=answer_message_id,
        queued_at=_moment(row[11]),
        started_at=started_at,
        first_token_at=first_token_at,
        finished_at=finished_at,
    )


def _thread(row: Any) -> ThreadRow:
    created_at, updated_at, last_active_at = (_moment(value) for value in row[2:5])
    return ThreadRow(
        to_uuid(row[0]), row[1], created_at, updated_at, last_active_at, row[5], row[6], row[7]
    )


def _moment(value: Any) -> datetime:
    moment = to_moment(value)
    if moment is None:
        raise TypeError("a time that is never empty was empty")
    return moment


def _key(owner_id: Any, db: Database) -> Any:
    return from_uuid(owner_id, is_sqlite=db.is_sqlite) if isinstance(owner_id, UUID) else owner_id


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
