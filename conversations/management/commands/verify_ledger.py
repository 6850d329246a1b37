"""`manage.py verify_ledger`: whether the record of removals is whole."""

from __future__ import annotations

import re
from argparse import ArgumentParser
from dataclasses import asdict
from functools import partial
from typing import Any

from django.core.management.base import CommandError

from conversations import lanes
from conversations.errors import Invalid
from conversations.management import console
from conversations.store import ledger


class Command(console.ConsoleCommand):
    help = (
        "Follow the ledger of removals from its first row: is every row as it was written, and is "
        "none missing? Note the hash it prints, and give it by --head another time: then missing "
        "rows at the end are found, too."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--head", default="", metavar="HASH", help="a hash that was printed before"
        )
        super().add_arguments(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        head = options["head"].strip().lower()
        if head and not re.fullmatch("[0-9a-f]{64}", head):
            raise Invalid("--head: write all 64 digits of the hash that was printed.")
        found = lanes.look_up(partial(ledger.verify, head=head))
        lines = [f"entries: {found.entries}", f"head: {found.head}"]
        lines.append("whole" if found.is_whole else f"broken at {found.broken_at}: {found.why}")
        if not found.guarded:
            lines.append("not guarded: the triggers that refuse changes are missing")
        self.answer(asdict(found) | {"whole": found.is_whole}, *lines, as_json=options["json"])
        if not found.is_whole:
            raise CommandError(
                f"The ledger is broken at entry {found.broken_at}: {found.why}.",
                returncode=console.FAILED,
            )
