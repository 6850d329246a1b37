"""`manage.py clear_session ID`: forget what was said in a session, keep the session."""

from __future__ import annotations

from argparse import ArgumentParser
from functools import partial
from typing import Any

from django.utils import timezone

from conversations import attachments, lanes
from conversations.errors import ThreadHeld
from conversations.management import console
from conversations.store import ledger
from conversations.store.clearing import clear_session


class Command(console.ConsoleCommand):
    help = (
        "Forget everything said in a session, for people and for the model; the session stays, and "
        "what it cost. What runs or waits in it is ended first. A session on hold is refused."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("id", metavar="ID", help="the session's UUID, or its id in the SDK")
        console.add_dry_run(parser)
        super().add_arguments(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        dry_run = options["dry_run"]
        session = console.find_session(options["id"])
        if session.hold:  # before anybody is asked
            raise ThreadHeld
        if options["interactive"] and not dry_run:
            self.confirm(
                f"{session.message_count} messages of session {session.session_id}, last active "
                f"{session.last_active_at:%Y-%m-%d %H:%M} UTC, will be gone for good."
            )
        clear = partial(
            clear_session,
            session_id=session.session_id,
            actor=ledger.COMMAND,
            now=timezone.now(),
        )
        cleared = lanes.perform(clear, dry_run=dry_run)
        if not dry_run:
            attachments.erase_removed()
        self.answer(
            {"session_id": session.session_id, "cleared": cleared, "dry_run": dry_run},
            f"messages {'would be ' if dry_run else ''}cleared: {cleared}",
            as_json=options["json"],
        )
