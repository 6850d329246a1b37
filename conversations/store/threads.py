"""What a person sees of their conversations: the list, one transcript, one turn.

Rows that a fault or a foreign writer damaged hide nothing else: what is text of them is shown, a
time that is none falls back on its neighbours', and only what has no id or speaker is left out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final, Literal
from uuid import UUID

from conversations.errors import ThreadNotFound, TurnNotFound
from conversations.lanes import Database, from_moment, from_uuid
from conversations.models import ChatSession
from conversations.store.damage import (
    LONG_AGO,
    count_of,
    first_readable,
    flag_of,
    is_time,
    moment_of,
    select,
    text_of,
    turn_status_of,
    uuid_of,
    word_of,
)
from conversations.store.log import MESSAGE, SESSION, TURN

_THREAD: Final = (
    "id",
    "title",
    "created_at",
    "updated_at",
    "last_active_at",
    "message_count",
    "remembered_count",
    "status",
)
_MESSAGE: Final = ("id", "turn_id", "role", "text", "incomplete", "created_at")
_STATUSES: Final = frozenset(ChatSession.Status.values)
_SPEAKERS: Final = {"user", "assistant"}
_UNKNOWN: Final = datetime.max.replace(tzinfo=UTC)


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
    key = owner_key(owner_id, db)
    params: list[Any] = [key]
    if after is not None:
        sign = "<" if order == "desc" else ">"
        place = from_uuid(after.id, is_sqlite=db.is_sqlite)
        is_known = is_time("last_active_at", is_sqlite=db.is_sqlite)
        # A row value, because an OR would defeat the index. What is no time is sorted all the
        # same: after such a row the page goes on from what is stored.
        where += (
            f" AND (last_active_at, id) {sign} (COALESCE((SELECT last_active_at FROM {SESSION}"
            f" WHERE id = %s AND owner_id = %s AND NOT {is_known}), %s), %s)"
        )
        params += [place, key, from_moment(after.last_active_at, is_sqlite=db.is_sqlite), place]
    if title_like:
        like = "LIKE" if db.is_sqlite else "ILIKE"
        where += f" AND title {like} %s ESCAPE '\\'"
        params.append("%" + _escaped(title_like) + "%")
    direction = "DESC" if order == "desc" else "ASC"
    rest = (
        f"FROM {SESSION} WHERE {where} ORDER BY last_active_at {direction}, id {direction} LIMIT %s"
    )
    return first_readable(
        lambda count: select(db, _THREAD, rest, [*params, count]), count=limit, read=_thread
    )


def find_thread(db: Database, *, session_id: UUID, owner_id: Any) -> ThreadRow:
    """One conversation; raises ThreadNotFound for a missing one and another's alike."""
    rows = select(
        db,
        _THREAD,
        f"FROM {SESSION} WHERE id = %s AND owner_id = %s",
        (from_uuid(session_id, is_sqlite=db.is_sqlite), owner_key(owner_id, db)),
    )
    thread = _thread(rows[0]) if rows else None
    if thread is None:
        raise ThreadNotFound
    return thread


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
    rest = f"FROM {MESSAGE} WHERE {where} ORDER BY position DESC LIMIT %s"
    found = first_readable(
        lambda count: select(db, _MESSAGE, rest, [*params, count]),
        count=limit + 1,
        read=_message,
    )
    messages = found[:limit]
    messages.reverse()
    said_at = thread.created_at
    for index, message in enumerate(messages):
        if message.created_at is _UNKNOWN:
            messages[index] = replace(message, created_at=said_at)
        else:
            said_at = message.created_at
    return Transcript(thread, messages, len(found) > limit)


def find_turn(db: Database, *, session_id: UUID, owner_id: Any, turn_id: UUID) -> TurnRow:
    """One turn of one's own conversation. Raises ThreadNotFound, TurnNotFound."""
    thread = find_thread(db, session_id=session_id, owner_id=owner_id)
    columns = (
        "status",
        f"(SELECT COUNT(*) FROM {TURN} other WHERE other.session_id = turn.session_id"
        " AND other.status IN ('queued', 'running') AND other.number < turn.number)",
        "model",
        "requests",
        "input_tokens",
        "output_tokens",
        "error_code",
        "warning",
        "user_message_id",
        "answer_message_id",
        "queued_at",
        "started_at",
        "first_token_at",
        "finished_at",
    )
    rows = select(
        db,
        columns,
        f"FROM {TURN} turn WHERE id = %s AND session_id = %s",
        (
            from_uuid(turn_id, is_sqlite=db.is_sqlite),
            from_uuid(session_id, is_sqlite=db.is_sqlite),
        ),
    )
    if not rows:
        raise TurnNotFound
    status, ahead, model, requests, input_tokens, output_tokens, error_code, warning = rows[0][:8]
    queued_at, started_at, first_token_at, finished_at = map(moment_of, rows[0][10:])
    return TurnRow(
        id=turn_id,
        status=turn_status_of(status),
        ahead=count_of(ahead),
        model=text_of(model),
        requests=count_of(requests),
        input_tokens=count_of(input_tokens),
        output_tokens=count_of(output_tokens),
        error_code=text_of(error_code),
        warning=text_of(warning),
        user_message_id=uuid_of(rows[0][8]),
        answer_message_id=uuid_of(rows[0][9]),
        queued_at=queued_at or started_at or finished_at or thread.created_at,
        started_at=started_at,
        first_token_at=first_token_at,
        finished_at=finished_at,
    )


def _thread(row: Any) -> ThreadRow | None:
    """A session as a list shows it; None where nothing could name it."""
    session_id = uuid_of(row[0])
    if session_id is None:
        return None
    created_at, updated_at, last_active_at = map(moment_of, row[2:5])
    return ThreadRow(
        session_id,
        text_of(row[1]),
        created_at or updated_at or last_active_at or LONG_AGO,
        updated_at or last_active_at or created_at or LONG_AGO,
        last_active_at or updated_at or created_at or LONG_AGO,
        count_of(row[5]),
        count_of(row[6]),
        # What is locked takes no messages, as is so where the status is no word we know.
        word_of(row[7], _STATUSES, otherwise="locked"),
    )


def _message(row: Any) -> MessageRow | None:
    """A message as people read it; None where nothing could name it, or nobody said it."""
    message_id, role = uuid_of(row[0]), text_of(row[2])
    if message_id is None or role not in _SPEAKERS:
        return None
    return MessageRow(
        message_id,
        uuid_of(row[1]),
        role,
        text_of(row[3]),
        flag_of(row[4]),
        moment_of(row[5]) or _UNKNOWN,
    )


def owner_key(owner_id: Any, db: Database) -> Any:
    """A user's key as the engine stores it."""
    return from_uuid(owner_id, is_sqlite=db.is_sqlite) if isinstance(owner_id, UUID) else owner_id


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
