"""Agents for the tests of turns: each is named by `CONVERSATIONS_AGENT` and plays `scripted`."""

from __future__ import annotations

import threading
from typing import Any

from agents import (
    Agent,
    GuardrailFunctionOutput,
    InputGuardrail,
    OutputGuardrail,
    function_tool,
)
from asgiref.sync import sync_to_async
from django.db import connection

from conversations.assistant import TurnContext
from conversations.models import ChatSession
from conversations.tests import scripted

CONNECTIONS: list[Any] = []
"""The connections that the ORM tool used."""

RELEASE = threading.Event()
"""Lets the hanging tool go."""


def _count() -> int:
    found = ChatSession.objects.count()
    CONNECTIONS.append(connection._connections["default"])  # type: ignore[attr-defined]
    return found


@function_tool
async def count_sessions() -> str:
    """Count, by sync ORM code."""
    return str(await sync_to_async(_count)())


@function_tool
async def hang() -> str:
    """Sync code that does not end."""
    return str(await sync_to_async(RELEASE.wait)(30))


async def _always(*_: Any) -> GuardrailFunctionOutput:
    return GuardrailFunctionOutput(output_info=None, tripwire_triggered=True)


def with_orm_tool() -> Agent[TurnContext]:
    return Agent(name="counting", model=scripted.ScriptedModel(), tools=[count_sessions, hang])


def ending_with_a_tool() -> Agent[TurnContext]:
    return Agent(
        name="terse",
        model=scripted.ScriptedModel(),
        tools=[scripted.look_up],
        tool_use_behavior="stop_on_first_tool",
    )


def guarded_input() -> Agent[TurnContext]:
    guard: InputGuardrail[TurnContext] = InputGuardrail(_always, run_in_parallel=False)
    return Agent(name="guarded", model=scripted.ScriptedModel(), input_guardrails=[guard])


def guarded_output() -> Agent[TurnContext]:
    guard: OutputGuardrail[TurnContext] = OutputGuardrail(_always)
    return Agent(
        name="guarded",
        model=scripted.ScriptedModel(),
        tools=[scripted.look_up],
        output_guardrails=[guard],
    )


def broken() -> Agent[TurnContext]:
    raise RuntimeError("the key of the provider: sk-secret")


nothing: None = None
