"""What a check finds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from conversations import lanes
from conversations.errors import StoreError


@dataclass(frozen=True, slots=True)
class Finding:
    """How a part is: well, not well, or (None) not asked after here; and what to do about it."""

    ok: bool | None
    detail: str
    hint: str = ""

    @property
    def status(self) -> str:
        return {True: "ok", False: "failed", None: "skipped"}[self.ok]


Check = Callable[[], Finding]


def examine(check: Check) -> Finding:
    """What a check finds in this thread; a database that fails it is a finding, too."""
    try:
        return lanes.look_up(lambda db: check())
    except StoreError as error:
        return unanswered(error)


def unanswered(error: StoreError) -> Finding:
    """The finding where the database did not answer."""
    return Finding(
        False,
        error.message,
        "See that the database runs, that its disk has space, and that this user may use it.",
    )


def seconds_of(span: timedelta) -> str:
    """A span in the largest unit that tells it."""
    seconds = round(span.total_seconds())
    for unit, name in ((86_400, "days"), (3_600, "hours"), (60, "minutes")):
        if seconds >= 2 * unit:
            return f"{seconds // unit} {name}"
    return f"{seconds} seconds"


def moment_of(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"
