"""The bytes of the message stream."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conversations.api import sse
from conversations.events import (
    NOT_SAVED,
    ContentDelta,
    ToolCalled,
    TurnCompleted,
    TurnEvent,
    TurnFailed,
    TurnQueued,
    TurnRunning,
    Usage,
)
from conversations.store.line import Ticket
from conversations.turns.live import LiveTurn

TURN, ASKED, ANSWERED = uuid4(), uuid4(), uuid4()

PAYLOADS: list[tuple[TurnEvent, dict[str, Any]]] = [
    (TurnQueued(TURN, 2), {"turn_id": str(TURN), "status": "queued", "ahead": 2}),
    (TurnRunning(TURN), {"turn_id": str(TURN), "status": "running"}),
    (ContentDelta("a"), {"content": "a"}),
    (ContentDelta("", NOT_SAVED), {"content": "", "warning": NOT_SAVED}),
    (ContentDelta("a", NOT_SAVED), {"content": "a", "warning": NOT_SAVED}),
    (
        ToolCalled("look_up", "call_1", "called"),
        {"tool": {"name": "look_up", "call_id": "call_1", "status": "called"}},
    ),
    (
        TurnCompleted(TURN, "completed", ANSWERED, ASKED, Usage(1, 10, 5)),
        {
            "turn_id": str(TURN),
            "status": "completed",
            "message_id": str(ANSWERED),
            "user_message_id": str(ASKED),
            "usage": {"requests": 1, "input_tokens": 10, "output_tokens": 5, "total_tokens": 15},
        },
    ),
    (
        TurnCompleted(TURN, "cancelled", None, None),
        {
            "turn_id": str(TURN),
            "status": "cancelled",
            "message_id": None,
            "user_message_id": None,
            "usage": {"requests": 0, "input_tokens": 0, "output_tokens": 0, "total_tokens": 0},
        },
    ),
    (
        TurnFailed(TURN, "Sorry.", "assistant_failed", True),
        {
            "error": "Sorry.",
            "code": "assistant_failed",
            "retryable": True,
            "turn_id": str(TURN),
            "status": "failed",
        },
    ),
]


@pytest.mark.parametrize(("event", "payload"), PAYLOADS, ids=lambda value: type(value).__name__)
def test_each_event_is_one_numbered_line_of_json(event, payload):
    number, data, *rest = sse.frame(7, event).split("\n")
    assert number == "id: 7"
    assert json.loads(data.removeprefix("data: ")) == payload
    assert rest == ["", ""]


@given(text=st.text(), warning=st.text(max_size=5))
def test_no_text_can_begin_a_line_of_its_own(text, warning):
    for event in (
        ContentDelta(text, warning),
        ToolCalled(text, text, "called"),
        TurnFailed(TURN, text, "code", True),
    ):
        frame = sse.frame(1, event)
        assert frame.isascii()
        assert len(frame.splitlines()) == 3
        assert frame.count("\n") == 3
        assert json.loads(frame.splitlines()[1].removeprefix("data: ")) == sse.payload(event)


def test_half_a_surrogate_pair_does_not_break_the_stream():
    frame = sse.frame(1, ContentDelta("\ud83d"))
    assert frame.encode()
    assert json.loads(frame.splitlines()[1].removeprefix("data: ")) == {"content": "\ud83d"}


def make_turn(*events: TurnEvent) -> LiveTurn:
    ticket = Ticket(turn_id=TURN, session_id=uuid4(), number=1, ahead=0, started=None)
    turn = LiveTurn(ticket, owner_id=1, text="")
    for event in events:
        turn.emit(event)
    return turn


async def read(turn: LiveTurn, **options: Any) -> str:
    return b"".join([chunk async for chunk in sse.stream(turn, **options)]).decode()


DONE = TurnCompleted(TURN, "completed", None, None)


async def test_a_stream_ends_with_done_numbered_like_the_rest():
    body = await read(make_turn(TurnRunning(TURN), ContentDelta("a"), DONE))
    ids = [line for line in body.split("\n") if line.startswith("id:")]
    assert ids == ["id: 1", "id: 2", "id: 3", "id: 4"]
    assert body.endswith("\n\nid: 4\ndata: [DONE]\n\n")


@pytest.mark.parametrize("after", [0, 1, 2, 3])
async def test_a_stream_goes_on_from_any_frame(after):
    turn = make_turn(TurnRunning(TURN), ContentDelta("a"), DONE)
    whole = (await read(turn)).split("\n\n")
    assert (await read(turn, after=after)).split("\n\n") == whole[after:]


async def test_comments_fill_the_silence_and_take_no_number():
    turn = make_turn(TurnRunning(TURN))
    chunks = sse.stream(turn, heartbeat=0.001)
    assert (await anext(chunks)).startswith(b"id: 1\n")
    assert await anext(chunks) == b": waiting\n\n"
    assert await anext(chunks) == b": waiting\n\n"
    turn.emit(DONE)
    rest = b"".join([chunk async for chunk in chunks]).decode()
    assert [line for line in rest.split("\n") if line.startswith("id:")] == ["id: 2", "id: 3"]


async def test_what_came_together_is_sent_together_and_every_listener_gets_all():
    turn = make_turn(TurnRunning(TURN))
    listeners = [asyncio.create_task(read(turn)) for _ in range(3)]
    await asyncio.sleep(0)
    turn.emit(ContentDelta("a"))
    turn.emit(ContentDelta("b"))
    await asyncio.sleep(0)
    turn.emit(DONE)
    first, *others = await asyncio.gather(*listeners)
    assert others == [first, first]
    assert await read(turn) == first  # who comes late, too
    chunks = [chunk async for chunk in sse.stream(turn)]
    assert len(chunks) == 2  # all events at once, then the end


async def test_the_response_names_the_turn():
    response = sse.stream_response(make_turn(DONE))
    assert response["X-Turn-Id"] == str(TURN)
    assert response["Content-Type"] == "text/event-stream; charset=utf-8"
    body = b"".join([chunk async for chunk in response])
    assert body.endswith(b"data: [DONE]\n\n")
