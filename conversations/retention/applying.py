"""A plan at work: short transactions, and a pause after each."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Final
from uuid import UUID

from django.db import IntegrityError, connection

from conversations import lanes, task_runs
from conversations.errors import StoreBusy, StoreError, StoreReadOnly
from conversations.lanes import Database, from_uuid
from conversations.store import cleanups, plans, removing
from conversations.store.cleanups import Run
from conversations.store.plans import PAGE_SESSIONS, Idle, Outcome

logger = logging.getLogger(__name__)

PIECE_ROWS: Final = 400
"""A session of more rows goes in pieces, after nobody finds it any more."""
SQLITE_MILLISECONDS: Final = 3.0
POSTGRESQL_MILLISECONDS: Final = 50.0
"""So long a transaction should take: on SQLite everybody else who writes waits for it."""
SQLITE_PAUSE: Final = (0.3, 1.2)
POSTGRESQL_PAUSE: Final = (0.02, 0.1)
"""A pause after each, as parts of that time. Irregular: against a steady rhythm, a writer that
retries may starve.
"""
FIRST_ROWS: Final = 40
FEW_ROWS: Final = 10


class Worker:
    """One run at work: how large its transactions are follows from how long they took."""

    def __init__(
        self,
        run: Run,
        *,
        batch_size: int,
        seconds: float | None,
        told: Callable[[int], object],
    ) -> None:
        self._run, self._batch_size, self._told = run, batch_size, told
        self._deadline = None if seconds is None else time.monotonic() + seconds
        on_sqlite = connection.vendor == "sqlite"
        self._aim = SQLITE_MILLISECONDS if on_sqlite else POSTGRESQL_MILLISECONDS
        self._pause = SQLITE_PAUSE if on_sqlite else POSTGRESQL_PAUSE
        self._rows = FIRST_ROWS
        self._looked_at = run.position

    def work(self) -> bool:
        """Whether all of it is done, or else its time is over."""
        self._finish_pieces()
        for page in stored_pages(self._run.id, begin=self._run.position):
            keys = [from_uuid(idle.id, is_sqlite=connection.vendor == "sqlite") for idle in page]
            rows = lanes.look_up(partial(removing.count_rows, keys=keys))
            sizes = [rows.get(key, 0) + 2 for key in keys]
            begin = 0
            while begin < len(page):
                if self._deadline is not None and time.monotonic() > self._deadline:
                    return False
                count = self._take(sizes[begin:])
                self._remove(page[begin : begin + count], sum(sizes[begin : begin + count]))
                begin += count
                self._told(self._looked_at)
        return True

    def _take(self, sizes: Sequence[int]) -> int:
        """How many of the sessions that come next go together."""
        rows = 0
        for count, size in enumerate(sizes):
            rows += size
            if count == self._batch_size or (count and rows > self._rows):
                return count
        return len(sizes)

    def _remove(self, batch: Sequence[Idle], rows: int, *, waits: bool = True) -> None:
        apart = len(batch) == 1 and rows > PIECE_ROWS
        remove = partial(_remove, batch=batch, apart=apart, waits=waits)
        try:
            self._in_transaction(remove, len(batch))
        except StoreReadOnly:
            raise  # the others would fare no better
        except StoreBusy:
            if connection.vendor == "sqlite" or not waits:
                raise
            self._remove(batch, rows, waits=False)  # somebody has locked one of them, and stays
            return
        except (StoreError, IntegrityError) as error:
            if len(batch) > 1:
                for idle in batch:
                    self._remove([idle], rows // len(batch))
                return
            logger.warning("session %s not removed: %s", batch[0].id, type(error).__name__)
            failed = Outcome(failed=1)
            failed.errors[type(error).__name__] += 1
            self._in_transaction(lambda db: failed, 1)
        if apart:
            self._finish_pieces()

    def _finish_pieces(self) -> None:
        """Remove what was set apart, also by a run that was killed."""
        while (key := lanes.look_up(removing.find_apart)) is not None:
            limit = max(FIRST_ROWS, min(self._rows, PIECE_ROWS))
            self._in_transaction(partial(_remove_piece, key=key, limit=limit), 0)

    def _in_transaction(self, job: Callable[[Database], Outcome], looked_at: int) -> None:
        """Do it and count it, then leave the database to others for almost as long."""
        spent, rows = 0.0, 0

        def counted(db: Database) -> None:
            nonlocal spent, rows
            begun = time.perf_counter()
            outcome = job(db)
            spent = (time.perf_counter() - begun) * 1000
            rows = outcome.removed.messages + 2 * outcome.removed.sessions
            cleanups.add_outcome(
                db, run=self._run, outcome=outcome, looked_at=looked_at, milliseconds=round(spent)
            )

        lanes.perform(counted)
        self._looked_at += looked_at
        if rows >= FEW_ROWS:  # the commit takes what it takes: smaller ones would be more of them
            fitting = rows * self._aim / max(spent, 0.1)
            self._rows = max(FEW_ROWS, min(round((self._rows + fitting) / 2), 2 * self._rows))
        task_runs.beat()
        time.sleep(spent * random.uniform(*self._pause) / 1000)  # noqa: S311 - no secret


def stored_pages(plan_id: UUID, *, begin: int) -> Iterator[list[Idle]]:
    """The sessions of a plan from one of them on."""
    number, offset = divmod(begin, PAGE_SESSIONS)
    while True:
        read = partial(plans.read_page, plan_id=plan_id, number=number)
        page = lanes.look_up(read)
        if page is None:
            return
        yield page[offset:]
        number, offset = number + 1, 0


def still_idle(
    db: Database, batch: Sequence[Idle], outcome: Outcome, *, locked: Sequence[Any] | None = None
) -> list[Any]:
    """The ids, as the engine stores them, of those that may go; the others are counted.

    Of these only those that are `locked`, where some are.
    """
    planned = {idle.id: idle.last_active_at for idle in batch}
    keys = [from_uuid(idle.id, is_sqlite=db.is_sqlite) for idle in batch]
    found = []
    for idle in plans.look_again(db, keys=keys):
        if locked is not None and from_uuid(idle.id, is_sqlite=db.is_sqlite) not in locked:
            outcome.busy += 1
        elif idle.is_held:
            outcome.held += 1
        elif idle.last_active_at != planned[idle.id]:
            outcome.awake += 1
        elif idle.is_busy:
            outcome.busy += 1
        else:
            found.append(from_uuid(idle.id, is_sqlite=db.is_sqlite))
    return found


def _remove(db: Database, *, batch: Sequence[Idle], apart: bool, waits: bool) -> Outcome:
    """Remove those of the sessions that are as the plan says."""
    outcome = Outcome()
    keys = [from_uuid(idle.id, is_sqlite=db.is_sqlite) for idle in batch]
    locked = plans.lock(db, keys=keys, waits=waits)
    keys = still_idle(db, batch, outcome, locked=locked)
    if apart and keys:
        outcome.removed = removing.set_apart(db, keys[0])
    else:
        outcome.removed = removing.remove_sessions(db, keys)
    return outcome


def _remove_piece(db: Database, *, key: Any, limit: int) -> Outcome:
    return Outcome(removed=removing.remove_piece(db, key, limit=limit))
