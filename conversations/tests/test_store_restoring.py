"""What was set aside comes back where the memory stays valid with it, and else says why not."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from functools import partial
from typing import Any

import pytest
from django.db import connection
from hypothesis import given
from hypothesis import strategies as st

from conversations import lanes, processes
from conversations.errors import ThreadBusy, ThreadNotFound
from conversations.events import Usage
from conversations.history import REASONS, misplaced
from conversations.ids import new_id
from conversations.items import row_from_item
from conversations.models import ChatMessage, ChatSession, ChatTurn
from conversations.store import log, pruning, recall, restoring
from conversations.store.restoring import Restored, find_misfits
from conversations.tests import factories
from conversations.tests.sweeps_helpers import speak
from conversations.tests.test_history import (
    ANY_ROWS,
    LOST,
    LOST_REASONING,
    MODEST,
    Item,
    answered,
    assert_whole,
    by_program,
    call,
    headers_of,
    histories,
    output,
    reasoning,
    said,
)

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)

on_the_database = pytest.mark.django_db(transaction=True)
on_sqlite = pytest.mark.skipif(
    "connection.vendor != 'sqlite'", reason="another engine refuses what is not of its type"
)


def add(session: ChatSession, *items: Item) -> None:
    rows = [row_from_item(item) for item in items]
    name = session.agent_session_id
    append = partial(log.append, agent_session_id=name, rows=rows, usage=Usage(), now=NOW)
    lanes.perform(append)


def write(session: ChatSession, position: int, item: Any) -> None:
    """By hand, into the table."""
    text = item if isinstance(item, str) else json.dumps(item)
    ChatMessage.objects.filter(session=session, position=position).update(agent_item=text)


def read(session: ChatSession) -> list[Item]:
    """What the model would be given; what it may not see is set aside."""
    memory = lanes.perform(partial(recall.load_window, session_id=session.id))
    name = session.agent_session_id
    lanes.perform(partial(recall.quarantine, agent_session_id=name, memory=memory, now=NOW))
    return memory.items


def restore(session: ChatSession, *positions: int) -> dict[int, str]:
    """Why each of the entries, or of all, was not put back; "" for those that were."""
    numbers = dict(ChatMessage.objects.filter(session=session).values_list("id", "position"))
    ids = [key for key, position in numbers.items() if position in positions]
    found = perform(session, ids if positions else None)
    assert not found.left.keys() & set(found.message_ids)
    return {numbers[key]: "" for key in found.message_ids} | {
        numbers[key]: why for key, why in found.left.items()
    }


def perform(session: Any, ids: Any = None) -> Restored:
    return lanes.perform(partial(restoring.restore, session_id=session.id, message_ids=ids))


def aside(session: ChatSession) -> dict[int, str]:
    rows = ChatMessage.objects.filter(session=session, quarantined_at__isnull=False)
    return dict(rows.order_by("position").values_list("position", "quarantine_reason"))


def counters_fit(session: ChatSession) -> None:
    session.refresh_from_db()
    rows = ChatMessage.objects.filter(session=session)
    assert session.quarantined_count == rows.filter(quarantined_at__isnull=False).count()
    assert session.remembered_count == len(read(session))
    assert session.item_count == rows.count()


# Coming back


@on_the_database
def test_an_entry_that_was_repaired_by_hand_is_remembered_again(session):
    items = [said("one"), answered("1"), said("two")]
    add(session, *items)
    write(session, 2, "{broken")
    assert read(session) == [said("one"), said("two")]
    assert aside(session) == {2: "unreadable"}
    assert restore(session) == {2: "unreadable"}
    write(session, 2, items[1])
    assert restore(session) == {2: ""}
    assert aside(session) == {}
    assert read(session) == items
    counters_fit(session)


@on_the_database
def test_a_repaired_call_and_what_it_took_along_come_back_together(session):
    items = [said("one"), reasoning(), call(), output(), answered(), said("two")]
    add(session, *items)
    write(session, 3, "{broken")
    assert read(session) == [said("one"), answered(), said("two")]
    assert aside(session) == {2: "no follower", 3: "unreadable", 4: "no call"}
    assert restore(session) == {2: "no follower", 3: "unreadable", 4: "no call"}
    write(session, 3, items[2])
    assert restore(session, 4) == {4: "no call"}
    assert restore(session, 2) == {2: "no follower"}
    assert restore(session, 2, 3, 4) == {2: "", 3: "", 4: ""}
    assert read(session) == items
    counters_fit(session)


@on_the_database
def test_a_program_comes_back_with_all_that_it_did(session):
    items = [said(), call("p", "program"), call("a", **by_program()), output("a", **by_program())]
    add(session, *items, output("p", "program"), answered())
    write(session, 2, "7")
    read(session)
    assert aside(session) == {2: "unreadable", 3: "no program", 4: "no program", 5: "no call"}
    write(session, 2, items[1])
    assert restore(session, 3, 4, 5) == {3: "no program", 4: "no program", 5: "no call"}
    assert restore(session) == {2: "", 3: "", 4: "", 5: ""}
    assert read(session) == [*items, output("p", "program"), answered()]


@on_the_database
def test_an_item_does_not_come_back_without_its_reasoning(session):
    items = [said("one"), reasoning(), answered(), said("two")]
    add(session, *items)
    write(session, 2, "{broken")
    read(session)
    assert aside(session) == {2: "unreadable", 3: "no reasoning"}
    assert restore(session, 3) == {3: "no reasoning"}
    write(session, 2, items[1])
    assert restore(session, 3) == {3: "no reasoning"}
    assert restore(session, 2, 3) == {2: "", 3: ""}
    assert read(session) == items


@on_the_database
def test_the_columns_of_a_repaired_entry_tell_what_its_item_tells(session):
    """By them it is found what may be forgotten."""
    add(session, said("one"), {"type": "odd"}, {"type": "odd"}, answered())
    write(session, 2, "{")
    write(session, 3, "{")
    read(session)
    write(session, 2, call(**by_program("p" * 300)))
    write(session, 3, output("x"))
    assert restore(session) == {2: "no program", 3: "no call"}
    write(session, 2, call())
    write(session, 3, output())
    assert restore(session) == {2: "", 3: ""}
    rows = ChatMessage.objects.filter(session=session, position__in=[2, 3]).order_by("position")
    assert list(rows.values_list("kind", "call_id", "caller_id", "quarantine_reason")) == [
        ("function_call", "c", "", ""),
        ("function_call_output", "c", "", ""),
    ]


@on_the_database
def test_what_people_read_stays_as_it_is_and_it_is_no_activity(session):
    add(session, said("one"), said("two"))
    write(session, 1, "{broken")
    read(session)
    write(session, 1, said("other words"))
    session.refresh_from_db()
    before = (session.last_active_at, session.updated_at, session.message_count, session.fence)
    assert restore(session) == {1: ""}
    session.refresh_from_db()
    after = (session.last_active_at, session.updated_at, session.message_count, session.fence)
    assert after == before
    assert list(ChatMessage.objects.order_by("position").values_list("text", "shown")) == [
        ("one", True),
        ("two", True),
    ]


# Not coming back


@on_the_database
def test_what_is_older_than_a_pruned_memory_does_not_come_back(session, settings):
    settings.AGENT_SESSION_MAX_MESSAGES = 2
    for number in range(1, 4):
        add(session, said(f"{number}"), answered(f"answer {number}"))
    write(session, 2, "{broken")
    read(session)
    assert lanes.perform(partial(pruning.prune, session_id=session.id, now=NOW)) == 3
    write(session, 2, answered("answer 1"))
    assert restore(session) == {2: "forgotten"}
    assert read(session) == [said("3"), answered("answer 3")]


@on_the_database
def test_between_a_summary_and_a_pruned_memory_nothing_comes_back(session, settings):
    settings.AGENT_SESSION_MAX_MESSAGES = 3
    summary = {"type": "compaction", "encrypted_content": "x"}
    add(session, said("1"), reasoning(), summary)
    add(session, said("2"), said("3"), answered())
    write(session, 4, "{broken")
    read(session)
    ChatSession.objects.filter(id=session.id).update(pruned_count=1)
    write(session, 4, said("2"))
    ChatMessage.objects.filter(session=session, position=1).update(agent_item=None)
    assert restore(session) == {4: "forgotten"}
    ChatMessage.objects.filter(session=session, position__gt=4).update(agent_item=None)
    assert restore(session) == {4: ""}
    assert read(session) == [reasoning(), summary, said("2")]


@on_the_database
def test_the_beginning_of_a_memory_that_was_never_pruned_comes_back(session):
    add(session, said("one"), answered())
    write(session, 1, "{broken")
    read(session)
    write(session, 1, said("one"))
    assert restore(session) == {1: ""}


@on_the_database
def test_a_conversation_whose_turn_runs_is_left_to_it(session):
    add(session, said("one"))
    write(session, 1, "{broken")
    read(session)
    write(session, 1, said("one"))
    speak(session, process=processes.new_name())
    with pytest.raises(ThreadBusy):
        perform(session)
    assert aside(session) == {1: "unreadable"}
    ChatTurn.objects.filter(session=session).update(status="completed")
    assert restore(session) == {1: ""}


@on_the_database
def test_there_is_nothing_to_put_back_where_there_is_no_conversation(user):
    with pytest.raises(ThreadNotFound):
        perform(factories.ChatSessionFactory.build(owner=user))


@on_the_database
def test_only_what_is_set_aside_in_this_conversation_comes_back(session):
    other = factories.ChatSessionFactory()
    for each in (session, other):
        add(each, said("one"), said("two"))
        write(each, 1, "{broken")
        read(each)
        write(each, 1, said("one"))
    ids = list(ChatMessage.objects.filter(session=other).values_list("id", flat=True))
    unknown = new_id()
    assert perform(session, [*ids, unknown]) == Restored(
        (), dict.fromkeys([*ids, unknown], "not set aside")
    )
    assert restore(other, 2) == {2: "not set aside"}
    assert (aside(session), aside(other)) == ({1: "unreadable"}, {1: "unreadable"})
    assert restore(session) == {1: ""}
    assert restore(session) == {}


@on_sqlite
@on_the_database
@pytest.mark.parametrize("value", ["'third'", "x'ff'", "CAST(x'ff33' AS TEXT)", "2.5"])
def test_what_has_no_place_in_the_order_stays_aside(session, value):
    add(session, said("one"), said("two"), answered())
    with connection.cursor() as cursor:
        cursor.execute(f"UPDATE {log.MESSAGE} SET position = {value} WHERE position = 1")
        cursor.execute(f"UPDATE {log.MESSAGE} SET agent_item = '{{' WHERE position = 2")
    read(session)
    write(session, 2, said("two"))
    found = perform(session)
    assert (len(found.message_ids), list(found.left.values())) == (1, ["no position"])
    assert read(session) == [said("two"), answered()]


@on_sqlite
@on_the_database
def test_an_entry_without_an_id_is_left_alone(session):
    add(session, said("one"), said("two"), answered())
    write(session, 1, "{")
    write(session, 2, "{")
    read(session)
    for position in (1, 2):
        write(session, position, said())
    with connection.cursor() as cursor:
        cursor.execute(f"UPDATE {log.MESSAGE} SET id = CAST(x'ff' AS TEXT) WHERE position = 1")
    found = perform(session)
    assert (len(found.message_ids), found.left) == (1, {})
    assert read(session) == [said(), answered()]


# The rule


def misfits(rows: list[Item | None], wanted: set[int], remembered: set[int]) -> dict[int, str]:
    headers = headers_of(rows)
    return find_misfits(
        [header for header in headers if header.position in remembered],
        [header for header in headers if header.position not in remembered],
        wanted=wanted,
    )


def test_what_would_displace_the_remembered_stays_aside():
    rows = [reasoning(), said("repaired"), answered()]
    assert misfits(rows, {1}, {0, 2}) == {1: "in the way"}
    search, found = {"type": "tool_search_call"}, {"type": "tool_search_output"}
    assert misfits([search, found, found], {1}, {0, 2}) == {1: "in the way"}
    assert misfits([search, search, found, found], {2}, {0, 1, 3}) == {}


@MODEST
@given(histories(), st.randoms(use_true_random=False), st.integers(0, 6))
def test_once_all_holes_are_repaired_all_that_they_took_along_comes_back(items, chance, holes):
    rows: list[Item | None] = list(items)
    lost = set(chance.sample(range(len(rows)), min(holes, len(rows))))
    for position in lost:
        is_reasoning = items[position].get("type") == "reasoning"
        rows[position] = LOST_REASONING if is_reasoning else LOST
    taken = lost | misplaced(headers_of(rows)).keys()
    assert misfits(items, taken, set(range(len(items))) - taken) == {}


@MODEST
@given(ANY_ROWS, st.data())
def test_whatever_comes_back_the_memory_stays_valid(rows, data):
    everything = range(len(rows))
    is_aside = data.draw(st.lists(st.booleans(), min_size=len(rows), max_size=len(rows)))
    outside = {position for position in everything if is_aside[position]}
    headers = headers_of(rows)
    remembered = [header for header in headers if header.position not in outside]
    before = misplaced(remembered)
    wanted = (
        set(data.draw(st.lists(st.sampled_from(sorted(outside)), unique=True)))
        if outside
        else set()
    )
    left = misfits(rows, wanted, set(everything) - outside)
    assert left.keys() <= wanted
    assert set(left.values()) <= restoring.WHY_NOT.keys()
    back = wanted - left.keys()
    after = misplaced([header for header in headers if header.position not in outside - back])
    assert after.keys() <= before.keys()
    again = misfits(rows, back, set(everything) - outside)
    assert again == {}


@MODEST
@given(ANY_ROWS, st.sets(st.integers(0, 11)))
def test_a_whole_memory_is_whole_with_all_that_comes_back(rows, chosen):
    """Where only what the rules set aside is aside."""
    headers = headers_of(rows)
    taken = misplaced(headers).keys() | {h.position for h in headers if h.is_lost}
    wanted = taken & chosen
    back = wanted - misfits(rows, wanted, set(range(len(rows))) - taken).keys()
    assert_whole(
        [row for n, row in enumerate(rows) if row is not None and (n not in taken or n in back)]
    )


def test_every_reason_to_leave_an_entry_has_a_sentence():
    assert REASONS.items() <= restoring.WHY_NOT.items()
    assert all(sentence for sentence in restoring.WHY_NOT.values())
