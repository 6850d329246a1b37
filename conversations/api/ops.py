"""For operators: is the process up, can it do its work, and what did it do."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import time
from collections.abc import Mapping
from functools import partial
from typing import Any

from django.http import HttpRequest, HttpResponse
from ninja import Router, Status

from conversations import exposition, health, lanes, metrics
from conversations.api.schemas import ErrorOut, HealthOut, ReadyOut
from conversations.conf import get_conf
from conversations.errors import StoreError, Unauthenticated
from conversations.health import Check, Finding
from conversations.health.findings import unanswered

router = Router(tags=["Operations"])

FORWARDING_HEADERS = ("HTTP_FORWARDED", "HTTP_X_FORWARDED_FOR", "HTTP_X_REAL_IP")
"""Whose request carries one comes through a proxy, from anywhere."""


@router.get("/healthz", auth=None, response=HealthOut)
async def healthz(request: HttpRequest) -> dict[str, str]:
    """The process is up. Touches no database."""
    return {"status": "ok"}


@router.get("/readyz", auth=None, response={(200, 503): ReadyOut})
async def readyz(request: HttpRequest) -> Status[dict[str, Any]]:
    """Whether this site can do its work, part by part; 503 where one cannot.

    What is found is told for a second.
    """
    found = await _kept.findings()
    ready = all(finding.ok is not False for finding in found.values())
    checks = {
        name: {
            "ok": finding.ok,
            "status": finding.status,
            "detail": finding.detail,
            "hint": finding.hint,
        }
        for name, finding in found.items()
    }
    return Status(200 if ready else 503, {"ready": ready, "checks": checks})


@router.get(
    "/metrics",
    auth=None,
    response={(401, 503): ErrorOut},
    openapi_extra={"responses": {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}}},
)
async def read_metrics(request: HttpRequest) -> HttpResponse:
    """Numbers in Prometheus' text format, with the token METRICS_TOKEN; where none is set, for this
    machine only.
    """
    _let_in(request)
    found = {name: finding.ok for name, finding in (await _kept.findings()).items()}
    page = await lanes.call(metrics.render, found)
    return HttpResponse(page, content_type=exposition.CONTENT_TYPE)


def _let_in(request: HttpRequest) -> None:
    """Raises Unauthenticated for whoever may not read metrics."""
    token = get_conf().metrics_token
    if token:
        scheme, _, given = request.META.get("HTTP_AUTHORIZATION", "").partition(" ")
        is_right = hmac.compare_digest(given.strip().encode(), token.encode())
        if scheme.lower() != "bearer" or not is_right:
            raise Unauthenticated
    elif not _is_from_here(request):
        raise Unauthenticated


def _is_from_here(request: HttpRequest) -> bool:
    if any(header in request.META for header in FORWARDING_HEADERS):
        return False
    try:
        return ipaddress.ip_address(request.META.get("REMOTE_ADDR", "")).is_loopback
    except ValueError:
        return False


class _Kept:
    """What was found, for as long as it is told: however many ask, the database is asked once."""

    def __init__(self) -> None:
        self._found: dict[str, Finding] = {}
        self._until = 0.0
        self._looking: asyncio.Task[dict[str, Finding]] | None = None

    async def findings(self) -> Mapping[str, Finding]:
        if time.monotonic() < self._until:
            return self._found
        looking = self._looking
        if looking is None or looking.done() or looking.get_loop() is not _loop():
            looking = self._looking = _loop().create_task(self._look())
        return await asyncio.shield(looking)  # one who leaves does not end it for the others

    async def _look(self) -> dict[str, Finding]:
        # Side by side: a store that hangs costs its budget once.
        checks = health.READINESS
        found = await asyncio.gather(*map(_examined, checks.values()))
        self._found = dict(zip(checks, found, strict=True))
        self._until = time.monotonic() + get_conf().readiness_kept_seconds
        return self._found


_kept = _Kept()
_loop = asyncio.get_running_loop


async def _examined(check: Check) -> Finding:
    try:
        return await lanes.call(partial(check))
    except StoreError as error:
        return unanswered(error)
