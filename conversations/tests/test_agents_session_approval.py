"""A run that waits for a person, and goes on in another process from what the session holds."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from agents import Runner
from django.utils import timezone

from conversations import lanes
from conversations.agents_session import AgentSession
from conversations.store import pruning
from conversations.tests.agents_session_helpers import answer, counted, said
from conversations.tests.approval_agents import guarded, who_asks
from conversations.tests.other_process import SITE, finish, start_python
from conversations.tests.session_contract_runs import agent_of, inputs_of, quiet, says, short

pytestmark = pytest.mark.django_db(transaction=True)

RESUME = (
    SITE
    + """
    import json
    from agents import RunConfig, Runner, RunState
    from conversations import lanes
    from conversations.agents_session import AgentSession
    from conversations.tests.approval_agents import PAID, guarded, who_goes_on

    async def resume(answer, is_guarded):
        agent = guarded(who_goes_on()) if is_guarded else who_goes_on()
        state = await RunState.from_json(agent, json.loads(sys.argv[3]))
        for question in state.get_interruptions():
            getattr(state, answer)(question)
        result = await Runner.run(
            agent, state, session=AgentSession("s"), run_config=RunConfig(tracing_disabled=True)
        )
        return {"output": result.final_output, "paid": PAID}

    print(json.dumps(asyncio.run(resume(sys.argv[1], sys.argv[2] == "guarded"))))
    lanes.close()
    """
)


async def pause(*, is_guarded: bool = False) -> str:
    """A run that asks whether it may pay; its state as text."""
    agent = guarded(who_asks()) if is_guarded else who_asks()
    result = await Runner.run(agent, "Pay 7", session=AgentSession("s"), run_config=quiet())
    assert [item.name for item in result.interruptions] == ["pay"]
    return json.dumps(result.to_state().to_json())


async def resume(state: str, answer: str, *, is_guarded: bool = False) -> Any:
    """What another process says and has paid, once a person has answered."""
    process = start_python(RESUME, answer, "guarded" if is_guarded else "", state)
    return json.loads(await asyncio.to_thread(finish, process))


async def remembered() -> list[Any]:
    return list(await AgentSession("s").get_items())


async def next_input() -> str:
    """What the next run's model is given before what is said next."""
    agent = agent_of([says("Yes")])
    await Runner.run(agent, "And now?", session=AgentSession("s"), run_config=quiet())
    return short(inputs_of(agent)[0])


def prune(db: Any) -> int:
    return pruning.prune_named(db, agent_session_id="s", now=timezone.now())


@pytest.mark.parametrize("approved", [True, False])
async def test_another_process_goes_on_with_it(approved):
    state = await pause()
    assert short(await remembered()) == "user call"
    told = await resume(state, "approve" if approved else "reject")
    assert told == {"output": "Done", "paid": [7] if approved else []}
    items = await remembered()
    assert short(items) == "user call output assistant"
    assert (items[2]["output"] == "paid 7") is approved
    assert await next_input() == "user call output assistant user"
    await counted("s")


async def test_what_waits_is_kept_when_the_memory_is_pruned_meanwhile(settings):
    settings.AGENT_SESSION_MAX_MESSAGES = 1
    await AgentSession("s").add_items([said("Old"), answer("Yes")] * 5)
    state = await pause()
    assert short(await remembered()) == "user call"
    assert await lanes.write(prune) == 0
    assert (await resume(state, "approve"))["output"] == "Done"
    assert short(await remembered()) == "user call output assistant"
    assert (await counted("s")).pruned_count == 10


async def test_other_messages_may_be_said_meanwhile():
    state = await pause()
    assert await next_input() == "user user"  # what waits is not sent
    told = await resume(state, "approve")
    assert told == {"output": "Done", "paid": [7]}
    assert short(await remembered()) == "user call user assistant output assistant"
    assert await next_input() == "user call user assistant output assistant user"


async def test_an_answer_that_comes_late_holds_its_call_in_the_memory(settings):
    settings.AGENT_SESSION_MAX_MESSAGES = 4
    state = await pause()
    await next_input()
    await resume(state, "approve")
    assert await lanes.write(prune) == 0  # six entries, and no cut that leaves the output its call
    assert await next_input() == "user call user assistant output assistant user"
    assert short(await remembered()) == "user assistant"


async def test_an_answer_that_comes_after_its_call_is_forgotten_breaks_nothing(settings):
    settings.AGENT_SESSION_MAX_MESSAGES = 2
    state = await pause()
    await next_input()
    assert short(await remembered()) == "user assistant"
    assert (await resume(state, "approve"))["output"] == "Done"
    assert short(await remembered()) == "user assistant assistant"
    assert await next_input() == "user assistant assistant user"
    assert (await counted("s")).quarantined_count == 1


@pytest.mark.parametrize("approved", [True, False])
async def test_where_the_answer_is_looked_at_first_the_pair_is_stored_at_once(approved):
    """The SDK holds the parked call back, in the state: a refused answer must leave no trace."""
    state = await pause(is_guarded=True)
    assert short(await remembered()) == "user"
    told = await resume(state, "approve" if approved else "reject", is_guarded=True)
    assert told["paid"] == ([7] if approved else [])
    stored = short(await remembered())
    assert stored == "user call output" if approved else stored.startswith("user call output")
    assert (await next_input()).startswith("user call output")
