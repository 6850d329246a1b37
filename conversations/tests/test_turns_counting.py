"""What a turn tells is counted once: how it ended, how long it took, whether it was degraded."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest

from conversations import tally
from conversations.events import (
    ContentDelta,
    ToolCalled,
    TurnCompleted,
    TurnFailed,
    TurnQueued,
    TurnRunning,
)
from conversations.tests.scripted import Say
from conversations.tests.turns_helpers import ask
from conversations.turns.counting import Stopwatch

ID = uuid4()


@pytest.fixture(autouse=True)
def _counted_from_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TURNS", "DEGRADED", "SESSIONS_CREATED"):
        old = getattr(tally, name)
        monkeypatch.setattr(tally, name, tally.Count(old._name, old._help))
    for name in ("LEASE_WAITS", "FIRST_WORDS", "TURN_SECONDS"):
        old = getattr(tally, name)
        monkeypatch.setattr(tally, name, tally.Durations(old._name, old._help))


def hear(*events: Any) -> dict[str, float]:
    stopwatch = Stopwatch()
    for event in events:
        stopwatch.hear(event)
    return counted()


def counted() -> dict[str, float]:
    found = {
        name: getattr(tally, name).family().samples[-1].value
        for name in ("DEGRADED", "LEASE_WAITS", "FIRST_WORDS", "TURN_SECONDS")
    }
    found |= {dict(s.labels).get("status", ""): s.value for s in tally.TURNS.family().samples}
    return {name: value for name, value in found.items() if value}


def completed(warning: str = "") -> TurnCompleted:
    return TurnCompleted(ID, "completed", None, None, warning=warning)


def test_a_turn_at_once_has_words_and_an_end_and_no_wait() -> None:
    said = (ContentDelta("Hel"), ContentDelta("lo"))
    found = hear(TurnRunning(ID), *said, completed())
    assert found == {"FIRST_WORDS": 1, "TURN_SECONDS": 1, "completed": 1}


def test_a_turn_that_waited_is_among_the_waits() -> None:
    found = hear(TurnQueued(ID, 1), TurnRunning(ID), completed())
    assert found == {"LEASE_WAITS": 1, "TURN_SECONDS": 1, "completed": 1}


@pytest.mark.parametrize(
    "told",
    [(ContentDelta("", "late"), completed()), (completed("not saved"),)],
    ids=["beside the words", "at the end"],
)
def test_an_answer_with_a_warning_is_degraded_once(told: Any) -> None:
    assert hear(TurnRunning(ID), *told)["DEGRADED"] == 1


def test_a_failure_and_a_stop_are_told_apart() -> None:
    hear(TurnRunning(ID), TurnFailed(ID, "m", "c", False))
    found = hear(TurnRunning(ID), TurnCompleted(ID, "cancelled", None, None))
    assert (found["failed"], found["cancelled"]) == (1, 1)
    assert "DEGRADED" not in found


def test_what_says_nothing_of_an_end_counts_nothing() -> None:
    assert hear(TurnRunning(ID), ToolCalled("look_up", "1", "called")) == {}


async def test_a_turn_that_is_lived_is_counted(session: Any, script: Any) -> None:
    script(Say("Hello!"))
    await ask(session)
    assert counted() == {"FIRST_WORDS": 1, "TURN_SECONDS": 1, "completed": 1}
