"""How a turn ends that its own process ends: its result, and all that is left to store of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any
from uuid import UUID

from conversations.conf import get_conf
from conversations.errors import LeaseLost
from conversations.events import Usage
from conversations.items import Row
from conversations.lanes import Database, from_moment, from_uuid, to_uuid
from conversations.store import log
from conversations.store.closing import append_rows, mark_cut, remember_the_question, wake_next
from conversations.store.log import MESSAGE, SESSION, TURN, Lease
from conversations.store.pruning import prune_keyed
from conversations.store.records import Recording, record_last
from conversations.store.titles import give_title


@dataclass(frozen=True, slots=True)
class Result:
    """How a turn ended, and what is left to store of it.

    `rows` are what is not in the log yet; `corrected` is the text of an answer that is, cut short
    since. `last_events` are those not recorded yet, `event_count` the closing event's number.
    """

    status: str
    error_code: str = ""
    warning: str = ""
    model: str = ""
    usage: Usage = field(default_factory=Usage)
    answer_id: UUID | None = None
    incomplete: bool = False
    corrected: str | None = None
    rows: Sequence[Row] = ()
    last_events: Sequence[Recording] = ()
    event_count: int = 0
    first_token_at: datetime | None = None


def finish(
    db: Database, *, lease: Lease, result: Result, now: datetime, batch: log.Batch | None = None
) -> UUID | None:
    """Store the turn's last batch and close it, and give an untitled conversation its title.

    Returns the answer's id; a second call with the same result changes nothing. The fence moves on:
    what still runs of a stopped turn writes no more. Raises LeaseLost when another process has
    taken over: it has closed the turn already.
    """
    session_id = from_uuid(lease.session_id, is_sqlite=db.is_sqlite)
    turn_id = from_uuid(lease.turn_id, is_sqlite=db.is_sqlite)
    moment = from_moment(now, is_sqlite=db.is_sqlite)
    if batch is not None:
        try:
            # What the turn has used is stored below.
            log.append_for_turn(db, lease=lease, batch=replace(batch, usage=None), now=now)
        except LeaseLost:
            return _finished_before(db, lease=lease, status=result.status)
    row = db.one(
        f"UPDATE {SESSION} SET fence = fence + 1, input_tokens = input_tokens + %s,"
        " output_tokens = output_tokens + %s, last_active_at = %s, updated_at = %s"
        " WHERE id = %s AND fence = %s RETURNING title = '', remembered_count",
        (
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
    if result.status != "completed":
        remember_the_question(db, session_id=session_id, turn_id=turn_id, now=now)
    append_rows(db, session_id=session_id, turn_id=turn_id, rows=result.rows, now=now)
    answer_key = from_uuid(result.answer_id, is_sqlite=db.is_sqlite)
    if result.incomplete and answer_key is not None:
        mark_cut(db, key=answer_key, corrected=result.corrected)
    elif result.corrected is not None:
        db.run(f"UPDATE {MESSAGE} SET text = %s WHERE id = %s", (result.corrected, answer_key))
    if row[0]:
        give_title(db, session_id)
    record_last(db, turn_id=turn_id, recordings=result.last_events)
    db.run(
        f"UPDATE {TURN} SET status = %s, error_code = %s, warning = %s, model = %s, requests = %s,"
        " input_tokens = %s, output_tokens = %s, answer_message_id = %s, event_count = %s,"
        " input_item = NULL,"
        " first_token_at = %s, finished_at = %s WHERE id = %s",
        (
            result.status,
            result.error_code,
            result.warning,
            result.model[:200],
            result.usage.requests,
            result.usage.input_tokens,
            result.usage.output_tokens,
            answer_key,
            result.event_count,
            from_moment(result.first_token_at, is_sqlite=db.is_sqlite),
            moment,
            turn_id,
        ),
    )
    if _may_be_over_budget(row[1], result):
        prune_keyed(db, session_key=session_id, now=now)
    wake_next(db, session_id)
    return result.answer_id


def _may_be_over_budget(remembered: Any, result: Result) -> bool:
    """A look that costs nothing: nearly every turn ends with room in the memory."""
    added, _ = log.counts_of(result.rows)
    question = result.status != "completed"
    budget = get_conf().agent_session_max_messages
    return type(remembered) is not int or remembered + added + question > budget


def _finished_before(db: Database, *, lease: Lease, status: str) -> UUID | None:
    """The answer's id of a turn whose end was stored, although its process did not hear of it."""
    row = db.one(
        f"SELECT answer_message_id FROM {TURN} WHERE id = %s AND fence = %s AND status = %s",
        (from_uuid(lease.turn_id, is_sqlite=db.is_sqlite), lease.fence, status),
    )
    if row is None:
        raise LeaseLost
    return to_uuid(row[0]) if row[0] else None
