"""A model without latency: 20 words, streamed; or as many, and as slowly, as asked for."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Any

from agents import Agent, Model, ModelResponse
from openai.types.responses import (
    Response,
    ResponseCompletedEvent,
    ResponseOutputMessage,
    ResponseOutputText,
    ResponseTextDeltaEvent,
)
from openai.types.responses.response_usage import (
    InputTokensDetails,
    OutputTokensDetails,
    ResponseUsage,
)

WORDS = [f"word{number} " for number in range(int(os.environ.get("BENCHMARK_WORDS", "20")))]
PAUSE_SECONDS = float(os.environ.get("BENCHMARK_PAUSE_MS", "0")) / 1000


class ZeroLatencyModel(Model):
    model = "zero"

    async def get_response(self, *args: Any, **kwargs: Any) -> ModelResponse:
        raise NotImplementedError("only streaming is measured")

    async def stream_response(self, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        for number, word in enumerate(WORDS):
            if PAUSE_SECONDS:
                await asyncio.sleep(PAUSE_SECONDS)
            yield ResponseTextDeltaEvent(
                content_index=0,
                delta=word,
                item_id="msg",
                logprobs=[],
                output_index=0,
                sequence_number=number,
                type="response.output_text.delta",
            )
        text = ResponseOutputText(annotations=[], text="".join(WORDS), type="output_text")
        message = ResponseOutputMessage(
            id="msg", content=[text], role="assistant", status="completed", type="message"
        )
        usage = ResponseUsage(
            input_tokens=1,
            input_tokens_details=InputTokensDetails(cached_tokens=0, cache_write_tokens=0),
            output_tokens=20,
            output_tokens_details=OutputTokensDetails(reasoning_tokens=0),
            total_tokens=21,
        )
        yield ResponseCompletedEvent(
            response=Response(
                id="resp",
                created_at=0,
                model="zero",
                object="response",
                output=[message],
                parallel_tool_calls=False,
                tool_choice="auto",
                tools=[],
                usage=usage,
            ),
            sequence_number=999,
            type="response.completed",
        )


def build_agent() -> Agent[Any]:
    return Agent(name="zero", model=ZeroLatencyModel())
