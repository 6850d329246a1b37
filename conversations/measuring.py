"""Numbers that take a walk through all conversations: counted by the worker, read by anybody."""

from __future__ import annotations

import time
from collections import Counter
from datetime import datetime
from functools import partial
from typing import Any, Final

from conversations import lanes, task_runs
from conversations.models import Measurement
from conversations.store.statistics import sum_some

SESSIONS_AT_ONCE: Final = 1_000
PAUSE_SECONDS: Final = 0.002

NAMES: Final = {
    "sessions": "session_count",
    "held_sessions": "held_count",
    "expired_sessions": "expired_count",
    "remembered_rows": "remembered_count",
    "stored_rows": "item_count",
    "messages": "message_count",
    "quarantined_rows": "quarantined_count",
}
"""What is kept, and which statistic it is."""


def measure_sessions(*, now: datetime) -> int:
    """Count conversations and what they hold, and keep the numbers; how many conversations.

    Some at a time, with pauses between: no reader stands in a writer's way for long. What changes
    meanwhile may be counted as it was or as it is.
    """
    sums: Counter[str] = Counter(dict.fromkeys(NAMES, 0))
    last: Any = None
    while True:
        job = partial(sum_some, after=last, limit=SESSIONS_AT_ONCE, now=now)
        some, last = lanes.look_up(job)
        for name, statistic in NAMES.items():
            sums[name] += getattr(some, statistic)
        if last is None:
            break
        task_runs.beat()
        time.sleep(PAUSE_SECONDS)
    Measurement.objects.bulk_create(
        [Measurement(name=name, value=value, measured_at=now) for name, value in sums.items()],
        update_conflicts=True,
        unique_fields=["name"],
        update_fields=["value", "measured_at"],
    )
    return sums["sessions"]
