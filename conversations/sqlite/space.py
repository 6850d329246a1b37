"""What was deleted leaves the disk: the log is emptied, free pages go back to the file system.

With `secure_delete` a deleted row is zeros in its page, but older versions of that page are in the
write-ahead log until that is emptied, copies of it may be where its page was rebuilt (see
`scrubbing`), and the file keeps its size until free pages are given back.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from conversations.sqlite import Identity, driver, scrubbing

PAGES_AT_ONCE: Final = 64
"""So many pages go in one transaction: others wait a few milliseconds."""
TRIES: Final = 40
BUSY_MILLISECONDS: Final = 50


@dataclass(frozen=True, slots=True)
class Reclaimed:
    """What was given back, and what is left to give."""

    bytes: int = 0
    """So much smaller is the file."""
    free_pages: int = 0
    """So many pages of it hold nothing."""
    log_bytes: int = 0
    """So much is left in the log, where a reader kept it from being emptied."""
    scrubbed_pages: int | None = 0
    """In so many pages something was left of what was deleted; None: they could not be cleared."""

    @property
    def is_clean(self) -> bool:
        """Nothing of what was deleted is left."""
        return self.log_bytes == 0 and self.scrubbed_pages is not None


def reclaim(
    raw: Any,
    *,
    name: str,
    file: Identity,
    lock: threading.Lock,
    max_pages: int,
    seconds: float,
) -> Reclaimed:
    """Give back up to `max_pages` free pages, clear what is left in others, empty the log.

    In short steps, on an idle connection of its own to that `file`, for about so many seconds.
    `lock` is the one that writers of this process take: a step waits for it, not for the file's.
    """
    until = time.monotonic() + seconds
    raw.execute(f"PRAGMA busy_timeout={BUSY_MILLISECONDS}")
    before = _size(name)
    gone = 0
    while (
        gone < max_pages and time.monotonic() < until and (free := _number(raw, "freelist_count"))
    ):
        if not _try(partial(_give_back, raw, min(PAGES_AT_ONCE, max_pages - gone)), lock):
            break
        left = _number(raw, "freelist_count")
        if left >= free:
            break  # a file of before there was auto_vacuum=INCREMENTAL
        gone += free - left
        _let_others_write()
    _empty_log(raw, lock)
    scrubbed = scrubbing.scrub(
        raw, name=name, file=file, until=until, attempt=lambda step: _try(step, lock)
    )
    _empty_log(raw, lock)
    return Reclaimed(
        scrubbed_pages=scrubbed,
        bytes=max(0, before - _size(name)),
        free_pages=_number(raw, "freelist_count"),
        log_bytes=_size(f"{name}-wal"),
    )


def _give_back(raw: Any, pages: int) -> bool:
    # To its end: one step of the statement gives back one page.
    raw.execute(f"PRAGMA incremental_vacuum({pages})").fetchall()
    return True


def _empty_log(raw: Any, lock: threading.Lock) -> None:
    """First beside the writers, which moves nearly all; then the rest, when nobody reads."""
    if raw.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        return  # the rollback journal goes with its transaction
    raw.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
    _try(lambda: raw.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0, lock)


def _try(attempt: Callable[[], bool], lock: threading.Lock) -> bool:
    """Until it succeeds, with pauses in which others get their turn; whether it did."""
    for _ in range(TRIES):
        with suppress(driver().OperationalError), lock:
            if attempt():
                return True
        _let_others_write()
    return False


def _let_others_write() -> None:
    """Irregularly: against a steady rhythm, a writer that retries may starve."""
    time.sleep(random.uniform(0.002, 0.008))  # noqa: S311 - no secret


def _number(raw: Any, pragma: str) -> int:
    return int(raw.execute(f"PRAGMA {pragma}").fetchone()[0])


def _size(name: str) -> int:
    try:
        return os.stat(name).st_size
    except OSError:
        return 0
