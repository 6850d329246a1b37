"""The tokens of a run, counted as it goes."""

from __future__ import annotations

import asyncio

import pytest
from agents import Agent, Runner, function_tool
from agents.memory.session import _session_accepts_wrapper

from conversations.agents_session import AgentSession
from conversations.tests.agents_session_helpers import QUIET, numbered, row_of
from conversations.tests.scripted import Call, Say, ScriptedModel, build_agent
from conversations.turns.session import TurnSession


@pytest.mark.django_db(transaction=True)
class TestUsage:
    @pytest.mark.parametrize("kind", [AgentSession, TurnSession])
    def test_the_sdk_sees_that_every_method_takes_the_wrapper(self, kind):
        assert _session_accepts_wrapper(kind.__new__(kind))

    async def tokens(self, session_id: str = "s") -> tuple[int, int]:
        row = await row_of(session_id)
        return row.input_tokens, row.output_tokens

    async def test_tokens_of_runs_add_up(self, context):
        session, agent = AgentSession("s"), build_agent()
        for runs in (1, 2, 3):
            await Runner.run(agent, "Hi", session=session, context=context, run_config=QUIET)
            assert await self.tokens() == (10 * runs, 5 * runs)

    async def test_every_call_of_a_run_with_tools_counts_once(self, script, context):
        script(Call("look_up"), Call("look_up", say="Once more"), Say("Done"))
        agent, session = build_agent(), AgentSession("s")
        await Runner.run(agent, "Hi", session=session, context=context, run_config=QUIET)
        assert await self.tokens() == (30, 15)

    async def test_a_streamed_run_counts_the_same(self, script, context):
        script(Call("look_up"), Say("Done"))
        result = Runner.run_streamed(
            build_agent(), "Hi", session=AgentSession("s"), context=context, run_config=QUIET
        )
        async for _ in result.stream_events():
            pass
        assert await self.tokens() == (20, 10)

    async def test_what_a_failed_run_used_is_counted(self, script, context):
        script(Call("look_up"), RuntimeError("the model is gone"))
        with pytest.raises(RuntimeError):
            await Runner.run(
                build_agent(),
                "Hi",
                session=AgentSession("s"),
                context=context,
                run_config=QUIET,
            )
        assert await self.tokens() == (10, 5)

    async def test_runs_side_by_side_on_one_session_object_count_once_each(self, script, context):
        session, agent, waiting = AgentSession("s"), build_agent(), asyncio.Barrier(2)

        @function_tool
        async def meet() -> str:
            """Wait for the other run."""
            await waiting.wait()
            return "met"

        agent.tools.append(meet)
        script(Call("meet"), Call("meet"), Say("a"), Say("b"))
        await asyncio.gather(
            *[
                Runner.run(agent, "Hi", session=session, context=context, run_config=QUIET)
                for _ in range(2)
            ]
        )
        assert await self.tokens() == (40, 20)

    async def test_an_agent_used_as_a_tool_in_the_same_session_counts_once(self, script, context):
        session = AgentSession("s")
        helper = Agent(name="helper", model=ScriptedModel())
        agent = build_agent()
        agent.tools.append(helper.as_tool("help", "Helps.", session=session, run_config=QUIET))
        script(Call("help", '{"input": "Please"}'), Say("Helped"), Say("Done"))
        await Runner.run(agent, "Hi", session=session, context=context, run_config=QUIET)
        assert await self.tokens() == (30, 15)

    async def test_without_a_run_nothing_is_counted(self):
        await AgentSession("s").add_items(numbered(1))
        assert await self.tokens() == (0, 0)

    async def test_tokens_stay_counted_when_the_session_is_cleared(self, context):
        session = AgentSession("s")
        await Runner.run(build_agent(), "Hi", session=session, context=context, run_config=QUIET)
        await session.clear_session()
        assert await self.tokens() == (10, 5)
