"""How turns end before their answer is whole: nothing said is lost, what was cut is marked.

People see the part that was written; the model is given it too, and told that it was cut short.
All of it runs under the session's row lock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from conversations.errors import StoreDamaged
from conversations.items import Row, encode_item, note_row
from conversations.lanes import Database, from_moment, from_uuid, notify, to_uuid
from conversations.store.damage import count_of, select, text_of
from conversations.store.inputs import decode_input, row_of, unseen_rows
from conversations.store.leases import LIVE
from conversations.store.log import MESSAGE, SESSION, TURN, counts_of, insert_rows
from conversations.store.pruning import prune_keyed
from conversations.store.records import recorded_answer
from conversations.store.titles import give_title

STOPPED: Final = "The user stopped the previous answer before it was complete."
CUT_SHORT: Final = "The previous answer was cut short before it was complete."


@dataclass(frozen=True, slots=True)
class LockedSession:
    """A session as it stood when its row was locked."""

    id: Any
    agent_session_id: str
    status: str
    last_turn_number: int
    last_position: int
    fence: int
    pruned_count: int = 0


@dataclass(frozen=True, slots=True)
class Cut:
    """What an answer that was cut short leaves to store.

    `rows` are new ones; `answer_id` is the row people see, new or stored before a tool ran, whose
    text then becomes `corrected`.
    """

    rows: list[Row] = field(default_factory=list)
    answer_id: UUID | None = None
    corrected: str | None = None


def cut_answer(
    *,
    said: str,
    stored_id: UUID | None,
    stored_text: str,
    note: str,
    new_id: UUID | None = None,
    began_at: datetime | None = None,
) -> Cut:
    """The rest of an answer of which `said` was written and `stored_text` is in the log already.

    Where nothing is stored of it, its row gets `new_id`, and is of the moment it `began_at`.
    """
    rest = said.removeprefix(stored_text) if said.startswith(stored_text) else said
    item = encode_item({"role": "assistant", "content": rest}) if rest else None
    notes = [note_row(note)] if note else []
    if stored_id is not None:
        hidden = [Row("message", "assistant", agent_item=item)] if item else []
        return Cut([*hidden, *notes], stored_id, said if said != stored_text else None)
    if not rest:
        return Cut(notes)
    shown = Row("message", "assistant", text=said, shown=True, incomplete=True, agent_item=item)
    if new_id is not None:
        shown = replace(shown, id=new_id, created_at=began_at)
    return Cut([shown, *notes], shown.id)


def lock_session(
    db: Database, *, session_id: UUID, owner_id: Any = None, locks: bool = True
) -> LockedSession | None:
    """Hold the session's row until the transaction ends; None where there is none of that owner.

    Without `locks` it is only read. Raises StoreDamaged where its counters are no numbers.
    """
    lock = " FOR UPDATE" if locks and not db.is_sqlite else ""
    owner, params = "", [from_uuid(session_id, is_sqlite=db.is_sqlite)]
    if owner_id is not None:
        owner = " AND owner_id = %s"
        params.append(_key(owner_id, db))
    row = db.one(
        "SELECT id, agent_session_id, status, last_turn_number, last_position, fence, pruned_count"
        f" FROM {SESSION} WHERE id = %s{owner}{lock}",
        params,
    )
    if row is None:
        return None
    if not all(isinstance(counter, int) for counter in row[3:6]):
        raise StoreDamaged
    row = (*row[:6], count_of(row[6]))
    return LockedSession(*row)


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
    if turns:
        give_title(db, session.id)
        prune_keyed(db, session_key=session.id, now=now)
        wake_next(db, session.id)


def give_up(
    db: Database, *, turn_id: UUID, process: str, status: str, error_code: str, now: datetime
) -> UUID | None:
    """Close a turn of this process that will not run, queued or just started; what was said stays.

    Returns the id of the person's message. A turn that has ended already, or that another process
    has adopted, is left as it is.
    """
    key = from_uuid(turn_id, is_sqlite=db.is_sqlite)
    row = db.one(f"SELECT session_id FROM {TURN} WHERE id = %s", (key,))
    session = row and lock_session(db, session_id=to_uuid(row[0]))
    if not session:
        return None
    rows = db.all(
        f"SELECT id, status FROM {TURN} WHERE id = %s AND lease_owner = %s AND {LIVE}",
        (key, process),
    )
    close(db, session, rows, status=status, error_code=error_code, now=now)
    (message_id,) = db.one(f"SELECT user_message_id FROM {TURN} WHERE id = %s", (key,))
    return to_uuid(message_id) if message_id else None


def interrupt_all(db: Database, *, session_id: UUID, now: datetime) -> None:
    """Take the conversation away from whoever runs or waits in it, on any machine."""
    session = lock_session(db, session_id=session_id)
    if session is None:
        return
    rows = db.all(
        f"SELECT id, status FROM {TURN} WHERE session_id = %s AND {LIVE} ORDER BY number",
        (session.id,),
    )
    interrupt(db, session, rows, now=now)


def wake_next(db: Database, session_id: Any) -> None:
    """Tell the processes whose turns wait in a session that one has ended.

    Only if there are any: on PostgreSQL commits that notify wait for each other.
    """
    if db.is_sqlite:
        return  # its waiters watch the file
    waiting = f"SELECT 1 FROM {TURN} WHERE session_id = %s AND status = 'queued' LIMIT 1"
    if db.one(waiting, (session_id,)):
        notify(db, str(session_id))


def remember_the_question(db: Database, *, session_id: Any, turn_id: Any, now: datetime) -> None:
    """The model is to know what was asked, although the run came to store nothing.

    With its files, and all else that it was given beside the text. The keys are as the engine
    stores them.
    """
    beside = select(db, ["input_item"], f"FROM {TURN} WHERE id = %s", (turn_id,))
    given = decode_input(beside[0][0]) if beside else None
    if given is not None and not given.is_said:
        remembered = f"SELECT 1 FROM {MESSAGE} WHERE turn_id = %s AND agent_item IS NOT NULL"
        if db.one(f"{remembered} LIMIT 1", (turn_id,)) is None:
            rows = unseen_rows(given)
            append_rows(db, session_id=session_id, turn_id=turn_id, rows=rows, now=now)
        return
    for message_id, said in _texts(
        db, "turn_id = %s AND role = 'user' AND shown = %s AND agent_item IS NULL", (turn_id, True)
    ):
        items = given.agent_items if given is not None else None
        # As the SDK makes it of a text.
        item = encode_item(items[0] if items else {"content": said, "role": "user"})
        db.run(f"UPDATE {MESSAGE} SET agent_item = %s WHERE id = %s", (item, message_id))
        db.run(
            f"UPDATE {SESSION} SET remembered_count = remembered_count + 1 WHERE id = %s",
            (session_id,),
        )


def _close_unstarted(
    db: Database, session: LockedSession, *, key: Any, status: str, error_code: str, now: datetime
) -> None:
    ((said, beside),) = select(db, ["input", "input_item"], f"FROM {TURN} WHERE id = %s", (key,))
    given = decode_input(beside)
    user_row = row_of(text_of(said), given)
    rows = [user_row] if user_row else unseen_rows(given)
    append_rows(db, session_id=session.id, turn_id=key, rows=rows, now=now)
    db.run(
        f"UPDATE {TURN} SET status = %s, error_code = %s, input = '', input_item = NULL,"
        " user_message_id = %s,"
        " event_count = 2, finished_at = %s WHERE id = %s",  # it waited, and it ended
        (
            status,
            error_code,
            from_uuid(user_row.id if user_row else None, is_sqlite=db.is_sqlite),
            from_moment(now, is_sqlite=db.is_sqlite),
            key,
        ),
    )


def _close_running(
    db: Database, session: LockedSession, *, key: Any, status: str, error_code: str, now: datetime
) -> None:
    """Close a started turn: the fence moves on, so that its process can write no more."""
    lock = "" if db.is_sqlite else " FOR UPDATE"  # a record on its way comes first
    input_tokens, output_tokens = db.one(
        f"SELECT input_tokens, output_tokens FROM {TURN} WHERE id = %s{lock}", (key,)
    )
    db.run(
        f"UPDATE {SESSION} SET fence = fence + 1, input_tokens = input_tokens + %s,"
        " output_tokens = output_tokens + %s WHERE id = %s",
        (input_tokens, output_tokens, session.id),
    )
    remember_the_question(db, session_id=session.id, turn_id=key, now=now)
    said, last_number = recorded_answer(db, turn_id=to_uuid(key))
    stored = _texts(
        db,
        "turn_id = %s AND role = 'assistant' AND shown = %s AND thread_item IS NULL",
        (key, True),
    )
    stored_id, stored_text = (to_uuid(stored[0][0]), stored[0][1]) if stored else (None, "")
    if len(said) < len(stored_text):  # stored after the last record
        said = stored_text
    note = STOPPED if status == "cancelled" else CUT_SHORT if said else ""
    cut = cut_answer(said=said, stored_id=stored_id, stored_text=stored_text, note=note)
    append_rows(db, session_id=session.id, turn_id=key, rows=cut.rows, now=now)
    answer_key = from_uuid(cut.answer_id, is_sqlite=db.is_sqlite)
    if stored_id is not None:
        mark_cut(db, key=answer_key, corrected=cut.corrected)
    db.run(
        f"UPDATE {TURN} SET status = %s, error_code = %s, input_item = NULL, event_count = %s,"
        " answer_message_id = %s, finished_at = %s WHERE id = %s",
        (
            status,
            error_code,
            last_number + 1,
            answer_key,
            from_moment(now, is_sqlite=db.is_sqlite),
            key,
        ),
    )


def mark_cut(db: Database, *, key: Any, corrected: str | None) -> None:
    """An answer stored before a tool ran is not whole; people see all that was said of it."""
    db.run(f"UPDATE {MESSAGE} SET incomplete = %s WHERE id = %s", (True, key))
    if corrected is not None:
        db.run(f"UPDATE {MESSAGE} SET text = %s WHERE id = %s", (corrected, key))


def append_rows(
    db: Database, *, session_id: Any, turn_id: Any, rows: Sequence[Row], now: datetime
) -> None:
    """Add rows at the end of a session; the keys are as the engine stores them."""
    if not rows:
        return
    remembered, shown = counts_of(rows)
    (last_position,) = db.one(
        f"UPDATE {SESSION} SET last_position = last_position + %s, item_count = item_count + %s,"
        " remembered_count = remembered_count + %s, message_count = message_count + %s"
        " WHERE id = %s RETURNING last_position",
        (len(rows), len(rows), remembered, shown, session_id),
    )
    insert_rows(
        db,
        session_id=session_id,
        turn_id=turn_id,
        first_position=last_position - len(rows) + 1,
        rows=rows,
        moment=from_moment(now, is_sqlite=db.is_sqlite),
    )


def _texts(db: Database, where: str, params: Sequence[Any]) -> list[tuple[Any, str]]:
    """Messages by their key as the engine stores it, with their text as far as it can be read."""
    found = select(db, ["id", "text"], f"FROM {MESSAGE} WHERE {where}", params)
    return [(text_of(key) if isinstance(key, bytes) else key, text_of(text)) for key, text in found]


def _key(owner_id: Any, db: Database) -> Any:
    return from_uuid(owner_id, is_sqlite=db.is_sqlite) if isinstance(owner_id, UUID) else owner_id
