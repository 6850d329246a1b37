"""Side by side: candidates in turns of shuffled order, ratios formed inside each round."""

from __future__ import annotations

import asyncio
import atexit
import os
import random
import shutil
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

Action = Callable[[], Awaitable[object]]


def fresh_site(*, synchronous: str = "FULL", database_url: str = "") -> Path:
    """A Django set up on a database of its own, or an empty one that is given; its folder."""
    folder = Path(tempfile.mkdtemp(prefix="chatsite-bench-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ |= {
        "DJANGO_SETTINGS_MODULE": "chatsite.settings",
        "SECRET_KEY": "benchmark-" + "b" * 50,
        "DATABASE_URL": database_url,
        "AGENT_SESSION_DB_PATH": str(folder / "bench.db"),
        "SQLITE_SYNCHRONOUS": synchronous,
        "OPENAI_AGENTS_DISABLE_TRACING": "1",
    }
    import django
    from django.core.management import call_command

    django.setup()
    call_command("migrate", verbosity=0)
    return folder


async def race(
    candidates: dict[str, Action], *, rounds: int, repeat: int
) -> dict[str, list[float]]:
    """Seconds per call of each candidate, one figure a round (the round's mean)."""
    for action in candidates.values():
        await action()
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        order = list(candidates.items())
        random.shuffle(order)
        for name, action in order:
            begun = time.perf_counter()
            for _ in range(repeat):
                await action()
            times[name].append((time.perf_counter() - begun) / repeat)
            await asyncio.sleep(0)
    return times


def ratios(times: dict[str, list[float]], name: str, anchor: str) -> list[float]:
    return [a / b for a, b in zip(times[name], times[anchor], strict=True)]


def spread(values: list[float], scale: float = 1.0, digits: int = 2) -> str:
    """Median and range."""
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle * scale:.{digits}f} ({low * scale:.{digits}f}-{high * scale:.{digits}f})"


def table(header: list[str], rows: list[list[str]]) -> str:
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in [header, ["-" * width for width in widths], *rows]
    ]
    return "\n".join(lines)
