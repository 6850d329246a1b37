"""Forgetting what is more than a memory holds, oldest first.

Rows that only the model saw go; what people can read keeps its text, and leaves the memory. In a
conversation on hold nothing goes: its rows only leave the memory.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from conversations import tally
from conversations.conf import get_conf
from conversations.history import Header, find_window
from conversations.lanes import Database, from_moment, from_uuid
from conversations.models import USUAL_BUDGET
from conversations.store.damage import count_of, first_readable, select, text_of, uuid_of
from conversations.store.holds import is_held
from conversations.store.log import MESSAGE, REMEMBERED, SESSION, TURN

_IS_RUNNING: Final = (
    f"EXISTS (SELECT 1 FROM {TURN} WHERE session_id = {SESSION}.id AND status = 'running')"
)
_HEADER: Final = ("position", "kind", "role", "call_id", "caller_id", "created_at")


def prune(db: Database, *, session_id: UUID, now: datetime) -> int:
    """Forget what a session remembers beyond its budget; how many entries that were.

    A session in which a turn runs is left to it: the end of every turn prunes. Where nothing is to
    do, this is one query.
    """
    return prune_keyed(db, session_key=from_uuid(session_id, is_sqlite=db.is_sqlite), now=now)


def prune_named(db: Database, *, agent_session_id: str, now: datetime) -> int:
    """The same for a session by the SDK's name of it."""
    return _prune(db, "agent_session_id = %s", agent_session_id, now=now)


def prune_keyed(db: Database, *, session_key: Any, now: datetime) -> int:
    """The same for a session by its id as the engine stores it."""
    return _prune(db, "id = %s", session_key, now=now)


def find_over_budget(db: Database, *, after: UUID | None = None, limit: int = 100) -> list[UUID]:
    """Sessions that remember more than their budget, in the order of their ids, from `after` on."""
    budget = get_conf().agent_session_max_messages
    # As its index says it: else the table is read.
    where, params = [f"remembered_count > {USUAL_BUDGET}"] if budget >= USUAL_BUDGET else [], []
    where.append("remembered_count > %s")
    params.append(budget)
    if after is not None:
        where.append("id > %s")
        params.append(from_uuid(after, is_sqlite=db.is_sqlite))
    rest = f"FROM {SESSION} WHERE {' AND '.join(where)} ORDER BY id LIMIT %s"
    return first_readable(
        lambda count: select(db, ["id"], rest, (*params, count)),
        count=limit,
        read=lambda row: uuid_of(row[0]),
    )


def find_overrun(db: Database, *, session_id: UUID) -> str:
    """Why a session remembers more than its budget: "running" or "kept"; "" where it does not.

    A turn runs in it, or nothing of it may go: mostly, its newest turn alone is longer.
    """
    row = db.one(
        f"SELECT remembered_count, {_IS_RUNNING} FROM {SESSION} WHERE id = %s",
        (from_uuid(session_id, is_sqlite=db.is_sqlite),),
    )
    if row is None or count_of(row[0]) <= get_conf().agent_session_max_messages:
        return ""
    return "running" if row[1] else "kept"


def forget(
    db: Database,
    *,
    session_key: Any,
    since: int,
    before: int,
    besides: Collection[int] = (),
    keeps_rows: bool,
    now: datetime,
) -> int:
    """Take what is remembered from `since` to `before` from the memory; how many rows are deleted.

    The session is locked, and the counters are the caller's.
    """
    where = f"session_id = %s AND position >= %s AND position < %s AND {REMEMBERED}"
    params: list[Any] = [session_key, since, before]
    if besides:
        where += f" AND position NOT IN ({', '.join(['%s'] * len(besides))})"
        params += besides
    if keeps_rows:
        moment = from_moment(now, is_sqlite=db.is_sqlite)
        db.run(f"UPDATE {MESSAGE} SET forgotten_at = %s WHERE {where}", (moment, *params))
        return 0
    dropped = db.run(
        f"DELETE FROM {MESSAGE} WHERE {where} AND shown = %s AND thread_item IS NULL",
        (*params, False),
    )
    db.run(f"UPDATE {MESSAGE} SET agent_item = NULL WHERE {where}", params)
    return dropped


def _prune(db: Database, of: str, key: Any, *, now: datetime) -> int:
    budget = get_conf().agent_session_max_messages
    lock = "" if db.is_sqlite else " FOR UPDATE"
    row = db.one(
        f"SELECT id, remembered_count, {_IS_RUNNING} FROM {SESSION} WHERE {of}{lock}",
        (key,),
    )
    if row is None:
        return 0
    session_key, remembered, is_running = row
    if is_running or (type(remembered) is int and remembered <= budget):
        return 0
    headers = read_headers(db, session_key=session_key)
    begins_at, pinned = find_window(headers, limit=budget)
    gone = sum(header.position < begins_at and header.position not in pinned for header in headers)
    dropped = 0
    if gone:
        dropped = forget(
            db,
            session_key=session_key,
            since=headers[0].position,
            before=begins_at,
            besides=pinned,
            keeps_rows=is_held(db, session_key),
            now=now,
        )
    db.run(
        f"UPDATE {SESSION} SET remembered_count = %s, pruned_count = pruned_count + %s,"
        " item_count = CASE WHEN item_count > %s THEN item_count - %s ELSE 0 END WHERE id = %s",
        (len(headers) - gone, gone, dropped, dropped, session_key),
    )
    if gone:
        tally.PRUNES.increase()
        tally.FORGOTTEN.increase(gone)
    return gone


def read_headers(db: Database, *, session_key: Any) -> list[Header]:
    """The headers of what a session remembers, in order, without what was said.

    Rows whose position is no number are left out: they are set aside when they are read.
    """
    rest = f"FROM {MESSAGE} WHERE session_id = %s AND {REMEMBERED} ORDER BY position"
    headers = []
    for row in select(db, _HEADER, rest, (session_key,)):
        position, kind, role, call_id, caller_id, moment = row
        if type(position) is not int:  # some value of these rows is damaged: all come as text
            position, kind, role, call_id, caller_id, moment = map(text_of, row)
            if not position.isdecimal():
                continue
        headers.append(Header(int(position), kind, role, "", call_id, caller_id, moment=moment))
    return headers
