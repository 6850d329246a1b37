"""`manage.py session_stats [ID]`: how large and how old sessions are."""

from __future__ import annotations

from argparse import ArgumentParser
from dataclasses import asdict
from datetime import datetime
from functools import partial
from typing import Any

from django.utils import timezone

from conversations import lanes
from conversations.conf import get_conf
from conversations.management import console
from conversations.store.statistics import AllStatistics, SessionStatistics, sum_statistics


class Command(console.ConsoleCommand):
    help = "Tell how much a session holds, and until when it is kept; or all of them together."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "id", nargs="?", metavar="ID", help="the session's UUID, or its id in the SDK"
        )
        super().add_arguments(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        found: SessionStatistics | AllStatistics
        if options["id"] is not None:
            found = console.find_session(options["id"])
            told = _of_one(found)
        else:
            found = lanes.look_up(partial(sum_statistics, now=timezone.now()))
            told = _of_all(found)
        lines = (f"{label + ':':<13}{value}" for label, value in told.items())
        self.answer(asdict(found), *lines, as_json=options["json"])


def _of_one(session: SessionStatistics) -> dict[str, str]:
    name = session.agent_session_id
    return {
        "session": str(session.session_id),
        "SDK id": name if name.isprintable() else repr(name),
        "owner": "none" if session.owner_id is None else str(session.owner_id),
        "status": session.status,
        **_counters(session),
        "created": f"{_day(session.created_at)} ({_age(session.age_seconds)} old)",
        "last active": _day(session.last_active_at),
        "expires": _day(session.expires_at) if session.expires_at else "never: on hold",
    }


def _of_all(sessions: AllStatistics) -> dict[str, str]:
    return {
        "sessions": str(sessions.session_count),
        "over budget": str(sessions.over_budget_count),
        "on hold": str(sessions.held_count),
        "expired": str(sessions.expired_count),
        **_counters(sessions),
        "last active": f"{_day(sessions.oldest_active_at)} to {_day(sessions.newest_active_at)}"
        if sessions.session_count
        else "never",
    }


def _counters(found: SessionStatistics | AllStatistics) -> dict[str, str]:
    limit = get_conf().agent_session_max_messages
    of_limit = f" of {limit}" if isinstance(found, SessionStatistics) else ""
    return {
        "remembered": f"{found.remembered_count}{of_limit}",
        "entries": str(found.item_count),
        "messages": str(found.message_count),
        "pruned": str(found.pruned_count),
        "quarantined": str(found.quarantined_count),
        "tokens": f"{found.input_tokens} in, {found.output_tokens} out",
    }


def _day(moment: datetime | None) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC" if moment else "unknown"


def _age(seconds: int) -> str:
    for unit, length in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length} {unit}"
    return f"{seconds} seconds"
