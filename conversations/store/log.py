"""The ordered log of a session: append at the end, forget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from conversations import tally
from conversations.errors import LeaseLost
from conversations.events import Usage
from conversations.ids import new_id
from conversations.items import Row
from conversations.lanes import Database, from_moment, from_uuid, to_uuid
from conversations.models import (
    ChatMessage,
    ChatSession,
    ChatTurn,
    Feedback,
    RecordedEvents,
    StaffRead,
)
from conversations.store import ledger
from conversations.store.attachments import take_of_session
from conversations.store.holds import refuse_held
from conversations.store.weights import weigh

SESSION: Final = ChatSession._meta.db_table
TURN: Final = ChatTurn._meta.db_table
MESSAGE: Final = ChatMessage._meta.db_table
EVENTS: Final = RecordedEvents._meta.db_table
FEEDBACK: Final = Feedback._meta.db_table
READS: Final = StaffRead._meta.db_table

_INSERT_MESSAGES: Final = (
    f"INSERT INTO {MESSAGE} (id, session_id, position, turn_id, kind, role, call_id, caller_id,"
    " text, shown, incomplete, agent_item, thread_item, created_at)"
    " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"
)
_RESERVE: Final = (
    f"UPDATE {SESSION} SET last_position = last_position + %s, item_count = item_count + %s,"
    " remembered_count = remembered_count + %s, message_count = message_count + %s,"
    " input_tokens = input_tokens + %s, output_tokens = output_tokens + %s,"
    " last_active_at = %s, updated_at = %s"
)
_RESERVE_BY_NAME: Final = (
    _RESERVE + " WHERE agent_session_id = %s RETURNING id, last_position, remembered_count"
)
_RESERVE_BY_FENCE: Final = _RESERVE + " WHERE id = %s AND fence = %s RETURNING id, last_position"
REMEMBERED: Final = "agent_item IS NOT NULL AND quarantined_at IS NULL AND forgotten_at IS NULL"


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to write for a turn: void as soon as the session's fence has moved on."""

    session_id: UUID
    turn_id: UUID
    fence: int


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of a running turn that are stored together, and what they do to earlier ones.

    `adopt` fills the memory of the user's row, stored when the turn began. People see the answer in
    its first piece, the row `answer_id`, whose text grows with the pieces that come: `extends` says
    that it was stored with an earlier batch. `usage` is what the turn has used so far. A batch is
    in doubt when it was sent before and nobody knows whether it was stored.
    """

    rows: Sequence[Row]
    adopt: tuple[UUID, Row] | None = None
    extends: bool = False
    usage: Usage | None = None
    answer_id: UUID | None = None
    answer_text: str = ""
    is_in_doubt: bool = False


def append(
    db: Database, *, agent_session_id: str, rows: Sequence[Row], usage: Usage, now: datetime
) -> int:
    """Add the batch at the end of the named session, which begins now if it is new.

    All or nothing; positions are taken under the session's row lock. Returns how many entries it
    remembers now.
    """
    moment = from_moment(now, is_sqlite=db.is_sqlite)
    remembered, shown = counts_of(rows)
    counts = (len(rows), len(rows), remembered, shown, usage.input_tokens, usage.output_tokens)
    params = (*counts, moment, moment, agent_session_id)
    found = db.one(_RESERVE_BY_NAME, params)
    if found is None:
        create_session(db, agent_session_id=agent_session_id, now=now)
        found = db.one(_RESERVE_BY_NAME, params)
    session_id, last_position, remembered_count = found
    first = last_position - len(rows) + 1
    insert_rows(
        db, session_id=session_id, turn_id=None, first_position=first, rows=rows, moment=moment
    )
    return int(remembered_count)


def create_session(
    db: Database,
    *,
    agent_session_id: str,
    now: datetime,
    session_id: UUID | None = None,
    owner_id: Any = None,
    title: str = "",
    metadata_json: str = "{}",
) -> None:
    """Make the session's row unless the name is taken."""
    moment = from_moment(now, is_sqlite=db.is_sqlite)
    created = db.run(
        f"INSERT INTO {SESSION} (id, agent_session_id, owner_id, title, status, metadata, hold,"
        " hold_reason, last_position, last_turn_number, fence, remembered_count, message_count,"
        " item_count, pruned_count, quarantined_count, input_tokens, output_tokens, created_at,"
        " updated_at, last_active_at)"
        " VALUES (%s, %s, %s, %s, 'active', %s, %s, '', 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, %s, %s, %s)"
        " ON CONFLICT DO NOTHING",
        (
            from_uuid(session_id or new_id(), is_sqlite=db.is_sqlite),
            agent_session_id,
            from_uuid(owner_id, is_sqlite=db.is_sqlite) if isinstance(owner_id, UUID) else owner_id,
            title,
            metadata_json,
            False,
            moment,
            moment,
            moment,
        ),
    )
    if created:
        tally.SESSIONS_CREATED.increase()


def append_for_turn(db: Database, *, lease: Lease, batch: Batch, now: datetime) -> None:
    """Add a batch of a running turn; raises LeaseLost when it is no longer this process's."""
    session_id = from_uuid(lease.session_id, is_sqlite=db.is_sqlite)
    if batch.is_in_doubt:
        batch = _without_stored(db, session_id=session_id, batch=batch)
    rows, adopt, usage = batch.rows, batch.adopt, batch.usage
    moment = from_moment(now, is_sqlite=db.is_sqlite)
    remembered, shown = counts_of(rows)
    found = db.one(
        _RESERVE_BY_FENCE,
        (
            len(rows),
            len(rows),
            remembered + (1 if adopt else 0),
            shown,
            0,  # what a turn costs is added when it ends
            0,
            moment,
            moment,
            session_id,
            lease.fence,
        ),
    )
    if found is None:
        raise LeaseLost
    first = found[1] - len(rows) + 1
    if adopt is not None:
        message_id, row = adopt
        db.run(
            f"UPDATE {MESSAGE} SET agent_item = %s WHERE id = %s",
            (row.agent_item, from_uuid(message_id, is_sqlite=db.is_sqlite)),
        )
    if batch.extends:
        db.run(
            f"UPDATE {MESSAGE} SET text = %s WHERE id = %s",
            (batch.answer_text, from_uuid(batch.answer_id, is_sqlite=db.is_sqlite)),
        )
    insert_rows(
        db,
        session_id=session_id,
        turn_id=from_uuid(lease.turn_id, is_sqlite=db.is_sqlite),
        first_position=first,
        rows=rows,
        moment=moment,
    )
    if usage is not None:
        db.run(
            f"UPDATE {TURN} SET requests = %s, input_tokens = %s, output_tokens = %s WHERE id = %s",
            (
                usage.requests,
                usage.input_tokens,
                usage.output_tokens,
                from_uuid(lease.turn_id, is_sqlite=db.is_sqlite),
            ),
        )


def _without_stored(db: Database, *, session_id: Any, batch: Batch) -> Batch:
    """What is left of a batch in doubt, once a transaction that may have brought it is over."""
    on_sqlite = db.is_sqlite
    if not on_sqlite:
        db.one(f"SELECT 1 FROM {SESSION} WHERE id = %s FOR UPDATE", (session_id,))
    keys = [from_uuid(row.id, is_sqlite=on_sqlite) for row in batch.rows]
    keys += [from_uuid(batch.adopt[0], is_sqlite=on_sqlite)] if batch.adopt else []
    marks = ", ".join(["%s"] * len(keys))
    found = db.all(f"SELECT id, agent_item IS NULL FROM {MESSAGE} WHERE id IN ({marks})", keys)
    stored = {to_uuid(key): is_unseen for key, is_unseen in found}
    adopt = batch.adopt
    if adopt is not None and not stored.get(adopt[0], True):
        adopt = None
    rows = [row for row in batch.rows if row.id not in stored]
    # Stored already, the answer may have gone on since.
    return replace(
        batch, rows=rows, adopt=adopt, extends=batch.extends or batch.answer_id in stored
    )


def insert_rows(
    db: Database,
    *,
    session_id: Any,
    turn_id: Any,
    first_position: int,
    rows: Sequence[Row],
    moment: Any,
) -> None:
    """Insert rows at positions already reserved; ids and time as the engine stores them."""
    on_sqlite = db.is_sqlite
    db.run_many(
        _INSERT_MESSAGES,
        [
            (
                row.id.hex if on_sqlite else row.id,
                session_id,
                position,
                turn_id,
                row.kind,
                row.role,
                row.call_id,
                row.caller_id,
                row.text,
                row.shown,
                row.incomplete,
                row.agent_item,
                row.thread_item,
                moment
                if row.created_at is None
                else from_moment(row.created_at, is_sqlite=on_sqlite),
            )
            for position, row in enumerate(rows, start=first_position)
        ],
    )


def clear(db: Database, *, agent_session_id: str, now: datetime, actor: str = ledger.CODE) -> int:
    """Forget everything said in the named session; returns how many messages people could read.

    What its turns cost is kept; what was said in them is not, nor are the files that came with it.
    Raises ThreadHeld.
    """
    found = lock_named(db, agent_session_id)
    if found is None:
        return 0
    refuse_held(db, found)
    (message_count,) = db.one(f"SELECT message_count FROM {SESSION} WHERE id = %s", (found,))
    entries, size = weigh(db, "session_id = %s", (found,))
    files = take_of_session(db, session_key=found)
    delete_messages(db, "session_id = %s", (found,))
    of_its_turns = f"turn_id IN (SELECT id FROM {TURN} WHERE session_id = %s)"
    db.run(f"DELETE FROM {EVENTS} WHERE {of_its_turns}", (found,))
    db.run(
        f"UPDATE {TURN} SET user_message_id = NULL, answer_message_id = NULL WHERE session_id = %s",
        (found,),
    )
    moment = from_moment(now, is_sqlite=db.is_sqlite)
    db.run(
        f"UPDATE {SESSION} SET remembered_count = 0, message_count = 0, item_count = 0,"
        " pruned_count = 0, quarantined_count = 0, last_active_at = %s, updated_at = %s"
        " WHERE id = %s",
        (moment, moment, found),
    )
    ledger.tell_of_session(
        db,
        action=ledger.CLEAR,
        session_key=found,
        actor=actor,
        counts={"messages": entries, "attachments": files},
        byte_count=size,
        now=now,
    )
    return int(message_count)


def delete_messages(db: Database, where: str, params: Sequence[Any]) -> int:
    """Delete rows of the log with what people thought of them; how many rows that were.

    The counters are the caller's.
    """
    db.run(
        f"DELETE FROM {FEEDBACK} WHERE message_id IN (SELECT id FROM {MESSAGE} WHERE {where})",
        params,
    )
    return db.run(f"DELETE FROM {MESSAGE} WHERE {where}", params)


def counts_of(rows: Sequence[Row]) -> tuple[int, int]:
    """How many of these rows are remembered, and how many people see."""
    remembered = shown = 0
    for row in rows:
        remembered += row.agent_item is not None
        shown += row.shown
    return remembered, shown


def lock_named(db: Database, agent_session_id: str) -> Any:
    """The session's id as the engine stores it, its row locked; None where there is none."""
    lock = "" if db.is_sqlite else " FOR UPDATE"
    row = db.one(f"SELECT id FROM {SESSION} WHERE agent_session_id = %s{lock}", (agent_session_id,))
    return row[0] if row else None
