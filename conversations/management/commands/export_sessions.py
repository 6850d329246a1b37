"""`manage.py export_sessions`: conversations as files, with all that people could read in them."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Iterator
from typing import Any

from django.utils import timezone

from conversations import exports
from conversations.errors import Invalid
from conversations.exports import Told
from conversations.management import console, files

FORMATS = ("json", "markdown", "jsonl", "ndjson")


class Command(console.ConsoleCommand):
    help = (
        "Export conversations: all of them, those of one user, or one. What people could read is "
        "in it, and what they attached by name; what only the model saw is not. Several are "
        "always NDJSON, a line for each."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        which = parser.add_mutually_exclusive_group()
        which.add_argument("--user", help="user name: only this user's")
        which.add_argument(
            "--session", metavar="ID", help="the session's UUID, or its id in the SDK"
        )
        parser.add_argument("--format", choices=FORMATS, help="ndjson, or for one session: json")
        parser.add_argument(
            "--output", metavar="FILE", help="a new file, private to you; else standard output"
        )
        super().add_arguments(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        output = options["output"]
        if options["json"] and not output:
            raise Invalid("--json needs --output FILE: only one of both fits on standard output.")
        so_far = Told()
        with self.progress("Exporting") as show:

            def told(now_told: Told) -> None:
                nonlocal so_far
                so_far = now_told
                show(f"Exporting: {_in_words(so_far)}")

            pieces = _pieces(options, told)
            if not output:
                for piece in pieces:
                    self.stdout.write(piece, ending="")
                return
            byte_count = files.write_new(output, pieces)
        found = {
            "output": output,
            "conversations": so_far.conversations,
            "messages": so_far.messages,
            "bytes": byte_count,
        }
        self.answer(found, f"exported: {_in_words(so_far)}", as_json=options["json"])


def _pieces(options: dict[str, Any], told: Any) -> Iterator[str]:
    now, format = timezone.now(), options["format"]
    if options["session"]:
        session = console.find_session(options["session"])
        if format not in {None, "ndjson"} and format != "json":
            told(Told(1, session.message_count))
            return exports.export_session(
                session_id=session.session_id,
                owner_id=session.owner_id,
                format=format,
                now=now,
            )
        return exports.export_sessions(
            owner_id=session.owner_id, now=now, told=told, only=session.session_id
        )
    if format not in {None, "ndjson"}:
        raise Invalid(f"--format {format} is for one session: add --session, or write ndjson.")
    owner_id = console.find_user(options["user"]).pk if options["user"] is not None else None
    return exports.export_sessions(owner_id=owner_id, now=now, told=told)


def _in_words(so_far: Told) -> str:
    return f"{so_far.conversations} conversations, {so_far.messages} messages"
