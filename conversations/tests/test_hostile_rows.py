"""Rows that others wrote behind our back, anywhere in a conversation: they cost nobody a turn."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone

from conversations import lanes, sweeps
from conversations.events import SESSION_CORRUPTED, TurnCompleted
from conversations.history import OUTPUT_OF
from conversations.ids import new_id
from conversations.models import ChatMessage, ChatSession, ChatTurn
from conversations.store import restoring
from conversations.store.log import MESSAGE, SESSION
from conversations.tests import scripted
from conversations.tests.scripted import Call, Say
from conversations.tests.sweeps_helpers import die, speak, statuses
from conversations.tests.test_history import assert_whole
from conversations.tests.turns_helpers import (
    ask,
    log,
    row,
    say,
    shown,
    stored,
    told,
    until_said,
    warnings,
    words,
)
from conversations.tests.turns_processes import Speaker, speaking

ROOM = 100
"""Between any two rows of the conversation."""

NO_ITEM = [
    '{"role": "user", "cont',
    "",
    '"x"',
    '["x"]',
    "null",
    "7",
    "-0.0",
    "NaN",
    "[{}]",
    "{} {}",
]
NO_TEXT = ["x'00fffe'", "CAST(x'7b22ff' AS TEXT)", "'{' || char(0) || '}'", "x'7b7d00'"]
DANGLING = [{"type": "reasoning", "id": "rs_gone", "summary": []}]
WITHOUT_CAUSE: list[dict[str, Any]] = [
    *[
        {"type": kind, "call_id": "gone", "output": "x"}
        for kind in OUTPUT_OF.values()
        if kind not in {"mcp_approval_response", "tool_search_output"}
    ],
    {"type": "mcp_approval_response", "approval_request_id": "gone", "approve": True},
    {"type": "tool_search_output", "tools": []},
    {"type": "function_call_output", "output": "x"},
    {
        "type": "function_call",
        "call_id": "of_a_program",
        "name": "look_up",
        "arguments": "{}",
        "caller": {"type": "program", "caller_id": "gone"},
    },
    {
        "type": "function_call_output",
        "call_id": "of_a_program",
        "output": "x",
        "caller": {"type": "program", "caller_id": "gone"},
    },
]


def hostile(chance: random.Random) -> str:
    """An SQL expression of something that must never be sent."""
    sorts: list[list[Any]] = [NO_ITEM, WITHOUT_CAUSE, DANGLING]
    if connection.vendor == "sqlite":
        sorts.append(NO_TEXT)
    sort = chance.choice(sorts)
    value = chance.choice(sort)
    if sort is NO_TEXT:
        return str(value)
    text = value if isinstance(value, str) else json.dumps(value)
    return "'" + text.replace("'", "''") + "'"


def insert(session: Any, position: int, value: str) -> Any:
    """A row as somebody's script may write it: only what the columns ask for, and not counted."""
    key = new_id()
    is_sqlite = connection.vendor == "sqlite"
    with connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO {MESSAGE} (id, session_id, position, kind, role, call_id, text, shown,"
            f" incomplete, agent_item, created_at) VALUES (%s, %s, %s, 'odd', '', '', '', %s, %s,"
            f" {value.replace('%', '%%')}, %s)",
            [
                lanes.from_uuid(key, is_sqlite=is_sqlite),
                lanes.from_uuid(session.id, is_sqlite=is_sqlite),
                position,
                False,
                False,
                lanes.from_moment(timezone.now(), is_sqlite=is_sqlite),
            ],
        )
    return key


def make_room(session: Any) -> int:
    """Spread the rows; returns the last position."""
    with connection.cursor() as cursor:
        cursor.execute(f"UPDATE {MESSAGE} SET position = position * {-ROOM}")  # never in the way
        cursor.execute(f"UPDATE {MESSAGE} SET position = -position")
        cursor.execute(f"UPDATE {SESSION} SET last_position = last_position * {ROOM}")
    session.refresh_from_db()
    return int(session.last_position)


async def talk(session: Any, script: Callable[..., scripted.Script]) -> None:
    for number in range(3):
        script(Call("look_up", say="Let me look. "), Call("look_up"), Say("Found it."))
        await ask(session, f"question {number}")


async def aside(session: Any) -> dict[Any, str]:
    rows = ChatMessage.objects.filter(session=session, quarantined_at__isnull=False)
    return await lanes.call(lambda: dict(rows.values_list("id", "quarantine_reason")))


async def look(session: Any) -> tuple[int, int, int]:
    """Remembered, set aside, in all: as they are counted, and that they are counted right."""
    found = await stored(session)
    rows = ChatMessage.objects.filter(session=session)
    remembered = rows.filter(agent_item__isnull=False, quarantined_at__isnull=True)
    counted = (found.remembered_count, found.quarantined_count)
    assert counted == await lanes.call(
        lambda: (remembered.count(), rows.filter(quarantined_at__isnull=False).count())
    )
    return *counted, await lanes.call(rows.count)


@pytest.mark.parametrize("seed", range(8))
async def test_the_next_turn_is_answered_from_a_valid_memory_and_the_rows_are_kept(
    seed, session, script
):
    chance = random.Random(seed)
    await talk(session, script)
    good = {message.id for message in await log(session)}
    last = await lanes.call(make_room, session)
    before, within = range(1, ROOM), [place for place in range(1, last) if place % ROOM]
    chosen = [*chance.sample(before, chance.randint(0, 3)), *chance.sample(within, 5)]
    behind = range(last + 1, last + 1 + chance.randint(0, 3))  # where the turn's rows are to go
    written = {
        await lanes.call(insert, session, position, hostile(chance))
        for position in {*chosen, *behind}
    }

    events = await ask(session, "and now?")
    assert isinstance(events[-1], TurnCompleted)
    assert words(events).startswith("I remember: question 0 | question 1 | question 2 | and now?")
    found = await aside(session)
    assert warnings(events) == ([SESSION_CORRUPTED] if found else [])
    assert all(found.values())
    assert_whole([item for item in scripted.SCRIPT.inputs[-1] if isinstance(item, dict)])
    assert all(isinstance(item, dict) for item in scripted.SCRIPT.inputs[-1])
    sent = json.dumps(scripted.SCRIPT.inputs[-1])
    assert "gone" not in sent.replace("rs_gone", "")
    _, _, in_all = await look(session)
    assert in_all == len(good | written) + 2

    events = await ask(session, "and now?")
    assert isinstance(events[-1], TurnCompleted)
    assert warnings(events) == []
    assert await aside(session) == found


@pytest.mark.parametrize("seed", range(4))
async def test_what_was_written_is_kept_to_be_put_back_where_it_fits(seed, session, script):
    """The rows of the conversation itself are struck, and repaired by hand."""
    chance = random.Random(seed)
    await talk(session, script)
    before = await log(session)
    struck = chance.sample(before, chance.randint(1, 6))

    def write(values: dict[Any, str]) -> None:
        for key, text in values.items():
            ChatMessage.objects.filter(id=key).update(agent_item=text)

    await lanes.call(write, {message.id: chance.choice(NO_ITEM) for message in struck})
    events = await ask(session, "and now?")
    assert isinstance(events[-1], TurnCompleted)
    assert warnings(events) == [SESSION_CORRUPTED]
    found = await aside(session)
    assert found.keys() >= {message.id for message in struck}
    assert_whole(scripted.SCRIPT.inputs[-1])

    await lanes.call(write, {message.id: message.agent_item for message in struck})
    restored = await lanes.write(partial(restoring.restore, session_id=session.id))
    assert (set(restored.message_ids), restored.left) == (found.keys(), {})
    assert await look(session) == (len(before) + 2, 0, len(before) + 2)
    events = await ask(session, "once more?")
    assert words(events).startswith("I remember: question 0 | question 1 | question 2 | and now?")
    assert warnings(events) == []
    after = [message.agent_item for message in await log(session)]
    assert after[: len(before)] == [message.agent_item for message in before]


@pytest.mark.slow
def test_of_the_turns_of_two_processes_only_the_one_that_finds_them_says_so(session):
    lanes.perform(lambda db: db.run(f"UPDATE {SESSION} SET last_position = 2"))
    for position, value in ((1, "'{'"), (2, "'7'")):
        insert(session, position, value)
    speakers = [Speaker(session, *(f"{process}.{n}" for n in range(3))) for process in range(2)]
    with speaking(*speakers):
        for speaker in speakers:
            speaker.hear("go")
        for speaker in speakers:
            speaker.ends_well()
    found = ChatTurn.objects.filter(session=session).order_by("number")
    assert list(found.values_list("warning", flat=True)) == [SESSION_CORRUPTED, *[""] * 5]
    session.refresh_from_db()
    assert session.quarantined_count == 2


# Rows of another program, where ours are to be stored next


def stand_in_the_way(session: Any, *, places: int) -> None:
    """Another program added a row that it did not count."""
    last = ChatSession.objects.values_list("last_position", flat=True).get(id=session.id)
    ChatMessage.objects.create(
        session=session, position=last + places, kind="message", role="user", agent_item="{}"
    )


@pytest.mark.parametrize("places", [1, 2, 3])
async def test_a_row_where_the_answer_was_to_be_stored_costs_nobody_the_answer(
    session, script, places
):
    gate = asyncio.Event()
    script(Call("look_up", "{}"), Say("", pieces=["Found", " it"], gate=gate))
    turn = await say(session, "Look it up")
    await until_said(turn, "Found")
    await lanes.call(partial(stand_in_the_way, session, places=places))
    gate.set()
    events = await told(turn)
    assert (words(events), warnings(events)) == ("Found it", [])
    assert await shown(session) == [("user", "Look it up"), ("assistant", "Found it")]
    assert (await row(turn)).status == "completed"


def test_a_row_where_a_cut_answer_was_to_be_stored_does_not_keep_the_sweep(session, gone):
    speak(session, "Tell me", process="dead", said="Once upon")
    die("dead", gone)
    stand_in_the_way(session, places=1)
    assert sweeps.recover_turns(now=timezone.now()) == 1
    assert statuses(session) == ["interrupted"]
