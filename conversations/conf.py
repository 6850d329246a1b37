"""The app's settings as one frozen value, with defaults, so that any Django project can use it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import timedelta
from functools import cache
from typing import Any

from django.conf import settings
from django.core.signals import setting_changed


@dataclass(frozen=True, slots=True)
class Conf:
    """One attribute per Django setting of the same name in capitals; see docs/settings.md."""

    conversations_agent: str = ""
    conversations_chatkit_server: str = "conversations.chatkit_server.ConversationServer"
    site_url: str = ""
    agent_session_max_messages: int = 200
    agent_session_retention_days: int = 7
    agent_session_cleanup_hour: int = 2
    agent_tracing: bool = False
    chat_turn_timeout_seconds: float = 300
    chat_max_message_chars: int = 2_000
    chat_max_body_bytes: int = 262_144
    chat_max_queued_turns: int = 5
    chat_lease_seconds: float = 15
    chat_store_budget_seconds: float = 1.5
    chat_events_kept_seconds: float = 600
    chat_heartbeat_seconds: float = 15
    chat_attachment_max_bytes: int = 10_485_760
    chat_attachment_mime_types: tuple[str, ...] = (
        "image/png",
        "image/jpeg",
        "image/gif",
        "image/webp",
        "application/pdf",
        "text/plain",
        "text/markdown",
        "text/csv",
        "application/json",
    )
    access_token_days: int = 30
    login_attempts_per_minute: int = 10
    chat_worker_silent_seconds: float = 150
    metrics_token: str = ""
    readiness_kept_seconds: float = 1

    @property
    def lease(self) -> timedelta:
        return timedelta(seconds=self.chat_lease_seconds)

    @property
    def retention(self) -> timedelta:
        return timedelta(days=self.agent_session_retention_days)


@cache
def get_conf() -> Conf:
    """The settings as they stand; changes by `override_settings` are seen."""
    names = (field.name for field in fields(Conf))
    return Conf(**{n: getattr(settings, n.upper()) for n in names if hasattr(settings, n.upper())})


def _forget(**_: Any) -> None:
    get_conf.cache_clear()


setting_changed.connect(_forget, dispatch_uid="conversations.conf")
