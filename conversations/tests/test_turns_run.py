"""One run of the agent: what is told as it goes, and what every failure leaves behind."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import httpx2
import openai
import pytest
from agents import exceptions

from conversations import lanes, turns
from conversations.errors import (
    GuardrailTripped,
    LeaseLost,
    ModelRefused,
    ModelThrottled,
    ModelUnavailable,
    StoreDamaged,
    TooManySteps,
    TurnError,
    TurnTimeout,
)
from conversations.events import (
    CONTEXT_UNAVAILABLE,
    SESSION_CORRUPTED,
    TurnCompleted,
    TurnFailed,
)
from conversations.models import ChatMessage
from conversations.store import tickets
from conversations.store.closing import CUT_SHORT
from conversations.tests import scripted, turns_agents
from conversations.tests.scripted import Call, Say
from conversations.tests.turns_helpers import (
    ask,
    counters_fit,
    log,
    row,
    say,
    shown,
    stored,
    told,
    tools,
    until,
    until_said,
    warnings,
    words,
)
from conversations.turns import run
from conversations.turns.failures import turn_error

AGENTS = "conversations.tests.turns_agents"


@pytest.fixture
def gate() -> asyncio.Event:
    return asyncio.Event()


def status_error(status: int) -> openai.APIStatusError:
    kinds = {401: openai.AuthenticationError, 429: openai.RateLimitError}
    request = httpx2.Request("POST", "https://api.example.com/v1/responses")
    response = httpx2.Response(status, request=request)
    kind = kinds.get(status, openai.APIStatusError)
    return kind("secret words", response=response, body=None)


def cancel_itself(items: list[Any]) -> Say:
    raise asyncio.CancelledError


async def code_of(turn: Any) -> tuple[str, str]:
    found = await row(turn)
    return found.status, found.error_code


# --- What is told -------------------------------------------------------------------------


async def test_words_before_and_after_a_tool_are_one_answer(session, script):
    script(Call("look_up", '{"word": "tea"}', say="Let me look. "), Say("It is here."))
    events = await ask(session)
    assert words(events) == "Let me look. It is here."
    assert tools(events) == [("look_up", "called"), ("look_up", "done")]
    assert await shown(session) == [("user", "Hello"), ("assistant", "Let me look. It is here.")]
    remembered = [message for message in await log(session) if message.agent_item is not None]
    assert [message.kind for message in remembered] == [
        "message",
        "message",
        "function_call",
        "function_call_output",
        "message",
    ]
    assert events[-1].message_id == remembered[1].id
    assert (events[-1].usage.requests, events[-1].usage.total_tokens) == (2, 30)
    await counters_fit(session)


@pytest.mark.parametrize(
    "pieces",
    [["a"], ["", "a", ""], ["Zeile\n", "\n", " ü", "😀", '"}'], ["x"] * 500],
    ids=["one", "empty ones", "odd ones", "many"],
)
async def test_all_deltas_joined_are_the_stored_answer(session, script, pieces):
    script(Say("".join(pieces), pieces=pieces))
    events = await ask(session)
    assert words(events) == "".join(pieces)
    assert (await shown(session))[-1] == ("assistant", "".join(pieces))


async def test_an_answer_streamed_otherwise_than_it_ends_is_stored_as_streamed(session, script):
    script(Say("the final words", pieces=["other ", "words"]))
    assert words(await ask(session)) == "other words"
    assert (await shown(session))[-1] == ("assistant", "other words")
    await counters_fit(session)


@pytest.mark.parametrize("odd", ["\x00", "\ud83d"])
async def test_what_no_engine_can_store_is_replaced_in_stream_and_store(session, script, odd):
    script(Say(f"a{odd}b", pieces=["a", odd, "b"]))
    events = await ask(session)
    assert words(events) == "a\ufffdb"
    assert isinstance(events[-1], TurnCompleted)
    assert (await shown(session))[-1] == ("assistant", "a\ufffdb")


async def test_an_odd_answer_cut_short_is_kept(session, script):
    script(Say("a\ud83d", pieces=["a\ud83d"], then=RuntimeError()))
    events = await ask(session)
    assert events[-1].code == "assistant_failed"
    assert (await shown(session))[-1] == ("assistant", "a\ufffd…")


async def test_an_answer_that_is_a_tools_output_is_shown(session, script, settings, user):
    settings.CONVERSATIONS_AGENT = f"{AGENTS}.ending_with_a_tool"
    script(Call("look_up", '{"word": "tea"}'))
    events = await ask(session)
    assert words(events) == f"tea of {user.pk}"
    answer = (await log(session))[-1]
    assert (events[-1].message_id, answer.text) == (answer.id, f"tea of {user.pk}")
    assert not answer.incomplete
    await counters_fit(session)


async def test_a_model_that_says_nothing_is_an_empty_answer(session, script):
    script(Say(""))
    events = await ask(session)
    assert (words(events), events[-1].status) == ("", "completed")
    assert await shown(session) == [("user", "Hello")]
    await counters_fit(session)


# --- What fails ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        (RuntimeError("secret words"), TurnError()),
        (status_error(429), ModelThrottled()),
        (status_error(500), ModelUnavailable()),
        (status_error(401), ModelRefused()),
        (exceptions.ModelBehaviorError("secret words"), ModelUnavailable()),
        (TimeoutError("secret words"), TurnTimeout()),
    ],
    ids=["any", "429", "500", "401", "behaviour", "timeout"],
)
@pytest.mark.parametrize("said", ["", "Once upon a"])
async def test_a_model_that_fails_is_one_typed_error(session, caplog, failure, expected, said):
    scripted.SCRIPT.steps.append(Say(said, then=failure) if said else failure)
    turn = await say(session)
    events = await told(turn)
    assert events[-1] == TurnFailed(turn.id, expected.message, expected.code, expected.retryable)
    assert sum(isinstance(event, TurnFailed | TurnCompleted) for event in events) == 1
    assert await code_of(turn) == ("failed", expected.code)
    kept = words(events)  # the SDK tells no more of what it had already received
    assert said.startswith(kept)
    assert bool(kept) is bool(said)
    answer = [("assistant", kept + "…")] if said else []
    assert await shown(session) == [("user", "Hello"), *answer]
    await counters_fit(session)
    assert "secret" not in caplog.text
    assert words(await ask(session, "Next")) == "I remember: Hello | Next"


async def test_completed_tools_and_their_cost_are_kept_when_the_model_fails(session, script):
    script(Call("look_up", say="Let me look. "), RuntimeError())
    turn = await say(session)
    await told(turn)
    found = await row(turn)
    assert (found.status, found.requests, found.input_tokens) == ("failed", 1, 10)
    assert (await stored(session)).input_tokens == 10
    assert await shown(session) == [("user", "Hello"), ("assistant", "Let me look. …")]
    kinds = [message.kind for message in await log(session) if message.agent_item is not None]
    assert kinds == ["message", "message", "function_call", "function_call_output", "message"]
    assert CUT_SHORT in (await log(session))[-1].agent_item
    await counters_fit(session)
    script(lambda items: Say(" ".join(item.get("type", "") for item in items)))
    assert "function_call_output" in words(await ask(session, "Next"))


async def test_a_tool_that_fails_is_told_and_ends_the_turn(session, script, caplog):
    script(Call("break_down"))
    events = await ask(session)
    assert tools(events) == [("break_down", "called"), ("break_down", "failed")]
    assert isinstance(events[-1], TurnFailed)
    assert "secret" not in caplog.text
    assert words(await ask(session, "Next")) == "I remember: Hello | Next"


async def test_too_many_steps_are_one_typed_error(session, script):
    script(*[Call("look_up") for _ in range(10)])
    events = await ask(session)
    assert (events[-1].code, events[-1].retryable) == ("max_turns", False)
    assert scripted.SCRIPT.tool_calls == 10
    await counters_fit(session)
    assert words(await ask(session, "Next"))


async def test_an_input_guardrail_lets_nothing_through(session, script, settings):
    settings.CONVERSATIONS_AGENT = f"{AGENTS}.guarded_input"
    turn = await say(session)
    events = await told(turn)
    assert (words(events), events[-1].code, events[-1].retryable) == ("", "guardrail", False)
    assert await code_of(turn) == ("failed", "guardrail")
    assert scripted.SCRIPT.inputs == []
    assert await shown(session) == [("user", "Hello")]
    await counters_fit(session)


async def test_what_an_output_guardrail_stopped_is_not_kept(session, script, settings):
    settings.CONVERSATIONS_AGENT = f"{AGENTS}.guarded_output"
    script(Call("look_up", say="Let me look. "), Say("Something unsafe"))
    events = await ask(session)
    assert events[-1].code == "guardrail"
    assert await shown(session) == [("user", "Hello"), ("assistant", "Let me look. ")]
    assert not any("unsafe" in message.text for message in await log(session))
    await counters_fit(session)


async def test_an_answer_that_takes_too_long_is_stopped_and_kept(session, script, gate, settings):
    settings.CHAT_TURN_TIMEOUT_SECONDS = 0.05
    script(Say("Once upon", gate=gate))
    turn = await say(session)
    events = await told(turn)
    assert (events[-1].code, events[-1].retryable) == ("turn_timeout", True)
    assert await code_of(turn) == ("failed", "turn_timeout")
    assert await shown(session) == [("user", "Hello"), ("assistant", "Once …")]
    settings.CHAT_TURN_TIMEOUT_SECONDS = 30
    assert words(await ask(session, "Next"))


@pytest.mark.parametrize("builder", ["broken", "missing", "nothing"])
async def test_an_agent_that_cannot_be_built_fails_the_turn_and_closes_it(
    session, settings, caplog, builder
):
    settings.CONVERSATIONS_AGENT = f"{AGENTS}.{builder}"
    turn = await say(session)
    events = await told(turn)
    assert (type(events[-1]), events[-1].code) == (TurnFailed, "assistant_failed")
    assert await code_of(turn) == ("failed", "assistant_failed")
    assert await shown(session) == [("user", "Hello")]
    assert "sk-secret" not in caplog.text
    settings.CONVERSATIONS_AGENT = "conversations.tests.scripted.build_agent"
    assert words(await ask(session, "Next"))


async def test_a_model_that_cancels_itself_is_a_failure_not_an_answer(session, script):
    script(cancel_itself)
    turn = await say(session)
    events = await told(turn)
    assert isinstance(events[-1], TurnFailed)
    assert (await row(turn)).status == "failed"
    assert words(await ask(session, "Next"))


async def test_a_failure_the_stream_hid_is_raised(session, script, monkeypatch):
    """The SDK says that a run may die before its first event without the stream telling."""
    script(RuntimeError())

    async def silent(self: Any) -> Any:
        await asyncio.wait({self.run_loop_task})
        return
        yield

    monkeypatch.setattr("agents.result.RunResultStreaming.stream_events", silent)
    assert (await ask(session))[-1].code == "assistant_failed"


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (TooManySteps(), TooManySteps),
        (LeaseLost(), LeaseLost),
        (exceptions.MaxTurnsExceeded("secret"), TooManySteps),
        (exceptions.ModelTimeoutError(1), ModelUnavailable),
        (openai.APIConnectionError(request=httpx2.Request("GET", "https://x")), ModelUnavailable),
        (exceptions.ModelRefusalError("secret"), ModelRefused),
        (openai.OpenAIError("secret"), ModelUnavailable),
        (exceptions.UserError("secret"), TurnError),
        (status_error(400), ModelRefused),
        (status_error(503), ModelUnavailable),
        (
            exceptions.ToolInputGuardrailTripwireTriggered.__new__(
                exceptions.ToolInputGuardrailTripwireTriggered
            ),
            GuardrailTripped,
        ),
    ],
)
def test_every_failure_has_our_own_words(error, kind):
    found = turn_error(error)
    assert type(found) is kind
    assert "secret" not in found.message


# --- What the memory is worth ---------------------------------------------------------------


async def test_unreadable_entries_are_left_out_and_told_once(session):
    await ask(session, "1")
    await ask(session, "2")
    first = (await log(session))[0]
    await lanes.call(ChatMessage.objects.filter(id=first.id).update, agent_item="{broken")
    turn = await say(session, "3")
    events = await told(turn)
    assert warnings(events) == [SESSION_CORRUPTED]
    assert words(events) == "I remember: 2 | 3"
    assert (await row(turn)).warning == SESSION_CORRUPTED
    found = await lanes.call(lambda: ChatMessage.objects.get(id=first.id))
    assert found.quarantined_at is not None
    assert warnings(await ask(session, "4")) == []
    assert len(await shown(session)) == 8


async def test_without_its_memory_the_answer_comes_with_a_warning(session, monkeypatch):
    await ask(session, "1")

    def damaged(*_: Any, **__: Any) -> None:
        raise StoreDamaged

    with monkeypatch.context() as broken:
        broken.setattr(tickets, "load_window", damaged)
        events = await ask(session, "2")
        assert (words(events), warnings(events)) == ("I remember: 2", [CONTEXT_UNAVAILABLE])
    assert words(await ask(session, "3")) == "I remember: 1 | 2 | 3"


async def test_a_warning_without_a_word_is_told_before_the_end(session, script):
    await ask(session, "1")
    await lanes.call(
        ChatMessage.objects.filter(session=session, role="user").update, agent_item="{"
    )
    script(RuntimeError())
    events = await ask(session, "2")
    assert warnings(events) == [SESSION_CORRUPTED]
    assert isinstance(events[-1], TurnFailed)


# --- Tools with sync code -------------------------------------------------------------------


async def test_a_tool_with_sync_orm_code_leaves_no_connection_open(session, script, settings):
    settings.CONVERSATIONS_AGENT = f"{AGENTS}.with_orm_tool"
    turns_agents.CONNECTIONS.clear()
    script(Call("count_sessions"), Say("One."))
    before = threading.active_count()
    events = await ask(session)
    assert tools(events) == [("count_sessions", "called"), ("count_sessions", "done")]
    (connection,) = turns_agents.CONNECTIONS

    async def closed() -> bool:
        return connection.connection is None and threading.active_count() <= before + 2

    await until(closed)


async def test_a_tool_that_hangs_does_not_keep_its_turn_open(
    session, script, settings, monkeypatch
):
    settings.CONVERSATIONS_AGENT = f"{AGENTS}.with_orm_tool"
    settings.CHAT_TURN_TIMEOUT_SECONDS = 0.1
    monkeypatch.setattr(run, "SETTLE_SECONDS", 0.1)
    turns_agents.RELEASE.clear()
    script(Call("hang", say="Wait. "))
    try:
        turn = await say(session)
        events = await told(turn)
        assert tools(events) == [("hang", "called"), ("hang", "failed")]
        assert events[-1].code == "turn_timeout"
        assert await shown(session) == [("user", "Hello"), ("assistant", "Wait. …")]
    finally:
        turns_agents.RELEASE.set()
    settings.CHAT_TURN_TIMEOUT_SECONDS = 30
    assert words(await ask(session, "Next"))
    assert await shown(session) == [
        ("user", "Hello"),
        ("assistant", "Wait. …"),
        ("user", "Next"),
        ("assistant", "I remember: Hello | Next"),
    ]


async def test_a_stop_while_a_batch_is_stored_does_not_store_the_answer_twice(
    session, script, monkeypatch
):
    """The batch is committed, and the run is stopped before it hears of that."""
    script(Say("Hello you!"))
    write, stopping = lanes.write, []
    turn = await say(session)

    async def stop_then_write(job: Any) -> Any:
        result = asyncio.ensure_future(write(job))
        if turn.said == "Hello you!" and not stopping:
            stopping.append(asyncio.create_task(turns.stop_session(session.id)))
            await asyncio.sleep(0)
        return await result

    monkeypatch.setattr(lanes, "write", stop_then_write)
    await told(turn)
    await asyncio.gather(*stopping)
    assert stopping
    said = [text.rstrip("…") for role, text in await shown(session) if role == "assistant"]
    assert said == ["Hello you!"]
    await counters_fit(session)


async def test_a_cancelled_start_of_the_answer_leaves_the_thread_usable(session, script, gate):
    script(Say("a b", gate=gate))
    turn = await say(session)
    await until_said(turn, "a ")
    await turns.stop_session(session.id)
    assert words(await ask(session, "Next")) == "I remember: Hello | Next"
