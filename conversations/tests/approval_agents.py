"""Agents that ask a person before they pay, told the same in every process."""

from __future__ import annotations

from typing import Any

from agents import (
    Agent,
    GuardrailFunctionOutput,
    OutputGuardrail,
    RunConfig,
    Runner,
    RunState,
    function_tool,
)
from agents.testing import ScriptedModel, assistant_message, function_call

from conversations.agents_session import AgentSession

PAID: list[int] = []
"""What was paid in this process."""


@function_tool(needs_approval=True)
async def pay(amount: int) -> str:
    """Pay, if a person approves."""
    PAID.append(amount)
    return f"paid {amount}"


async def allow(*_: Any) -> GuardrailFunctionOutput:
    return GuardrailFunctionOutput(output_info=None, tripwire_triggered=False)


def who_asks() -> Agent[Any]:
    """Its model wants to pay, and stops there."""
    return _agent([function_call("pay", {"amount": 7}, call_id="call_pay", item_id="fc_pay")])


def who_goes_on() -> Agent[Any]:
    """The same agent, once there is an answer."""
    return _agent([assistant_message("Done", item_id="msg_done")])


def guarded(agent: Agent[Any]) -> Agent[Any]:
    """Its first tool's output is the answer, and is looked at before it is given."""
    return agent.clone(
        output_guardrails=[OutputGuardrail(allow)], tool_use_behavior="stop_on_first_tool"
    )


async def resume(session_id: str, state_json: Any, answer: str, is_guarded: bool) -> Any:
    """Go on with a run once a person has answered `approve` or `reject`."""
    agent = guarded(who_goes_on()) if is_guarded else who_goes_on()
    state = await RunState.from_json(agent, state_json)
    for question in state.get_interruptions():
        getattr(state, answer)(question)
    PAID.clear()
    quiet = RunConfig(tracing_disabled=True)
    result = await Runner.run(agent, state, session=AgentSession(session_id), run_config=quiet)
    return {"said": result.final_output, "paid": list(PAID)}


def _agent(*steps: Any) -> Agent[Any]:
    return Agent(name="payer", model=ScriptedModel(steps), tools=[pay])
