"""What the harness does in the database itself, each in a child of the zygote."""

from __future__ import annotations

import random
import time
from datetime import timedelta
from typing import Any

LIVE = ("queued", "running")


def prepare(*, users: int) -> dict[str, Any]:
    """All tables, and a signed-in user for each token."""
    from django.contrib.auth import get_user_model
    from django.core.management import call_command
    from django.db import connection
    from django.utils import timezone

    from conversations.tokens import issue_token

    call_command("migrate", verbosity=0)
    tokens = []
    for number in range(users):
        user = get_user_model().objects.create_user(f"user{number}")
        token = issue_token(
            user=user, name="faults", lifetime=timedelta(days=1), now=timezone.now()
        )
        tokens.append(token.text)
    journal = ""
    if connection.vendor == "sqlite":
        with connection.cursor() as cursor:
            journal = cursor.execute("PRAGMA journal_mode").fetchone()[0]
    return {"tokens": tokens, "journal": journal}


def read(*, threads: list[str]) -> dict[str, Any]:
    """All rows of these threads, and what the engine says of its file."""
    from django.db import connection

    from conversations.models import ChatMessage, ChatSession, ChatTurn

    sound = "ok"
    if connection.vendor == "sqlite":
        with connection.cursor() as cursor:
            sound = cursor.execute("PRAGMA integrity_check").fetchone()[0]
    return {
        "integrity": sound,
        "sessions": _rows(ChatSession.objects.filter(id__in=threads)),
        "turns": _rows(ChatTurn.objects.filter(session_id__in=threads).order_by("number")),
        "messages": _rows(ChatMessage.objects.filter(session_id__in=threads).order_by("position")),
    }


def count_live(*, threads: list[str]) -> int:
    """How many turns of these threads are still open."""
    from conversations.models import ChatTurn

    return ChatTurn.objects.filter(session_id__in=threads, status__in=LIVE).count()


def hammer(*, seconds: float, pause_ms: float) -> dict[str, Any]:
    """Write in short transactions, as a worker does, and count what fails."""
    from django.db import DatabaseError, transaction
    from django.utils import timezone

    from conversations.models import Throttle

    ends_at = timezone.now() + timedelta(hours=1)
    deadline = time.monotonic() + seconds
    took: list[float] = []
    failures: dict[str, int] = {}
    while time.monotonic() < deadline:
        begun = time.monotonic()
        try:
            with transaction.atomic():
                for _ in range(5):
                    Throttle.objects.update_or_create(
                        key=f"faults-{random.randrange(50)}",
                        defaults={"count": 1, "window_ends_at": ends_at},
                    )
        except DatabaseError as error:
            failures[str(error)] = failures.get(str(error), 0) + 1
        took.append(time.monotonic() - begun)
        time.sleep(random.uniform(0.5, 1.5) * pause_ms / 1000)
    took.sort()
    p99 = took[int(len(took) * 0.99)] if took else 0.0
    return {"writes": len(took), "failures": failures, "p99": p99, "max": max(took, default=0.0)}


def _rows(queryset: Any) -> list[dict[str, Any]]:
    return [
        {
            name: value.timestamp() if hasattr(value, "timestamp") else _plain(value)
            for name, value in row.items()
        }
        for row in queryset.values()
    ]


def _plain(value: Any) -> Any:
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
