"""What a session holds after a run of the SDK, however the run went: second half of the contract.

Every situation in which the `Runner` writes, with `run` and with `run_streamed`, on a model that
plays a script. What is stored is told in short: `user call output assistant`.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from agents import (
    Agent,
    GuardrailFunctionOutput,
    InputGuardrail,
    InputGuardrailTripwireTriggered,
    MaxTurnsExceeded,
    OutputGuardrail,
    OutputGuardrailTripwireTriggered,
    RunConfig,
    Runner,
    RunState,
    function_tool,
)
from agents.exceptions import UserError
from agents.memory import SessionSettings
from agents.testing import ScriptedModel, assistant_message, function_call
from openai.types.responses import ResponseReasoningItem

Run = Callable[..., Awaitable[Any]]

_numbers = itertools.count()


def says(text: str) -> Any:
    return assistant_message(text, item_id=f"msg_{next(_numbers)}")


def calls(tool: str, **arguments: Any) -> Any:
    number = next(_numbers)
    return function_call(tool, arguments, call_id=f"call_{number}", item_id=f"fc_{number}")


def thinks() -> Any:
    return ResponseReasoningItem(id=f"rs_{next(_numbers)}", type="reasoning", summary=[])


def short(items: Iterable[Any]) -> str:
    """`user call output assistant`"""
    names = {"function_call": "call", "function_call_output": "output"}
    kinds = [item.get("role") or item["type"] for item in items]
    return " ".join(names.get(kind, kind) for kind in kinds)


def users(items: Iterable[Any]) -> list[str]:
    return [item["content"] for item in items if item.get("role") == "user"]


@function_tool
async def look_up(word: str = "") -> str:
    """Look a word up."""
    return f"found {word}"


@function_tool(failure_error_function=None)
async def break_down() -> str:
    """Fail, after the other tools."""
    await asyncio.sleep(0)
    raise RuntimeError("the tool is broken")


@function_tool(needs_approval=True)
async def pay(amount: int) -> str:
    """Pay, if a person approves."""
    return f"paid {amount}"


async def trip(*_: Any) -> GuardrailFunctionOutput:
    return GuardrailFunctionOutput(output_info=None, tripwire_triggered=True)


def agent_of(*steps: Any, **changes: Any) -> Agent[Any]:
    """An agent whose model plays `steps`: lists of output items, or exceptions."""
    tools = changes.pop("tools", [look_up, break_down, pay])
    return Agent(name="agent", model=ScriptedModel(steps), tools=tools, **changes)


def inputs_of(agent: Agent[Any]) -> list[list[Any]]:
    """What the model was given, call by call."""
    return [call.input for call in agent.model.calls]  # type: ignore[union-attr]


def quiet(**settings: Any) -> RunConfig:
    return RunConfig(tracing_disabled=True, **settings)


async def at_once(agent: Any, said: Any, *, config: RunConfig | None = None, **more: Any) -> Any:
    return await Runner.run(agent, said, run_config=config or quiet(), **more)


async def streamed(agent: Any, said: Any, *, config: RunConfig | None = None, **more: Any) -> Any:
    result = Runner.run_streamed(agent, said, run_config=config or quiet(), **more)
    async for _ in result.stream_events():
        pass
    return result


def close_loop() -> None:
    """The loop that `run_sync` leaves open in its thread."""
    asyncio.get_event_loop_policy().get_event_loop().close()


def failing(session: Any, *, stores: bool) -> None:
    """The session's next batch fails, before or after it is stored."""
    add_items = session.add_items

    @functools.wraps(add_items)
    async def add(*arguments: Any, **more: Any) -> None:
        session.add_items = add_items
        if stores:
            await add_items(*arguments, **more)
        raise ConnectionError("no answer from the store")

    session.add_items = add


class RunContract:
    """What is stored after every way a run can go."""

    @pytest.fixture(params=[at_once, streamed], ids=["run", "run_streamed"])
    def run(self, request: pytest.FixtureRequest) -> Run:
        """`await run(agent, "Hello", session=session, config=quiet())`"""
        return request.param  # type: ignore[no-any-return]

    # Runs that go well

    async def test_the_model_is_given_all_that_was_said_before(self, open_session, run):
        agent = agent_of([says("Hello Ada")], [calls("look_up", word="lamp")], [says("Done")])
        await run(agent, "I am Ada", session=open_session("s"))
        await run(agent, "Look up lamp", session=open_session("s"))
        assert short(inputs_of(agent)[1]) == "user assistant user"
        assert short(inputs_of(agent)[2]) == "user assistant user call output"
        assert users(inputs_of(agent)[2]) == ["I am Ada", "Look up lamp"]
        stored = await open_session("s").get_items()
        assert short(stored) == "user assistant user call output assistant"

    async def test_parallel_calls_come_before_their_outputs_and_reasoning_before_its_item(
        self, open_session, run
    ):
        agent = agent_of(
            [thinks(), calls("look_up", word="a"), calls("look_up", word="b")],
            [thinks(), says("Done")],
        )
        session = open_session("s")
        await run(agent, "Two words", session=session)
        stored = await session.get_items()
        assert short(stored) == "user reasoning call call output output reasoning assistant"
        assert [item["call_id"] for item in stored[2:4]] == [
            item["call_id"] for item in stored[4:6]
        ]

    async def test_a_handoff_is_a_pair_and_the_other_agent_goes_on(self, open_session, run):
        other = agent_of([says("I am the other")])
        agent = agent_of([calls("transfer_to_other")], handoffs=[other.clone(name="other")])
        session = open_session("s")
        result = await run(agent, "The other, please", session=session)
        assert result.final_output == "I am the other"
        assert short(await session.get_items()) == "user call output assistant"

    async def test_a_run_that_ends_with_a_tool_stores_the_pair(self, open_session, run):
        agent = agent_of([calls("look_up", word="lamp")], tool_use_behavior="stop_on_first_tool")
        session = open_session("s")
        assert (await run(agent, "Lamp", session=session)).final_output == "found lamp"
        assert short(await session.get_items()) == "user call output"

    async def test_an_agent_as_a_tool_may_share_the_session(self, open_session, run):
        session = open_session("s")
        helper = agent_of([says("Helped")])
        tool = helper.as_tool("help", "Helps.", session=session, run_config=quiet())
        agent = agent_of([calls("help", input="Please")], [says("Done")], tools=[tool])
        await run(agent, "Get help", session=session)
        stored = await session.get_items()
        assert short(stored) == "user user assistant call output assistant"
        assert users(stored) == ["Get help", "Please"]

    def test_sync_code_remembers_too(self, open_session):
        agent = agent_of([says("one")], [says("two")])

        def talk(text: str) -> None:
            try:
                Runner.run_sync(agent, text, session=open_session("s"), run_config=quiet())
            finally:
                close_loop()

        for text in ("first", "second"):
            with ThreadPoolExecutor(1) as pool:
                pool.submit(talk, text).result()
        assert users(inputs_of(agent)[1]) == ["first", "second"]

    # Runs that end badly

    @pytest.mark.parametrize("in_parallel", [True, False])
    async def test_an_input_that_is_refused_is_stored_alone(self, open_session, run, in_parallel):
        guard: InputGuardrail[Any] = InputGuardrail(trip, run_in_parallel=in_parallel)
        agent = agent_of([says("Never said")], input_guardrails=[guard])
        session = open_session("s")
        with pytest.raises(InputGuardrailTripwireTriggered):
            await run(agent, "Bad words", session=session)
        assert short(await session.get_items()) == "user"

    async def test_an_answer_that_is_refused_is_not_stored_and_its_tools_are(
        self, open_session, run
    ):
        guards: list[OutputGuardrail[Any]] = [OutputGuardrail(trip)]
        agent = agent_of([calls("look_up")], [says("Bad words")], output_guardrails=guards)
        session = open_session("s")
        with pytest.raises(OutputGuardrailTripwireTriggered):
            await run(agent, "Hello", session=session)
        assert short(await session.get_items()) == "user call output"

    async def test_after_too_many_turns_all_complete_ones_are_stored(self, open_session, run):
        agent = agent_of([calls("look_up")], [calls("look_up")], [says("Done")])
        session = open_session("s")
        with pytest.raises(MaxTurnsExceeded):
            await run(agent, "Hello", session=session, max_turns=2)
        assert short(await session.get_items()) == "user call output call output"

    async def test_a_model_that_fails_leaves_complete_turns_and_may_be_asked_again(
        self, open_session, run
    ):
        agent = agent_of([calls("look_up")], RuntimeError("no model"), [says("Here I am")])
        session = open_session("s")
        with pytest.raises(RuntimeError):
            await run(agent, "Hello", session=session)
        assert short(await session.get_items()) == "user call output"
        assert (await run(agent, "Hello", session=session)).final_output == "Here I am"
        assert short(await session.get_items()) == "user call output user assistant"

    async def test_a_tool_that_fails_leaves_no_call_of_its_own(self, open_session, run):
        agent = agent_of([calls("look_up"), calls("break_down")], [says("Still here")])
        session = open_session("s")
        with pytest.raises(Exception, match="broken"):
            await run(agent, "Both", session=session)
        stored = await session.get_items()
        assert short(stored) == "user call output"
        assert stored[1]["name"] == "look_up"
        await run(agent, "And now?", session=session)
        assert short(inputs_of(agent)[-1]) == "user call output user"

    @pytest.mark.parametrize("mode", ["immediate", "after_turn"])
    async def test_a_run_that_is_cancelled_stores_whole_turns_only(self, open_session, mode):
        agent = agent_of([calls("look_up")], [says("Never said")])
        session = open_session("s")
        result = Runner.run_streamed(agent, "Hello", session=session, run_config=quiet())
        async for event in result.stream_events():
            if event.type == "run_item_stream_event" and event.name == "tool_called":
                result.cancel(mode=mode)
        stored = short(await session.get_items())
        assert stored == ("user call output" if mode == "after_turn" else "user")

    async def test_a_store_that_refuses_the_input_fails_the_run_before_the_model(
        self, open_session, run
    ):
        agent, session = agent_of([says("Never said")]), open_session("s")
        failing(session, stores=False)
        with pytest.raises(ConnectionError):
            await run(agent, "Hello", session=session)
        assert inputs_of(agent) == []
        assert await session.get_items() == []

    # What the model is given

    async def test_a_callback_chooses_what_the_model_sees_and_not_what_is_stored(
        self, open_session, run
    ):
        agent = agent_of([says("1")], [says("2")], [says("3")])
        session = open_session("s")
        config = quiet(session_input_callback=lambda history, new: history[-2:] + new)
        for text in ("one", "two", "three"):
            await run(agent, text, session=session, config=config)
        assert users(inputs_of(agent)[2]) == ["two", "three"]
        assert users(await session.get_items()) == ["one", "two", "three"]

    @pytest.mark.parametrize("how", ["run", "session"])
    async def test_a_limit_cuts_what_the_model_sees_and_no_output_loses_its_call(
        self, open_session, run, how
    ):
        agent = agent_of([calls("look_up")], [says("1")], [says("2")], [says("3")])
        settings = SessionSettings(limit=2)
        session = open_session("s", session_settings=settings if how == "session" else None)
        config = quiet(session_settings=settings) if how == "run" else quiet()
        await run(agent, "one", session=session, config=config)
        await run(agent, "two", session=session, config=config)
        assert short(inputs_of(agent)[2]) == "assistant user"  # cut between call and output
        await run(agent, "three", session=session, config=config)
        assert users(inputs_of(agent)[3]) == ["two", "three"]
        stored = await open_session("s").get_items(limit=100)
        assert short(stored) == "user call output assistant user assistant user assistant"

    @pytest.mark.parametrize("policy", ["preserve", "omit"])
    async def test_ids_of_reasoning_are_kept_or_left_out(self, open_session, run, policy):
        agent = agent_of([thinks(), says("1")], [says("2")])
        session = open_session("s")
        config = quiet(reasoning_item_id_policy=policy)
        await run(agent, "one", session=session, config=config)
        await run(agent, "two", session=session, config=config)
        for items in (await session.get_items(), inputs_of(agent)[1]):
            (reasoning,) = [item for item in items if item.get("type") == "reasoning"]
            assert ("id" in reasoning) is (policy == "preserve")

    # Runs that wait for a person

    async def pause(self, agent: Any, session: Any, run: Run) -> RunState[Any, Any]:
        """The state of a run whose call waits for approval, through JSON and back."""
        result = await run(agent, "Pay 7", session=session)
        assert len(result.interruptions) == 1
        return await RunState.from_json(agent, result.to_state().to_json())

    @pytest.mark.parametrize("approved", [True, False])
    async def test_a_parked_call_is_stored_and_its_output_follows(
        self, open_session, run, approved
    ):
        agent = agent_of([calls("pay", amount=7)], [says("Done")])
        state = await self.pause(agent, open_session("s"), run)
        assert short(await open_session("s").get_items()) == "user call"
        (question,) = state.get_interruptions()
        (state.approve if approved else state.reject)(question)
        result = await run(agent, state, session=open_session("s"))
        assert result.final_output == "Done"
        stored = await open_session("s").get_items()
        assert short(stored) == "user call output assistant"
        assert (stored[2]["output"] == "paid 7") is approved

    async def test_a_parked_call_that_is_given_up_is_not_sent_again(self, open_session, run):
        agent = agent_of([thinks(), calls("pay", amount=7)], [says("As you like")])
        session = open_session("s")
        await self.pause(agent, session, run)
        await run(agent, "Never mind", session=session)
        assert short(inputs_of(agent)[1]) == "user user"
        assert short(await session.get_items()) == "user reasoning call user assistant"

    @pytest.mark.parametrize("stores", [True, False])
    async def test_an_output_in_doubt_is_stored_once_by_the_next_try(
        self, open_session, run, stores
    ):
        agent = agent_of([calls("pay", amount=7)], [says("Done")])
        state = await self.pause(agent, open_session("s"), run)
        state.approve(state.get_interruptions()[0])
        doubtful = open_session("s")
        failing(doubtful, stores=stores)
        with pytest.raises(ConnectionError):
            await run(agent, state, session=doubtful)
        again = await RunState.from_json(agent, state.to_json())
        assert (await run(agent, again, session=open_session("s"))).final_output == "Done"
        assert short(await open_session("s").get_items()) == "user call output assistant"

    async def test_an_output_in_doubt_is_not_guessed_once_others_spoke(self, open_session, run):
        agent = agent_of([calls("pay", amount=7)], [says("Done")])
        state = await self.pause(agent, open_session("s"), run)
        state.approve(state.get_interruptions()[0])
        doubtful = open_session("s")
        failing(doubtful, stores=True)
        with pytest.raises(ConnectionError):
            await run(agent, state, session=doubtful)
        await open_session("s").add_items([{"role": "user", "content": "Hello?"}])
        with pytest.raises(UserError, match="Cannot reconcile"):
            await run(agent, state, session=open_session("s"))
        assert short(await open_session("s").get_items()) == "user call output user"
