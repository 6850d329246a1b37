"""`manage.py hold_session ID`: keep a session, or all that a person has, until it is let go."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.utils import timezone

from conversations import holds
from conversations.errors import Invalid
from conversations.management import console
from conversations.store import ledger


class Command(console.ConsoleCommand):
    help = (
        "Put a session on hold, or with --user all that a person has: no cleanup, no delete and no "
        "command removes anything of it until the hold is lifted. Say why: the ledger keeps it."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "id", nargs="?", metavar="ID", help="the session's UUID, or its id in the SDK"
        )
        parser.add_argument("--user", metavar="NAME", help="all of this user, by user name")
        parser.add_argument("--lift", action="store_true", help="let it go")
        parser.add_argument("--reason", default="", help="why; without names, for it is kept")
        console.add_dry_run(parser)
        super().add_arguments(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        lift, user = options["lift"], options["user"]
        if (options["id"] is None) == (user is None):
            raise Invalid("Name one session, or one person by --user.")
        common = {
            "reason": options["reason"],
            "actor": ledger.COMMAND,
            "now": timezone.now(),
            "dry_run": options["dry_run"],
        }
        found: dict[str, Any]
        if user is not None:
            user_id = console.find_user(user).pk
            (holds.lift_user if lift else holds.hold_user)(user_id=user_id, **common)
            found, named = {"user_id": user_id}, f"all sessions of user {user_id}"
        else:
            session_id = console.find_session(options["id"]).session_id
            (holds.lift_session if lift else holds.hold_session)(session_id=session_id, **common)
            found, named = {"session_id": session_id}, f"session {session_id}"
        would_be = "would be " if options["dry_run"] else ""
        self.answer(
            found | {"hold": not lift, "dry_run": options["dry_run"]},
            f"{named}: {would_be}{'let go' if lift else 'on hold'}",
            as_json=options["json"],
        )
