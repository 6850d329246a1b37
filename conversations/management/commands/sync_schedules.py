"""`manage.py sync_schedules`: the worker's schedules as the code wants them."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from dataclasses import asdict
from typing import Any

from django.apps import apps
from django.core.management.base import BaseCommand, CommandError
from django.db import DatabaseError
from django.utils import timezone


class Command(BaseCommand):
    help = (
        "Create or correct the schedules of the background worker. A timing that staff have "
        "changed stays; schedules of others are not touched. `serve` does this at every start."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--dry-run", action="store_true", help="say what would change")
        parser.add_argument("--json", action="store_true", help="print one JSON object")

    def handle(self, *args: Any, **options: Any) -> None:
        if not apps.is_installed("django_q"):
            raise CommandError("Nothing to do: 'django_q' is not in INSTALLED_APPS.")
        from conversations.schedules import sync_schedules

        dry_run = options["dry_run"]
        try:
            synced = sync_schedules(now=timezone.now(), dry_run=dry_run)
        except DatabaseError as error:
            raise CommandError(f"The schedules could not be stored: {error}") from error
        if options["json"]:
            self.stdout.write(json.dumps(asdict(synced) | {"dry_run": dry_run}))
            return
        for became, names in asdict(synced).items():
            would_be = "would be " if dry_run and became != "unchanged" else ""
            for name in names:
                self.stdout.write(f"{name}: {would_be}{became}")
