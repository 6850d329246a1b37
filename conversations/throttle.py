"""How often something may happen, counted in the database, so that all processes count together."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from conversations import lanes
from conversations.conf import get_conf
from conversations.errors import Throttled
from conversations.models import Throttle

_LOGIN_WINDOW = timedelta(minutes=1)
_TABLE = Throttle._meta.db_table


def throttle_key(*parts: str) -> str:
    """A key that does not spell out who it is about."""
    return hashlib.sha256("\x00".join(parts).encode("utf-8", "surrogatepass")).hexdigest()


async def check_throttle(key: str, *, limit: int, now: datetime) -> None:
    """Raises Throttled when `key` has been counted `limit` times in its window."""
    row = await lanes.read(
        lambda db: db.one(f"SELECT count, window_ends_at FROM {_TABLE} WHERE key = %s", (key,))
    )
    if row and row[0] >= limit:
        _refuse_until(row[1], now)


async def count_throttle(key: str, *, limit: int, window: timedelta, now: datetime) -> None:
    """Count one; the window begins with the first.

    Raises Throttled, and counts nothing, where it is one too many: of many at once, `limit` pass.
    """

    def count(db: lanes.Database) -> None:
        moment = lanes.from_moment(now, is_sqlite=db.is_sqlite)
        window_ends_at = lanes.from_moment(now + window, is_sqlite=db.is_sqlite)
        db.run(f"DELETE FROM {_TABLE} WHERE window_ends_at <= %s", (moment,))
        counted, ends_at = db.one(
            f"INSERT INTO {_TABLE} (key, count, window_ends_at) VALUES (%s, 1, %s)"
            f" ON CONFLICT (key) DO UPDATE SET count = {_TABLE}.count + 1"
            " RETURNING count, window_ends_at",
            (key, window_ends_at),
        )
        if counted > limit:
            _refuse_until(ends_at, now)

    await lanes.write(count)


async def forgive_throttle(key: str) -> None:
    """Take back one that was counted."""
    sql = f"UPDATE {_TABLE} SET count = count - 1 WHERE key = %s AND count > 0"
    await lanes.write(lambda db: db.run(sql, (key,)))


def _refuse_until(value: Any, now: datetime) -> None:
    """Raises Throttled while the window, as the engine stored its end, is still open."""
    ends_at = lanes.to_moment(value)
    if ends_at is not None and ends_at > now:
        raise Throttled(retry_after=math.ceil((ends_at - now).total_seconds()))


def login_limits(*, name: str, address: str) -> dict[str, int]:
    """How many sign-ins may fail in a minute, by key: for a name from an address, and for it."""
    limit = get_conf().login_attempts_per_minute
    return {
        throttle_key("login", name.strip().lower(), address): limit,
        throttle_key("login", address): limit * 10,
    }


async def count_login(limits: Mapping[str, int], *, now: datetime) -> None:
    """Count an attempt before its password is looked at: many may come at once.

    Raises Throttled; `forgive_login` takes back the count of one that succeeds.
    """
    for key, limit in limits.items():
        await check_throttle(key, limit=limit, now=now)
    for key, limit in limits.items():
        await count_throttle(key, limit=limit, window=_LOGIN_WINDOW, now=now)


async def forgive_login(limits: Mapping[str, int]) -> None:
    """A sign-in that succeeded does not count."""
    for key in limits:
        await forgive_throttle(key)
