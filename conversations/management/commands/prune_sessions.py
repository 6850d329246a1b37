"""`manage.py prune_sessions [ID ...]`: keep memories within their budget."""

from __future__ import annotations

from argparse import ArgumentParser
from dataclasses import asdict
from typing import Any

from django.core.management.base import CommandError
from django.utils import timezone

from conversations import sweeps
from conversations.management import console
from conversations.store import ledger
from conversations.sweeps import PrunedSessions


class Command(console.ConsoleCommand):
    help = (
        "Let the model forget the oldest entries of every session that remembers more than "
        "AGENT_SESSION_MAX_MESSAGES; what people can read stays. The worker does this every 15 "
        "minutes, and every turn at its end. Sessions that are named have their counters mended "
        "first, so that also what another program added is counted."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "ids", nargs="*", metavar="ID", help="a session's UUID, or its id in the SDK"
        )
        console.add_dry_run(parser)
        super().add_arguments(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        dry_run, as_json = options["dry_run"], options["json"]
        named = dict.fromkeys(console.find_session(name).session_id for name in options["ids"])
        with self.progress("Pruning") as show:
            outcome = sweeps.prune_sessions(
                now=timezone.now(),
                session_ids=named or None,
                dry_run=dry_run,
                actor=ledger.COMMAND,
                told=lambda so_far: show(
                    f"Pruning: {so_far.visited} sessions, {so_far.forgotten} entries forgotten"
                ),
            )
        found = asdict(outcome) | {"dry_run": dry_run}
        self.answer(found, *_lines(outcome, dry_run=dry_run), as_json=as_json)
        if outcome.failed:
            raise CommandError(
                f"{outcome.failed} of {outcome.visited} sessions could not be pruned.",
                returncode=console.FAILED
                if outcome.failed == outcome.visited
                else console.SOME_FAILED,
            )


def _lines(outcome: PrunedSessions, *, dry_run: bool) -> list[str]:
    would_be = "would be " if dry_run else ""
    lines = [
        f"sessions {would_be}pruned: {outcome.pruned}",
        f"entries {would_be}forgotten: {outcome.forgotten}",
    ]
    if outcome.running:
        lines.append(f"sessions left to the turn that runs in them: {outcome.running}")
    if outcome.over_budget:
        lines.append(f"sessions of which nothing may go: {outcome.over_budget}")
    return lines
