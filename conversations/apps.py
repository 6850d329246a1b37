"""The Django app."""

from __future__ import annotations

from django.apps import AppConfig, apps
from django.db.models.signals import post_migrate


class ConversationsConfig(AppConfig):
    name = "conversations"
    verbose_name = "Conversations"

    def ready(self) -> None:
        # The checks are registered.
        from conversations import checks, removals, rights  # noqa: F401, PLC0415

        removals.listen()
        # After Django's own, which makes the permissions of this app.
        post_migrate.connect(rights.ensure_groups, sender=self)
        if apps.is_installed("django_q"):
            from conversations import queued, worker  # noqa: F401, PLC0415 - hears of erasures

            worker.listen()
