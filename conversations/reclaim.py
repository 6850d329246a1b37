"""What was removed is gone from the disk, too: to be called after whatever removes much."""

from __future__ import annotations

import logging
from typing import Any, Final

from django.db import connection

from conversations import sqlite
from conversations.errors import TransactionOpen
from conversations.lanes.database import store_error
from conversations.lanes.lane import open_within_budget
from conversations.sqlite import space
from conversations.sqlite.space import Reclaimed

logger = logging.getLogger(__name__)

MAX_PAGES: Final = 25_000
"""So many free pages are given back in one run (100 MB); the next goes on."""
SECONDS: Final = 60.0
"""So long a run takes at most; the next goes on."""


def reclaim_space(*, max_pages: int = MAX_PAGES, seconds: float = SECONDS) -> Reclaimed:
    """Empty the log of the embedded engine and give its free pages back; sync, in short steps.

    Nothing is lost where it cannot be done now: the next run does it. PostgreSQL does this by
    itself (autovacuum). Raises TransactionOpen within a transaction, whose rows are not gone yet.
    """
    if connection.vendor != "sqlite":
        return Reclaimed()
    if connection.in_atomic_block:
        raise TransactionOpen
    name = str(connection.settings_dict["NAME"])
    file = sqlite.identity(name)
    if file is None:
        return Reclaimed()  # in memory, or not there
    wrapper: Any = connection.copy()
    try:
        raw = open_within_budget(wrapper)
        found = space.reclaim(
            raw,
            name=name,
            file=getattr(wrapper, "file", None) or file,
            lock=sqlite.write_lock(name),
            max_pages=max_pages,
            seconds=seconds,
        )
    except Exception as error:
        failure = store_error(error)
        if failure is None:
            raise
        logger.warning("no space was reclaimed: %s", type(failure).__name__)
        return Reclaimed(scrubbed_pages=None)
    finally:
        wrapper.close()
    if not found.is_clean:
        logger.warning("what was deleted is not all gone from the disk yet: somebody reads")
    return found
