"""Which sessions are idle for too long, named before any of them goes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final
from uuid import UUID

from conversations import lanes, task_runs
from conversations.conf import get_conf
from conversations.errors import Invalid
from conversations.ids import new_id
from conversations.lanes import Database, from_uuid
from conversations.store import ledger, plans, removing
from conversations.store.plans import PAGE_SESSIONS, Idle, Outcome
from conversations.store.removing import Removed

_LONGEST: Final = timedelta(days=36_500)


@dataclass(frozen=True, slots=True, kw_only=True)
class CleanupPlan:
    """What would go, and what is left and why."""

    plan_id: UUID
    cutoff: datetime
    idle_seconds: int
    sessions: int
    messages: int
    attachments: int
    bytes: int
    oldest: datetime | None
    """When somebody was last active in the session that is idle longest."""
    newest: datetime | None
    held: int
    busy: int
    """Sessions in which a turn waits or runs."""
    expires_at: datetime


def plan_cleanup(
    *,
    now: datetime,
    idle_for: timedelta | None = None,
    limit: int | None = None,
    actor: str = ledger.COMMAND,
    stores: bool = True,
    measures: bool = True,
    told: Callable[[int], object] = lambda sessions: None,
) -> CleanupPlan:
    """Name the sessions that are idle for as long as that, the longest idle first.

    Without `idle_for`, `AGENT_SESSION_RETENTION_DAYS`. The plan can be applied for 24 hours; it is
    not stored in a dry run. Unless it `measures`, which reads every row, only sessions are counted.
    Raises Invalid for a time that is none.
    """
    age = _valid_age(idle_for)
    if limit is not None and limit < 1:
        raise Invalid("limit: write a whole number of 1 or more.")
    try:
        cutoff = now - age
    except OverflowError:
        raise _not_an_age() from None
    plan_id = new_id()
    values: dict[str, Any] = {
        "status": "planned",
        "actor": actor,
        "planned_at": now,
        "cutoff": cutoff,
        "idle_seconds": age // timedelta(seconds=1),
    }
    if stores:
        while lanes.perform(partial(plans.drop_expired, now=now)):
            pass
        lanes.perform(partial(plans.store_plan, plan_id=plan_id, values=values))
    total, spared, number = Removed(), Outcome(), 0
    oldest: datetime | None = None
    newest: datetime | None = None
    for page in _pages(_find_idle(cutoff, spared), limit):
        found = partial(_measure, idle=page)
        total += lanes.look_up(found) if measures else Removed(sessions=len(page))
        oldest, newest = oldest or page[0].last_active_at, page[-1].last_active_at
        if stores:
            lanes.perform(partial(plans.store_page, plan_id=plan_id, number=number, idle=page))
            number += 1
        told(total.sessions)
        task_runs.beat()
    values = {
        "planned_sessions": total.sessions,
        "planned_messages": total.messages,
        "planned_attachments": total.attachments,
        "planned_bytes": total.bytes,
        "oldest": oldest,
        "newest": newest,
        "held": spared.held,
        "busy": spared.busy,
    }
    if stores:
        lanes.perform(partial(plans.store_plan, plan_id=plan_id, values=values))
    return CleanupPlan(
        plan_id=plan_id,
        cutoff=cutoff,
        idle_seconds=age // timedelta(seconds=1),
        sessions=total.sessions,
        messages=total.messages,
        attachments=total.attachments,
        bytes=total.bytes,
        oldest=oldest,
        newest=newest,
        held=spared.held,
        busy=spared.busy,
        expires_at=now + plans.PLAN_KEPT,
    )


def _measure(db: Database, *, idle: Sequence[Idle]) -> Removed:
    keys = [from_uuid(each.id, is_sqlite=db.is_sqlite) for each in idle]
    return removing.measure(db, keys)


def _find_idle(cutoff: datetime, spared: Outcome) -> Iterator[Idle]:
    """Those that may go; the others are counted."""
    last: Idle | None = None
    while True:
        find = partial(plans.find_idle, cutoff=cutoff, after=last, limit=PAGE_SESSIONS)
        found = lanes.look_up(find)
        for idle in found:
            if idle.is_held:
                spared.held += 1
            elif idle.is_busy:
                spared.busy += 1
            else:
                yield idle
        if len(found) < PAGE_SESSIONS:
            return
        last = found[-1]


def _pages(idle: Iterator[Idle], limit: int | None) -> Iterator[list[Idle]]:
    """In pages of one size, of which the last may be shorter."""
    page: list[Idle] = []
    for count, each in enumerate(idle, start=1):
        page.append(each)
        is_last = limit is not None and count == limit
        if len(page) == PAGE_SESSIONS or is_last:
            yield page
            page = []
        if is_last:
            return
    if page:
        yield page


def _valid_age(idle_for: timedelta | None) -> timedelta:
    if idle_for is None:
        idle_for = get_conf().retention
        if idle_for <= timedelta(0):
            raise Invalid("AGENT_SESSION_RETENTION_DAYS: write a whole number of 1 or more.")
    if not timedelta(seconds=1) <= idle_for <= _LONGEST:
        raise _not_an_age()
    return idle_for


def _not_an_age() -> Invalid:
    return Invalid("idle-for: write a number and m, h, d or w, such as 7d; more than 0.")
