"""The life of a turn in the database: a ticket in the line, then a lease, then its result.

A turn may start when it is the first of its session that is alive. Being alive is a lease that its
process renews; the start moves the session's fence on, so whoever held it before can write no more.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from conversations.errors import LeaseLost, QueueFull, ThreadClosed, ThreadNotFound
from conversations.events import Usage
from conversations.ids import new_id
from conversations.items import Memory, Row
from conversations.lanes import Database, from_moment, from_uuid, to_moment, to_uuid
from conversations.lanes.database import store_error
from conversations.store import log
from conversations.store.closing import LockedSession, close, interrupt, lock_session, row_of
from conversations.store.log import MESSAGE, SESSION, TURN, Lease, insert_rows, load_window
from conversations.store.repeats import Repeat, find_repeat

_LIVE: Final = "status IN ('queued', 'running')"
TITLE_CHARS: Final = 50


@dataclass(frozen=True, slots=True)
class Started:
    """A turn at the head of the line: its lease, and what the model remembers."""

    lease: Lease
    agent_session_id: str
    user_message_id: UUID
    window: Memory | None
    """None: what the model remembers could not be read."""


@dataclass(frozen=True, slots=True)
class Ticket:
    """A turn's place in the line; `started` when it was its turn at once."""

    turn_id: UUID
    session_id: UUID
    number: int
    ahead: int
    started: Started | None


@dataclass(frozen=True, slots=True)
class Result:
    """How a turn ended, and what is left to store of it."""

    status: str
    error_code: str = ""
    warning: str = ""
    model: str = ""
    usage: Usage = field(default_factory=Usage)
    answer_id: UUID | None = None
    answer_text: str | None = None
    incomplete: bool = False
    partial_row: Row | None = None
    first_token_at: datetime | None = None


def submit(
    db: Database,
    *,
    session_id: UUID,
    owner_id: Any,
    text: str,
    idempotency_key: str | None,
    process: str,
    expires_at: datetime,
    now: datetime,
    max_queued: int,
) -> Ticket | Repeat:
    """Take a ticket, which acknowledges the message, and start at once where nobody is ahead.

    A key that was used for the same text gets the turn it began, not a second one. Raises
    ThreadNotFound for a session that is missing or another's, ThreadClosed, QueueFull,
    IdempotencyConflict.
    """
    session = lock_session(db, session_id=session_id, owner_id=owner_id)
    if session is None:
        raise ThreadNotFound
    if idempotency_key is not None:
        repeat = find_repeat(db, session_id=session_id, key=idempotency_key, text=text, now=now)
        if repeat is not None:
            return repeat
    if session.status != "active":
        raise ThreadClosed
    ahead = _alive_ahead(db, session, number=session.last_turn_number + 1, now=now)
    if ahead is None:
        ahead = 0
        session = lock_session(db, session_id=session_id) or session
    if ahead > max_queued:
        raise QueueFull
    turn_id = new_id()
    number = session.last_turn_number + 1
    moment = from_moment(now, is_sqlite=db.is_sqlite)
    lease = Lease(session_id, turn_id, session.fence + 1)
    user_row = row_of(text)
    db.run(
        f"INSERT INTO {TURN} (id, session_id, number, status, input, idempotency_key, lease_owner,"
        " lease_expires_at, fence, model, requests, input_tokens, output_tokens, error_code,"
        " warning, partial, user_message_id, queued_at, started_at)"
        " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, '', 0, 0, 0, '', '', '', %s, %s, %s)",
        (
            from_uuid(turn_id, is_sqlite=db.is_sqlite),
            session.id,
            number,
            "queued" if ahead else "running",
            text if ahead else "",
            idempotency_key,
            process,
            from_moment(expires_at, is_sqlite=db.is_sqlite),
            0 if ahead else lease.fence,
            None if ahead else from_uuid(user_row.id, is_sqlite=db.is_sqlite),
            moment,
            None if ahead else moment,
        ),
    )
    if ahead:
        db.run(f"UPDATE {SESSION} SET last_turn_number = %s WHERE id = %s", (number, session.id))
        return Ticket(turn_id, session_id, number, ahead, None)
    started = _begin(db, session, lease=lease, number=number, user_row=user_row, now=now)
    return Ticket(turn_id, session_id, number, 0, started)


def is_first(db: Database, *, ticket: Ticket, now: datetime) -> bool:
    """Whether the turn may try to start: a plain read, for polling.

    True also when the ticket is gone: `start` then says so.
    """
    row = db.one(
        f"SELECT 1 FROM {TURN} WHERE session_id = %s AND {_LIVE} AND number < %s"
        " AND lease_expires_at > %s LIMIT 1",
        (
            from_uuid(ticket.session_id, is_sqlite=db.is_sqlite),
            ticket.number,
            from_moment(now, is_sqlite=db.is_sqlite),
        ),
    )
    return row is None


def start(db: Database, *, ticket: Ticket, expires_at: datetime, now: datetime) -> Started | None:
    """Start a queued turn; None while somebody alive is ahead. Dead turns ahead are recovered.

    Raises LeaseLost when the ticket itself was given up, or the conversation is gone.
    """
    session = lock_session(db, session_id=ticket.session_id)
    if session is None:
        raise LeaseLost
    turn_id = from_uuid(ticket.turn_id, is_sqlite=db.is_sqlite)
    row = db.one(f"SELECT input FROM {TURN} WHERE id = %s AND status = 'queued'", (turn_id,))
    if row is None:
        raise LeaseLost
    ahead = _alive_ahead(db, session, number=ticket.number, now=now)
    if ahead:
        return None
    if ahead is None:
        session = lock_session(db, session_id=ticket.session_id) or session
    user_row = row_of(row[0])
    lease = Lease(ticket.session_id, ticket.turn_id, session.fence + 1)
    db.run(
        f"UPDATE {TURN} SET status = 'running', input = '', fence = %s, lease_expires_at = %s,"
        " started_at = %s, user_message_id = %s WHERE id = %s",
        (
            lease.fence,
            from_moment(expires_at, is_sqlite=db.is_sqlite),
            from_moment(now, is_sqlite=db.is_sqlite),
            from_uuid(user_row.id, is_sqlite=db.is_sqlite),
            turn_id,
        ),
    )
    return _begin(db, session, lease=lease, number=None, user_row=user_row, now=now)


def checkpoint(db: Database, *, lease: Lease, text: str) -> None:
    """Keep the answer so far: a crash after this loses only what came later."""
    changed = db.run(
        f"UPDATE {TURN} SET partial = %s WHERE id = %s AND fence = %s AND status = 'running'",
        (text, from_uuid(lease.turn_id, is_sqlite=db.is_sqlite), lease.fence),
    )
    if not changed:
        raise LeaseLost


def finish(
    db: Database, *, lease: Lease, result: Result, now: datetime, batch: log.Batch | None = None
) -> UUID | None:
    """Store the turn's last batch and close it, and give an untitled conversation its title.

    Returns the answer's id; a second call with the same result changes nothing. The fence moves on:
    what still runs of a stopped turn writes no more. Raises LeaseLost when another process has
    taken over: it has closed the turn already.
    """
    session_id = from_uuid(lease.session_id, is_sqlite=db.is_sqlite)
    moment = from_moment(now, is_sqlite=db.is_sqlite)
    partial = result.partial_row
    if batch is not None:
        try:
            # What the turn has used is stored below.
            log.append_for_turn(db, lease=lease, batch=replace(batch, usage=None), now=now)
        except LeaseLost:
            return _finished_before(db, lease=lease, status=result.status)
    row = db.one(
        f"UPDATE {SESSION} SET fence = fence + 1, last_position = last_position + %s,"
        " message_count = message_count + %s, input_tokens = input_tokens + %s,"
        " output_tokens = output_tokens + %s, last_active_at = %s, updated_at = %s"
        " WHERE id = %s AND fence = %s RETURNING last_position, title",
        (
            1 if partial else 0,
            1 if partial else 0,
            result.usage.input_tokens,
            result.usage.output_tokens,
            moment,
            moment,
            session_id,
            lease.fence,
        ),
    )
    if row is None:
        return _finished_before(db, lease=lease, status=result.status)
    if partial is not None:
        insert_rows(
            db,
            session_id=session_id,
            turn_id=from_uuid(lease.turn_id, is_sqlite=db.is_sqlite),
            first_position=row[0],
            rows=[partial],
            moment=moment,
        )
    if result.answer_id is not None and (result.incomplete or result.answer_text is not None):
        key = from_uuid(result.answer_id, is_sqlite=db.is_sqlite)
        db.run(f"UPDATE {MESSAGE} SET incomplete = %s WHERE id = %s", (result.incomplete, key))
        if result.answer_text is not None:
            db.run(f"UPDATE {MESSAGE} SET text = %s WHERE id = %s", (result.answer_text, key))
    if not row[1]:
        _give_title(db, session_id)
    answer_id = partial.id if partial else result.answer_id
    db.run(
        f"UPDATE {TURN} SET status = %s, error_code = %s, warning = %s, model = %s, requests = %s,"
        " input_tokens = %s, output_tokens = %s, partial = '', answer_message_id = %s,"
        " first_token_at = %s, finished_at = %s WHERE id = %s",
        (
            result.status,
            result.error_code,
            result.warning,
            result.model[:200],
            result.usage.requests,
            result.usage.input_tokens,
            result.usage.output_tokens,
            from_uuid(answer_id, is_sqlite=db.is_sqlite),
            from_moment(result.first_token_at, is_sqlite=db.is_sqlite),
            moment,
            from_uuid(lease.turn_id, is_sqlite=db.is_sqlite),
        ),
    )
    return answer_id


def renew(
    db: Database, *, process: str, turn_ids: Collection[UUID], expires_at: datetime
) -> set[UUID]:
    """A sign of life for these turns; returns which of them are still this process's own.

    Only these: a row that its process lost sight of must run out like any other.
    """
    if not turn_ids:
        return set()
    keys = [from_uuid(turn_id, is_sqlite=db.is_sqlite) for turn_id in turn_ids]
    lock = "" if db.is_sqlite else " FOR UPDATE"
    rows = db.all(
        f"SELECT id FROM {TURN} WHERE id IN ({_marks(keys)}) AND lease_owner = %s AND {_LIVE}"
        f" ORDER BY session_id, number{lock}",
        (*keys, process),
    )
    mine = [turn_id for (turn_id,) in rows]
    if mine:
        db.run(
            f"UPDATE {TURN} SET lease_expires_at = %s WHERE id IN ({_marks(mine)})",
            (from_moment(expires_at, is_sqlite=db.is_sqlite), *mine),
        )
    return {to_uuid(turn_id) for turn_id in mine}


def give_up(
    db: Database, *, turn_id: UUID, status: str, error_code: str, now: datetime
) -> UUID | None:
    """Close a turn that will not run, queued or just started; what was said stays.

    Returns the id of the person's message. A turn that has ended already is left as it is.
    """
    key = from_uuid(turn_id, is_sqlite=db.is_sqlite)
    row = db.one(f"SELECT session_id FROM {TURN} WHERE id = %s", (key,))
    session = row and lock_session(db, session_id=to_uuid(row[0]))
    if not session:
        return None
    rows = db.all(f"SELECT id, status FROM {TURN} WHERE id = %s AND {_LIVE}", (key,))
    close(db, session, rows, status=status, error_code=error_code, now=now)
    (message_id,) = db.one(f"SELECT user_message_id FROM {TURN} WHERE id = %s", (key,))
    return to_uuid(message_id) if message_id else None


def find_abandoned(db: Database, *, expired_before: datetime, limit: int = 20) -> list[UUID]:
    """Sessions with a turn whose lease ran out before that moment, for `recover`."""
    rows = db.all(
        f"SELECT DISTINCT session_id FROM {TURN} WHERE {_LIVE} AND lease_expires_at <= %s LIMIT %s",
        (from_moment(expired_before, is_sqlite=db.is_sqlite), limit),
    )
    return [to_uuid(session_id) for (session_id,) in rows]


def recover(db: Database, *, session_id: UUID, expired_before: datetime, now: datetime) -> None:
    """Close what processes that are gone left open in a session, as its next turn would."""
    session = lock_session(db, session_id=session_id)
    if session is None:
        return
    rows = db.all(
        f"SELECT id, status FROM {TURN} WHERE session_id = %s AND {_LIVE}"
        " AND lease_expires_at <= %s ORDER BY number",
        (session.id, from_moment(expired_before, is_sqlite=db.is_sqlite)),
    )
    interrupt(db, session, rows, now=now)


def interrupt_all(db: Database, *, session_id: UUID, now: datetime) -> None:
    """Take the conversation away from whoever runs or waits in it, on any machine."""
    session = lock_session(db, session_id=session_id)
    if session is None:
        return
    rows = db.all(
        f"SELECT id, status FROM {TURN} WHERE session_id = %s AND {_LIVE} ORDER BY number",
        (session.id,),
    )
    interrupt(db, session, rows, now=now)


def _alive_ahead(db: Database, session: LockedSession, *, number: int, now: datetime) -> int | None:
    """How many live turns come before `number`.

    Dead ones are recovered on the way; None when that changed the session and nobody is ahead.
    """
    rows = db.all(
        f"SELECT id, status, lease_expires_at FROM {TURN}"
        f" WHERE session_id = %s AND {_LIVE} AND number < %s ORDER BY number",
        (session.id, number),
    )
    if not rows:
        return 0
    dead = [row[:2] for row in rows if (to_moment(row[2]) or now) <= now]
    if dead:
        interrupt(db, session, dead, now=now)
    alive = len(rows) - len(dead)
    return alive or None


def _begin(
    db: Database,
    session: LockedSession,
    *,
    lease: Lease,
    number: int | None,
    user_row: Row,
    now: datetime,
) -> Started:
    """Store the user's row under the new fence, and read what the model remembers."""
    moment = from_moment(now, is_sqlite=db.is_sqlite)
    db.run(
        f"UPDATE {SESSION} SET fence = %s, last_turn_number = %s, last_position = %s,"
        " message_count = message_count + 1, last_active_at = %s, updated_at = %s WHERE id = %s",
        (
            lease.fence,
            number if number is not None else session.last_turn_number,
            session.last_position + 1,
            moment,
            moment,
            session.id,
        ),
    )
    insert_rows(
        db,
        session_id=session.id,
        turn_id=from_uuid(lease.turn_id, is_sqlite=db.is_sqlite),
        first_position=session.last_position + 1,
        rows=[user_row],
        moment=moment,
    )
    try:
        window: Memory | None = load_window(db, session_id=lease.session_id)
    except Exception as error:
        if not db.is_sqlite or store_error(error) is None:
            raise  # PostgreSQL undoes the whole transaction
        window = None
    return Started(lease, session.agent_session_id, user_row.id, window)


def _finished_before(db: Database, *, lease: Lease, status: str) -> UUID | None:
    """The answer's id of a turn whose end was stored, although its process did not hear of it."""
    row = db.one(
        f"SELECT answer_message_id FROM {TURN} WHERE id = %s AND fence = %s AND status = %s",
        (from_uuid(lease.turn_id, is_sqlite=db.is_sqlite), lease.fence, status),
    )
    if row is None:
        raise LeaseLost
    return to_uuid(row[0]) if row[0] else None


def _give_title(db: Database, session_id: Any) -> None:
    """An untitled conversation takes its title from its first message."""
    row = db.one(
        f"SELECT text FROM {MESSAGE} WHERE session_id = %s AND role = 'user' AND shown = %s"
        " ORDER BY position LIMIT 1",
        (session_id, True),
    )
    if row:
        db.run(
            f"UPDATE {SESSION} SET title = %s WHERE id = %s AND title = ''",
            (title_from(row[0]), session_id),
        )


def title_from(text: str) -> str:
    """The first 50 characters of a message, on one line, with `...` where it goes on."""
    line = " ".join(text.split())
    return line if len(line) <= TITLE_CHARS else line[:TITLE_CHARS] + "..."


def _marks(keys: Sequence[Any]) -> str:
    return ", ".join(["%s"] * len(keys))
