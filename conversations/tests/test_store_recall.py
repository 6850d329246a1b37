"""What is read of a memory: what cannot be sent is set aside with the reason, however it is met."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial
from typing import Any

import pytest
from django.db import connection

from conversations import lanes
from conversations.events import Usage
from conversations.items import Memory, row_from_item
from conversations.models import Attachment, ChatMessage
from conversations.store import log, recall
from conversations.tests import factories
from conversations.tests.test_history import answered, by_program, call, output, reasoning, said

pytestmark = pytest.mark.django_db(transaction=True)

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
NAME = "a session"

on_sqlite = pytest.mark.skipif(
    "connection.vendor != 'sqlite'", reason="another engine refuses what is not of its type"
)


def add(*items: dict[str, Any]) -> None:
    rows = [row_from_item(item) for item in items]
    lanes.perform(partial(log.append, agent_session_id=NAME, rows=rows, usage=Usage(), now=NOW))


def strike(*positions: int) -> None:
    ChatMessage.objects.filter(position__in=positions).update(agent_item="{")


def set_aside(limit: int | None = None) -> Memory:
    memory = lanes.perform(partial(recall.load, agent_session_id=NAME, limit=limit))
    lanes.perform(partial(recall.quarantine, agent_session_id=NAME, memory=memory, now=NOW))
    return memory


def aside() -> dict[int, str]:
    rows = ChatMessage.objects.filter(quarantined_at__isnull=False).order_by("position")
    return dict(rows.values_list("position", "quarantine_reason"))


def test_every_row_that_is_set_aside_keeps_its_reason():
    add(said(), output("gone"), reasoning(), said("Well?"), reasoning("rs_2"), answered())
    add(said(), call("a", **by_program()), answered(id="msg_2"), answered(id="msg_3"))
    strike(5, 9)
    memory = set_aside()
    assert memory.items == [said(), said("Well?"), said(), answered(id="msg_3")]
    assert memory.unreadable == aside()
    assert aside() == {
        2: "no call",
        3: "no follower",
        5: "unreadable",
        6: "no reasoning",
        8: "no program",
        9: "unreadable",
    }


def test_more_rows_than_one_statement_takes_keep_their_reasons(monkeypatch):
    monkeypatch.setattr(recall, "_AT_ONCE", 2)
    add(*[said()] * 5, *[output("gone")] * 5)
    strike(1, 2, 3, 4, 5)
    set_aside()
    assert aside() == dict.fromkeys(range(1, 6), "unreadable") | dict.fromkeys(
        range(6, 11), "no call"
    )


def test_a_limit_and_a_pop_set_aside_what_holds_no_item():
    add(said("one"), said("two"), said("three"), said("four"))
    strike(3)
    set_aside(limit=2)
    assert aside() == {3: "unreadable"}
    strike(4)
    pop = partial(recall.pop, agent_session_id=NAME, now=NOW)
    assert lanes.perform(pop) == said("two")
    assert aside() == {3: "unreadable", 4: "unreadable"}


def test_with_an_item_that_is_popped_go_its_files():
    add(said("one"), said("two"))
    one, two = ChatMessage.objects.order_by("position")
    send = partial(factories.AttachmentFactory, owner=None, session=one.session)
    send(message_id=one.id)
    send(message_id=two.id)
    lanes.perform(partial(recall.pop, agent_session_id=NAME, now=NOW))
    left = Attachment.objects.filter(status="ready").values_list("message_id", flat=True)
    assert list(left) == [one.id]


@on_sqlite
@pytest.mark.parametrize("limit", [None, 2])
def test_what_has_no_position_says_so(limit):
    add(said("one"), said("two"), said("three"))
    with connection.cursor() as cursor:
        cursor.execute(f"UPDATE {log.MESSAGE} SET position = 'third' WHERE position = 3")
    assert set_aside(limit).items == [said("one"), said("two")]
    (row,) = ChatMessage.objects.filter(quarantined_at__isnull=False).values()
    assert (row["position"], row["quarantine_reason"]) == ("third", "no position")


def test_a_reason_is_kept_when_a_row_is_met_again():
    add(said(), output("gone"))
    memory = set_aside()
    ChatMessage.objects.filter(position=2).update(quarantine_reason="unreadable")
    lanes.perform(partial(recall.quarantine, agent_session_id=NAME, memory=memory, now=NOW))
    assert aside() == {2: "unreadable"}
