"""`manage.py sync_schedules`: the worker's schedules as the code wants them."""

from __future__ import annotations

from argparse import ArgumentParser
from dataclasses import asdict
from typing import Any

from django.apps import apps
from django.core.management.base import CommandError
from django.db import DatabaseError
from django.utils import timezone

from conversations.errors import StoreError
from conversations.management import console


class Command(console.ConsoleCommand):
    help = (
        "Create or correct the schedules of the background worker. A timing that staff have "
        "changed stays; schedules of others are not touched. `serve` does this at every start."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--reset",
            action="store_true",
            help="take back what staff, or a clock that was wrong, made of the timings",
        )
        console.add_dry_run(parser)
        super().add_arguments(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        if not apps.is_installed("django_q"):
            raise CommandError("Nothing to do: 'django_q' is not in INSTALLED_APPS.")
        from conversations.schedules import sync_schedules

        dry_run = options["dry_run"]
        try:
            synced = sync_schedules(now=timezone.now(), dry_run=dry_run, reset=options["reset"])
        except DatabaseError as error:
            raise StoreError(f"The schedules could not be stored: {error}") from error
        lines = [
            f"{name}: {'would be ' if dry_run and became != 'unchanged' else ''}{became}"
            for became, names in asdict(synced).items()
            for name in names
        ]
        self.answer(asdict(synced) | {"dry_run": dry_run}, *lines, as_json=options["json"])
