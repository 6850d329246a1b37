"""A conversation as it was before a turn: all of the log from there on goes, or none of it."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.db import connection
from django.utils import timezone

from conversations import lanes
from conversations.agents_session import AgentSession
from conversations.errors import (
    IdempotencyConflict,
    StoreError,
    ThreadClosed,
    ThreadHeld,
    ThreadNotFound,
    TurnNotFound,
)
from conversations.ids import new_id
from conversations.models import Attachment, ChatMessage, ChatSession, ChatTurn, RecordedEvents
from conversations.store import log as store_log
from conversations.store import recall, rewinding, stops, tickets
from conversations.store.leases import Holder
from conversations.store.repeats import Repeat
from conversations.store.rewinding import Rewound, SaidBefore
from conversations.tests import factories
from conversations.tests.faults.statements import Fault, breakable, kinds
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
)

HERE = Holder("here", 15_000)
on_sqlite = pytest.mark.skipif(
    "connection.vendor != 'sqlite'", reason="another engine refuses what is not of its type"
)


async def rewind(session: Any, turn: Any, **changes: Any) -> Rewound:
    options = {
        "session_id": session.id,
        "owner_id": session.owner_id,
        "turn_id": id_of(turn),
        "now": timezone.now(),
    }
    return await lanes.write(partial(rewinding.rewind, **options | changes))


async def submit(session: Any, text: str, **changes: Any) -> Any:
    options = {
        "holder": HERE,
        "session_id": session.id,
        "owner_id": session.owner_id,
        "turn_id": new_id(),
        "text": text,
        "idempotency_key": None,
        "now": timezone.now(),
        "max_queued": 5,
    }
    return await lanes.write(partial(tickets.submit, **options | changes))


async def find(session: Any, turn: Any, **changes: Any) -> str | Repeat:
    options = {
        "session_id": session.id,
        "owner_id": session.owner_id,
        "turn_id": id_of(turn),
        "text": None,
        "idempotency_key": None,
        "now": timezone.now(),
    }
    return await lanes.read(partial(rewinding.find_said, **options | changes))


def id_of(turn: Any) -> UUID:
    if isinstance(turn, UUID):
        return turn
    found: UUID = turn.turn_id if hasattr(turn, "turn_id") else turn.id
    return found


async def remembered(session: Any) -> list[Any]:
    items = (await lanes.read(partial(recall.load_window, session_id=session.id))).items
    return [item.get("content") for item in items if item.get("role") == "user"]


async def recorded_turns() -> set[UUID]:
    ids = RecordedEvents.objects.values_list("turn_id", flat=True)
    return await lanes.call(lambda: set(ids))


async def change(session: Any, **values: Any) -> None:
    await lanes.call(ChatSession.objects.filter(id=session.id).update, **values)


async def counters_are_right(session: Any) -> None:
    """What is counted is what the rows say, and nothing comes where something was before."""
    found, messages = await stored(session), await log(session)
    assert found.item_count == len(messages)
    assert found.message_count == sum(message.shown for message in messages)
    assert found.quarantined_count == sum(m.quarantined_at is not None for m in messages)
    assert found.remembered_count == sum(
        m.agent_item is not None and m.quarantined_at is None for m in messages
    )
    assert all(message.position <= found.last_position for message in messages)


async def everything() -> list[Any]:
    models = (ChatSession, ChatTurn, ChatMessage, RecordedEvents)
    return await lanes.call(lambda: [list(m.objects.order_by("pk").values()) for m in models])


@pytest.fixture
async def talked(session: Any, script: Any) -> Any:
    """Three messages, each with its key and its answer; for the second, a tool is used."""
    await ask(session, "one", idempotency_key="1")
    script(Call("look_up", '{"word": "it"}', say="Let me look. "), Say("It is here."))
    await ask(session, "two", idempotency_key="2")
    await ask(session, "three", idempotency_key="3")
    return session


# --- What goes, and what stays ------------------------------------------------------------------


async def test_a_turn_and_all_that_came_after_it_go_from_transcript_and_memory(talked):
    before, messages = await stored(talked), await log(talked)
    _, second, _ = await rows(talked)
    rewound = await rewind(talked, second)
    question = next(message for message in messages if message.text == "two")
    gone = [message for message in messages if message.position >= question.position]
    assert rewound == Rewound("two", question.id, 4, len(gone))
    assert len(gone) == 7
    assert await shown(talked) == [("user", "one"), ("assistant", "I remember: one")]
    assert await remembered(talked) == ["one"]
    await counters_are_right(talked)
    after = await stored(talked)
    for kept in ("last_position", "last_turn_number", "fence", "pruned_count", "title"):
        assert getattr(after, kept) == getattr(before, kept)
    assert (after.input_tokens, after.output_tokens) == (before.input_tokens, before.output_tokens)
    assert after.last_active_at > before.last_active_at


async def test_its_turns_stay_as_a_record_of_what_they_cost(talked):
    first, second, third = await rows(talked)
    await rewind(talked, second)
    kept, *rewound = await rows(talked)
    assert [turn.input_tokens for turn in rewound] == [20, 10]
    for turn in rewound:
        assert turn.status == "completed"
        assert turn.user_message_id is turn.answer_message_id is turn.idempotency_key is None
    assert (kept.user_message_id, kept.answer_message_id) == (
        first.user_message_id,
        first.answer_message_id,
    )
    assert kept.idempotency_key == "1"
    told = await recorded_turns()
    assert first.id in told
    assert not told & {second.id, third.id}


async def test_what_is_said_next_takes_new_places_and_any_key(talked):
    before = await stored(talked)
    await rewind(talked, (await rows(talked))[1])
    ticket = await submit(talked, "other words", idempotency_key="2")
    assert ticket.number == before.last_turn_number + 1
    assert (await log(talked))[-1].position == before.last_position + 1
    assert ticket.started.lease.fence == before.fence + 1


async def test_the_first_turn_leaves_an_empty_conversation(talked):
    await rewind(talked, (await rows(talked))[0])
    assert await log(talked) == []
    assert await recorded_turns() == set()
    await counters_are_right(talked)


async def test_what_only_the_model_or_staff_or_nobody_sees_goes_too(talked):
    await AgentSession(talked.agent_session_id).add_items([{"role": "system", "content": "x"}])
    await ask(talked, "four")
    last = ChatMessage.objects.filter(session=talked).order_by("-position")

    def set_aside() -> None:
        ChatMessage.objects.filter(id=last[1].id).update(quarantined_at=timezone.now())
        ChatMessage.objects.filter(id=last[2].id).update(agent_item=None, thread_item="{}")

    await lanes.call(set_aside)
    await change(talked, quarantined_count=1, remembered_count=10)
    await counters_are_right(talked)
    await rewind(talked, (await rows(talked))[2])
    assert [text for _, text in await shown(talked)][0::2] == ["one", "two"]
    assert (await stored(talked)).quarantined_count == 0
    await counters_are_right(talked)


async def test_what_left_the_memory_before_does_not_come_back(talked, settings):
    settings.AGENT_SESSION_MAX_MESSAGES = 2
    await ask(talked, "four")
    before = await stored(talked)
    assert await remembered(talked) == ["four"]
    await rewind(talked, (await rows(talked))[2])  # of which nothing is remembered any more
    after = await stored(talked)
    assert await remembered(talked) == []
    assert [text for _, text in await shown(talked)][0::2] == ["one", "two"]
    assert after.pruned_count == before.pruned_count > 0
    await counters_are_right(talked)


async def test_another_conversation_is_left_alone(talked, user):
    other = await lanes.call(lambda: factories.ChatSessionFactory(owner=user))
    await ask(other, "elsewhere")
    before = await stored(other), await log(other), await rows(other), await recorded_turns()
    await rewind(talked, (await rows(talked))[0])
    after = await stored(other), await log(other), await rows(other)
    assert after == before[:3]
    assert await recorded_turns() == {turn.id for turn in before[2]}


# --- What runs or waits ---------------------------------------------------------------------------


@pytest.fixture
async def line(session: Any) -> list[Any]:
    """A turn that runs and two that wait, in a process that is alive."""
    running = await abandon(session, "one", recorded="Once", key="1")
    alive = partial(ChatTurn.objects.filter(session=session).update, lease_until=2**62)
    found = [running]
    for text in ("two", "three"):
        await lanes.call(alive)
        found.append(await abandon(session, text, key=text))
    await lanes.call(alive)
    return found


@pytest.mark.parametrize(
    ("number", "left"),
    [
        (0, []),
        (1, [("user", "one"), ("assistant", "Once…")]),
        (2, [("user", "one"), ("assistant", "Once…"), ("user", "two")]),
    ],
)
async def test_what_runs_or_waits_is_ended_first(session, line, number, left):
    text = ["one", "two", "three"][number]
    rewound = await rewind(session, line[number])
    assert (rewound.text, await shown(session)) == (text, left)
    found = await rows(session)
    assert [turn.status for turn in found] == ["interrupted"] * 3
    assert [turn.user_message_id is None for turn in found] == [n >= number for n in range(3)]
    assert (await stored(session)).fence > line[0].started.lease.fence
    await counters_are_right(session)


async def test_an_answer_that_ended_after_a_message_was_taken_back_stays(session, script):
    gate = asyncio.Event()
    script(Say("a b", gate=gate))
    first = await say(session, "one")
    await until_said(first, "a ")
    second = await say(session, "two")
    stop = partial(
        stops.request_stop,
        session_id=session.id,
        owner_id=session.owner_id,
        turn_id=second.id,
        holder=HERE,
        now=timezone.now(),
    )
    await lanes.write(stop)
    gate.set()
    await told(first)
    assert await shown(session) == [("user", "one"), ("user", "two"), ("assistant", "a b")]
    await rewind(session, second)
    assert await shown(session) == [("user", "one"), ("assistant", "a b")]
    assert (await rows(session))[0].answer_message_id is not None
    assert await remembered(session) == ["one"]
    await counters_are_right(session)


# --- Refusals ---------------------------------------------------------------------------------


async def test_nobody_rewinds_what_is_not_theirs_or_not_there(talked, user, stranger):
    (turn, *_) = await rows(talked)
    other = await lanes.call(lambda: factories.ChatSessionFactory(owner=user))
    before = await everything()
    for ask_for in (rewind, find):
        with pytest.raises(ThreadNotFound):
            await ask_for(talked, turn, owner_id=stranger.pk)
        with pytest.raises(ThreadNotFound):
            await ask_for(talked, turn, session_id=uuid4())
        with pytest.raises(TurnNotFound):
            await ask_for(talked, uuid4())
        with pytest.raises(TurnNotFound):
            await ask_for(other, turn)
    assert await everything() == before


async def test_what_is_on_hold_stays_and_goes_on(session, line):
    await change(session, hold=True)
    before = await everything()
    for ask_for in (rewind, find):
        with pytest.raises(ThreadHeld):
            await ask_for(session, line[0])
    assert await everything() == before


@pytest.mark.parametrize("how", ["rewound", "cleared", "taken back"])
async def test_a_turn_of_which_no_question_is_left_is_not_found(talked, how):
    turn = (await rows(talked))[2]
    if how == "rewound":
        await rewind(talked, (await rows(talked))[1])
    elif how == "cleared":
        name = talked.agent_session_id
        await lanes.write(partial(store_log.clear, agent_session_id=name, now=timezone.now()))
    else:
        agent_session = AgentSession(talked.agent_session_id)
        await agent_session.pop_item()
        await agent_session.pop_item()
    before = await everything()
    for ask_for in (rewind, find):
        with pytest.raises(TurnNotFound):
            await ask_for(talked, turn)
    assert await everything() == before


# --- What is said in its place ------------------------------------------------------------------


async def test_the_same_words_keep_their_id_and_other_words_get_their_own(talked):
    _, second, third = await rows(talked)
    ticket = await submit(talked, "three", rewinds_to=third.id)
    assert ticket.started.user_message_id == third.user_message_id
    assert (await log(talked))[-1].id == third.user_message_id
    again = await submit(talked, "two!", rewinds_to=second.id)
    assert again.started.user_message_id not in {second.user_message_id, third.user_message_id}
    assert [text for _, text in await shown(talked)] == ["one", "I remember: one", "two!"]
    assert [item["role"] for item in again.started.window.items] == ["user", "assistant"]
    await counters_are_right(talked)


@pytest.mark.parametrize(("text", "stays"), [("two", True), ("two!", False)])
async def test_files_go_with_their_messages_unless_the_same_is_said_again(talked, text, stays):
    first, second, third = await rows(talked)

    def send(turn: Any) -> Any:
        common = {"owner": talked.owner, "session": talked, "message_id": turn.user_message_id}
        return factories.AttachmentFactory(**common).id

    files = [await lanes.call(send, turn) for turn in (first, second, third)]
    await submit(talked, text, rewinds_to=second.id)
    left = Attachment.objects.filter(status="ready").values_list("id", flat=True)
    assert await lanes.call(set, left) == set(files[: 1 + stays])
    assert await lanes.call(Attachment.objects.filter(status="removed").count) == 2 - stays


async def test_it_starts_at_once_however_many_waited(session, line):
    ticket = await submit(session, "three", rewinds_to=line[2].turn_id, max_queued=0)
    assert ticket.started is not None
    assert ticket.number == 4
    assert await shown(session) == [
        ("user", "one"),
        ("assistant", "Once…"),
        ("user", "two"),
        ("user", "three"),
    ]


@pytest.mark.parametrize("status", ["locked", "closed"])
async def test_a_conversation_that_takes_no_messages_takes_nothing_back(talked, status):
    await change(talked, status=status)
    (turn, *_) = await rows(talked)
    before = await everything()
    with pytest.raises(ThreadClosed):
        await submit(talked, "one", rewinds_to=turn.id)
    with pytest.raises(ThreadClosed):
        await find(talked, turn)
    assert await everything() == before


async def test_the_same_key_again_is_the_same_turn_and_takes_nothing_back(talked):
    turn = (await rows(talked))[1]
    ticket = await submit(talked, "two", rewinds_to=turn.id, idempotency_key="k")
    before = await everything()
    repeat = Repeat(ticket.turn_id, talked.id, ticket.number)
    assert await submit(talked, "two", rewinds_to=turn.id, idempotency_key="k") == repeat
    assert await find(talked, turn, idempotency_key="k") == repeat
    assert await find(talked, turn, idempotency_key="k", text="two") == repeat
    with pytest.raises(IdempotencyConflict):
        await find(talked, turn, idempotency_key="k", text="other words")
    with pytest.raises(TurnNotFound):
        await find(talked, turn, idempotency_key="l")
    assert await everything() == before


async def test_a_retry_that_begins_between_two_looks_is_found(talked, monkeypatch):
    turn, look = (await rows(talked))[1], rewinding._find_question
    ticket = await submit(talked, "two", rewinds_to=turn.id, idempotency_key="k")
    stale = [rewinding._Question(2, "two", turn.user_message_id)]
    monkeypatch.setattr(
        rewinding, "_find_question", lambda *place: stale.pop() if stale else look(*place)
    )
    repeat = Repeat(ticket.turn_id, talked.id, ticket.number)
    assert await find(talked, turn, idempotency_key="k") == repeat


async def test_a_key_of_another_message_is_refused(talked):
    turn = (await rows(talked))[1]
    for key in ("1", "2", "3"):
        with pytest.raises(IdempotencyConflict):
            await find(talked, turn, idempotency_key=key)
    assert await find(talked, turn, idempotency_key="4") == SaidBefore("two")
    assert await find(talked, turn, text="two!") == SaidBefore("two!")


async def test_in_doubt_it_is_the_ticket_that_was_taken(talked):
    turn, turn_id = (await rows(talked))[1], new_id()
    taken = await submit(talked, "two", rewinds_to=turn.id, turn_id=turn_id)
    before = await everything()
    again = await submit(talked, "two", rewinds_to=turn.id, turn_id=turn_id, is_in_doubt=True)
    assert again.started.lease == taken.started.lease
    assert again.started.user_message_id == turn.user_message_id
    assert await everything() == before


# --- All of it or none --------------------------------------------------------------------------


@pytest.fixture
def fault(transactional_db: None, settings: Any) -> Iterator[Fault]:
    settings.CHAT_STORE_BUDGET_SECONDS = 0.01
    with breakable() as fault:
        yield fault


async def test_whichever_statement_fails_the_old_conversation_stands(talked, line_behind, fault):
    """Until it passes without a failure: then the new turn stands in its place."""
    turn, before = (await rows(talked))[1], await everything()
    for k in itertools.count(1):
        fault.arm(kinds()[0], at=k, lasts=True)
        try:
            ticket = await submit(talked, "two", rewinds_to=turn.id)
        except StoreError:
            fault.disarm()
            assert await everything() == before
            continue
        assert not fault.disarm()
        break
    assert k > 10
    assert ticket.started is not None
    assert [text for _, text in await shown(talked)] == ["one", "I remember: one", "two"]
    await counters_are_right(talked)


@pytest.fixture
async def line_behind(talked: Any) -> None:
    """A turn runs and one waits behind those that have ended."""
    await abandon(talked, "four", recorded="Once")
    await lanes.call(ChatTurn.objects.filter(status="running").update, lease_until=2**62)
    await abandon(talked, "five")


# --- Damage ---------------------------------------------------------------------------------------


DAMAGES = {
    "a text that is not UTF-8": ("text = CAST(x'74ff' AS TEXT)", "t\ufffd"),
    "a text that is a blob": ("text = x'74ff'", "t\ufffd"),
    "a position that is a word": ("position = 'third'", "two"),
    "a position that is a blob": ("position = x'ff'", "two"),
    "a position that is not UTF-8": ("position = CAST(x'ff33' AS TEXT)", "two"),
    "a turn that is not known": ("turn_id = NULL", "two"),
    "an item that is none": ("agent_item = x'00ff'", "two"),
    "a word that is no flag": ("shown = 'odd'", "two"),
}


@on_sqlite
@pytest.mark.parametrize("damage", DAMAGES)
async def test_damaged_rows_do_not_stop_it(talked, damage):
    turn = (await rows(talked))[1]
    assignment, text = DAMAGES[damage]

    def strike() -> None:
        with connection.cursor() as cursor:
            cursor.execute("PRAGMA ignore_check_constraints = ON")
            where = "session_id = %s AND text = 'two'"
            cursor.execute(f"UPDATE {store_log.MESSAGE} SET {assignment} WHERE {where}", [key])
            assert cursor.rowcount == 1
            cursor.execute("PRAGMA ignore_check_constraints = OFF")

    key = talked.id.hex
    await lanes.call(strike)
    rewound = await rewind(talked, turn)
    assert (rewound.text, rewound.message_id) == (text, turn.user_message_id)
    assert await shown(talked) == [("user", "one"), ("assistant", "I remember: one")]
    assert all(turn.user_message_id is None for turn in (await rows(talked))[1:])


@on_sqlite
async def test_damaged_rows_of_earlier_turns_stay(talked):
    first, second, _ = await rows(talked)
    damaged = ChatMessage.objects.filter(id=first.answer_message_id)

    def strike() -> None:
        with connection.cursor() as cursor:
            sql = f"UPDATE {store_log.MESSAGE} SET position = 'x' WHERE id = %s"
            cursor.execute(sql, [first.answer_message_id.hex])

    await lanes.call(strike)
    await rewind(talked, second)
    assert await lanes.call(damaged.exists)
