"""The Django app of the assistant that ships."""

from __future__ import annotations

from django.apps import AppConfig


class TodoConfig(AppConfig):
    name = "chatsite.todo"
    label = "todo"
    verbose_name = "Todo assistant"

    def ready(self) -> None:
        from chatsite.todo import erasing  # noqa: F401, PLC0415 - hears of erasures
