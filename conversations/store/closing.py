"""Ends of turns that their process does not tell: nothing said is lost, what was cut is marked.

All of it runs under the session's row lock.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from conversations.items import Row, encode_item
from conversations.lanes import Database, from_moment, from_uuid
from conversations.store.log import MESSAGE, SESSION, TURN, insert_rows


@dataclass(frozen=True, slots=True)
class LockedSession:
    """A session as it stood when its row was locked."""

    id: Any
    agent_session_id: str
    status: str
    last_turn_number: int
    last_position: int
    fence: int


def lock_session(db: Database, *, session_id: UUID, owner_id: Any = None) -> LockedSession | None:
    """Hold the session's row until the transaction ends; None where there is none of that owner."""
    lock = "" if db.is_sqlite else " FOR UPDATE"
    owner, params = "", [from_uuid(session_id, is_sqlite=db.is_sqlite)]
    if owner_id is not None:
        owner = " AND owner_id = %s"
        params.append(_key(owner_id, db))
    row = db.one(
        "SELECT id, agent_session_id, status, last_turn_number, last_position, fence"
        f" FROM {SESSION} WHERE id = %s{owner}{lock}",
        params,
    )
    return LockedSession(*row) if row else None


def interrupt(db: Database, session: LockedSession, turns: list[Any], *, now: datetime) -> None:
    """Close turns whose process is gone; their partial answers stay, and are marked."""
    close(db, session, turns, status="interrupted", error_code="interrupted", now=now)


def close(
    db: Database,
    session: LockedSession,
    turns: list[Any],
    *,
    status: str,
    error_code: str,
    now: datetime,
) -> None:
    """Close live turns, each (id, status) as it was read under the session's lock."""
    for turn_id, current in turns:
        end = _close_unstarted if current == "queued" else _close_running
        end(db, session, key=turn_id, status=status, error_code=error_code, now=now)


def row_of(text: str) -> Row:
    """What a person said, for people to read; the model's memory of it comes with the run."""
    return Row(kind="message", role="user", text=text, shown=True)


def partial_row(text: str) -> Row:
    """What an answer that was cut short leaves for people to read."""
    return Row(kind="message", role="assistant", text=text, shown=True, incomplete=True)


def _close_unstarted(
    db: Database, session: LockedSession, *, key: Any, status: str, error_code: str, now: datetime
) -> None:
    (said,) = db.one(f"SELECT input FROM {TURN} WHERE id = %s", (key,))
    user_row = row_of(said)
    _append_shown(db, session, turn_id=key, row=user_row, now=now)
    db.run(
        f"UPDATE {TURN} SET status = %s, error_code = %s, input = '', user_message_id = %s,"
        " finished_at = %s WHERE id = %s",
        (
            status,
            error_code,
            from_uuid(user_row.id, is_sqlite=db.is_sqlite),
            from_moment(now, is_sqlite=db.is_sqlite),
            key,
        ),
    )


def _close_running(
    db: Database, session: LockedSession, *, key: Any, status: str, error_code: str, now: datetime
) -> None:
    """Close a started turn: the fence moves on, so that its process can write no more."""
    partial, input_tokens, output_tokens = db.one(
        f"SELECT partial, input_tokens, output_tokens FROM {TURN} WHERE id = %s", (key,)
    )
    db.run(
        f"UPDATE {SESSION} SET fence = fence + 1, input_tokens = input_tokens + %s,"
        " output_tokens = output_tokens + %s WHERE id = %s",
        (input_tokens, output_tokens, session.id),
    )
    _remember_the_question(db, session, turn_id=key)
    answer_id = _keep_partial(db, session, turn_id=key, partial=partial, now=now)
    db.run(
        f"UPDATE {TURN} SET status = %s, error_code = %s, partial = '', answer_message_id = %s,"
        " finished_at = %s WHERE id = %s",
        (status, error_code, answer_id, from_moment(now, is_sqlite=db.is_sqlite), key),
    )


def _remember_the_question(db: Database, session: LockedSession, *, turn_id: Any) -> None:
    """The model is to know what was asked, although the run came to store nothing."""
    for message_id, said in db.all(
        f"SELECT id, text FROM {MESSAGE} WHERE turn_id = %s AND role = 'user' AND shown = %s"
        " AND agent_item IS NULL",
        (turn_id, True),
    ):
        item = encode_item({"content": said, "role": "user"})  # as the SDK makes it of a text
        db.run(f"UPDATE {MESSAGE} SET agent_item = %s WHERE id = %s", (item, message_id))
        db.run(
            f"UPDATE {SESSION} SET remembered_count = remembered_count + 1 WHERE id = %s",
            (session.id,),
        )


def _keep_partial(
    db: Database, session: LockedSession, *, turn_id: Any, partial: str, now: datetime
) -> Any:
    """One shown row with the most that is known of a cut answer; its id as the engine stores it."""
    shown = db.one(
        f"SELECT id, text FROM {MESSAGE} WHERE turn_id = %s AND role = 'assistant' AND shown = %s",
        (turn_id, True),
    )
    if shown and len(shown[1]) >= len(partial):  # stored after the last checkpoint
        db.run(f"UPDATE {MESSAGE} SET incomplete = %s WHERE id = %s", (True, shown[0]))
        return shown[0]
    if not partial:
        return None
    if shown:  # what was said before a tool: the partial text holds it too
        db.run(f"UPDATE {MESSAGE} SET shown = %s WHERE id = %s", (False, shown[0]))
        db.run(
            f"UPDATE {SESSION} SET message_count = message_count - 1 WHERE id = %s", (session.id,)
        )
    row = partial_row(partial)
    _append_shown(db, session, turn_id=turn_id, row=row, now=now)
    return from_uuid(row.id, is_sqlite=db.is_sqlite)


def _append_shown(
    db: Database, session: LockedSession, *, turn_id: Any, row: Row, now: datetime
) -> None:
    (position,) = db.one(
        f"UPDATE {SESSION} SET last_position = last_position + 1,"
        " message_count = message_count + 1 WHERE id = %s RETURNING last_position",
        (session.id,),
    )
    insert_rows(
        db,
        session_id=session.id,
        turn_id=turn_id,
        first_position=position,
        rows=[row],
        moment=from_moment(now, is_sqlite=db.is_sqlite),
    )


def _key(owner_id: Any, db: Database) -> Any:
    return from_uuid(owner_id, is_sqlite=db.is_sqlite) if isinstance(owner_id, UUID) else owner_id
