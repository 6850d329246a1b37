"""A turn's events at the ChatKit door: one assistant message that grows, and what tools show."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest
from chatkit.errors import CustomStreamError, StreamError

from conversations.chatkit_context import ChatKitContext
from conversations.chatkit_events import Answer, tell
from conversations.errors import GuardrailTripped
from conversations.events import (
    NOT_SAVED,
    ContentDelta,
    ThreadEvent,
    ToolCalled,
    TurnCompleted,
    TurnEvent,
    TurnFailed,
    TurnQueued,
    TurnRunning,
)

TURN = uuid4()
ENDED = TurnCompleted(TURN, "completed", None, None)


class Told:
    """A turn that has told these events already."""

    def __init__(self, *events: TurnEvent) -> None:
        self.id, self.session_id, self.answer_id = TURN, uuid4(), uuid4()
        self._events = events

    async def listen(self) -> Any:
        yield []
        yield list(enumerate(self._events, start=1))


async def heard(*events: TurnEvent) -> tuple[list[Any], ChatKitContext]:
    context = ChatKitContext(7)
    turn: Any = Told(*events)
    return [event async for event in tell(turn, context)], context


def kinds(events: list[Any]) -> list[str]:
    return [
        event.update.type if event.type == "thread.item.updated" else event.type for event in events
    ]


def answer() -> Answer:
    return Answer("a", "t")


async def test_an_answer_is_added_grows_and_is_done():
    events, context = await heard(
        TurnQueued(TURN, 1), TurnRunning(TURN), ContentDelta("Hel"), ContentDelta("lo"), ENDED
    )
    assert kinds(events) == [
        "thread.item.added",
        "assistant_message.content_part.added",
        "assistant_message.content_part.text_delta",
        "assistant_message.content_part.text_delta",
        "assistant_message.content_part.done",
        "thread.item.done",
    ]
    assert events[-1].item.content[0].text == "Hello"
    assert {events[0].item.id, events[-1].item.id} == {events[2].item_id}
    assert events[-1].item.id in context.settled


async def test_an_answer_without_a_word_shows_nothing():
    events, _ = await heard(TurnRunning(TURN), ToolCalled("add", "c", "called"), ENDED)
    assert events == []


async def test_a_warning_is_a_notice():
    events, _ = await heard(ContentDelta("Hi", NOT_SAVED), ENDED)
    assert (events[0].type, events[0].level, events[0].message) == (
        "notice",
        "warning",
        NOT_SAVED,
    )
    assert events[-1].item.content[0].text == "Hi"


async def test_what_a_tool_shows_is_told_as_it_was_stored():
    stored = '{"type":"progress_update","text":"Looking"}'
    gone = '{"type":"thread.item.removed","item_id":"w"}'
    events, context = await heard(ThreadEvent(stored), ThreadEvent(gone), ENDED)
    assert kinds(events) == ["progress_update", "thread.item.removed"]
    assert "w" in context.settled


def test_a_turn_that_fails_keeps_what_was_said():
    telling = answer()
    list(telling.tell(ContentDelta("Half")))
    failing = telling.tell(TurnFailed(TURN, "The model is busy.", "model_throttled", True))
    part, done = next(failing), next(failing)
    assert (part.type, done.type) == ("thread.item.updated", "thread.item.done")
    assert done.item.content[0].text == "Half"
    with pytest.raises(CustomStreamError) as raised:
        next(failing)
    assert (raised.value.message, raised.value.allow_retry) == ("The model is busy.", True)


def test_a_fault_of_the_assistant_itself_has_no_words():
    failing = answer().tell(TurnFailed(TURN, "anything", "assistant_failed", True))
    with pytest.raises(StreamError) as raised:
        next(failing)
    assert raised.value.allow_retry


def test_what_a_guardrail_stopped_is_taken_back():
    telling = answer()
    list(telling.tell(ContentDelta("Bad")))
    failing = telling.tell(TurnFailed(TURN, "No.", GuardrailTripped.code, False))
    assert next(failing).type == "thread.item.removed"
    with pytest.raises(CustomStreamError):
        next(failing)


def test_a_guardrail_that_was_faster_than_the_first_word_takes_nothing_back():
    with pytest.raises(CustomStreamError):
        next(answer().tell(TurnFailed(TURN, "No.", GuardrailTripped.code, False)))
