"""A scripted model at the SDK's `Model` boundary, and the agent that speaks it.

`CONVERSATIONS_AGENT = "conversations.tests.scripted.build_agent"`. Everything above the model is
real: the SDK's runner, its tools, our session, the database.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from agents import Agent, Model, ModelResponse, RunContextWrapper, Usage, function_tool
from openai.types.responses import (
    Response,
    ResponseCompletedEvent,
    ResponseFunctionToolCall,
    ResponseOutputMessage,
    ResponseOutputText,
    ResponseTextDeltaEvent,
)
from openai.types.responses.response_usage import (
    InputTokensDetails,
    OutputTokensDetails,
    ResponseUsage,
)

from conversations.assistant import TurnContext


@dataclass
class Say:
    """The model says `text`, in `pieces` (the words of it by default)."""

    text: str
    pieces: list[str] | None = None
    gate: asyncio.Event | None = None
    """Held before the second piece until it is set."""
    pause: float = 0.0
    then: Exception | None = None
    """Raised after the pieces, before the model is done."""


@dataclass
class Call:
    """The model calls a tool, perhaps after saying something."""

    name: str
    arguments: str = "{}"
    say: str = ""
    beside: Call | None = None
    """Another call in the same breath, after this one."""


Step = Say | Call | Exception | Callable[[list[Any]], "Say | Call"]


@dataclass
class Script:
    """The steps of the model calls to come; without steps it answers with what it remembers."""

    steps: list[Step] = field(default_factory=list)
    inputs: list[list[Any]] = field(default_factory=list)
    tool_calls: int = 0

    def clear(self) -> None:
        self.__init__()  # type: ignore[misc]


SCRIPT = Script()
_numbers: Iterator[int] = itertools.count()


def recall(items: list[Any]) -> Say:
    """All that people said before, in order: an answer that shows the memory."""
    said = [item["content"] for item in items if item.get("role") == "user"]
    return Say("I remember: " + " | ".join(map(str, said)))


class ScriptedModel(Model):
    """Plays `SCRIPT`."""

    model = "scripted"

    async def get_response(self, *args: Any, **kwargs: Any) -> ModelResponse:
        async for event in self.stream_response(*args, **kwargs):
            if isinstance(event, ResponseCompletedEvent):
                return ModelResponse(
                    output=event.response.output,
                    usage=Usage(requests=1, input_tokens=10, output_tokens=5, total_tokens=15),
                    response_id=None,
                )
        raise AssertionError("the stream ends with response.completed")

    async def stream_response(
        self, system_instructions: Any, input: Any, *args: Any, **kwargs: Any
    ) -> AsyncIterator[Any]:
        items = [{"role": "user", "content": input}] if isinstance(input, str) else list(input)
        SCRIPT.inputs.append(items)
        step: Any = SCRIPT.steps.pop(0) if SCRIPT.steps else recall
        if isinstance(step, Exception):
            raise step
        if callable(step):
            step = step(items)
        output: list[Any] = []
        said = step.text if isinstance(step, Say) else step.say
        pieces = step.pieces if isinstance(step, Say) else None
        number = next(_numbers)
        for index, piece in enumerate(pieces or _words(said)):
            if isinstance(step, Say) and index == 1 and step.gate is not None:
                await step.gate.wait()
            if isinstance(step, Say) and step.pause:
                await asyncio.sleep(step.pause)
            yield ResponseTextDeltaEvent(
                content_index=0,
                delta=piece,
                item_id=f"msg_{number}",
                logprobs=[],
                output_index=0,
                sequence_number=index,
                type="response.output_text.delta",
            )
        if isinstance(step, Say) and step.then is not None:
            raise step.then
        if said:
            output.append(message(said, number))
        while isinstance(step, Call):
            output.append(
                ResponseFunctionToolCall(
                    arguments=step.arguments,
                    call_id=f"call_{number}",
                    name=step.name,
                    type="function_call",
                    id=f"fc_{number}",
                )
            )
            number, step = next(_numbers), step.beside
        yield ResponseCompletedEvent(
            response=response(output, number), sequence_number=999, type="response.completed"
        )


def message(text: str, number: int = 0) -> ResponseOutputMessage:
    return ResponseOutputMessage(
        id=f"msg_{number}",
        content=[ResponseOutputText(annotations=[], text=text, type="output_text")],
        role="assistant",
        status="completed",
        type="message",
    )


def response(output: list[Any], number: int = 0) -> Response:
    return Response(
        id=f"resp_{number}",
        created_at=0,
        model="scripted",
        object="response",
        output=output,
        parallel_tool_calls=False,
        tool_choice="auto",
        tools=[],
        usage=ResponseUsage(
            input_tokens=10,
            input_tokens_details=InputTokensDetails(cached_tokens=0, cache_write_tokens=0),
            output_tokens=5,
            output_tokens_details=OutputTokensDetails(reasoning_tokens=0),
            total_tokens=15,
        ),
    )


def _words(text: str) -> list[str]:
    """The text in pieces that join to it."""
    words = text.split(" ")
    return [word + " " for word in words[:-1]] + ([words[-1]] if words[-1] else [])


@function_tool
async def look_up(wrapper: RunContextWrapper[TurnContext], word: str = "") -> str:
    """Look something up."""
    SCRIPT.tool_calls += 1
    return f"{word} of {wrapper.context.user_id}"


@function_tool(failure_error_function=None)
async def break_down(wrapper: RunContextWrapper[TurnContext]) -> str:
    """Fail."""
    raise RuntimeError("secret words of the tool")


def build_agent() -> Agent[TurnContext]:
    return Agent(name="scripted", model=ScriptedModel(), tools=[look_up, break_down])
