"""What is put in order though nobody asks: turns left open, long memories, what nobody needs.

Sync, in short transactions of their own, for a worker's tasks and for commands. A sweep may be
killed anywhere: the next one does the rest.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import astuple, dataclass
from datetime import datetime, timedelta
from functools import partial
from operator import add
from typing import Final
from uuid import UUID

from django.db import IntegrityError

from conversations import attachments, lanes, task_runs
from conversations.conf import get_conf
from conversations.errors import StoreBusy, StoreError, StoreReadOnly
from conversations.lanes import Database
from conversations.reclaim import reclaim_space
from conversations.store import attachments as attached
from conversations.store import leases, ledger, line, mending, pruning, records
from conversations.store.closing import lock_session
from conversations.store.holds import is_held
from conversations.store.leases import Holder

logger = logging.getLogger(__name__)

FORGET_TURNS: Final = 10
"""The records of so many turns go in one transaction."""

UNUSED_KEPT: Final = timedelta(hours=24)
"""How long a file may wait to be sent with a message."""


@dataclass(frozen=True, slots=True)
class PrunedSessions:
    """What became of the memories that a sweep looked at, in numbers of sessions and entries."""

    visited: int = 0
    pruned: int = 0
    forgotten: int = 0
    """Entries that are no longer remembered."""
    running: int = 0
    """Sessions over their budget that are left to the turn that runs in them: its end prunes."""
    over_budget: int = 0
    """Sessions that stay over their budget: their newest turn alone is, or nothing may be cut."""
    failed: int = 0
    """Sessions that could not be read, and are as they were."""

    def __add__(self, other: PrunedSessions) -> PrunedSessions:
        return PrunedSessions(*map(add, astuple(self), astuple(other)))


def recover_turns(*, now: datetime) -> int:
    """Close what processes that are gone left running, and say how many turns that were.

    A worker runs no agent: what waits goes on waiting for a process that does, unless it waited
    longer than `line.ADOPT_WITHIN`. What is left so is found again, so each conversation is
    visited once, in the order of their ids. One whose rows cannot be read does not keep the rest.
    """
    # A sweep takes no lease; and nobody waits, so a process that is only late gets one more.
    holder = Holder("", 0, patience_milliseconds=round(get_conf().chat_lease_seconds * 1000))
    close = partial(_close_abandoned, holder=holder, now=now)
    closed, last = 0, None
    while session_ids := lanes.perform(partial(leases.find_abandoned, holder=holder, after=last)):
        for session_id in session_ids:
            try:
                closed += _perform_mended(partial(close, session_id=session_id), session_id)
            except (StoreBusy, StoreReadOnly):
                raise  # the others would fare no better
            except (StoreError, IntegrityError) as error:
                logger.warning("session %s not recovered: %s", session_id, type(error).__name__)
            _let_others_write()
        last = session_ids[-1]
    return closed


def forget_events(*, now: datetime) -> int:
    """Drop the records of turns that ended longer ago than they are kept; how many turns."""
    ended_before = now - timedelta(seconds=get_conf().chat_events_kept_seconds)
    forget = partial(records.forget_ended, ended_before=ended_before, limit=FORGET_TURNS)
    forgotten = 0
    while turns := lanes.perform(forget):
        forgotten += turns
        _let_others_write()
    return forgotten


def sweep_orphans(*, now: datetime, actor: str = ledger.SCHEDULE) -> int:
    """Erase attached files that nobody will miss; of how many the bytes are gone.

    Those that were never sent within `UNUSED_KEPT`, those whose owner or conversation is gone, and
    what is left of those that were removed. Then what was deleted by anybody leaves the disk, too.
    """
    orphans = partial(attached.take_orphans, unused_since=now - UNUSED_KEPT, now=now, actor=actor)
    lanes.perform(orphans)
    erased = attachments.erase_removed()
    reclaim_space()
    return erased


def prune_sessions(
    *,
    now: datetime,
    session_ids: Iterable[UUID] | None = None,
    dry_run: bool = False,
    actor: str = ledger.SCHEDULE,
    told: Callable[[PrunedSessions], object] = lambda so_far: None,
) -> PrunedSessions:
    """Forget what memories hold beyond their budget: of all sessions over theirs, or of these.

    Each is visited once, in a transaction of its own; one that cannot be read does not keep the
    rest. Of sessions that are named the counters are mended first: what another program added is
    found so. A dry run does the same, and undoes it. `told` hears after every session. All that is
    removed becomes one row of the ledger, at the end.
    """
    prune = partial(_prune, mends=session_ids is not None, now=now, actor=actor)
    begun = time.monotonic()
    so_far = PrunedSessions()
    for session_id in _find_over_budget() if session_ids is None else session_ids:
        try:
            so_far += lanes.perform(partial(prune, session_id=session_id), dry_run=dry_run)
        except (StoreBusy, StoreReadOnly):
            raise  # the others would fare no better
        except StoreError as error:
            logger.warning("session %s not pruned: %s", session_id, type(error).__name__)
            so_far += PrunedSessions(visited=1, failed=1)
        told(so_far)
        _let_others_write()
    if lanes.look_up(partial(ledger.has_noted, action=ledger.PRUNE, actor=actor)):
        tell = partial(
            ledger.tell,
            action=ledger.PRUNE,
            actor=actor,
            policy=f"at most {get_conf().agent_session_max_messages} remembered",
            milliseconds=round((time.monotonic() - begun) * 1000),
            at=now,
        )
        lanes.perform(tell, dry_run=dry_run)
    return so_far


def _find_over_budget() -> Iterator[UUID]:
    """In the order of their ids: what stays over its budget is not found again."""
    last = None
    while session_ids := lanes.look_up(partial(pruning.find_over_budget, after=last)):
        yield from session_ids
        last = session_ids[-1]


def _prune(
    db: Database, *, session_id: UUID, mends: bool, now: datetime, actor: str
) -> PrunedSessions:
    if mends:
        mending.mend_counters(db, session_id=session_id)
    forgotten = pruning.prune(db, session_id=session_id, now=now)
    if forgotten and not is_held(db, lanes.from_uuid(session_id, is_sqlite=db.is_sqlite)):
        counts = {"sessions": 1, "entries": forgotten}
        ledger.note(db, action=ledger.PRUNE, actor=actor, counts=counts)
    overrun = pruning.find_overrun(db, session_id=session_id)
    return PrunedSessions(
        visited=1,
        pruned=int(forgotten > 0),
        forgotten=forgotten,
        running=int(overrun == "running"),
        over_budget=int(overrun == "kept"),
    )


def _perform_mended(job: Callable[[Database], int], session_id: UUID) -> int:
    """Where rows of another program are in the way, mend the counters and do it once more."""
    try:
        return lanes.perform(job)
    except IntegrityError:
        lanes.perform(partial(mending.mend_counters, session_id=session_id))
        return lanes.perform(job)


def _close_abandoned(db: Database, *, session_id: UUID, holder: Holder, now: datetime) -> int:
    lock_session(db, session_id=session_id)  # first of all: nobody else closes what is counted
    live = leases.count_live(db, session_id=session_id)
    line.recover(db, session_id=session_id, holder=holder, now=now, adopts=False)
    return live - leases.count_live(db, session_id=session_id)


def _let_others_write() -> None:
    """Pause, and give a sign of life where it is a task that sweeps.

    Irregularly: against a steady rhythm, a writer that retries may starve.
    """
    task_runs.beat()
    time.sleep(random.uniform(0.002, 0.008))  # noqa: S311 - no secret
