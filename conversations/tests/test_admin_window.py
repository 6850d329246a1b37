"""As the model saw it: exactly, or saying plainly what cannot be told."""

from __future__ import annotations

import json
import re
from html import unescape
from typing import Any
from uuid import uuid4

import pytest
from django.test import Client, override_settings
from django.utils import timezone

from conversations.models import ChatMessage, ChatSession
from conversations.tests.factories import ChatSessionFactory
from conversations.tests.staff_helpers import (
    LIST,
    READER,
    answered,
    browser,
    called,
    output,
    reasoned,
    said,
    take_turn,
    window,
)

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def curious() -> Client:
    return browser(*READER, "view_hidden_content")


def states(html: str) -> list[str]:
    return [unescape(state) for state in re.findall(r'<p class="state">(.*?)</p>', html)]


def exact(html: str) -> list[Any]:
    found = re.findall(r"<summary>Exact item</summary><pre[^>]*>(.*?)</pre>", html, re.S)
    return [json.loads(unescape(text)) for text in found]


def test_the_next_turns_items_are_shown_exactly(curious, session):
    rows = [said("Hi \u202e\x00"), reasoned("why"), called(), output(), answered("Hello")]
    take_turn(session, *rows)
    html = window(curious, session)
    assert exact(html) == [json.loads(row.agent_item or "") for row in rows]
    assert states(html) == [f"{n} · given" for n in range(1, 6)]
    assert "is given these 5 entries" in html


def test_what_is_left_out_stands_in_its_place_with_the_reason(curious, session):
    take_turn(session, said("Hi"), output(call_id="gone"), answered("Hello"))
    ChatSession.objects.update(pruned_count=9, quarantined_count=1)
    html = window(curious, session)
    assert states(html) == [
        "1 · given",
        "left out: what it answers does not come before it",
        "2 · given",
    ]
    for text in ("1 remembered entry is left out", "9 were pruned", "1 is set aside"):
        assert text in html


def test_a_memory_that_is_empty_says_so(curious, session):
    assert "the model begins afresh" in window(curious, session)


def test_an_earlier_turn_says_when_it_is_certain(curious, session):
    take_turn(session, said("Hi"), answered("Hello"))
    turn = take_turn(session, said("And?"), answered("So."))
    html = window(curious, session, turn=str(turn.id))
    assert "Nothing that it may have been given is gone since" in html
    assert states(html)[:2] == ["1 · given", "2 · given"]
    assert "Then, in the turn itself" in html
    assert "So." in html.partition("Then, in the turn itself")[2]


def test_an_earlier_turn_says_what_cannot_be_told(curious, session):
    now = timezone.now()
    take_turn(session, said("Hi"), called(), output(), answered("Hello"), said("x"), said("y"))
    turn = take_turn(session, said("And?"), now=now)
    rows = ChatMessage.objects.all()
    rows.filter(position__in=[2, 3]).delete()
    rows.filter(position__in=[1]).update(agent_item=None)
    later = now + timezone.timedelta(days=1)
    rows.filter(position=5).update(forgotten_at=later)
    rows.filter(position=6).update(quarantined_at=later, quarantine_reason="unreadable")
    ChatSession.objects.update(remembered_count=2)
    html = window(curious, session, turn=str(turn.id))
    assert "Only part of it can be told" in html
    assert "2 entries before it are gone since" in html
    assert states(html)[:4] == [
        "cannot be told: pruned since, or before; its item is gone, its text stayed",
        "1 · given",
        "2 · given: forgotten later; a hold keeps it",
        "cannot be told: set aside later: there is no item in it",
    ]


@override_settings(AGENT_SESSION_MAX_MESSAGES=2)
def test_only_as_much_as_a_memory_holds_is_looked_at(curious, session):
    take_turn(session, *[said(f"{n}") for n in range(5)])
    turn = take_turn(session, said("And?"))
    html = window(curious, session, turn=str(turn.id))
    assert "3 more came before those" in html


def test_a_turn_of_another_conversation_is_404(curious, session):
    turn = take_turn(ChatSessionFactory(), said("theirs"))
    for key in (turn.id, uuid4()):
        response = curious.get(f"{LIST}{session.id}/model/", {"turn": str(key)})
        assert response.status_code == 404


def test_hidden_entries_are_withheld_without_the_right(session):
    take_turn(session, said("Hi"), reasoned("a secret thought"), answered("Hello"))
    html = window(browser(*READER), session)
    assert "secret" not in html
    assert "You may not see this entry." in html
    assert len(exact(html)) == 2
