"""What a process counts of its turns, as it hears what they tell."""

from __future__ import annotations

import time

from conversations import tally
from conversations.events import (
    ContentDelta,
    TurnCompleted,
    TurnEvent,
    TurnFailed,
    TurnQueued,
    TurnRunning,
)


class Stopwatch:
    """Follows one turn from its message to its end."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._waits = self._has_spoken = self._is_degraded = False

    def hear(self, event: TurnEvent) -> None:
        match event:
            case ContentDelta(text=text, warning=warning):
                self._is_degraded |= bool(warning)
                if text and not self._has_spoken:
                    self._has_spoken = True
                    tally.FIRST_WORDS.observe(self._passed())
            case TurnQueued():
                self._waits = True
            case TurnRunning() if self._waits:
                tally.LEASE_WAITS.observe(self._passed())
            case TurnCompleted(status=status, warning=warning):
                self._end(status, is_degraded=self._is_degraded or bool(warning))
            case TurnFailed():
                self._end("failed", is_degraded=self._is_degraded)

    def _end(self, status: str, *, is_degraded: bool) -> None:
        tally.TURNS.increase(status=status)
        tally.TURN_SECONDS.observe(self._passed())
        if is_degraded:
            tally.DEGRADED.increase()

    def _passed(self) -> float:
        return time.monotonic() - self._began
