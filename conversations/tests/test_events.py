"""Events as text and back."""

from __future__ import annotations

import pytest

from conversations.events import (
    NOT_SAVED,
    ContentDelta,
    ToolCalled,
    TurnCompleted,
    TurnFailed,
    TurnQueued,
    TurnRunning,
    decode_events,
    encode_events,
)
from conversations.ids import new_id

TURN = new_id()


def test_what_a_turn_tells_comes_back_as_it_was():
    told = [
        TurnQueued(TURN, 3),
        TurnRunning(TURN),
        ContentDelta("Hel"),
        ContentDelta("", NOT_SAVED),
        ContentDelta('lo\n"\u2028\U0001f642'),
        ToolCalled("look_up", "call_1", "failed"),
    ]
    text = encode_events(told)
    assert text.isascii()
    assert decode_events(text, turn_id=TURN) == told


@pytest.mark.parametrize(
    "closing", [TurnCompleted(TURN, "completed", None, None), TurnFailed(TURN, "", "x", False)]
)
def test_how_it_closed_is_told_by_its_row(closing):
    with pytest.raises(ValueError, match="closing"):
        encode_events([closing])


@pytest.mark.parametrize("text", ["", "{", "[1]", "[null]", '[{"tool": 1}]', "3", "[" * 100_000])
def test_what_is_no_record_is_refused(text):
    with pytest.raises(ValueError, match=r"."):
        decode_events(text, turn_id=TURN)
