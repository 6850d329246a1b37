"""What a turn is given: exactly for the next one, and no more than is known for an earlier one."""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone

from conversations import lanes
from conversations.models import ChatMessage, ChatTurn
from conversations.store import recall, transcript_turns, windows
from conversations.store.windows import GIVEN, LEFT_OUT, MAYBE, NEVER, PastWindow
from conversations.tests.staff_helpers import (
    answered,
    called,
    output,
    reasoned,
    said,
    take_turn,
)
from conversations.tests.test_store_thread_items import on_sqlite

NOW = timezone.now()


def of_next(session: Any) -> windows.Window:
    return lanes.look_up(partial(windows.next_window, session_id=session.id))


def of_turn(session: Any, turn: ChatTurn, *, limit: int = 50, **options: Any) -> PastWindow:
    found = lanes.look_up(
        partial(transcript_turns.find_turn, session_id=session.id, turn_id=turn.id)
    )
    options = {"begins_at": 1} | options
    return lanes.look_up(
        partial(windows.window_of_turn, session_id=session.id, turn=found, limit=limit, **options)
    )


def states(window: Any) -> list[str]:
    return [each.state for each in window.entries]


def change(position: int, **values: Any) -> None:
    ChatMessage.objects.filter(position=position).update(**values)


# The next one


def test_the_next_turn_is_given_what_the_log_remembers(session):
    take_turn(session, said("Hi"), called(), output(), answered("Hello"))
    change(1, agent_item=None)
    loaded = lanes.look_up(partial(recall.load_window, session_id=session.id))
    window = of_next(session)
    assert window.items == loaded.items
    assert states(window) == [GIVEN] * 3


@pytest.mark.parametrize(
    ("rows", "damage"),
    [
        ([said("a"), output(), answered("b")], {}),
        ([said("a"), reasoned("r"), said("b")], {}),
        ([said("a"), called(), output(), answered("b")], {2: "{"}),
        ([said("a"), reasoned("r"), answered("b")], {2: "[]"}),
        ([said("a"), called(), output()], {}),
        ([said("a"), called()], {}),
        ([], {}),
    ],
    ids=["no call", "no follower", "lost call", "lost reasoning", "whole", "open call", "empty"],
)
def test_what_is_left_out_is_what_the_turns_leave_out(session, rows, damage):
    take_turn(session, *rows)
    for position, text in damage.items():
        change(position, agent_item=text)
    loaded = lanes.look_up(partial(recall.load_window, session_id=session.id))
    window = of_next(session)
    assert window.items == loaded.items
    left_out = {
        each.entry.position: each.reason for each in window.entries if each.state == LEFT_OUT
    }
    assert left_out == loaded.unreadable
    assert not ChatMessage.objects.filter(quarantined_at__isnull=False).exists()


@on_sqlite
def test_an_entry_without_a_place_is_left_out(session):
    take_turn(session, said("a"), said("b"))
    with connection.cursor() as cursor:
        table = ChatMessage._meta.db_table
        cursor.execute(f"UPDATE {table} SET position = 'two' WHERE position = 2")
    window = of_next(session)
    assert [(each.state, each.reason) for each in window.entries] == [
        (GIVEN, ""),
        (LEFT_OUT, "no position"),
    ]


# An earlier one


def test_where_nothing_is_gone_an_earlier_window_is_certain(session):
    take_turn(session, said("Hi"), answered("Hello"))
    turn = take_turn(session, said("And?"), answered("So."))
    take_turn(session, said("Later"))
    window = of_turn(session, turn)
    assert states(window) == [GIVEN, GIVEN]
    assert [entry.text for entry in window.said] == ["And?", "So."]
    assert (window.is_certain, window.gone_count, window.earlier_count) == (True, 0, 0)


def test_what_was_pruned_may_have_been_given(session):
    take_turn(session, said("Hi"), called(), output(), answered("Hello"))
    turn = take_turn(session, said("And?"))
    ChatMessage.objects.filter(position__in=[2, 3]).delete()
    change(1, agent_item=None)
    window = of_turn(session, turn, begins_at=4)
    assert states(window) == [MAYBE, GIVEN]
    assert (window.is_certain, window.gone_count) == (False, 2)


def test_what_never_was_remembered_was_not_given(session):
    take_turn(session, said("Hi"), answered("Hello"))
    change(2, agent_item=None)
    window = of_turn(session, take_turn(session, said("And?")), begins_at=1)
    assert states(window) == [GIVEN, NEVER]
    assert window.is_certain


def test_when_a_row_left_the_memory_decides(session):
    take_turn(session, *[said(f"{n}") for n in range(4)])
    turn = take_turn(session, said("And?"), now=NOW)
    change(1, forgotten_at=NOW + timedelta(days=1))
    change(2, forgotten_at=NOW - timedelta(days=1))
    change(3, quarantined_at=NOW + timedelta(days=1), quarantine_reason="unreadable")
    change(4, quarantined_at=NOW - timedelta(days=1), quarantine_reason="unreadable")
    window = of_turn(session, turn)
    assert [(each.state, each.reason) for each in window.entries] == [
        (GIVEN, "forgotten later"),
        (LEFT_OUT, "forgotten before"),
        (MAYBE, "set aside later: unreadable"),
        (LEFT_OUT, "unreadable"),
    ]
    assert not window.is_certain


def test_only_what_may_fit_a_memory_is_looked_at(session):
    take_turn(session, *[said(f"{n}") for n in range(9)])
    turn = take_turn(session, said("And?"))
    window = of_turn(session, turn, limit=3)
    assert [each.entry.text for each in window.entries] == ["6", "7", "8"]
    assert (window.earlier_count, window.is_certain) == (6, False)


def test_a_turn_that_left_nothing_stands_before_the_next(session):
    take_turn(session, said("Hi"))
    turn = take_turn(session)
    take_turn(session, said("Later"))
    window = of_turn(session, turn)
    assert [each.entry.text for each in window.entries] == ["Hi"]
    last = of_turn(session, take_turn(session))
    assert (last.entries, last.said) == ([], [])
