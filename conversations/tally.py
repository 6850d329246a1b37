"""What this process counts while it works: in memory, gone with the process, never with content.

What every process shares is in the database instead; see `metrics`.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Iterator
from itertools import accumulate
from typing import Final

from conversations.exposition import Family, Labels, Sample

_lock = threading.Lock()

SECONDS: Final = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
"""Upper bounds of the groups that durations fall into."""


class Count:
    """A number that only grows, for each set of labels."""

    def __init__(self, name: str, help: str) -> None:
        self._name, self._help = name, help
        self._values: dict[Labels, float] = {}

    def increase(self, amount: float = 1, **labels: str) -> None:
        key = tuple(labels.items())
        with _lock:
            self._values[key] = self._values.get(key, 0) + amount

    def family(self) -> Family:
        with _lock:
            values = dict(self._values) or {(): 0.0}
        return Family(self._name, "counter", self._help, _samples(values))


class Durations:
    """How long something took, as a histogram in seconds."""

    def __init__(self, name: str, help: str) -> None:
        self._name, self._help = name, help
        self._groups = [0] * (len(SECONDS) + 1)
        self._sum = 0.0

    def observe(self, seconds: float) -> None:
        with _lock:
            self._groups[bisect_left(SECONDS, seconds)] += 1
            self._sum += seconds

    def family(self) -> Family:
        with _lock:
            reached, total = list(accumulate(self._groups)), self._sum
        bounds = [*(f"{bound:g}" for bound in SECONDS), "+Inf"]
        samples = [
            Sample(value, (("le", bound),), "_bucket")
            for bound, value in zip(bounds, reached, strict=True)
        ]
        samples += [Sample(total, suffix="_sum"), Sample(reached[-1], suffix="_count")]
        return Family(self._name, "histogram", self._help, tuple(samples))


def _samples(values: dict[Labels, float]) -> tuple[Sample, ...]:
    return tuple(Sample(value, labels) for labels, value in sorted(values.items()))


SESSIONS_CREATED: Final = Count(
    "conversations_sessions_created_total", "Conversations that this process began."
)
TURNS: Final = Count(
    "conversations_turns_total", "Turns that ended in this process, by how they ended."
)
DEGRADED: Final = Count(
    "conversations_degraded_answers_total",
    "Turns of this process whose answer carried a warning: context or storage failed.",
)
PRUNES: Final = Count(
    "conversations_prunes_total", "Memories over their budget that this process pruned."
)
FORGOTTEN: Final = Count(
    "conversations_forgotten_entries_total",
    "Entries that this process took from memories over their budget.",
)
RECOVERED: Final = Count(
    "conversations_recoveries_total",
    "Conversations in which this process found the turn of a process that is gone, and closed it.",
)
LEASE_WAITS: Final = Durations(
    "conversations_lease_wait_seconds",
    "How long turns of this process waited for the turns before them; turns at once are not here.",
)
FIRST_WORDS: Final = Durations(
    "conversations_first_words_seconds",
    "From a message to the first words of its answer, in this process.",
)
TURN_SECONDS: Final = Durations(
    "conversations_turn_seconds",
    "From a message to the end of its answer, waiting included, in this process.",
)


def families() -> Iterator[Family]:
    """All that this process has counted."""
    for counted in (SESSIONS_CREATED, TURNS, DEGRADED, PRUNES, FORGOTTEN, RECOVERED):
        yield counted.family()
    for durations in (LEASE_WAITS, FIRST_WORDS, TURN_SECONDS):
        yield durations.family()
