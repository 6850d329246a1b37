"""What is idle for too long is removed: planned first, then applied, with a receipt.

One service for the schedule, the command and the admin. A plan names exactly what would go;
applied, it removes that, minus what woke up, was held or has a turn that waits or runs by then.
Sync, in short transactions with irregular pauses between them: somebody who chats meanwhile does
not wait. Killed anywhere, it is gone on with, and counts nothing twice.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Final
from uuid import UUID

from django.db import IntegrityError

from conversations import attachments, lanes, processes
from conversations.errors import CleanupRunning, Invalid, PlanApplied, PlanNotFound, StoreError
from conversations.lanes import Database
from conversations.models import Cleanup
from conversations.reclaim import reclaim_space
from conversations.retention.applying import Worker, still_idle, stored_pages
from conversations.retention.planning import CleanupPlan, plan_cleanup
from conversations.store import cleanups, ledger, removing
from conversations.store.cleanups import Run
from conversations.store.plans import Idle, Outcome
from conversations.store.removing import Removed

__all__ = [
    "CleanupPlan",
    "CleanupReceipt",
    "apply",
    "cleanup",
    "finish_cleanup",
    "get_receipt",
    "plan_cleanup",
    "preview",
]

logger = logging.getLogger(__name__)

BATCH_SESSIONS: Final = 200
"""So many sessions go in one transaction at most."""
RECLAIM_SECONDS: Final = 60.0
"""So long space is given back afterwards at most; the hourly sweep does the rest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CleanupReceipt:
    """What went, and what of the plan was left and why."""

    plan_id: UUID
    finished: bool
    """Not where its time was over: it is gone on with."""
    cutoff: datetime
    planned: int
    sessions: int
    messages: int
    attachments: int
    bytes: int
    awake: int
    """Sessions that somebody used again since the plan was made."""
    held: int
    busy: int
    failed: int
    milliseconds: int
    ledger_number: int | None


def apply(
    plan_id: UUID,
    *,
    now: datetime,
    actor: str = ledger.COMMAND,
    batch_size: int = BATCH_SESSIONS,
    seconds: float | None = None,
    told: Callable[[int], object] = lambda looked_at: None,
) -> CleanupReceipt:
    """Remove what a plan names, or the rest of it where a run was killed.

    After `seconds` it stops where it is; applied once more, it goes on. Raises PlanNotFound,
    PlanApplied, PlanExpired, CleanupRunning, CleanupLost, Invalid, StoreError.
    """
    if batch_size < 1:
        raise Invalid("batch-size: write a whole number of 1 or more.")
    process = processes.new_name()
    begin = partial(cleanups.begin, plan_id=plan_id, process=process, actor=actor, now=now)
    try:
        run = lanes.perform(begin)
    except IntegrityError:  # another has begun in the same moment
        raise CleanupRunning from None
    begun = time.monotonic()
    worker = Worker(run, batch_size=batch_size, seconds=seconds, told=told)
    try:
        is_whole = worker.work()
        attachments.erase_removed()
        if is_whole:
            finish = partial(cleanups.finish, cleanup_id=run.id, fence=run.fence, now=now)
            lanes.perform(finish)
    finally:
        _release(run)
    if is_whole:
        spent = time.monotonic() - begun
        reclaim_space(seconds=min(RECLAIM_SECONDS, max(5.0, spent / 2)))
    return get_receipt(plan_id)


def cleanup(
    *,
    now: datetime,
    actor: str = ledger.SCHEDULE,
    idle_for: timedelta | None = None,
    limit: int | None = None,
    seconds: float | None = None,
) -> CleanupReceipt:
    """Plan and apply, after what an earlier run of the same actor has left. Raises as `apply`.

    Where that one is not done in its time either, nothing new is begun.
    """
    left = finish_cleanup(now=now, actor=actor, seconds=seconds)
    if left is not None and not left.finished:
        return left
    plan = plan_cleanup(now=now, idle_for=idle_for, limit=limit, actor=actor, measures=False)
    return apply(plan.plan_id, now=now, actor=actor, seconds=seconds)


def finish_cleanup(
    *, now: datetime, actor: str = ledger.SCHEDULE, seconds: float | None = None
) -> CleanupReceipt | None:
    """Go on with a run of that actor that was killed or had no time left; None where none was."""
    left = lanes.look_up(partial(cleanups.find_unfinished, actor=actor))
    return None if left is None else apply(left, now=now, actor=actor, seconds=seconds)


def preview(plan_id: UUID) -> CleanupReceipt:
    """What applying a plan would do now. Raises PlanNotFound, PlanApplied."""
    receipt, outcome = get_receipt(plan_id), Outcome()
    if receipt.finished:
        raise PlanApplied
    for page in stored_pages(plan_id, begin=0):
        outcome.removed += lanes.look_up(partial(_preview, idle=page, outcome=outcome))
    removed = outcome.removed
    return CleanupReceipt(
        plan_id=plan_id,
        finished=False,
        cutoff=receipt.cutoff,
        planned=receipt.planned,
        sessions=removed.sessions,
        messages=removed.messages,
        attachments=removed.attachments,
        bytes=removed.bytes,
        awake=outcome.awake,
        held=outcome.held,
        busy=outcome.busy,
        failed=0,
        milliseconds=0,
        ledger_number=None,
    )


def get_receipt(plan_id: UUID) -> CleanupReceipt:
    """What a plan has come to so far. Raises PlanNotFound."""
    row = Cleanup.objects.filter(id=plan_id).first()
    if row is None:
        raise PlanNotFound
    return CleanupReceipt(
        plan_id=row.id,
        finished=row.status == Cleanup.Status.DONE,
        cutoff=row.cutoff,
        planned=row.planned_sessions,
        sessions=row.sessions,
        messages=row.messages,
        attachments=row.attachments,
        bytes=row.byte_count,
        awake=row.awake,
        held=row.now_held,
        busy=row.now_busy,
        failed=row.failed,
        milliseconds=row.milliseconds,
        ledger_number=row.ledger_number,
    )


def _release(run: Run) -> None:
    """Best effort: whoever comes finds out that this process is gone, or silent."""
    try:
        lanes.perform(partial(cleanups.release, run=run))
    except StoreError as error:
        logger.warning("cleanup %s not released: %s", run.id, type(error).__name__)


def _preview(db: Database, *, idle: Sequence[Idle], outcome: Outcome) -> Removed:
    keys = still_idle(db, idle, outcome)
    return removing.measure(db, keys)
