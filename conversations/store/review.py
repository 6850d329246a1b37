"""The staff's list of conversations: newest activity first, filtered, a page at a time.

No query here grows with the tables. What an index answers is asked of the index; all else is looked
for in the next `LOOKED_THROUGH` conversations, and the page says where it stopped looking.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from conversations.errors import ThreadNotFound
from conversations.lanes import Database, from_moment, from_uuid
from conversations.models import ChatSession
from conversations.store.criteria import (
    IN_TROUBLE,
    IS_HELD,
    TROUBLES,
    Criteria,
    indexed,
    looked_for,
)
from conversations.store.damage import (
    LONG_AGO,
    count_of,
    first_readable,
    flag_of,
    is_time,
    moment_of,
    select,
    text_of,
    uuid_of,
    word_of,
)
from conversations.store.holds import USER_HOLD
from conversations.store.log import FEEDBACK, SESSION, TURN
from conversations.store.reads import person
from conversations.store.removing import APART
from conversations.store.threads import Place

_REASON: Final = f"(SELECT reason FROM {USER_HOLD} theirs WHERE theirs.user_id = session.owner_id)"
LOOKED_THROUGH: Final = 10_000
_LATEST_TURNS: Final = 500
_COUNTERS: Final = (
    "message_count",
    "remembered_count",
    "item_count",
    "pruned_count",
    "quarantined_count",
    "input_tokens",
    "output_tokens",
    "last_position",
)
_COLUMNS: Final = (
    *("id", "agent_session_id", "title", "status", "hold_reason", "owner_id"),
    *("created_at", "last_active_at"),
    *_COUNTERS,
)


@dataclass(frozen=True, slots=True)
class ReviewedSession:
    """One conversation as staff see it without reading it."""

    id: UUID
    agent_session_id: str
    title: str
    status: str
    hold: bool
    """By itself, or with all that its owner has."""
    hold_reason: str
    owner_id: Any
    owner: str
    created_at: datetime
    last_active_at: datetime
    message_count: int
    remembered_count: int
    item_count: int
    pruned_count: int
    quarantined_count: int
    input_tokens: int
    output_tokens: int
    last_position: int

    @property
    def place(self) -> Place:
        return Place(self.last_active_at, self.id)


@dataclass(frozen=True, slots=True)
class ReviewPage:
    """Conversations, newest activity first. `looked_to`: where looking stopped short of the end."""

    sessions: list[ReviewedSession]
    has_more: bool
    looked_to: Place | None = None


@dataclass(frozen=True, slots=True)
class Flags:
    """What happened in a conversation that staff would want to know."""

    failed: bool = False
    interrupted: bool = False
    warned: bool = False
    disliked: bool = False
    liked: bool = False


def list_sessions(
    db: Database,
    criteria: Criteria,
    *,
    limit: int,
    after: Place | None = None,
    before: Place | None = None,
) -> ReviewPage:
    """Up to `limit` conversations older than `after`, or the next newer than `before`."""
    is_back = before is not None
    where, params = indexed(db, criteria)
    direction, beyond, within = ("ASC", ">", "<=") if is_back else ("DESC", "<", ">=")
    order = f"ORDER BY session.last_active_at {direction}, session.id {direction} LIMIT %s"
    place = before if is_back else after
    if place is not None:
        where, params = _beyond(db, place, beyond, where, params)
    edge = None
    if criteria.is_looked_for:
        rest = f"FROM {SESSION} session WHERE {where} {order} OFFSET %s"
        rows = select(
            db, ("session.last_active_at", "session.id"), rest, (*params, 1, LOOKED_THROUGH - 1)
        )
        edge_id = uuid_of(rows[0][1]) if rows else None
        if edge_id is not None:
            edge = Place(moment_of(rows[0][0]) or LONG_AGO, edge_id)
            key = from_uuid(edge_id, is_sqlite=db.is_sqlite)
            where += (
                f" AND (session.last_active_at, session.id) {within}"
                f" ((SELECT last_active_at FROM {SESSION} WHERE id = %s), %s)"
            )
            params += [key, key]
        more, more_params = looked_for(db, criteria)
        where, params = f"{where} AND {more}", params + more_params
    sessions = first_readable(
        lambda count: _select(db, f"WHERE {where} {order}", [*params, count]),
        count=limit + 1,
        read=_reviewed,
    )
    has_more, sessions = len(sessions) > limit, sessions[:limit]
    if is_back:
        sessions.reverse()
    return ReviewPage(sessions, has_more, None if has_more else edge)


def find_session(db: Database, *, session_id: UUID) -> ReviewedSession:
    """One conversation, whoever's. Raises ThreadNotFound."""
    key = from_uuid(session_id, is_sqlite=db.is_sqlite)
    rows = _select(db, "WHERE session.id = %s", [key])
    session = _reviewed(rows[0]) if rows else None
    if session is None:
        raise ThreadNotFound
    return session


def flags_of(db: Database, *, session_ids: Sequence[UUID]) -> dict[UUID, Flags]:
    """The flags of these conversations, in one query."""
    if not session_ids:
        return {}
    marks = ", ".join(["%s"] * len(session_ids))
    keys = [from_uuid(each, is_sqlite=db.is_sqlite) for each in session_ids]
    happened = [
        f"MAX(CASE WHEN {TROUBLES[word]} THEN 1 ELSE 0 END)"
        for word in ("failed", "interrupted", "warning")
    ]
    judged = [f"MAX(CASE WHEN kind = '{k}' THEN 1 ELSE 0 END)" for k in ("negative", "positive")]
    rows = db.all(
        f"SELECT session_id, {', '.join(happened)}, 0, 0 FROM {TURN}"
        f" WHERE session_id IN ({marks}) AND {IN_TROUBLE} GROUP BY session_id"
        f" UNION ALL SELECT session_id, 0, 0, 0, {', '.join(judged)} FROM {FEEDBACK}"
        f" WHERE session_id IN ({marks}) GROUP BY session_id",
        (*keys, *keys),
    )
    found: dict[UUID, list[bool]] = {}
    for key, *values in rows:
        session_id = uuid_of(key)
        if session_id is not None:
            known = found.setdefault(session_id, [False] * len(values))
            found[session_id] = [a or bool(b) for a, b in zip(known, values, strict=True)]
    return {session_id: Flags(*values) for session_id, values in found.items()}


def latest_models(db: Database) -> list[str]:
    """The models of the latest turns."""
    rows = select(
        db,
        ("model",),
        f"FROM (SELECT DISTINCT model FROM (SELECT model FROM {TURN} ORDER BY id DESC LIMIT %s)"
        " latest) used ORDER BY model",
        (_LATEST_TURNS,),
    )
    return [text for row in rows if (text := text_of(row[0]))]


def _select(db: Database, rest: str, params: Sequence[Any]) -> list[Any]:
    table, key, name = person()
    return select(
        db,
        [
            *(f"session.{column}" for column in _COLUMNS),
            *(IS_HELD, _REASON, f"person.{name}"),
        ],
        f"FROM {SESSION} session"
        f" LEFT JOIN {table} person ON person.{key} = session.owner_id {rest}",
        params,
    )


def _beyond(
    db: Database, place: Place, sign: str, where: str, params: list[Any]
) -> tuple[str, list[Any]]:
    """From a place on, by a row value. After a row whose time is none, from what is stored on."""
    key = from_uuid(place.id, is_sqlite=db.is_sqlite)
    is_known = is_time("last_active_at", is_sqlite=db.is_sqlite)
    where += (
        f" AND (session.last_active_at, session.id) {sign} (COALESCE((SELECT last_active_at"
        f" FROM {SESSION} WHERE id = %s AND NOT {is_known}), %s), %s)"
    )
    return where, [*params, key, from_moment(place.last_active_at, is_sqlite=db.is_sqlite), key]


def _reviewed(row: Any) -> ReviewedSession | None:
    """What a row says; None where nothing could name it, or it is on its way out."""
    key, name, title, status, reason, owner_id, created, active, *rest = row
    *counters, is_held, owners_reason, owner = rest
    session_id = uuid_of(key)
    if session_id is None or text_of(name).startswith(APART):
        return None
    created_at, last_active_at = moment_of(created), moment_of(active)
    return ReviewedSession(
        session_id,
        text_of(name),
        text_of(title),
        # What is locked takes no messages, as is so where the status is no word we know.
        word_of(status, ChatSession.Status.values, otherwise="locked"),
        flag_of(is_held),
        text_of(reason) or text_of(owners_reason),
        owner_id,
        text_of(owner),
        created_at or last_active_at or LONG_AGO,
        last_active_at or created_at or LONG_AGO,
        *map(count_of, counters),
    )
