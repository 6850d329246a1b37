"""Is the process up, and can it do its work."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import httpx
import pytest
from django.db import connection
from django.utils import timezone

from conversations import lanes
from conversations.api import ops
from conversations.errors import StoreBusy
from conversations.models import ChatTurn


async def test_a_site_that_can_work_says_so_part_by_part(anonymous: httpx.AsyncClient) -> None:
    answer = await anonymous.get("/readyz")
    assert answer.status_code == 200
    body = answer.json()
    assert body["ready"] is True
    assert set(body["checks"]) == {"database", "migrations", "oldest_queued_turn"}
    engine = "SQLite" if connection.vendor == "sqlite" else "PostgreSQL"
    assert engine in body["checks"]["database"]["detail"]


async def test_a_turn_that_waits_too_long_is_named(
    anonymous: httpx.AsyncClient, session: Any
) -> None:
    queued_at = timezone.now() - ops.OLDEST_QUEUED - timedelta(seconds=5)
    await lanes.call(
        ChatTurn.objects.create, session=session, number=1, input="Hi", queued_at=queued_at
    )
    answer = await anonymous.get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["checks"]["oldest_queued_turn"]["ok"] is False
    assert answer.json()["checks"]["database"]["ok"] is True


async def test_a_database_that_does_not_answer_is_named(
    anonymous: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy() -> Any:
        raise StoreBusy

    monkeypatch.setattr(ops, "_check_database", busy)
    answer = await anonymous.get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["checks"]["database"] == {
        "ok": False,
        "detail": "The conversation store is busy.",
    }
