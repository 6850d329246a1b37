"""The k-th statement of a turn fails, for every k: it is closed once, and the log is whole.

As SQLite's own tests fail the k-th write; and so with the k-th commit, also one that was done
although nobody heard of it.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from typing import Any

import pytest

from conversations import lanes
from conversations.events import NOT_SAVED, TurnCompleted, TurnEvent, TurnFailed
from conversations.tests import factories, scripted
from conversations.tests.faults.agent import find_fault
from conversations.tests.faults.statements import COMMITTED, Fault, breakable, kinds
from conversations.tests.scripted import Call, Say
from conversations.tests.turns_helpers import (
    ask,
    counters_fit,
    log,
    rows,
    say,
    told,
    until,
    until_said,
    warnings,
    words,
)
from conversations.turns.desk import desk
from conversations.turns.live import LiveTurn

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

logger = logging.getLogger(__name__)

MOST = 200
LEASE = 1.0
LIVE = {"queued", "running"}

Story = Callable[[Any, Callable[[], None]], Awaitable[list[LiveTurn]]]
"""Says something in a session, calling back when from now on statements may fail."""


@pytest.fixture
def fault(transactional_db: None, settings: Any) -> Iterator[Fault]:
    settings.CHAT_LEASE_SECONDS = LEASE
    settings.CHAT_STORE_BUDGET_SECONDS = 0.2
    with breakable() as fault:
        yield fault


@pytest.fixture
async def _watch() -> AsyncIterator[None]:
    """As a server does, look after what nobody speaks of any more."""
    desk().look_after_abandoned()
    yield
    desk()._heartbeat.end()


async def plain(session: Any, begin: Callable[[], None]) -> list[LiveTurn]:
    begin()
    return [await say(session, "Hello")]


async def with_tool(session: Any, begin: Callable[[], None]) -> list[LiveTurn]:
    look = Call("look_up", '{"word": "tea"}', say="Let me look. ")
    scripted.SCRIPT.steps += [look, Say("It is here.")]
    begin()
    return [await say(session, "Hello")]


async def queued(session: Any, begin: Callable[[], None]) -> list[LiveTurn]:
    gate = asyncio.Event()
    scripted.SCRIPT.steps.append(Say("a b", gate=gate))
    first = await say(session, "First")
    await until_said(first, "a ")
    begin()
    second = await say(session, "Second")
    gate.set()
    return [first, second]


async def stopped(session: Any, begin: Callable[[], None]) -> list[LiveTurn]:
    scripted.SCRIPT.steps.append(Say("a b", gate=asyncio.Event()))
    begin()
    turn = await say(session, "Hello")
    await until_said(turn, "a ")
    turn.stop("stopped")
    return [turn]


async def failing(session: Any, begin: Callable[[], None]) -> list[LiveTurn]:
    scripted.SCRIPT.steps.append(Say("a b", then=RuntimeError()))
    begin()
    return [await say(session, "Hello")]


LONG = pytest.mark.long
STORIES = [
    plain,
    pytest.param(with_tool, marks=LONG),
    queued,
    *[pytest.param(story, marks=LONG) for story in (stopped, failing)],
]
FEW_KINDS = [kinds()[0], *[pytest.param(kind, marks=LONG) for kind in kinds()[1:]]]


@pytest.mark.parametrize("story", STORIES)
@pytest.mark.parametrize("kind", FEW_KINDS)
@pytest.mark.usefixtures("_watch")
async def test_whichever_statement_fails_the_turn_closes_once_and_the_log_is_whole(
    user, fault, story, kind
):
    await for_every_k(user, fault, story, kind)


@pytest.mark.parametrize("story", STORIES)
@pytest.mark.parametrize("kind", [pytest.param(kinds()[-1], marks=LONG)])
@pytest.mark.usefixtures("_watch")
async def test_from_whichever_statement_on_all_fail_the_turn_closes_once_and_the_log_is_whole(
    user, fault, story, kind
):
    await for_every_k(user, fault, story, kind, lasts=True)


@pytest.mark.parametrize("story", STORIES)
@pytest.mark.parametrize("kind", [*FEW_KINDS, COMMITTED])
@pytest.mark.usefixtures("_watch")
async def test_whichever_commit_fails_the_turn_closes_once_and_the_log_is_whole(
    user, fault, story, kind
):
    """Also one that was done although its answer was lost."""
    await for_every_k(user, fault, story, kind, in_commits=True)


@pytest.mark.usefixtures("_watch")
async def test_an_answer_is_saved_by_its_own_process_although_the_store_was_away_for_a_lease(
    session, script, fault, monkeypatch
):
    """The store is back between the two halves of a beat."""
    gate = asyncio.Event()
    script(Say("a b", gate=gate))
    turn = await say(session, "Hello")
    await until_said(turn, "a ")
    fault.arm(kinds()[-1], at=1, lasts=True)
    gate.set()
    assert NOT_SAVED in warnings(await told(turn))
    heartbeat, loop = desk()._heartbeat, asyncio.get_running_loop()
    look, has_run_out = heartbeat._look_after_abandoned, loop.time() + LEASE
    loop.call_later(3 * LEASE, fault.disarm)  # where nobody looks meanwhile

    async def look_once_it_is_back() -> None:
        if loop.time() > has_run_out:
            fault.disarm()
        await look()

    monkeypatch.setattr(heartbeat, "_look_after_abandoned", look_once_it_is_back)
    await until(partial(is_quiet, session))
    assert [(one.role, one.text) for one in await log(session) if one.shown] == [
        ("user", "Hello"),
        ("assistant", "a b"),
    ]


async def for_every_k(user: Any, fault: Fault, story: Story, kind: str, **how: bool) -> None:
    """Until a turn passes in which nothing failed."""
    endings: Counter[str] = Counter()
    for k in itertools.count(1):
        assert k < MOST, "every turn fails in more and more statements"
        session = await lanes.call(factories.ChatSessionFactory, owner=user)
        assert words(await ask(session, "Before")) == "I remember: Before"
        said = await story(session, partial(fault.arm, kind, at=k, **how))
        events = [await told(turn) for turn in said]
        was_hit = fault.disarm()
        try:
            await until(partial(is_quiet, session))
            # Where it took longer than a lease, others may have closed what was not saved in time.
            took_long = any(getattr(heard[-1], "code", "") == "interrupted" for heard in events)
            is_sure = kind != COMMITTED and not took_long
            for turn, heard in zip(said, events, strict=True):
                endings[await assert_kept(session, turn, heard, is_sure=is_sure)] += 1
            await assert_goes_on(session)
        except BaseException as error:
            error.add_note(f"k = {k}, {kind}, {how}: {fault.hit[:3]}")
            raise
        if not was_hit:
            assert k > 1
            logger.info("%s, %s, %s: %d, %s", story.__name__, kind, how, k - 1, dict(endings))
            return


async def assert_goes_on(session: Any) -> None:
    """What is stored is whole, and the next message is answered as ever."""
    await assert_whole(session)
    scripted.SCRIPT.clear()
    events = await ask(session, "After")
    assert words(events).startswith("I remember: Before")
    assert words(events).endswith("After")
    assert isinstance(events[-1], TurnCompleted)
    assert warnings(events) == []
    await assert_whole(session)


async def is_quiet(session: Any) -> bool:
    """Nothing is open, neither here nor in the store."""
    if desk()._turns or desk()._heartbeat._unclosed:
        return False
    return all(turn.status not in LIVE for turn in await rows(session))


async def assert_whole(session: Any) -> None:
    """Counters, positions and memory are what the rows say."""
    await counters_fit(session)
    messages = await log(session)
    items = [json.loads(one.agent_item) for one in messages if one.agent_item is not None]
    assert find_fault(items) == ""
    turns = await rows(session)
    assert all(turn.finished_at for turn in turns)
    for turn in turns:
        its = [one for one in messages if one.turn_id == turn.id and one.shown]
        assert [one.role for one in its] in (["user"], ["user", "assistant"])
        assert turn.answer_message_id == (its[1].id if len(its) > 1 else None)


async def assert_kept(
    session: Any, turn: LiveTurn, events: list[TurnEvent], *, is_sure: bool
) -> str:
    """It was closed once, and is stored as its sender was told; returns how it ended."""
    closings = [event for event in events if isinstance(event, TurnCompleted | TurnFailed)]
    assert closings == events[-1:]
    (closing,) = closings
    stored = {row.id: row for row in await rows(session)}.get(turn.id)
    shown = [one for one in await log(session) if one.turn_id == turn.id and one.shown]
    same = [one for one in await log(session) if one.role == "user" and one.text == turn.text]
    assert len(same) <= 1
    if isinstance(closing, TurnFailed):
        # One that was told to be interrupted may be answered after all: it had a place in the line.
        assert stored is None or stored.status in {"failed", "interrupted", "completed"}
        return f"failed: {closing.code}"
    is_unsaved = NOT_SAVED in {closing.warning, *warnings(events)}
    if not is_unsaved:
        assert stored is not None
        assert stored.status == closing.status
        assert closing.user_message_id == shown[0].id
    if not same:
        assert is_unsaved
    elif is_sure or not is_unsaved:
        (question, answer) = shown
        assert (question.text, answer.text) == (turn.text, words(events))
        assert answer.incomplete is (closing.status == "cancelled")
    return f"{closing.status}{', not saved' if is_unsaved else ''}"
