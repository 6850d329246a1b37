"""A plain `AgentSession` after run after run: its memory stays within the budget, and valid."""

from __future__ import annotations

from typing import Any

import pytest
from agents import (
    InputGuardrail,
    InputGuardrailTripwireTriggered,
    MaxTurnsExceeded,
    RunContextWrapper,
)
from agents.run_internal.session_persistence import prepare_input_with_session
from agents.testing import ModelStep

from conversations import lanes
from conversations.agents_session import AgentSession
from conversations.errors import StoreReadOnly
from conversations.tests.agents_session_helpers import answer, counted, row_of, said, transcript
from conversations.tests.session_contract_runs import (
    Run,
    agent_of,
    at_once,
    calls,
    inputs_of,
    says,
    short,
    streamed,
    thinks,
    trip,
    users,
)

pytestmark = pytest.mark.django_db(transaction=True)

BUDGET = 20


@pytest.fixture(autouse=True)
def budget(settings: Any) -> None:
    settings.AGENT_SESSION_MAX_MESSAGES = BUDGET


@pytest.fixture(params=[at_once, streamed], ids=["run", "run_streamed"])
def run(request: pytest.FixtureRequest) -> Run:
    return request.param  # type: ignore[no-any-return]


def recall(call: Any) -> list[Any]:
    """The model tells what it remembers."""
    return [says(" | ".join(users(call.input)))]


async def assert_within_budget(newest: str) -> list[Any]:
    """What is remembered now: no more than the budget, or the newest turn; all of it is sent."""
    items = await AgentSession("s").get_items()
    said_at = [place for place, item in enumerate(items) if item.get("role") == "user"]
    assert items[said_at[-1]]["content"] == newest
    assert len(items) <= BUDGET or said_at == [0]
    given, _ = await prepare_input_with_session("next", AgentSession("s"), None)
    assert given == [*items, said("next")]
    return items


async def test_sixty_runs_with_tools_keep_to_it(run):
    """With answers that show the window; some turns alone are longer than the budget."""
    everything: list[Any] = []
    expected = [f"Message {number}" for number in range(60)]
    for number, text in enumerate(expected):
        rounds = 8 if number % 20 == 7 else number % 3
        tools = [[thinks(), calls("look_up"), calls("look_up")] for _ in range(rounds)]
        agent = agent_of(*tools, ModelStep.respond(recall))
        before = await AgentSession("s").get_items()
        result = await run(agent, text, session=AgentSession("s"))
        assert result.final_output == " | ".join([*users(before), text])
        items = await assert_within_budget(text)
        everything += await AgentSession("s").get_items(limit=1 + 5 * rounds + 1)
        assert items == everything[len(everything) - len(items) :]
        assert users(items) == expected[number + 1 - len(users(items)) : number + 1]
    row = await counted("s")
    assert row.pruned_count == len(everything) - row.remembered_count
    read = await transcript("s")
    assert [text for role, text in read if role == "user"] == expected
    assert len(read) == 120


@pytest.mark.parametrize("response_id", ["resp", None])
async def test_also_with_models_that_give_their_answers_no_id(run, response_id):
    for number in range(12):
        step = ModelStep(output=[says("Answer")], response_id=response_id)
        await run(agent_of(step), f"Message {number}", session=AgentSession("s"))
        await assert_within_budget(f"Message {number}")


async def test_also_where_runs_end_with_a_tool(run):
    for number in range(12):
        agent = agent_of([calls("look_up")], tool_use_behavior="stop_on_first_tool")
        await run(agent, f"Message {number}", session=AgentSession("s"))
        await assert_within_budget(f"Message {number}")


async def test_also_where_runs_fail(run):
    guards: list[InputGuardrail[Any]] = [InputGuardrail(trip, run_in_parallel=False)]
    for number in range(24):
        agent, error = [
            (agent_of([calls("look_up")], RuntimeError("no model")), RuntimeError),
            (agent_of([calls("look_up")], [calls("look_up")]), MaxTurnsExceeded),
            (agent_of(input_guardrails=guards), InputGuardrailTripwireTriggered),
        ][number % 3]
        with pytest.raises(error):
            await run(agent, f"Message {number}", session=AgentSession("s"), max_turns=2)
        await assert_within_budget(f"Message {number}")
    await counted("s")


async def test_a_turn_longer_than_the_budget_is_whole_and_goes_with_the_next(run):
    long = [[calls("look_up")] for _ in range(9)] + [[calls("look_up"), calls("look_up")]]
    await run(
        agent_of(*long, [says("Done")]), "Many words", session=AgentSession("s"), max_turns=20
    )
    assert len(await assert_within_budget("Many words")) == 24
    await run(agent_of([says("Yes")]), "Well?", session=AgentSession("s"))
    assert short(await assert_within_budget("Well?")) == "user assistant"


async def test_what_only_code_adds_is_not_pruned_before_a_run(run):
    """So that a session may be filled in pieces."""
    for number in range(20):
        await AgentSession("s").add_items([said(f"Old {number}"), answer("Yes")])
    assert len(await AgentSession("s").get_items()) == 40
    agent = agent_of([says("Hello")])
    await run(agent, "Hi", session=AgentSession("s"))
    assert len(inputs_of(agent)[0]) == 41
    assert len(await assert_within_budget("Hi")) == BUDGET


async def test_what_cannot_be_forgotten_now_is_forgotten_by_the_next_batch(monkeypatch, caplog):
    session = AgentSession("s")
    await session.add_items([said("Old"), answer("Yes")] * BUDGET)
    write, jobs = lanes.write, []

    async def store_once(job: Any) -> Any:
        jobs.append(job)
        if len(jobs) > 1:
            raise StoreReadOnly
        return await write(job)

    monkeypatch.setattr(lanes, "write", store_once)
    await session.add_items([said("New")], wrapper=RunContextWrapper(None))
    assert "session s not pruned: StoreReadOnly" in caplog.text
    assert (await row_of("s")).remembered_count == 2 * BUDGET + 1
    monkeypatch.undo()
    await session.add_items([answer("Hello")], wrapper=RunContextWrapper(None))
    assert (await counted("s")).remembered_count == BUDGET
