"""A site that is well, and what breaks it, for those who ask how it is."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from django.utils import timezone

from conversations import schedules, tasks
from conversations.models import TaskRun
from conversations.schedules import Daily, Every, Scheduled, sync_schedules

SILENT_AFTER = 150
CLEANUP = "conversations.cleanup_sessions"


def table_with_cleanup(*, hour: int = 2) -> tuple[Scheduled, ...]:
    """A table of schedules in which there is a cleanup."""
    return (
        Scheduled("conversations.heartbeat", "conversations.tasks.heartbeat", Every(minutes=1)),
        Scheduled(CLEANUP, "conversations.tasks.cleanup_sessions", Daily(hour=hour)),
    )


def set_up(monkeypatch: Any, settings: Any, *, since: datetime | None = None) -> None:
    """A worker is expected, its schedules are there, and it works."""
    settings.CHAT_WORKER_SILENT_SECONDS = SILENT_AFTER
    monkeypatch.setattr(schedules, "build_table", table_with_cleanup)
    sync_schedules(now=since or timezone.now())
    tasks.heartbeat()


def grow_silent(by: timedelta) -> None:
    """No task has run for that long."""
    TaskRun.objects.exclude(beat_at=None).update(beat_at=timezone.now() - by)
