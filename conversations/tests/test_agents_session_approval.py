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
from conversations.tests import approval_agents
from conversations.tests.agents_session_helpers import answer, counted, said
from conversations.tests.approval_agents import guarded, who_asks
from conversations.tests.other_process import SITE, finish, start_python
from conversations.tests.session_contract_runs import agent_of, inputs_of, quiet, says, short

pytestmark = pytest.mark.django_db(transaction=True)

RESUME = (
    SITE
    + """
    import json
    from conversations import lanes
    from conversations.tests.approval_agents import resume

    async def work():
        return [await resume(*waiting) for waiting in json.loads(sys.argv[1])]

    print(json.dumps(asyncio.run(work())))
    lanes.close()
    """
)


async def pause(session_id: str = "s", *, is_guarded: bool = False) -> Any:
    """A run that asks whether it may pay; its state as JSON."""
    agent = guarded(who_asks()) if is_guarded else who_asks()
    session = AgentSession(session_id)
    result = await Runner.run(agent, "Pay 7", session=session, run_config=quiet())
    assert [item.name for item in result.interruptions] == ["pay"]
    return result.to_state().to_json()


async def resume_elsewhere(*waiting: tuple[str, Any, str, bool]) -> list[Any]:
    """What another process says and has paid, for each (session, state, a person's answer)."""
    process = start_python(RESUME, json.dumps(waiting))
    return list(json.loads(await asyncio.to_thread(finish, process)))


async def remembered(session_id: str = "s") -> str:
    return short(await AgentSession(session_id).get_items())


async def next_input(session_id: str = "s") -> str:
    """What the next run's model is given, with what is said next."""
    agent = agent_of([says("Yes")])
    session = AgentSession(session_id)
    await Runner.run(agent, "And now?", session=session, run_config=quiet())
    return short(inputs_of(agent)[0])


def prune(db: Any) -> int:
    return pruning.prune_named(db, agent_session_id="s", now=timezone.now())


@pytest.mark.slow
async def test_another_process_goes_on_with_what_is_approved_and_with_what_is_refused():
    waiting = [(name, await pause(name), name, False) for name in ("approve", "reject")]
    assert await remembered("approve") == await remembered("reject") == "user call"
    approved, refused = await resume_elsewhere(*waiting)
    assert approved == {"said": "Done", "paid": [7]}
    assert refused == {"said": "Done", "paid": []}
    for name in ("approve", "reject"):
        assert await remembered(name) == "user call output assistant"
        output = (await AgentSession(name).get_items())[2]["output"]
        assert (output == "paid 7") is (name == "approve")
        assert await next_input(name) == "user call output assistant user"
        await counted(name)


@pytest.mark.slow
async def test_another_process_goes_on_although_the_memory_was_pruned_or_others_spoke(settings):
    settings.AGENT_SESSION_MAX_MESSAGES = 3
    await AgentSession("s").add_items([said("Old"), answer("Yes")] * 5)
    pruned, spoken = await pause("s"), await pause("t")
    assert await remembered("s") == "user call"
    assert await lanes.write(prune) == 0
    settings.AGENT_SESSION_MAX_MESSAGES = 200
    assert await next_input("t") == "user user"  # what waits is not sent
    told = await resume_elsewhere(("s", pruned, "approve", False), ("t", spoken, "approve", False))
    assert told == [{"said": "Done", "paid": [7]}] * 2
    assert await remembered("s") == "user call output assistant"
    assert (await counted("s")).pruned_count == 10
    assert await remembered("t") == "user call user assistant output assistant"
    assert await next_input("t") == "user call user assistant output assistant user"


async def test_what_waits_is_kept_whatever_the_budget(settings):
    settings.AGENT_SESSION_MAX_MESSAGES = 1
    state = await pause()
    assert await lanes.write(prune) == 0
    assert await remembered() == "user call"
    assert (await approval_agents.resume("s", state, "approve", False))["said"] == "Done"
    assert await remembered() == "user call output assistant"


async def test_an_answer_that_comes_late_keeps_its_call_in_the_memory(settings):
    settings.AGENT_SESSION_MAX_MESSAGES = 4
    state = await pause()
    await next_input()
    await approval_agents.resume("s", state, "approve", False)
    assert await lanes.write(prune) == 0  # six entries, and no cut that leaves the output its call
    assert await next_input() == "user call user assistant output assistant user"
    assert await remembered() == "user assistant"


async def test_an_answer_that_comes_after_its_call_is_forgotten_breaks_nothing(settings):
    settings.AGENT_SESSION_MAX_MESSAGES = 2
    state = await pause()
    await next_input()
    assert await remembered() == "user assistant"
    assert (await approval_agents.resume("s", state, "approve", False))["said"] == "Done"
    assert await remembered() == "user assistant assistant"
    assert await next_input() == "user assistant assistant user"
    assert (await counted("s")).quarantined_count == 1


@pytest.mark.parametrize("approved", [True, False])
async def test_where_the_answer_is_looked_at_first_the_pair_is_stored_at_once(approved):
    """The SDK keeps the waiting call in its state: a refused answer must leave no trace."""
    state = await pause(is_guarded=True)
    assert await remembered() == "user"
    reply = "approve" if approved else "reject"
    told = await approval_agents.resume("s", state, reply, True)
    assert told["paid"] == ([7] if approved else [])
    assert await remembered() == "user call output"
    assert await next_input() == "user call output user"
