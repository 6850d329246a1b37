"""Is the process up, can it do its work, and what did it do."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import httpx
import pytest
from django.db import connection
from django.test import override_settings
from django.utils import timezone

from conversations import health, lanes
from conversations.api import ops
from conversations.errors import StoreBusy
from conversations.health import Finding
from conversations.health.readiness import OLDEST_QUEUED
from conversations.models import ChatTurn
from conversations.tests.health_helpers import grow_silent, set_up
from conversations.tests.scripted import Say
from conversations.tests.turns_helpers import ask

TOKEN = "a-token-for-metrics"


@pytest.fixture
async def elsewhere(transactional_db: None) -> AsyncIterator[httpx.AsyncClient]:
    """Somebody on another machine."""
    from chatsite.asgi import application

    transport = httpx.ASGITransport(app=application, client=("203.0.113.9", 4711))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        yield client


# --- Readiness ----------------------------------------------------------------------------


async def test_a_site_that_can_work_says_so_part_by_part(
    anonymous: httpx.AsyncClient, monkeypatch: Any, settings: Any
) -> None:
    await lanes.call(set_up, monkeypatch, settings)
    answer = await anonymous.get("/readyz")
    assert answer.status_code == 200, answer.json()
    body = answer.json()
    assert body["ready"] is True
    assert list(body["checks"]) == list(health.READINESS)
    for check in body["checks"].values():
        assert set(check) == {"ok", "status", "detail", "hint"}
        assert check["hint"] == ""
    engine = "SQLite" if connection.vendor == "sqlite" else "PostgreSQL"
    assert engine in body["checks"]["database"]["detail"]
    assert body["checks"]["search_index"] == {
        "ok": None,
        "status": "skipped",
        "detail": "not there yet",
        "hint": "",
    }


async def test_a_turn_that_waits_too_long_is_named(
    anonymous: httpx.AsyncClient, session: Any
) -> None:
    queued_at = timezone.now() - OLDEST_QUEUED - timedelta(seconds=5)
    await lanes.call(
        ChatTurn.objects.create, session=session, number=1, input="Hi", queued_at=queued_at
    )
    answer = await anonymous.get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["checks"]["oldest_queued_turn"]["status"] == "failed"
    assert answer.json()["checks"]["database"]["ok"] is True
    assert str(session.id) not in answer.text


async def test_a_worker_that_hangs_is_named_in_the_words_the_supervisor_reads(
    anonymous: httpx.AsyncClient, monkeypatch: Any, settings: Any
) -> None:
    from conversations.supervisor import worker_is_silent

    await lanes.call(set_up, monkeypatch, settings)
    assert not worker_is_silent((await anonymous.get("/readyz")).content)
    await lanes.call(grow_silent, timedelta(seconds=151))
    answer = await anonymous.get("/readyz")
    assert answer.status_code == 503
    assert worker_is_silent(answer.content)


async def test_a_database_that_does_not_answer_is_named(
    anonymous: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy() -> Any:
        raise StoreBusy

    monkeypatch.setitem(health.READINESS, "database", busy)
    answer = await anonymous.get("/readyz")
    assert answer.status_code == 503
    found = answer.json()["checks"]["database"]
    assert (found["ok"], found["detail"]) == (False, "The conversation store is busy.")
    assert found["hint"]


async def test_what_was_found_is_told_for_a_while_and_looked_at_once_for_all_who_ask(
    anonymous: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = []

    def look() -> Finding:
        looks.append(1)
        return Finding(True, "well")

    monkeypatch.setattr(health, "READINESS", {"database": look})
    monkeypatch.setattr(ops, "_kept", ops._Kept())
    with override_settings(READINESS_KEPT_SECONDS=60):
        answers = await asyncio.gather(*(anonymous.get("/readyz") for _ in range(5)))
        answers.append(await anonymous.get("/readyz"))
    assert {answer.status_code for answer in answers} == {200}
    assert looks == [1]
    monkeypatch.setattr(ops, "_kept", ops._Kept())
    with override_settings(READINESS_KEPT_SECONDS=0):
        await anonymous.get("/readyz")
        await anonymous.get("/readyz")
    assert len(looks) == 3


async def test_the_process_is_up_without_a_database(
    anonymous: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(*args: Any, **options: Any) -> Any:
        raise AssertionError("the database was asked")

    monkeypatch.setattr(lanes, "call", never)
    monkeypatch.setattr(lanes, "read", never)
    answer = await anonymous.get("/healthz")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


# --- Metrics ------------------------------------------------------------------------------


async def test_metrics_are_read_from_this_machine(
    anonymous: httpx.AsyncClient, session: Any, script: Any
) -> None:
    script(Say("a secret answer"))
    await ask(session, "a secret question")
    answer = await anonymous.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    found = dict(re.findall(r"^(conversations_\S+) (\S+)$", answer.text, re.MULTILINE))
    assert float(found['conversations_turns_total{status="completed"}']) >= 1
    assert found['conversations_health{check="database"}'] == "1.0"
    assert float(found["conversations_database_bytes"]) > 10_000
    assert "secret" not in answer.text
    assert str(session.id) not in answer.text


@pytest.mark.parametrize(
    "header",
    [
        {"X-Forwarded-For": "203.0.113.9"},
        {"Forwarded": "for=203.0.113.9"},
        {"X-Real-IP": "203.0.113.9"},
    ],
    ids=["x-forwarded-for", "forwarded", "x-real-ip"],
)
async def test_what_comes_through_a_proxy_is_not_from_this_machine(
    anonymous: httpx.AsyncClient, header: dict[str, str]
) -> None:
    answer = await anonymous.get("/metrics", headers=header)
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "unauthenticated"


async def test_nobody_else_reads_metrics_without_a_token(elsewhere: httpx.AsyncClient) -> None:
    assert (await elsewhere.get("/metrics")).status_code == 401


async def test_a_caller_without_an_address_is_not_from_here(anonymous: Any, rf: Any) -> None:
    assert not ops._is_from_here(rf.get("/metrics", REMOTE_ADDR=""))
    assert ops._is_from_here(rf.get("/metrics", REMOTE_ADDR="::1"))


@pytest.mark.parametrize(
    ("header", "status"),
    [
        (f"Bearer {TOKEN}", 200),
        (f"bearer  {TOKEN}", 200),
        (f"Basic {TOKEN}", 401),
        (f"Bearer {TOKEN}x", 401),
        ("Bearer ", 401),
        ("Bearer \u00fcber", 401),
        (None, 401),
    ],
    ids=["right", "spaced", "other scheme", "wrong", "empty", "not ascii", "none"],
)
async def test_where_a_token_is_set_it_alone_lets_in(
    elsewhere: httpx.AsyncClient, anonymous: httpx.AsyncClient, header: str | None, status: int
) -> None:
    headers = {"Authorization": header.encode()} if header else {}
    with override_settings(METRICS_TOKEN=TOKEN):
        for who in (elsewhere, anonymous):
            assert (await who.get("/metrics", headers=headers)).status_code == status


async def test_metrics_of_a_store_that_is_away_are_an_error(
    anonymous: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy(health: Any) -> Any:
        raise StoreBusy

    monkeypatch.setattr(ops.metrics, "render", busy)
    assert (await anonymous.get("/metrics")).status_code == 503
