"""The assistant of the harness: what it does is written in what it is told.

`CONVERSATIONS_AGENT = "conversations.tests.faults.agent.build_agent"`. A text is a deed, its
arguments, and a tag that no other text of the run has:

    say TAG                    says the tag
    slow COUNT PAUSE_MS TAG    so many pieces, with a pause before each
    clock COUNT PAUSE_MS TAG   the same; each piece is the moment it was sent
    flood KILOBYTES NAME TAG   a long answer, without a pause, once the gate NAME is open; it ends
                               once the gate NAME.end is open
    gate NAME TAG              two pieces; between them it waits for the file NAME in `gates/`
    hold TAG                   one piece, and no end
    fail TAG                   one piece, then an error
    tool TAG                   calls a tool, which notes it in the journal, and answers then
    memory TAG                 says the tags of all that people said before

Every run of the model is noted in the journal, with its process and the clock all processes share:
two runs of one conversation at a time would show there.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Final

from agents import Agent, Model, ModelResponse, RunContextWrapper, function_tool
from openai.types.responses import (
    ResponseCompletedEvent,
    ResponseFunctionToolCall,
    ResponseTextDeltaEvent,
)

from conversations.assistant import TurnContext
from conversations.tests import scripted

FOLDER_VARIABLE: Final = "FAULTS_FOLDER"
JOURNAL: Final = "journal.jsonl"
GATES: Final = "gates"
GATE_PAUSE_SECONDS: Final = 0.01
FLOOD_PIECE: Final = "0123456789abcde " * 512  # 8 kB

_numbers: Iterator[int] = itertools.count()


def folder() -> Path:
    return Path(os.environ[FOLDER_VARIABLE])


def note(fact: str, **details: Any) -> None:
    """One line in the journal, whole whoever else writes."""
    line = {"fact": fact, "at": time.monotonic(), "pid": os.getpid(), **details}
    file = os.open(folder() / JOURNAL, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(file, json.dumps(line).encode() + b"\n")
    finally:
        os.close(file)


class InvalidMemory(Exception):
    """The model was given what a provider would refuse."""


class ObedientModel(Model):
    """Does what the last text says."""

    model = "obedient"

    async def get_response(self, *args: Any, **kwargs: Any) -> ModelResponse:
        raise NotImplementedError("turns are streamed")

    async def stream_response(
        self, system_instructions: Any, input: Any, *args: Any, **kwargs: Any
    ) -> AsyncIterator[Any]:
        items = [{"role": "user", "content": input}] if isinstance(input, str) else list(input)
        text = said_by_people(items)[-1]
        has_called = is_after_tool(items)
        note("begin", text=text, after_tool=has_called, items=len(items))
        try:
            complaint = find_fault(items)
            if complaint:
                note("invalid", text=text, complaint=complaint)
                raise InvalidMemory(complaint)
            async for event in _stream(text, items, has_called=has_called):
                yield event
        finally:
            note("end", text=text, after_tool=has_called)


async def _stream(text: str, items: list[Any], *, has_called: bool) -> AsyncIterator[Any]:
    number = next(_numbers)
    if text.startswith("tool ") and not has_called:
        output: Any = ResponseFunctionToolCall(
            arguments=json.dumps({"text": text}),
            call_id=f"call_{os.getpid()}_{number}",
            name="write_down",
            type="function_call",
            id=f"fc_{number}",
        )
    else:
        said = ""
        async for piece in pieces_of(text, items):
            said += piece
            yield ResponseTextDeltaEvent(
                content_index=0,
                delta=piece,
                item_id=f"msg_{number}",
                logprobs=[],
                output_index=0,
                sequence_number=number,
                type="response.output_text.delta",
            )
        output = scripted.message(said, number)
    yield ResponseCompletedEvent(
        response=scripted.response([output], number),
        sequence_number=number + 1,
        type="response.completed",
    )


async def pieces_of(text: str, items: list[Any]) -> AsyncIterator[str]:
    """What the model answers, piece by piece."""
    match text.split():
        case ["say" | "tool", tag]:
            yield f"{tag} "
            yield "done"
        case ["slow" | "clock" as deed, count, pause, tag]:
            begun = time.monotonic()
            for index in range(int(count)):
                due = begun + (index + 1) * int(pause) / 1000
                await asyncio.sleep(due - time.monotonic())
                yield f"{time.monotonic():.6f} " if deed == "clock" else f"{tag}.{index} "
        case ["flood", kilobytes, name, _]:
            await _opened(folder() / GATES / name)
            for _ in range(int(kilobytes) // 8):
                await asyncio.sleep(0)
                yield FLOOD_PIECE
            await _opened(folder() / GATES / f"{name}.end")
        case ["gate" | "hold" | "fail" as deed, *name, tag]:
            yield f"{tag} before, "
            if deed == "fail":
                raise RuntimeError("the model fails as it was told")
            await _opened(folder() / GATES / name[0] if name else None)
            yield "after"
        case ["memory", _]:
            yield "I remember:"
            for earlier in said_by_people(items)[:-1]:
                yield f" {earlier.split()[-1]}"
        case _:
            raise ValueError("a text without a deed")


async def _opened(gate: Path | None) -> None:
    """Wait for the file, which another process makes; without one, for ever."""
    while gate is None or not gate.exists():  # noqa: ASYNC110, ASYNC240 - no event
        await asyncio.sleep(GATE_PAUSE_SECONDS)


def said_by_people(items: list[Any]) -> list[str]:
    return [str(item["content"]) for item in items if item.get("role") == "user"]


def is_after_tool(items: list[Any]) -> bool:
    """Whether the last text has had its tool's output already."""
    for item in reversed(items):
        if item.get("role") == "user":
            return False
        if item.get("type") == "function_call_output":
            return True
    return False


def find_fault(items: list[Any]) -> str:
    """Why a provider would refuse this memory; empty where it would not."""
    called: set[str] = set()
    answered: set[str] = set()
    for item in items:
        if item.get("type") == "function_call":
            called.add(item["call_id"])
        elif item.get("type") == "function_call_output":
            if item["call_id"] not in called:
                return "an output without its call"
            if item["call_id"] in answered:
                return "a call with two outputs"
            answered.add(item["call_id"])
    return "a call without its output" if called - answered else ""


@function_tool
async def write_down(wrapper: RunContextWrapper[TurnContext], text: str) -> str:
    """Write something down."""
    note("tool", text=text, turn=str(wrapper.context.turn_id))
    return "written"


def build_agent() -> Agent[TurnContext]:
    return Agent(name="obedient", model=ObedientModel(), tools=[write_down])
