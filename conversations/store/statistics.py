"""How large and how old conversations are: told by counters, without a word of what was said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from django.core.exceptions import ValidationError

from conversations.conf import get_conf
from conversations.lanes import Database, from_moment, from_uuid
from conversations.models import ChatSession
from conversations.store.damage import (
    LONG_AGO,
    count_of,
    flag_of,
    is_time,
    moment_of,
    select,
    text_of,
    uuid_of,
    word_of,
)
from conversations.store.holds import IS_HELD
from conversations.store.log import SESSION

_MOST: Final = 2**53
"""A counter above this is damage: the sum of many is still a number for every engine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """What a session counts, by the columns of these names; or the sums of it."""

    remembered_count: int
    message_count: int
    item_count: int
    pruned_count: int
    quarantined_count: int
    input_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionStatistics(Counters):
    """One session in numbers; `agent_session_id` is its name in the SDK, as it is stored."""

    session_id: UUID
    agent_session_id: str
    owner_id: Any
    status: str
    hold: bool
    age_seconds: int
    created_at: datetime
    last_active_at: datetime
    expires_at: datetime | None
    """When it will have been idle for as long as sessions are kept; None on hold: never."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AllStatistics(Counters):
    """All sessions in numbers: how many there are, and the sums of their counters."""

    session_count: int
    over_budget_count: int
    held_count: int
    expired_count: int
    """Sessions that are kept no longer: they are due for cleanup."""
    oldest_active_at: datetime | None
    """When somebody was last active in the session that was left alone longest."""
    newest_active_at: datetime | None


_COUNTERS: Final = tuple(field.name for field in fields(Counters))
_NAMES: Final = ("id", "agent_session_id", "owner_id", "status", IS_HELD)
_TIMES: Final = ("created_at", "updated_at", "last_active_at")


def find_statistics(
    db: Database,
    *,
    session_id: UUID | None = None,
    agent_session_id: str | None = None,
    now: datetime,
) -> SessionStatistics | None:
    """The numbers of a session by its id, or by the SDK's name as it is stored; one query."""
    if session_id is not None:
        where, key = "id = %s", from_uuid(session_id, is_sqlite=db.is_sqlite)
    else:
        where, key = "agent_session_id = %s", agent_session_id
    rows = select(db, [*_NAMES, *_TIMES, *_COUNTERS], f"FROM {SESSION} WHERE {where}", (key,))
    return _statistics(rows[0], now=now) if rows else None


def sum_statistics(db: Database, *, now: datetime) -> AllStatistics:
    """The numbers of all sessions: one query, which reads the row of each.

    What a counter or a time that is damaged would add is left out.
    """
    return _sum(db, now=now)


def sum_some(
    db: Database, *, after: Any, limit: int, now: datetime
) -> tuple[AllStatistics, Any | None]:
    """The numbers of the next sessions by their ids, and after which to go on: None at the end.

    `after` is None at the beginning.
    """
    beyond, since = ("WHERE id > %s", (after,)) if after is not None else ("", ())
    last = db.one(
        f"SELECT id FROM {SESSION} {beyond} ORDER BY id LIMIT 1 OFFSET {limit - 1}", since
    )
    if last is None:
        return _sum(db, beyond, since, now=now), None
    until = f"{beyond} AND" if beyond else "WHERE"
    return _sum(db, f"{until} id <= %s", (*since, *last), now=now), last[0]


def _sum(
    db: Database, where: str = "", params: Sequence[Any] = (), *, now: datetime
) -> AllStatistics:
    conf = get_conf()
    active_at = f"CASE WHEN {is_time('last_active_at', is_sqlite=db.is_sqlite)}"
    active_at += " THEN last_active_at END"
    columns = [
        "COUNT(*)",
        _count(f"{_number('remembered_count', db)} > %s"),
        _count(IS_HELD),
        _count(f"NOT {IS_HELD} AND {active_at} < %s"),
        f"MIN({active_at})",
        f"MAX({active_at})",
        *(f"SUM({_number(counter, db)})" for counter in _COUNTERS),
    ]
    idle_since = from_moment(now - conf.retention, is_sqlite=db.is_sqlite)
    sessions, over_budget, held, expired, oldest, newest, *sums = db.one(
        f"SELECT {', '.join(columns)} FROM {SESSION} {where}",
        (conf.agent_session_max_messages, idle_since, *params),
    )
    return AllStatistics(
        session_count=sessions,
        over_budget_count=count_of(over_budget),  # the sum of no rows is no number
        held_count=count_of(held),
        expired_count=count_of(expired),
        oldest_active_at=moment_of(oldest),
        newest_active_at=moment_of(newest),
        **_counters(sums),
    )


def _statistics(row: Any, *, now: datetime) -> SessionStatistics | None:
    """What a row says; None where nothing could name it."""
    key, name, owner_id, status, hold, *rest = row
    session_id, is_held = uuid_of(key), flag_of(hold)
    if session_id is None:
        return None
    created_at, updated_at, last_active_at = map(moment_of, rest[:3])
    created_at = created_at or updated_at or last_active_at or LONG_AGO
    last_active_at = last_active_at or updated_at or created_at
    return SessionStatistics(
        session_id=session_id,
        agent_session_id=text_of(name),
        owner_id=_owner_of(owner_id),
        # What is locked takes no messages, as is so where the status is no word we know.
        status=word_of(status, ChatSession.Status.values, otherwise="locked"),
        hold=is_held,
        age_seconds=max(0, (now - created_at) // timedelta(seconds=1)),
        created_at=created_at,
        last_active_at=last_active_at,
        expires_at=None if is_held else last_active_at + get_conf().retention,
        **_counters(rest[3:]),
    )


def _counters(values: Sequence[Any]) -> dict[str, Any]:
    return dict(zip(_COUNTERS, map(count_of, values), strict=True))


def _owner_of(value: Any) -> Any:
    """The owner's key; None where there is no owner, or it is no key."""
    field = ChatSession._meta.get_field("owner").target_field
    try:
        return field.to_python(text_of(value) if isinstance(value, bytes) else value)
    except (ValidationError, OverflowError):
        return None


def _number(counter: str, db: Database) -> str:
    """A counter's value, 0 where it holds none."""
    is_number = f"typeof({counter}) = 'integer' AND " if db.is_sqlite else ""
    return f"CASE WHEN {is_number}{counter} BETWEEN 0 AND {_MOST} THEN {counter} ELSE 0 END"


def _count(condition: str) -> str:
    return f"SUM(CASE WHEN {condition} THEN 1 ELSE 0 END)"
