"""A wall clock for each process, which can be set while it runs.

`CONVERSATIONS_AGENT = "conversations.tests.faults.clock.build_agent"` puts it in place before any
server is forked. Clocks that only go forward are left alone, as they are when somebody sets the
time of a machine.
"""

from __future__ import annotations

import os
import time
from datetime import timedelta
from pathlib import Path
from typing import Final

from agents import Agent
from django.utils import timezone

from conversations.assistant import TurnContext
from conversations.tests.faults import agent

CLOCKS: Final = "clocks"
NANOSECONDS: Final = 1_000_000_000

_time, _time_ns, _now = time.time, time.time_ns, timezone.now


def build_agent() -> Agent[TurnContext]:
    time.time = lambda: _time() + _seconds_off()
    time.time_ns = lambda: _time_ns() + round(_seconds_off() * NANOSECONDS)
    timezone.now = lambda: _now() + timedelta(seconds=_seconds_off())
    return agent.build_agent()


def set_clock(folder: Path, pid: int, *, seconds_off: float) -> None:
    """Set the wall clock of one process; it has it when this returns."""
    (folder / CLOCKS).mkdir(exist_ok=True)
    draft = folder / CLOCKS / f".{pid}"
    draft.write_text(str(seconds_off))
    draft.rename(folder / CLOCKS / str(pid))


def _seconds_off() -> float:
    try:
        return float((agent.folder() / CLOCKS / str(os.getpid())).read_text())
    except OSError:
        return 0.0
