"""How often something may happen: counted once for all processes."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from conversations import lanes
from conversations.errors import Throttled
from conversations.models import Throttle
from conversations.throttle import (
    check_throttle,
    count_throttle,
    forgive_throttle,
    throttle_key,
)

pytestmark = pytest.mark.usefixtures("transactional_db")

NOW = datetime(2030, 1, 1, 12, 0, tzinfo=UTC)
WINDOW = timedelta(minutes=1)
KEY = throttle_key("login", "ann", "192.0.2.1")


async def count(key: str = KEY, *, limit: int = 2, now: datetime = NOW) -> None:
    await count_throttle(key, limit=limit, window=WINDOW, now=now)


async def refusal(*, limit: int = 2, now: datetime = NOW) -> int | None:
    """How long to wait, or None where nothing stands in the way."""
    try:
        await check_throttle(KEY, limit=limit, now=now)
    except Throttled as error:
        return error.retry_after
    return None


async def rows() -> list[Any]:
    return await lanes.call(lambda: list(Throttle.objects.order_by("key")))


def test_a_key_does_not_say_whom_it_is_about():
    assert "ann" not in KEY
    assert len(KEY) == 64
    assert throttle_key("a", "b") != throttle_key("ab") != throttle_key("b", "a")
    assert throttle_key("lone \ud800") != throttle_key("lone ")


async def test_nothing_counted_is_nothing_refused():
    assert await refusal() is None


async def test_the_limit_is_what_may_happen_in_a_window_that_begins_with_the_first():
    await count()
    assert await refusal() is None
    await count(now=NOW + timedelta(seconds=30))
    assert await refusal(now=NOW + timedelta(seconds=30)) == 30
    assert await refusal(now=NOW + timedelta(seconds=59, milliseconds=1)) == 1
    assert await refusal(now=NOW + timedelta(seconds=29, milliseconds=400)) == 31
    assert await refusal(now=NOW + WINDOW) is None


async def test_one_too_many_is_refused_and_not_counted():
    await count()
    await count()
    with pytest.raises(Throttled) as refused:
        await count(now=NOW + timedelta(seconds=15))
    assert refused.value.retry_after == 45
    (row,) = await rows()
    assert (row.count, row.window_ends_at) == (2, NOW + WINDOW)


async def test_after_the_window_counting_begins_anew_and_old_rows_go():
    await count()
    await count("another")
    later = NOW + WINDOW
    await count(now=later)
    (row,) = await rows()
    assert (row.key, row.count, row.window_ends_at) == (KEY, 1, later + WINDOW)


async def test_keys_do_not_count_for_each_other():
    for _ in range(5):
        await count("another", limit=5)
    assert await refusal(limit=1) is None


async def test_of_many_at_once_exactly_the_limit_passes():
    outcomes = await asyncio.gather(*(count(limit=7) for _ in range(30)), return_exceptions=True)
    assert sum(outcome is None for outcome in outcomes) == 7
    assert all(isinstance(outcome, Throttled) for outcome in outcomes if outcome is not None)
    assert [row.count for row in await rows()] == [7]


async def test_what_is_forgiven_was_never_counted():
    await count()
    await count()
    await forgive_throttle(KEY)
    assert await refusal() is None
    await forgive_throttle(KEY)
    await forgive_throttle(KEY)
    assert [row.count for row in await rows()] == [0]
    await forgive_throttle("never counted")
