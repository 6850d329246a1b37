"""A cleanup as it is stored: who runs it, and what has gone so far.

One runs at a time. Its row carries a fence that every transaction of it checks, and that moves on
when another process takes over from one that is gone.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from conversations import processes
from conversations.errors import (
    CleanupLost,
    CleanupRunning,
    PlanApplied,
    PlanExpired,
    PlanNotFound,
)
from conversations.lanes import Database, from_moment, from_uuid
from conversations.store import ledger
from conversations.store.damage import LONG_AGO, moment_of, uuid_of
from conversations.store.leases import lease_clock
from conversations.store.ledger import Entry
from conversations.store.plans import CLEANUP, PAGE, PLAN_KEPT, Outcome
from conversations.store.removing import Removed

SKEW: Final = timedelta(minutes=1)
"""So far may the clocks of two machines differ."""
ABANDONED: Final = "abandoned"
"""What stands among the errors of a run that was closed as it was left."""
SILENT_MILLISECONDS: Final = 120_000
"""A run that gave no sign of life for so long is taken over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A cleanup that this process runs; every transaction of it carries the fence."""

    id: UUID
    fence: int
    cutoff: datetime
    position: int
    """How many of the planned sessions have been looked at."""


def begin(db: Database, *, plan_id: UUID, process: str, actor: str, now: datetime) -> Run:
    """Take a plan to apply it, or go on where a process that is gone has left it.

    Another one that was left is closed as it stands. Raises CleanupRunning where one runs,
    PlanNotFound, PlanApplied, PlanExpired.
    """
    lock = "" if db.is_sqlite else " FOR UPDATE"
    key = from_uuid(plan_id, is_sqlite=db.is_sqlite)
    clock = lease_clock(db)
    for other, owner, seen in db.all(
        f"SELECT id, process, seen FROM {CLEANUP} WHERE status = 'running'{lock}"
    ):
        is_gone = not owner or processes.is_gone(owner, is_one_machine=db.is_sqlite)
        if not is_gone and 0 <= clock - seen < SILENT_MILLISECONDS:
            raise CleanupRunning
        if uuid_of(other) != plan_id:
            finish(db, cleanup_id=uuid_of(other) or plan_id, errors={ABANDONED: 1}, now=now)
    row = db.one(
        f"SELECT status, planned_at, cutoff, fence, position FROM {CLEANUP} WHERE id = %s{lock}",
        (key,),
    )
    if row is None:
        raise PlanNotFound
    status, planned_at, cutoff, fence, position = row
    if status == "done":
        raise PlanApplied
    made_at = moment_of(planned_at) or LONG_AGO
    if status == "planned":
        if made_at > now + SKEW:
            raise PlanExpired("This plan is of a time that has not come: is the clock right?")
        if now - made_at > PLAN_KEPT:
            raise PlanExpired
    db.run(
        f"UPDATE {CLEANUP} SET status = 'running', process = %s, seen = %s, fence = fence + 1,"
        " actor = CASE WHEN started_at IS NULL THEN %s ELSE actor END,"
        " started_at = COALESCE(started_at, %s) WHERE id = %s",
        (process, clock, actor, from_moment(now, is_sqlite=db.is_sqlite), key),
    )
    since = moment_of(cutoff) or LONG_AGO
    return Run(id=plan_id, fence=fence + 1, cutoff=since, position=position)


def add_outcome(
    db: Database, *, run: Run, outcome: Outcome, looked_at: int, milliseconds: int
) -> None:
    """Count what this transaction did. Raises CleanupLost where another has taken over."""
    removed, key = outcome.removed, from_uuid(run.id, is_sqlite=db.is_sqlite)
    errors: str = ""
    params: list[Any] = []
    if outcome.errors:
        (known,) = db.one(f"SELECT errors FROM {CLEANUP} WHERE id = %s", (key,))
        total = Counter(json.loads(known))
        total.update(outcome.errors)
        errors, params = ", errors = %s", [json.dumps(total)]
    kept = db.run(
        f"UPDATE {CLEANUP} SET sessions = sessions + %s, messages = messages + %s,"
        " attachments = attachments + %s, byte_count = byte_count + %s,"
        " milliseconds = milliseconds + %s, awake = awake + %s, now_held = now_held + %s,"
        " now_busy = now_busy + %s, failed = failed + %s, position = position + %s,"
        f" seen = %s{errors} WHERE id = %s AND fence = %s AND status = 'running'",
        (
            removed.sessions,
            removed.messages,
            removed.attachments,
            removed.bytes,
            milliseconds,
            outcome.awake,
            outcome.held,
            outcome.busy,
            outcome.failed,
            looked_at,
            lease_clock(db),
            *params,
            key,
            run.fence,
        ),
    )
    if not kept:
        raise CleanupLost


def release(db: Database, *, run: Run) -> None:
    """Let anybody go on with a run that is not finished."""
    db.run(
        f"UPDATE {CLEANUP} SET process = '' WHERE id = %s AND fence = %s",
        (from_uuid(run.id, is_sqlite=db.is_sqlite), run.fence),
    )


def finish(
    db: Database,
    *,
    cleanup_id: UUID,
    now: datetime,
    fence: int | None = None,
    errors: Mapping[str, int] | None = None,
) -> None:
    """Close a run: its receipt is whole, and the ledger is told. Raises CleanupLost."""
    key, lock = from_uuid(cleanup_id, is_sqlite=db.is_sqlite), "" if db.is_sqlite else " FOR UPDATE"
    row = db.one(
        "SELECT fence, actor, cutoff, idle_seconds, sessions, messages, attachments, byte_count,"
        f" milliseconds, errors FROM {CLEANUP} WHERE id = %s AND status = 'running'{lock}",
        (key,),
    )
    if row is None or (fence is not None and row[0] != fence):
        raise CleanupLost
    known = Counter(json.loads(row[9]))
    known.update(errors or {})
    db.run(f"DELETE FROM {PAGE} WHERE cleanup_id = %s", (key,))
    removed = Removed(*row[4:8])
    entry = Entry(
        action=ledger.CLEANUP,
        actor=row[1],
        at=now,
        policy=f"idle for {row[3]} s",
        cutoff=moment_of(row[2]),
        counts=removed.counts(),
        byte_count=removed.bytes,
        milliseconds=row[8],
        errors=known,
    )
    moment = from_moment(now, is_sqlite=db.is_sqlite)
    db.run(
        f"UPDATE {CLEANUP} SET status = 'done', process = '', finished_at = %s, errors = %s"
        " WHERE id = %s",
        (moment, json.dumps(known), key),
    )
    number = ledger.append(db, entry)
    db.run(f"UPDATE {CLEANUP} SET ledger_number = %s WHERE id = %s", (number, key))


def find_unfinished(db: Database, *, actor: str) -> UUID | None:
    """A run of that actor that its process has left."""
    clock = lease_clock(db)
    for key, owner, seen in db.all(
        f"SELECT id, process, seen FROM {CLEANUP} WHERE status = 'running' AND actor = %s", (actor,)
    ):
        is_gone = not owner or processes.is_gone(owner, is_one_machine=db.is_sqlite)
        if is_gone or not 0 <= clock - seen < SILENT_MILLISECONDS:
            return uuid_of(key)
    return None
