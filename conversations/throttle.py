"""How often something may happen, counted in the database, so that all processes count together."""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta

from conversations import lanes
from conversations.errors import Throttled
from conversations.models import Throttle

_TABLE = Throttle._meta.db_table


def throttle_key(*parts: str) -> str:
    """A key that does not spell out who it is about."""
    return hashlib.sha256("\x00".join(parts).encode("utf-8", "surrogatepass")).hexdigest()


async def check_throttle(key: str, *, limit: int, now: datetime) -> None:
    """Raises Throttled when `key` has been counted `limit` times in its window."""
    row = await lanes.read(
        lambda db: db.one(f"SELECT count, window_ends_at FROM {_TABLE} WHERE key = %s", (key,))
    )
    ends_at = lanes.to_moment(row[1]) if row else None
    if row and ends_at and ends_at > now and row[0] >= limit:
        raise Throttled(retry_after=max(1, round((ends_at - now).total_seconds())))


async def count_throttle(key: str, *, window: timedelta, now: datetime) -> None:
    """Count one; the window begins with the first."""

    def count(db: lanes.Database) -> None:
        moment = lanes.from_moment(now, is_sqlite=db.is_sqlite)
        ends_at = lanes.from_moment(now + window, is_sqlite=db.is_sqlite)
        db.run(f"DELETE FROM {_TABLE} WHERE window_ends_at <= %s", (moment,))
        db.run(
            f"INSERT INTO {_TABLE} (key, count, window_ends_at) VALUES (%s, 1, %s)"
            f" ON CONFLICT (key) DO UPDATE SET count = {_TABLE}.count + 1",
            (key, ends_at),
        )

    await lanes.write(count)
