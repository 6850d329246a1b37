"""The scripted model of the agent for tests of the ChatKit door: what it is told, it does.

Which words it knows is listed in `chatkit_agent`, whose tools it calls.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import uuid4

from agents import Model, ModelResponse, Usage
from chatkit.errors import CustomStreamError
from openai.types.responses import (
    ResponseCompletedEvent,
    ResponseFunctionToolCall,
    ResponseTextDeltaEvent,
)

from conversations.tests import scripted

PREFIX: Final = "conf:"
PAUSE_SECONDS: Final = 0.06
ARGUMENT_NAMES: Final = {"lock": "reason", "clienttool": "name"}


@dataclass
class Step:
    """What the model does when it is asked: it says something, calls a tool, or both."""

    says: Sequence[str] = ()
    pause: float = 0.0
    calls: str = ""
    arguments: dict[str, Any] = field(default_factory=dict)


class ConformanceModel(Model):
    """Does what the last message says."""

    model = "conformance"

    async def get_response(self, *args: Any, **kwargs: Any) -> ModelResponse:
        async for event in self.stream_response(*args, **kwargs):
            if isinstance(event, ResponseCompletedEvent):
                return ModelResponse(event.response.output, Usage(requests=1), response_id=None)
        raise AssertionError("the stream ends with response.completed")

    async def stream_response(
        self, system_instructions: Any, input: Any, *args: Any, **kwargs: Any
    ) -> AsyncIterator[Any]:
        items = [{"role": "user", "content": input}] if isinstance(input, str) else list(input)
        step = next_step(items)
        name = uuid4().hex
        for number, piece in enumerate(step.says):
            if step.pause:
                await asyncio.sleep(step.pause)
            yield ResponseTextDeltaEvent(
                content_index=0,
                delta=piece,
                item_id=f"msg_{name}",
                logprobs=[],
                output_index=0,
                sequence_number=number,
                type="response.output_text.delta",
            )
        output: list[Any] = []
        if step.says:
            message = scripted.message("".join(step.says))
            output.append(message.model_copy(update={"id": f"msg_{name}"}))
        if step.calls:
            output.append(
                ResponseFunctionToolCall(
                    arguments=json.dumps(step.arguments),
                    call_id=f"call_{name}",
                    name=step.calls,
                    type="function_call",
                    id=f"fc_{name}",
                )
            )
        yield ResponseCompletedEvent(
            response=scripted.response(output),
            sequence_number=len(step.says),
            type="response.completed",
        )


def next_step(items: list[Any]) -> Step:
    """What follows on what the model is given. Raises what it was told to fail with."""
    said = [index for index, item in enumerate(items) if item.get("role") == "user"]
    if not said:
        return Step(["Nobody has said anything."])
    text = text_of(items[said[-1]])
    for item in reversed(items[said[-1] :]):
        if item.get("type") == "function_call_output":
            return _after_tool(text, item)
    return _first_step(text, items)


def _first_step(text: str, items: list[Any]) -> Step:
    if "<StructuredInput>" in text:
        answers = text.partition("<StructuredInput>\n")[2].rpartition("\n</StructuredInput>")[0]
        return Step(pieces_of(answers))
    cap, _, argument = text.removeprefix(PREFIX).partition(" ")
    match cap if text.startswith(PREFIX) else "":
        case "echo":
            return Step(pieces_of(argument))
        case "slow" | "slowmeta" | "burst":
            count, _, tag = argument.strip().partition(" ")
            return _counted_step(cap, int(count), tag) if is_count(count) else Step(["How many?"])
        case "form" | "widget":
            return Step(calls=cap)
        case "fail":
            raise RuntimeError(argument)
        case "failcustom":
            raise CustomStreamError(argument, allow_retry=False)
        case "history":
            return Step(pieces_of(count_items(items)))
        case "notes":
            notes = [item for item in items if item.get("role") in {"system", "developer"}]
            return Step([f"notes={len(notes)}"])
        case "hidden" | "title" | "lock" | "clienttool" | "servertool":
            return Step(calls=cap, arguments={ARGUMENT_NAMES.get(cap, "text"): argument})
    return Step(pieces_of(f"You said: {text}"))


def _counted_step(cap: str, count: int, tag: str) -> Step:
    if cap == "burst":
        return Step(calls=cap, arguments={"count": count})
    says = [f"{tag or cap} ", *(f"{number} " for number in range(1, count))][:count]
    if cap == "slow":
        return Step(says, pause=PAUSE_SECONDS)
    return Step(says, pause=PAUSE_SECONDS, calls=cap, arguments={"count": count})


def is_count(text: str) -> bool:
    return text.isdecimal() and len(text) <= 4


def _after_tool(text: str, output: dict[str, Any]) -> Step:
    """What is said once the tool has done its part."""
    result = str(output["output"])
    if text.startswith(f"{PREFIX}clienttool"):
        try:
            return Step(pieces_of(json.dumps(json.loads(result))))
        except ValueError:
            return Step(pieces_of(result))
    return Step(pieces_of(result if text.startswith(f"{PREFIX}servertool") else "ok"))


def count_items(items: list[Any]) -> str:
    """The model's input in figures."""
    roles = [item.get("role") for item in items]
    kinds = [item.get("type") for item in items]
    return (
        f"history users={roles.count('user')} assistants={roles.count('assistant')} "
        f"calls={kinds.count('function_call')} outputs={kinds.count('function_call_output')}"
    )


def text_of(item: dict[str, Any]) -> str:
    """The words of a message, whatever it is made of."""
    content = item.get("content")
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content or [])


def pieces_of(text: str) -> list[str]:
    """The text word by word; all joined are exactly the text."""
    words = text.split(" ")
    return [piece for piece in (*(word + " " for word in words[:-1]), words[-1]) if piece]
