"""The Django app."""

from __future__ import annotations

from django.apps import AppConfig, apps


class ConversationsConfig(AppConfig):
    name = "conversations"
    verbose_name = "Conversations"

    def ready(self) -> None:
        from conversations import checks, removals  # noqa: F401, PLC0415 - checks are registered

        removals.listen()
        if apps.is_installed("django_q"):
            from conversations import queued, worker  # noqa: F401, PLC0415 - hears of erasures

            worker.listen()
