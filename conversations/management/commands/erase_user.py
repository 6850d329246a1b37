"""`manage.py erase_user USER`: all that is kept of a person goes for good."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Mapping
from typing import Any

from django.utils import timezone

from conversations import erasure, exports
from conversations.erasure import Receipt, Scope
from conversations.management import console, files
from conversations.store import ledger


class Command(console.ConsoleCommand):
    help = (
        "Erase all that is kept of a user: conversations, files, feedback, sign-ins, what other "
        "apps keep for them, and the account. Where something of theirs is on hold, nothing is "
        "erased. May be interrupted: called again, it goes on."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("user", metavar="USER", help="user name")
        parser.add_argument(
            "--export", metavar="FILE", help="first write their conversations to a new file"
        )
        parser.add_argument(
            "--keep-account", action="store_true", help="they may sign in again, with nothing there"
        )
        console.add_dry_run(parser)
        super().add_arguments(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        user, dry_run = console.find_user(options["user"]), options["dry_run"]
        scope: Scope = "sign_ins" if options["keep_account"] else "account"
        now = timezone.now()
        expected = erasure.preview(user_id=user.pk, now=now, scope=scope)
        if dry_run:
            self._tell(options, expected, {"exported": None})
            return
        if options["interactive"]:
            counts = expected.counts
            self.confirm(
                f"{counts.get('sessions', 0)} conversations with {counts.get('messages', 0)} "
                f"messages of {options['user']}, and all else that is kept of them, will be gone "
                "for good."
            )
        exported = None
        if options["export"] is not None:  # also an empty name, which is refused
            files.write_new(options["export"], exports.export_sessions(owner_id=user.pk, now=now))
            exported = options["export"]
        with self.progress("Erasing") as show:
            receipt, is_gone = erasure.erase_user(
                user_id=user.pk,
                actor=ledger.COMMAND,
                now=now,
                scope=scope,
                told=lambda so_far: show(f"Erasing: {so_far.counts.get('messages', 0)} messages"),
            )
        if not is_gone:
            self.stderr.write(
                "Erased, but not all gone from the disk yet: somebody reads, or it could not be "
                "written. The next sweep goes on."
            )
        self._tell(options, receipt, {"exported": exported, "gone_from_disk": is_gone})

    def _tell(
        self, options: Mapping[str, Any], receipt: Receipt, besides: Mapping[str, Any]
    ) -> None:
        dry_run = options["dry_run"]
        found = {
            "subject": receipt.subject,
            "receipt": receipt.ledger_number,
            "counts": receipt.counts,
            "dry_run": dry_run,
            **besides,
        }
        would_be = "would be " if dry_run else ""
        lines = [
            f"{name.replace('_', ' ')} {would_be}erased: {number}"
            for name, number in sorted(receipt.counts.items())
        ]
        lines = lines or ["nothing to erase"]
        if receipt.ledger_number is not None:
            lines.append(f"receipt: number {receipt.ledger_number} of the ledger")
        self.answer(found, *lines, as_json=options["json"])
