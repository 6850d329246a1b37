"""A conversation as it was before one of its turns: what was said from there on goes, for all.

For people and for the model alike. What its turns cost is kept; what left the memory before does
not come back. Positions, numbers and the fence only grow: nothing that is late fits in again.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from conversations.errors import (
    IdempotencyConflict,
    ThreadClosed,
    ThreadNotFound,
    TurnNotFound,
)
from conversations.items import decode_item
from conversations.lanes import Database, from_moment, from_uuid
from conversations.store import ledger
from conversations.store.attachments import take_of_messages
from conversations.store.closing import interrupt_all, lock_session
from conversations.store.damage import count_of, maybe_text_of, select, text_of, uuid_of
from conversations.store.holds import refuse_held
from conversations.store.inputs import TurnInput, decode_input
from conversations.store.log import EVENTS, MESSAGE, REMEMBERED, SESSION, TURN, delete_messages
from conversations.store.repeats import Repeat, find_repeat
from conversations.store.threads import find_thread
from conversations.store.weights import weigh

_COUNTED: Final = ("item_count", "remembered_count", "message_count", "quarantined_count")


@dataclass(frozen=True, slots=True)
class Rewound:
    """What was said in the turn, by which message, and how much went with it."""

    text: str
    message_id: UUID
    message_count: int
    item_count: int


@dataclass(frozen=True, slots=True)
class SaidBefore:
    """What is to be said once more, with all that was said beside the text."""

    text: str
    given: TurnInput | None = None


@dataclass(frozen=True, slots=True)
class _Question:
    """What was said in a turn, and its place in the line."""

    number: int
    text: str | None
    """None where it was rewound, cleared or taken back."""
    message_id: UUID | None
    """None also while it waits."""
    thread_item: str | None = None
    agent_item: Any = None
    waiting: TurnInput | None = None
    running: TurnInput | None = None

    def given(self) -> TurnInput | None:
        """What was said beside the text."""
        if self.waiting is not None:
            return self.waiting
        if self.thread_item is None or self.message_id is None:
            return None
        item = decode_item(self.agent_item)
        told = self.running.agent_items if self.running else None  # it remembers with its end
        return TurnInput(
            message_id=self.message_id,
            thread_item=self.thread_item,
            agent_items=told if item is None else [item],
        )


def find_said(
    db: Database,
    *,
    session_id: UUID,
    owner_id: Any,
    turn_id: UUID,
    text: str | None,
    idempotency_key: str | None,
    now: datetime,
) -> SaidBefore | Repeat:
    """What is to be said once more in place of a turn: `text`, or all that was said in it.

    The turn that this key has begun there already, if it has. A plain read, for what must be known
    before anything is ended. Raises ThreadNotFound, ThreadClosed, ThreadHeld, TurnNotFound, and
    IdempotencyConflict where the key is that of another message.
    """
    thread = find_thread(db, session_id=session_id, owner_id=owner_id)
    key = from_uuid(session_id, is_sqlite=db.is_sqlite)
    question = _find_question(db, key, turn_id)
    if idempotency_key is not None:
        repeat = find_repeat(
            db, session_id=session_id, key=idempotency_key, text=text, now=now, frees=False
        )
        if repeat is not None:
            # Looked at once more: that turn may have begun between the two.
            if _find_question(db, key, turn_id).text is not None:
                raise IdempotencyConflict
            return repeat
    if thread.status != "active":
        raise ThreadClosed
    refuse_held(db, key)
    if question.text is None:
        raise TurnNotFound
    if text is not None and text != question.text:
        return SaidBefore(text)
    return SaidBefore(question.text, question.given())


def rewind(
    db: Database,
    *,
    session_id: UUID,
    owner_id: Any,
    turn_id: UUID,
    now: datetime,
    again: str | None = None,
) -> Rewound:
    """Take a turn out of the log, and all that came after it; what runs or waits is ended first.

    So do the files that came with it; those of the question stay where it is said `again` in the
    same words. Only an earlier turn that ended later keeps its answer. The turns stay as a record
    of what they cost, and give back their idempotency keys. Raises ThreadNotFound, ThreadHeld;
    TurnNotFound also for a turn of which no question is left, as after an earlier rewind.
    """
    session = lock_session(db, session_id=session_id, owner_id=owner_id)
    if session is None:
        raise ThreadNotFound
    refuse_held(db, session.id)
    interrupt_all(db, session_id=session_id, now=now)  # one that waited is in the log now
    question = _find_question(db, session.id, turn_id)
    if question.message_id is None or question.text is None:
        raise TurnNotFound
    counts, files, size = _delete_from(
        db,
        session.id,
        turn_id=turn_id,
        question=question,
        keeps_files=again == question.text,
    )
    _forget_turns(db, session.id, since=question.number)
    moment = from_moment(now, is_sqlite=db.is_sqlite)
    less = ", ".join(
        f"{counter} = CASE WHEN {counter} > %s THEN {counter} - %s ELSE 0 END"
        for counter in _COUNTED
    )
    db.run(
        f"UPDATE {SESSION} SET {less}, last_active_at = %s, updated_at = %s WHERE id = %s",
        (*[count for count in counts for _ in range(2)], moment, moment, session.id),
    )
    items, _, messages, _ = counts
    ledger.tell_of_session(
        db,
        action=ledger.RETRY,
        session_key=session.id,
        actor=ledger.USER,
        counts={"messages": items, "attachments": files},
        byte_count=size,
        now=now,
    )
    return Rewound(question.text, question.message_id, messages, items)


def find_turn_of(db: Database, *, session_id: UUID, message_id: UUID) -> UUID | None:
    """The turn in which a message was said; None where it was not said in one."""
    row = db.one(
        f"SELECT turn_id FROM {MESSAGE} WHERE id = %s AND session_id = %s",
        (
            from_uuid(message_id, is_sqlite=db.is_sqlite),
            from_uuid(session_id, is_sqlite=db.is_sqlite),
        ),
    )
    return uuid_of(row[0]) if row else None


def _find_question(db: Database, session_key: Any, turn_id: UUID) -> _Question:
    """Raises TurnNotFound for a turn that never was in this session."""
    rows = select(
        db,
        [
            "turn.number",
            "turn.status",
            "turn.input",
            "message.id",
            "message.text",
            "message.thread_item",
            "message.agent_item",
            "turn.input_item",
        ],
        f"FROM {TURN} turn LEFT JOIN {MESSAGE} message ON message.id = turn.user_message_id"
        " AND message.session_id = turn.session_id WHERE turn.id = %s AND turn.session_id = %s",
        (from_uuid(turn_id, is_sqlite=db.is_sqlite), session_key),
    )
    if not rows:
        raise TurnNotFound
    number, status, waiting, message_key, text, thread_item, agent_item, beside = rows[0]
    message_id, is_queued = uuid_of(message_key), text_of(status) == "queued"
    given = decode_input(beside)
    said = waiting if is_queued else text if message_id else None
    if given is not None and not given.is_said:
        said = None
    return _Question(
        count_of(number),
        maybe_text_of(said),
        message_id,
        thread_item=maybe_text_of(thread_item),
        agent_item=agent_item,
        waiting=given if is_queued else None,
        running=None if is_queued else given,
    )


def _delete_from(
    db: Database,
    session_key: Any,
    *,
    turn_id: UUID,
    question: _Question,
    keeps_files: bool,
) -> tuple[list[int], int, int]:
    """Delete the log from the turn's first row on; how many rows, by `_COUNTED`, that were, how
    many files went with them, and the bytes of what they said.
    """
    keys = [from_uuid(each, is_sqlite=db.is_sqlite) for each in (turn_id, question.message_id)]
    position = "position"
    if db.is_sqlite:  # which stores anything anywhere, and sorts it after all numbers
        position = "CASE WHEN typeof(position) = 'integer' THEN position END"
    (first,) = db.one(
        f"SELECT COALESCE((SELECT MIN({position}) FROM {MESSAGE} WHERE session_id = %s"
        f" AND (turn_id = %s OR id = %s)), last_position + 1) FROM {SESSION} WHERE id = %s",
        (session_key, *keys, session_key),
    )
    # A message that was taken back while it waited stands before the answer it waited for.
    earlier = f"SELECT id FROM {TURN} WHERE session_id = %s AND number < %s"
    where = (
        f"session_id = %s AND position >= %s AND (turn_id IS NULL OR turn_id NOT IN ({earlier}))"
    )
    params = (session_key, first, session_key, question.number)
    counts = db.one(
        f"SELECT COUNT(*), COUNT(CASE WHEN {REMEMBERED} THEN 1 END),"
        " COUNT(CASE WHEN shown = %s THEN 1 END),"
        " COUNT(CASE WHEN quarantined_at IS NOT NULL THEN 1 END)"
        f" FROM {MESSAGE} WHERE {where}",
        (True, *params),
    )
    _, size = weigh(db, where, params)
    files = take_of_messages(
        db,
        session_key=session_key,
        messages=f"SELECT id FROM {MESSAGE} WHERE {where}",
        params=params,
        besides=question.message_id if keeps_files else None,
    )
    delete_messages(db, where, params)
    return [int(count) for count in counts], files, size


def _forget_turns(db: Database, session_key: Any, *, since: int) -> None:
    """Keep of the turns whose question went only what they cost."""
    gone = (
        f"session_id = %s AND number >= %s AND NOT EXISTS (SELECT 1 FROM {MESSAGE} message"
        f" WHERE message.id = {TURN}.user_message_id)"
    )
    db.run(
        f"DELETE FROM {EVENTS} WHERE turn_id IN (SELECT id FROM {TURN} WHERE {gone})",
        (session_key, since),
    )
    db.run(
        f"UPDATE {TURN} SET user_message_id = NULL, answer_message_id = NULL,"
        f" idempotency_key = NULL WHERE {gone}",
        (session_key, since),
    )
