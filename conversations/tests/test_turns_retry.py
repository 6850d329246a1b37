"""A question asked once more, in its place: what followed goes, and there is one answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest

from conversations import lanes, turns
from conversations.errors import (
    IdempotencyConflict,
    ShuttingDown,
    StoreBusy,
    StoreError,
    StoreReadOnly,
    ThreadClosed,
    ThreadHeld,
    ThreadNotFound,
    TurnNotFound,
)
from conversations.events import TurnCompleted, TurnFailed
from conversations.models import ChatSession
from conversations.store import tickets
from conversations.tests import scripted
from conversations.tests.scripted import Call, Say
from conversations.tests.turns_helpers import (
    abandon,
    ask,
    log,
    rows,
    say,
    shown,
    stored,
    told,
    until_said,
    words,
)
from conversations.turns.admission import Said
from conversations.turns.desk import Desk, desk


@pytest.fixture
def gate() -> asyncio.Event:
    """Holds a scripted answer after its first piece."""
    return asyncio.Event()


@pytest.fixture
async def other_desk() -> AsyncIterator[Desk]:
    """The desk of another process, as far as the database can tell."""
    other = Desk()
    yield other
    await other.drain(0)


async def retry(session: Any, turn: Any, **options: Any) -> Any:
    return await turns.retry(
        session_id=session.id, owner_id=session.owner_id, turn_id=turn.id, **options
    )


async def retried(session: Any, turn: Any, **options: Any) -> str:
    """What is answered."""
    return words(await told(await retry(session, turn, **options)))


async def questions(session: Any) -> list[str]:
    return [text for role, text in await shown(session) if role == "user"]


async def memory_fits(session: Any) -> None:
    """The next answer tells of exactly the questions that people see."""
    asked = await questions(session)
    assert words(await ask(session, "And?")) == "I remember: " + " | ".join([*asked, "And?"])
    found, messages = await stored(session), await log(session)
    assert found.item_count == len(messages)
    assert found.message_count == sum(message.shown for message in messages)
    assert found.remembered_count == sum(message.agent_item is not None for message in messages)


# --- What is asked again ------------------------------------------------------------------------


async def test_the_last_question_is_answered_once_more(session, script):
    await ask(session, "one")
    script(Say("No idea."))
    await ask(session, "two")
    _, second = await rows(session)
    again = await retry(session, second)
    events = await told(again)
    assert words(events) == "I remember: one | two"
    done = events[-1]
    assert isinstance(done, TurnCompleted)
    assert done.user_message_id == second.user_message_id
    assert done.message_id != second.answer_message_id
    assert await shown(session) == [
        *[("user", "one"), ("assistant", "I remember: one")],
        *[("user", "two"), ("assistant", "I remember: one | two")],
    ]
    assert [turn.number for turn in await rows(session)] == [1, 2, 3]
    await memory_fits(session)


async def test_a_question_can_be_changed(session):
    await ask(session, "one")
    (turn,) = await rows(session)
    assert await retried(session, turn, text="two") == "I remember: two"
    assert (await log(session))[0].id != turn.user_message_id
    assert await questions(session) == ["two"]
    await memory_fits(session)


async def test_all_that_followed_an_earlier_question_goes(session, script):
    await ask(session, "one")
    script(Call("look_up", '{"word": "it"}', say="Let me look. "), Say("It is here."))
    for text in ("two", "three", "four"):
        await ask(session, text)
    second = (await rows(session))[1]
    assert await retried(session, second) == "I remember: one | two"
    assert await questions(session) == ["one", "two"]
    await memory_fits(session)


async def test_a_question_that_was_not_answered_is_answered(session, script):
    script(Say("a b", then=RuntimeError()))
    turn = await say(session, "one")
    assert isinstance((await told(turn))[-1], TurnFailed)
    assert await retried(session, turn) == "I remember: one"
    assert await shown(session) == [("user", "one"), ("assistant", "I remember: one")]
    await memory_fits(session)


async def test_an_answer_that_was_stopped_is_given_once_more(session, script, gate):
    script(Say("a b", gate=gate))
    turn = await say(session, "one")
    await until_said(turn, "a ")
    turn.stop("stopped")
    await turns.settled(session.id)
    assert await retried(session, turn) == "I remember: one"
    assert await shown(session) == [("user", "one"), ("assistant", "I remember: one")]
    await memory_fits(session)


async def test_a_question_whose_process_is_gone_is_answered(session):
    ticket = await abandon(session, "one", recorded="Once")
    again = await turns.retry(
        session_id=session.id, owner_id=session.owner_id, turn_id=ticket.turn_id
    )
    assert words(await told(again)) == "I remember: one"
    assert await shown(session) == [("user", "one"), ("assistant", "I remember: one")]
    assert [turn.status for turn in await rows(session)] == ["interrupted", "completed"]


async def test_it_is_retried_again_and_again(session):
    await ask(session, "one")
    (turn,) = await rows(session)
    question = turn.user_message_id
    for _ in range(3):
        turn = await retry(session, turn)
        assert (await told(turn))[-1].user_message_id == question
    assert await shown(session) == [("user", "one"), ("assistant", "I remember: one")]
    assert [turn.number for turn in await rows(session)] == [1, 2, 3, 4]


# --- While something runs -----------------------------------------------------------------------


async def test_an_answer_that_is_being_given_is_ended_first(session, script, gate):
    script(Say("a b", gate=gate))
    running, waiting = await say(session, "one"), await say(session, "two")
    await until_said(running, "a ")
    again = await retry(session, running)
    assert running.closed
    assert waiting.closed
    assert words(await told(again)) == "I remember: one"
    assert (await told(running))[-1].status == "cancelled"
    assert await shown(session) == [("user", "one"), ("assistant", "I remember: one")]
    assert [turn.status for turn in await rows(session)] == ["cancelled", "cancelled", "completed"]
    await memory_fits(session)


async def test_a_question_that_waits_comes_to_its_turn_and_keeps_the_order(session, script, gate):
    script(Say("a b", gate=gate))
    turns_said = [await say(session, text) for text in ("one", "two", "three")]
    await until_said(turns_said[0], "a ")
    again = await retry(session, turns_said[1])
    await told(again)
    assert await questions(session) == ["one", "two"]
    assert [text for _, text in await shown(session)][:2] == ["one", "a …"]
    assert words(await ask(session, "And?")) == "I remember: one | two | And?"


async def test_an_answer_of_another_process_is_taken_away(session, script, gate, other_desk):
    script(Say("a b", gate=gate))
    theirs = await other_desk.send(Said(session.id, session.owner_id, "one"))
    waits = await other_desk.send(Said(session.id, session.owner_id, "two"))
    await until_said(theirs, "a ")
    assert await retried(session, theirs) == "I remember: one"
    gate.set()
    for turn in (theirs, waits):
        last = (await told(turn))[-1]
        assert isinstance(last, TurnFailed)
        assert last.code == "interrupted"
    assert await shown(session) == [("user", "one"), ("assistant", "I remember: one")]
    assert [turn.status for turn in await rows(session)] == [
        *["interrupted", "interrupted"],
        "completed",
    ]
    await memory_fits(session)


async def test_of_two_who_retry_at_once_one_is_answered_and_nobody_ends_it(session):
    await ask(session, "one")
    (turn,) = await rows(session)
    both = await asyncio.gather(*[retry(session, turn) for _ in range(2)], return_exceptions=True)
    answered = [one for one in both if not isinstance(one, Exception)]
    assert [type(one) for one in both if isinstance(one, Exception)] == [TurnNotFound]
    assert words(await told(answered[0])) == "I remember: one"
    assert await shown(session) == [("user", "one"), ("assistant", "I remember: one")]
    assert [turn.status for turn in await rows(session)] == ["completed", "completed"]


async def test_two_processes_that_retry_at_once_keep_the_order(session, other_desk):
    for text in ("one", "two", "three"):
        await ask(session, text)
    first, second, _ = await rows(session)
    both = await asyncio.gather(
        retry(session, first),
        other_desk.retry(
            session_id=session.id,
            owner_id=session.owner_id,
            turn_id=second.id,
            text="two!",
            idempotency_key=None,
        ),
        return_exceptions=True,
    )
    for one in both:
        if isinstance(one, Exception):
            assert isinstance(one, TurnNotFound)  # the other one took its question back
        else:
            await told(one)
    assert await shown(session) == [("user", "one"), ("assistant", "I remember: one")]
    await memory_fits(session)


async def test_what_is_said_while_a_question_is_retried_is_answered_behind_it_or_taken_back(
    session,
):
    await ask(session, "one")
    (turn,) = await rows(session)
    again, said = await asyncio.gather(retry(session, turn), say(session, "two"))
    for each in (again, said):
        await told(each)
    assert await questions(session) in (["one"], ["one", "two"])
    await memory_fits(session)


# --- The same request again ---------------------------------------------------------------------


async def test_the_same_key_is_the_same_turn_and_ends_nothing(session, script, gate):
    await ask(session, "one")
    (turn,) = await rows(session)
    script(Say("a b", gate=gate))
    again = await retry(session, turn, idempotency_key="k")
    await until_said(again, "a ")
    assert await retry(session, turn, idempotency_key="k") is again
    gate.set()
    heard = await told(again)
    await turns.settled(session.id)
    await ask(session, "two")
    before = await shown(session)
    followed = await retry(session, turn, idempotency_key="k")
    assert await told(followed) == heard
    assert await shown(session) == before
    with pytest.raises(IdempotencyConflict):
        await retry(session, turn, idempotency_key="k", text="other")


async def test_a_crowd_with_the_same_key_is_one_turn(session):
    await ask(session, "one")
    (turn,) = await rows(session)
    crowd = await asyncio.gather(*[retry(session, turn, idempotency_key="k") for _ in range(8)])
    assert len({one.id for one in crowd}) == 1
    assert {words(await told(one)) for one in crowd} == {"I remember: one"}
    assert len(await rows(session)) == 2


# --- Refusals -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "changes", "error"),
    [
        ({"owner_id": -1}, {}, ThreadNotFound),
        ({"session_id": uuid4()}, {}, ThreadNotFound),
        ({"turn_id": uuid4()}, {}, TurnNotFound),
        ({"idempotency_key": "1"}, {}, IdempotencyConflict),
        ({}, {"status": "closed"}, ThreadClosed),
        ({}, {"status": "locked"}, ThreadClosed),
        ({}, {"hold": True}, ThreadHeld),
    ],
)
async def test_a_refusal_comes_before_anything_is_ended(
    session, script, gate, options, changes, error
):
    script(Say("a b", gate=gate))
    turn = await say(session, "one", idempotency_key="1")
    await until_said(turn, "a ")
    await lanes.call(ChatSession.objects.filter(id=session.id).update, **changes or {"title": "x"})
    asked = {"session_id": session.id, "owner_id": session.owner_id, "turn_id": turn.id}
    with pytest.raises(error):
        await turns.retry(**asked | options)
    assert not turn.closed
    gate.set()
    assert (await told(turn))[-1].status == "completed"
    assert await shown(session) == [("user", "one"), ("assistant", "a b")]


@pytest.mark.parametrize("change", [{"status": "closed"}, {"hold": True}])
async def test_a_refusal_at_the_last_moment_takes_nothing_back(session, change, monkeypatch):
    await ask(session, "one")
    (turn,) = await rows(session)

    async def meanwhile(*_: Any) -> None:
        await lanes.call(ChatSession.objects.filter(id=session.id).update, **change)

    monkeypatch.setattr(desk(), "_stop", meanwhile)
    with pytest.raises(ThreadClosed if "status" in change else ThreadHeld):
        await retry(session, turn)
    monkeypatch.undo()
    assert await shown(session) == [("user", "one"), ("assistant", "I remember: one")]
    assert len(await rows(session)) == 1


async def test_a_process_that_stops_takes_nothing_back(session, script, gate, monkeypatch):
    script(Say("a b", gate=gate))
    turn = await say(session, "one")
    await until_said(turn, "a ")
    monkeypatch.setattr(desk(), "draining", True)
    with pytest.raises(ShuttingDown):
        await retry(session, turn)
    assert not turn.closed
    gate.set()
    assert (await told(turn))[-1].status == "completed"


# --- Faults -------------------------------------------------------------------------------------


@pytest.mark.parametrize("ways", [["read", "write"], ["write"]])
async def test_without_the_store_nothing_is_answered(session, ways, monkeypatch):
    await ask(session, "one")
    (turn,) = await rows(session)
    asked = len(scripted.SCRIPT.inputs)

    async def refuse(*_: Any, **__: Any) -> None:
        raise StoreReadOnly

    for way in ways:
        monkeypatch.setattr(lanes, way, refuse)
    with pytest.raises(StoreError):
        await retry(session, turn)
    assert not desk()._turns
    monkeypatch.undo()
    assert len(scripted.SCRIPT.inputs) == asked
    assert await shown(session) == [("user", "one"), ("assistant", "I remember: one")]
    assert await retried(session, turn) == "I remember: one"


async def test_who_was_not_verified_takes_nothing_back(session):
    await ask(session, "one")
    (turn,) = await rows(session)

    async def verify() -> None:
        raise AssertionError

    said = Said(session.id, session.owner_id, "one", None, verify, rewinds_to=turn.id)
    with pytest.raises(StoreError):
        await desk().send(said)
    assert await shown(session) == [("user", "one"), ("assistant", "I remember: one")]


async def test_what_was_taken_unheard_is_answered_once(session, monkeypatch):
    """The commit was done, and its answer was lost."""
    await ask(session, "one")
    (turn,) = await rows(session)
    write, lost = lanes.write, []

    async def unheard(job: Any) -> Any:
        result = await write(job)
        if not lost:
            lost.append(result)
            raise StoreBusy
        return result

    monkeypatch.setattr(lanes, "write", unheard)
    again = await retry(session, turn)
    monkeypatch.undo()
    assert again.id == lost[0].turn_id
    assert words(await told(again)) == "I remember: one"
    assert await shown(session) == [("user", "one"), ("assistant", "I remember: one")]
    await memory_fits(session)


async def test_a_crash_between_leaves_the_old_conversation(session, monkeypatch):
    for text in ("one", "two"):
        await ask(session, text)
    first, _ = await rows(session)
    before = [(message.id, message.position) for message in await log(session)]

    class Crash(Exception):
        pass

    def crash(*_: Any, **__: Any) -> None:
        raise Crash

    monkeypatch.setattr(tickets, "load_window", crash)  # the very last that is done
    with pytest.raises(Crash):
        await retry(session, first)
    monkeypatch.undo()
    assert [(message.id, message.position) for message in await log(session)] == before
    assert len(await rows(session)) == 2
    await memory_fits(session)


async def test_a_conversation_whose_counters_are_wrong_is_mended(session):
    for text in ("one", "two"):
        await ask(session, text)
    _, second = await rows(session)
    wrong = {"last_position": 0, "last_turn_number": 0, "message_count": 0}
    await lanes.call(ChatSession.objects.filter(id=session.id).update, **wrong)
    assert await retried(session, second) == "I remember: one | two"
    await memory_fits(session)
