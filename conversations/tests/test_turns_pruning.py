"""After every turn, however it ended, the memory is within its budget and the model can use it."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import pytest
from django.utils import timezone

from conversations import lanes, sweeps
from conversations.history import header_of, misplaced
from conversations.models import ChatMessage, ChatSession
from conversations.store import pruning, recall
from conversations.tests.scripted import SCRIPT, Call, Say
from conversations.tests.sweeps_helpers import die, speak
from conversations.tests.turns_helpers import ask, say, shown, stored, told, until_said, words

BUDGET = 9


@pytest.fixture(autouse=True)
def budget(settings: Any) -> None:
    settings.AGENT_SESSION_MAX_MESSAGES = BUDGET


async def memory(session: Any) -> list[dict[str, Any]]:
    found = await lanes.read(partial(recall.load_window, session_id=session.id))
    return found.items


async def counted(session: Any) -> ChatSession:
    """The session, whose counters are what its rows say."""
    found, remembered = await stored(session), await memory(session)

    def look() -> tuple[int, int]:
        rows = ChatMessage.objects.filter(session_id=session.id)
        return rows.count(), rows.filter(shown=True).count()

    items, messages = await lanes.call(look)
    assert (found.remembered_count, found.item_count, found.message_count) == (
        len(remembered),
        items,
        messages,
    )
    return found


async def test_turns_with_tools_leave_a_memory_within_its_budget(session, script):
    for number in range(8):
        script(Call("look_up", '{"word": "lamp"}'), Say(f"Answer {number}"))
        await ask(session, f"Question {number}")
        remembered = await memory(session)
        assert len(remembered) <= BUDGET
        assert remembered[0]["role"] == "user"
        assert not misplaced([header_of(place, item) for place, item in enumerate(remembered)])
        await counted(session)
    assert (await stored(session)).pruned_count == 8 * 4 - len(await memory(session))


async def test_the_transcript_keeps_what_the_model_forgets(session, script):
    for number in range(6):
        script(Call("look_up"), Say(f"Answer {number}"))
        await ask(session, f"Question {number}")
    assert await shown(session) == [
        (role, f"{what} {number}")
        for number in range(6)
        for role, what in (("user", "Question"), ("assistant", "Answer"))
    ]


async def test_the_next_turn_is_given_what_is_left(session):
    for number in range(7):
        await ask(session, f"Message {number}")
    events = await ask(session, "And now?")
    assert words(events) == ("I remember: Message 3 | Message 4 | Message 5 | Message 6 | And now?")


async def test_a_turn_longer_than_the_budget_is_kept_whole_and_goes_with_the_next(session, script):
    script(*[Call("look_up")] * 6, Say("Done"))
    await ask(session, "Look up six words")
    assert len(await memory(session)) == 14
    script(Say("Short"))
    await ask(session, "A short one")
    assert len(await memory(session)) == 2
    assert (await counted(session)).pruned_count == 14


async def test_a_turn_that_fails_prunes_too(session, script):
    for number in range(BUDGET + 4):
        script(RuntimeError("no model"))
        await ask(session, f"Message {number}")
        assert len(await memory(session)) == min(number + 1, BUDGET)
    await counted(session)


async def test_a_stopped_turn_prunes_too(session, script):
    for number in range(4):
        await ask(session, f"Message {number}")
    script(Say("", pieces=["Once", " upon"], gate=asyncio.Event()))
    turn = await say(session, "Tell me a story")
    await until_said(turn, "Once")
    turn.stop("stopped")
    await told(turn)
    assert len(await memory(session)) <= BUDGET
    await counted(session)


async def test_a_turn_whose_process_died_is_pruned_by_whoever_closes_it(session, gone):
    for number in range(4):
        await ask(session, f"Message {number}")

    def abandon() -> None:
        speak(session, "Tell me", process="dead", said="Once upon")
        die("dead", gone)
        assert sweeps.recover_turns(now=timezone.now()) == 1

    await lanes.call(abandon)
    assert len(await memory(session)) <= BUDGET
    await counted(session)


async def test_while_a_turn_runs_its_memory_is_not_pruned(session, script):
    for number in range(4):
        await ask(session, f"Message {number}")
    gate = asyncio.Event()
    script(Say("", pieces=["Once", " upon"], gate=gate))
    turn = await say(session, "Tell me a story")
    await until_said(turn, "Once")
    before = await memory(session)
    await lanes.call(lambda: ChatSession.objects.filter(id=session.id).update(remembered_count=99))
    prune = partial(pruning.prune, session_id=session.id, now=timezone.now())
    assert await lanes.write(prune) == 0
    assert await memory(session) == before
    gate.set()
    await told(turn)
    assert len(SCRIPT.inputs[-1]) == 9


async def test_a_message_that_is_stopped_while_it_waits_prunes_nothing_of_what_runs(
    session, script
):
    for number in range(4):
        await ask(session, f"Message {number}")
    gate = asyncio.Event()
    script(Call("look_up"), Say("", pieces=["Once", " upon"], gate=gate))
    running = await say(session, "Tell me a story")
    await until_said(running, "Once")
    waiting = await say(session, "And another")
    waiting.stop("stopped")
    await told(waiting)
    assert len(await memory(session)) > BUDGET
    gate.set()
    await told(running)
    assert len(await memory(session)) <= BUDGET
    await counted(session)
