"""For operators: is the process up, and can it do its work."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

from django.db import connection
from django.db.migrations.executor import MigrationExecutor
from django.http import HttpRequest
from django.utils import timezone
from ninja import Router, Status

from conversations import lanes, sqlite
from conversations.api.schemas import HealthOut, ReadyOut
from conversations.errors import StoreError
from conversations.store.log import TURN

router = Router(tags=["Operations"])

OLDEST_QUEUED = timedelta(minutes=10)


@router.get("/healthz", auth=None, response=HealthOut)
async def healthz(request: HttpRequest) -> dict[str, str]:
    """The process is up. Touches no database."""
    return {"status": "ok"}


@router.get("/readyz", auth=None, response={(200, 503): ReadyOut})
async def readyz(request: HttpRequest) -> Status[dict[str, Any]]:
    """Whether this site can do its work, part by part; 503 where one cannot."""
    parts = {
        "database": _check_database,
        "migrations": _check_migrations,
        "oldest_queued_turn": _check_queue,
    }
    # Side by side: a store that hangs costs its budget once.
    found = await asyncio.gather(*map(_checked, parts.values()))
    checks = dict(zip(parts, found, strict=True))
    ready = all(check["ok"] for check in checks.values())
    return Status(200 if ready else 503, {"ready": ready, "checks": checks})


async def _checked(check: Any) -> dict[str, Any]:
    try:
        found: dict[str, Any] = await lanes.call(check)
    except StoreError as error:
        return {"ok": False, "detail": error.message}
    return found


def _check_database() -> dict[str, Any]:
    with connection.cursor() as cursor:
        if connection.vendor != "sqlite":
            cursor.execute("SHOW server_version")
            return {"ok": True, "detail": f"PostgreSQL {cursor.fetchone()[0]}"}
        cursor.execute("PRAGMA journal_mode")
        (mode,) = cursor.fetchone()
    safe = mode != "wal" or sqlite.is_wal_safe(sqlite.engine_version())
    return {"ok": safe, "detail": f"SQLite {sqlite.driver().sqlite_version}, journal {mode}"}


def _check_migrations() -> dict[str, Any]:
    executor = MigrationExecutor(connection)
    missing = executor.migration_plan(executor.loader.graph.leaf_nodes())
    return {"ok": not missing, "detail": f"{len(missing)} to apply"}


def _check_queue() -> dict[str, Any]:
    with connection.cursor() as cursor:
        # The first condition lets the index of live turns answer.
        cursor.execute(
            f"SELECT MIN(queued_at) FROM {TURN}"
            " WHERE status IN ('queued', 'running') AND status = 'queued'"
        )
        oldest = lanes.to_moment(cursor.fetchone()[0])
    waited = timezone.now() - oldest if oldest else timedelta()
    detail = f"waits for {round(waited.total_seconds())} s" if oldest else "none"
    return {"ok": waited < OLDEST_QUEUED, "detail": detail}
