"""The line of a session: a ticket for every message, then, at its head, a lease.

A turn may start when it is the first of its session that is alive. Being alive is a lease that its
process renews; the start moves the session's fence on, so whoever held it before can write no more.
A ticket whose process is gone before its turn began is adopted: its message will be answered.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Any
from uuid import UUID

from conversations.errors import LeaseLost, QueueFull, ThreadClosed, ThreadNotFound
from conversations.items import Memory, Row
from conversations.lanes import Database, from_moment, from_uuid, to_uuid
from conversations.store.closing import LockedSession, lock_session
from conversations.store.inputs import (
    Settlement,
    TurnInput,
    decode_input,
    row_of,
    take_beside,
)
from conversations.store.leases import LIVE, Holder
from conversations.store.line import Orphan, Started, Ticket, adopt, clear_way, count_ahead
from conversations.store.log import SESSION, TURN, Lease, insert_rows
from conversations.store.recall import load_window
from conversations.store.repeats import Repeat, find_repeat
from conversations.store.rewinding import rewind


def submit(
    db: Database,
    *,
    holder: Holder,
    session_id: UUID,
    owner_id: Any,
    turn_id: UUID,
    text: str,
    idempotency_key: str | None,
    now: datetime,
    max_queued: int,
    rewinds_to: UUID | None = None,
    with_memory: bool = True,
    is_in_doubt: bool = False,
    is_answered: bool = False,
    given: TurnInput | None = None,
    settlement: Settlement | None = None,
) -> Ticket | Repeat:
    """Take a ticket, which acknowledges the message, and start at once where nobody is ahead.

    A key that was used for the same text gets the turn it began, not a second one. In doubt, the
    ticket may have been taken already although its process did not hear of it: then it is that one.
    What was answered without the store is taken also where the conversation takes no more messages.
    A message in place of the turn `rewinds_to` takes that and all after it out of the conversation;
    where it says the same, people know it by the same id. With a `settlement`, what a person
    answered is stored with the ticket. Raises ThreadNotFound for a session that is missing or
    another's, ThreadClosed, QueueFull, IdempotencyConflict; with `rewinds_to` also TurnNotFound and
    ThreadHeld, with a `settlement` Invalid, with files Invalid and AttachmentNotFound.
    """
    session = lock_session(db, session_id=session_id, owner_id=owner_id)
    if session is None:
        raise ThreadNotFound
    if is_in_doubt:
        taken = _hear_again(db, session, turn_id=turn_id, holder=holder, with_memory=with_memory)
        if taken is not None:
            return taken
    if idempotency_key is not None:
        repeat = find_repeat(db, session_id=session_id, key=idempotency_key, text=text, now=now)
        if repeat is not None:
            return repeat
    if session.status != "active" and not is_answered:
        raise ThreadClosed
    user_row = row_of(text, given)
    take_beside(
        db,
        session_id=session_id,
        owner_id=owner_id,
        given=given,
        settlement=settlement,
        now=now,
    )
    if rewinds_to is not None:
        rewound = rewind(
            db,
            session_id=session_id,
            owner_id=owner_id,
            turn_id=rewinds_to,
            now=now,
            again=text,
        )
        session = lock_session(db, session_id=session_id) or session  # its fence has moved on
        if rewound.text == text and user_row is not None:
            user_row = replace(user_row, id=rewound.message_id)
    number = session.last_turn_number + 1
    line = clear_way(db, session, before=number, holder=holder, now=now)
    ahead = line.alive + len(line.orphans)
    if ahead > max_queued and not is_answered:
        raise QueueFull
    if line.has_changed:
        session = lock_session(db, session_id=session_id) or session
    lease = Lease(session_id, turn_id, session.fence + 1)
    moment = from_moment(now, is_sqlite=db.is_sqlite)
    db.run(
        f"INSERT INTO {TURN} (id, session_id, number, status, input, input_item, idempotency_key,"
        " lease_owner, lease_until, fence, model, requests, input_tokens, output_tokens,"
        " error_code, warning, user_message_id, event_count, queued_at, started_at)"
        " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, '', 0, 0, 0, '', '', %s, 0, %s, %s)",
        (
            from_uuid(turn_id, is_sqlite=db.is_sqlite),
            session.id,
            number,
            "queued" if ahead else "running",
            text if ahead else "",
            given.encode() if given and (ahead or given.is_more_for_the_model) else None,
            idempotency_key,
            holder.process,
            holder.until(db),
            0 if ahead else lease.fence,
            from_uuid(user_row.id if user_row and not ahead else None, is_sqlite=db.is_sqlite),
            moment,
            None if ahead else moment,
        ),
    )
    if ahead:
        db.run(f"UPDATE {SESSION} SET last_turn_number = %s WHERE id = %s", (number, session.id))
        return Ticket(turn_id, session_id, number, ahead, None)
    started = _begin(
        db,
        session,
        lease=lease,
        number=number,
        user_row=user_row,
        now=now,
        with_memory=with_memory,
    )
    return Ticket(turn_id, session_id, number, 0, started)


def peek(
    db: Database,
    *,
    session_id: UUID,
    owner_id: Any,
    turn_id: UUID,
    text: str,
    idempotency_key: str | None,
    now: datetime,
) -> Memory | Repeat:
    """What `submit` would find, where nothing can be written: the memory to answer with.

    The turn itself where its ticket was taken, although its process did not hear of it.

    Raises ThreadNotFound, ThreadClosed, IdempotencyConflict, and whatever the engine raises.
    """
    session = lock_session(db, session_id=session_id, owner_id=owner_id, locks=False)
    if session is None:
        raise ThreadNotFound
    key = from_uuid(turn_id, is_sqlite=db.is_sqlite)
    taken = db.one(f"SELECT number FROM {TURN} WHERE id = %s", (key,))
    if taken is not None:
        return Repeat(turn_id, session_id, taken[0])
    if idempotency_key is not None:
        repeat = find_repeat(
            db, session_id=session_id, key=idempotency_key, text=text, now=now, frees=False
        )
        if repeat is not None:
            return repeat
    if session.status != "active":
        raise ThreadClosed
    return load_window(db, session_id=session_id)


def start(
    db: Database, *, holder: Holder, ticket: Ticket, now: datetime, with_memory: bool = True
) -> Started | list[Orphan]:
    """Start a queued turn, or say why not yet: the abandoned tickets ahead, adopted for it.

    An empty list: somebody alive is ahead. Raises LeaseLost when the ticket itself was given up
    or adopted, or the conversation is gone.
    """
    session = lock_session(db, session_id=ticket.session_id)
    if session is None:
        raise LeaseLost
    turn_id = from_uuid(ticket.turn_id, is_sqlite=db.is_sqlite)
    row = db.one(
        f"SELECT input, status, fence, user_message_id, input_item FROM {TURN}"
        f" WHERE id = %s AND {LIVE} AND lease_owner = %s",
        (turn_id, holder.process),
    )
    if row is None:
        raise LeaseLost
    if row[1] == "running":  # its process did not hear that it started
        lease = Lease(ticket.session_id, ticket.turn_id, row[2])
        window = load_window(db, session_id=ticket.session_id) if with_memory else None
        return _started(session, lease, row[3] and to_uuid(row[3]), window)
    line = clear_way(db, session, before=ticket.number, holder=holder, now=now)
    if line.alive or line.orphans:
        return adopt(db, session, line.orphans, holder=holder)
    if line.has_changed:
        session = lock_session(db, session_id=ticket.session_id) or session
    given = decode_input(row[4])
    user_row = row_of(row[0], given)
    lease = Lease(ticket.session_id, ticket.turn_id, session.fence + 1)
    db.run(
        f"UPDATE {TURN} SET status = 'running', input = '', input_item = %s, fence = %s,"
        " lease_until = %s, started_at = %s, user_message_id = %s WHERE id = %s",
        (
            row[4] if given and given.is_more_for_the_model else None,
            lease.fence,
            holder.until(db),
            from_moment(now, is_sqlite=db.is_sqlite),
            from_uuid(user_row.id if user_row else None, is_sqlite=db.is_sqlite),
            turn_id,
        ),
    )
    return _begin(
        db,
        session,
        lease=lease,
        number=None,
        user_row=user_row,
        now=now,
        with_memory=with_memory,
    )


def _hear_again(
    db: Database, session: LockedSession, *, turn_id: UUID, holder: Holder, with_memory: bool
) -> Ticket | Repeat | None:
    """The ticket of that turn, if it was taken: as it stands if it is still this process's own."""
    row = db.one(
        f"SELECT number, status, lease_owner, fence, user_message_id FROM {TURN} WHERE id = %s",
        (from_uuid(turn_id, is_sqlite=db.is_sqlite),),
    )
    if row is None:
        return None
    number, status, owner, fence, user_message_id = row
    session_id = to_uuid(session.id)
    if owner == holder.process and status == "queued":
        ahead = count_ahead(db, turn_id=turn_id)
        return Ticket(turn_id, session_id, number, ahead, None)
    if owner == holder.process and status == "running" and fence == session.fence:
        window = load_window(db, session_id=session_id) if with_memory else None
        lease = Lease(session_id, turn_id, fence)
        started = _started(session, lease, user_message_id and to_uuid(user_message_id), window)
        return Ticket(turn_id, session_id, number, 0, started)
    return Repeat(turn_id, session_id, number)


def _begin(
    db: Database,
    session: LockedSession,
    *,
    lease: Lease,
    number: int | None,
    user_row: Row | None,
    now: datetime,
    with_memory: bool,
) -> Started:
    """Store the user's row under the new fence, and read what the model remembers."""
    moment = from_moment(now, is_sqlite=db.is_sqlite)
    rows = [user_row] if user_row else []
    db.run(
        f"UPDATE {SESSION} SET fence = %s, last_turn_number = %s, last_position = %s,"
        " message_count = message_count + %s, item_count = item_count + %s, last_active_at = %s,"
        " updated_at = %s WHERE id = %s",
        (
            lease.fence,
            number if number is not None else session.last_turn_number,
            session.last_position + len(rows),
            len(rows),
            len(rows),
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
        rows=rows,
        moment=moment,
    )
    window = load_window(db, session_id=lease.session_id) if with_memory else None
    return _started(session, lease, user_row.id if user_row else None, window)


def _started(
    session: LockedSession, lease: Lease, user_message_id: UUID | None, window: Memory | None
) -> Started:
    name = session.agent_session_id
    return Started(lease, name, user_message_id, window, session.pruned_count)
