"""An error of a run as the person who waits for the answer is told of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import openai
from agents import exceptions
from chatkit.errors import CustomStreamError

from conversations.errors import (
    AgentError,
    AgentErrorRetryable,
    ConversationsError,
    GuardrailTripped,
    LeaseLost,
    ModelRefused,
    ModelThrottled,
    ModelUnavailable,
    TooManySteps,
    TurnError,
    TurnTimeout,
)

_GUARDRAILS = (
    exceptions.InputGuardrailTripwireTriggered,
    exceptions.OutputGuardrailTripwireTriggered,
    exceptions.ToolInputGuardrailTripwireTriggered,
    exceptions.ToolOutputGuardrailTripwireTriggered,
)
TOO_MANY_REQUESTS: Final = 429
SERVER_ERROR: Final = 500


def turn_error(error: BaseException) -> ConversationsError:
    """What the person is told. Only our own sentences: an exception's text may hold content."""
    if isinstance(error, TurnError | LeaseLost):
        return error
    if isinstance(error, TimeoutError):
        return TurnTimeout()
    for cause in _causes(error):
        if isinstance(cause, CustomStreamError):  # written for people, by the agent's author
            kind = AgentErrorRetryable if cause.allow_retry else AgentError
            return kind(cause.message)
    if isinstance(error, exceptions.MaxTurnsExceeded):
        return TooManySteps()
    if isinstance(error, _GUARDRAILS):
        return GuardrailTripped()
    if isinstance(error, exceptions.ModelTimeoutError | openai.APIConnectionError):
        return ModelUnavailable()
    if isinstance(error, openai.APIStatusError):
        if error.status_code == TOO_MANY_REQUESTS:
            return ModelThrottled()
        return ModelUnavailable() if error.status_code >= SERVER_ERROR else ModelRefused()
    if isinstance(error, exceptions.ModelRefusalError):
        return ModelRefused()
    if isinstance(error, exceptions.ModelBehaviorError | openai.OpenAIError):
        return ModelUnavailable()
    return TurnError()


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error, and what it was raised from: the SDK wraps what a tool raises."""
    while error is not None:
        yield error
        error = error.__cause__
