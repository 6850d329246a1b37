"""The offline model as the SDK's `Model`: same input, same words, streamed one by one."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from datetime import date
from functools import partial
from typing import Any, Final, TypeAlias
from uuid import uuid4

from agents import (
    AgentOutputSchemaBase,
    Handoff,
    Model,
    ModelResponse,
    ModelSettings,
    ModelTracing,
    Tool,
    TResponseInputItem,
    Usage,
)
from agents.items import TResponseStreamEvent
from openai.types.responses import (
    Response,
    ResponseCompletedEvent,
    ResponseContentPartAddedEvent,
    ResponseContentPartDoneEvent,
    ResponseCreatedEvent,
    ResponseFunctionCallArgumentsDeltaEvent,
    ResponseFunctionCallArgumentsDoneEvent,
    ResponseFunctionToolCall,
    ResponseInProgressEvent,
    ResponseOutputItemAddedEvent,
    ResponseOutputItemDoneEvent,
    ResponseOutputMessage,
    ResponseOutputText,
    ResponsePromptParam,
    ResponseTextDeltaEvent,
    ResponseTextDoneEvent,
    ResponseUsage,
)
from openai.types.responses.response_usage import InputTokensDetails, OutputTokensDetails

from chatsite.todo.instructions import is_beginning_forgotten
from chatsite.todo.offline.answering import Step, next_step
from chatsite.todo.offline.history import read_conversation

MODEL_NAME: Final = "offline"
# An event that lacks only its `sequence_number`
Unnumbered: TypeAlias = Callable[..., TResponseStreamEvent]


class OfflineModel(Model):
    """Answers from the items it is given and today's date, and from nothing else.

    Of the instructions it reads one thing: whether the beginning of the conversation is forgotten.
    Only ids are random: a call's id must never meet that of another turn of the same session.
    """

    def __init__(self, *, today: Callable[[], date]) -> None:
        self._today = today

    async def get_response(  # noqa: PLR0917 - the SDK's signature
        self,
        system_instructions: str | None,
        input: str | list[TResponseInputItem],
        model_settings: ModelSettings,
        tools: list[Tool],
        output_schema: AgentOutputSchemaBase | None,
        handoffs: list[Handoff],
        tracing: ModelTracing,
        *,
        previous_response_id: str | None,
        conversation_id: str | None,
        prompt: ResponsePromptParam | None,
    ) -> ModelResponse:
        response = self._respond(system_instructions, input, tools)
        tokens = _usage_of(response)
        return ModelResponse(
            output=list(response.output),
            usage=Usage(
                requests=1,
                input_tokens=tokens.input_tokens,
                output_tokens=tokens.output_tokens,
                total_tokens=tokens.total_tokens,
            ),
            response_id=None,
        )

    async def stream_response(  # noqa: PLR0917 - the SDK's signature
        self,
        system_instructions: str | None,
        input: str | list[TResponseInputItem],
        model_settings: ModelSettings,
        tools: list[Tool],
        output_schema: AgentOutputSchemaBase | None,
        handoffs: list[Handoff],
        tracing: ModelTracing,
        *,
        previous_response_id: str | None,
        conversation_id: str | None,
        prompt: ResponsePromptParam | None,
    ) -> AsyncIterator[TResponseStreamEvent]:
        for event in _events(self._respond(system_instructions, input, tools)):
            yield event
            await asyncio.sleep(0)  # others run between two words, and a stop is heard

    def _respond(
        self,
        instructions: str | None,
        items: str | list[TResponseInputItem],
        tools: Sequence[Tool],
    ) -> Response:
        conversation = read_conversation(items, is_whole=not is_beginning_forgotten(instructions))
        step = next_step(conversation, self._today())
        if not isinstance(step, str) and step.name not in {tool.name for tool in tools}:
            step = "I cannot do that here: I have no tool for it."
        item = _output_item(step)
        asked = _count_words([instructions or "", json.dumps(items, default=str)])
        said = _count_words([step if isinstance(step, str) else json.dumps(step.arguments)])
        return Response(
            id=f"resp_{uuid4().hex}",
            created_at=0,
            model=MODEL_NAME,
            object="response",
            output=[item],
            tool_choice="auto",
            tools=[],
            parallel_tool_calls=False,
            status="completed",
            usage=ResponseUsage(
                input_tokens=asked,
                input_tokens_details=InputTokensDetails(cached_tokens=0, cache_write_tokens=0),
                output_tokens=said,
                output_tokens_details=OutputTokensDetails(reasoning_tokens=0),
                total_tokens=asked + said,
            ),
        )


def split_words(text: str) -> list[str]:
    """The words with the blanks that follow them; joined they are the text again."""
    return re.findall(r"\s*\S+\s*", text) or [text]


def _output_item(step: Step) -> ResponseOutputMessage | ResponseFunctionToolCall:
    if isinstance(step, str):
        return ResponseOutputMessage(
            id=f"msg_{uuid4().hex}",
            type="message",
            role="assistant",
            status="completed",
            content=[_text_part(step)],
        )
    return ResponseFunctionToolCall(
        id=f"fc_{uuid4().hex}",
        call_id=f"call_{uuid4().hex}",
        type="function_call",
        name=step.name,
        arguments=json.dumps(step.arguments),
        status="completed",
    )


def _text_part(text: str) -> ResponseOutputText:
    return ResponseOutputText(type="output_text", text=text, annotations=[], logprobs=[])


def _count_words(texts: Iterable[str]) -> int:
    return max(1, sum(len(text.split()) for text in texts))


def _usage_of(response: Response) -> ResponseUsage:
    if response.usage is None:
        raise ValueError("every response of ours carries its usage")
    return response.usage


def _events(response: Response) -> Iterator[TResponseStreamEvent]:
    """What a provider would stream for this response, numbered in order."""
    for number, build in enumerate(_unnumbered_events(response)):
        yield build(sequence_number=number)


def _unnumbered_events(response: Response) -> Iterator[Unnumbered]:
    begun = response.model_copy(update={"output": [], "status": "in_progress", "usage": None})
    item = response.output[0]
    yield partial(ResponseCreatedEvent, type="response.created", response=begun)
    yield partial(ResponseInProgressEvent, type="response.in_progress", response=begun)
    empty: dict[str, Any] = {"arguments": ""} if item.type == "function_call" else {"content": []}
    opened = item.model_copy(update={"status": "in_progress", **empty})
    yield partial(
        ResponseOutputItemAddedEvent,
        type="response.output_item.added",
        item=opened,
        output_index=0,
    )
    if isinstance(item, ResponseFunctionToolCall):
        yield from _call_events(item)
    elif isinstance(item, ResponseOutputMessage):
        yield from _message_events(item)
    yield partial(
        ResponseOutputItemDoneEvent, type="response.output_item.done", item=item, output_index=0
    )
    yield partial(ResponseCompletedEvent, type="response.completed", response=response)


def _call_events(call: ResponseFunctionToolCall) -> Iterator[Unnumbered]:
    item_id = call.id or call.call_id
    for part in split_words(call.arguments):
        yield partial(
            ResponseFunctionCallArgumentsDeltaEvent,
            type="response.function_call_arguments.delta",
            item_id=item_id,
            output_index=0,
            delta=part,
        )
    yield partial(
        ResponseFunctionCallArgumentsDoneEvent,
        type="response.function_call_arguments.done",
        item_id=item_id,
        output_index=0,
        name=call.name,
        arguments=call.arguments,
    )


def _message_events(message: ResponseOutputMessage) -> Iterator[Unnumbered]:
    part = message.content[0]
    text = part.text if isinstance(part, ResponseOutputText) else ""
    yield partial(
        ResponseContentPartAddedEvent,
        type="response.content_part.added",
        item_id=message.id,
        output_index=0,
        content_index=0,
        part=_text_part(""),
    )
    for word in split_words(text):
        yield partial(
            ResponseTextDeltaEvent,
            type="response.output_text.delta",
            item_id=message.id,
            output_index=0,
            content_index=0,
            delta=word,
            logprobs=[],
        )
    yield partial(
        ResponseTextDoneEvent,
        type="response.output_text.done",
        item_id=message.id,
        output_index=0,
        content_index=0,
        text=text,
        logprobs=[],
    )
    yield partial(
        ResponseContentPartDoneEvent,
        type="response.content_part.done",
        item_id=message.id,
        output_index=0,
        content_index=0,
        part=_text_part(text),
    )
