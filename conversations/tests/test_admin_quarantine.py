"""The staff's view of what is set aside: seen as it is, put back where it fits, never run."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from conversations import lanes, processes
from conversations.admin import quarantine
from conversations.errors import ThreadBusy
from conversations.events import Usage
from conversations.history import REASONS
from conversations.items import row_from_item
from conversations.models import ChatMessage, ChatTurn
from conversations.store import log, recall
from conversations.tests import factories
from conversations.tests.sweeps_helpers import speak
from conversations.tests.test_corrupt_rows import BLOB, TEXT, Damage, kinds

pytestmark = pytest.mark.django_db(transaction=True)

LIST = "/admin/conversations/quarantinedmessage/"
HELLO = {"role": "user", "content": "Hello"}
OUTPUT = {"type": "function_call_output", "call_id": "gone", "output": "x"}

on_sqlite = pytest.mark.skipif(
    "connection.vendor != 'sqlite'", reason="another engine refuses what is not of its type"
)


def browser(*rights: str, **user: Any) -> Client:
    """Of a member of the staff with some rights."""
    client = Client()
    member = factories.UserFactory(is_staff=True, **user)
    member.user_permissions.set(Permission.objects.filter(codename__in=rights))
    client.force_login(member)
    return client


@pytest.fixture
def staff() -> Client:
    return browser(is_superuser=True)


@pytest.fixture
def set_aside(session: Any) -> Callable[..., list[Any]]:
    """`set_aside("{", OUTPUT)`: entries of one conversation that are not remembered any more."""

    def write(*items: Any, session: Any = session) -> list[Any]:
        rows = [row_from_item(HELLO) for _ in items]
        name, now = session.agent_session_id, timezone.now()
        append = partial(log.append, agent_session_id=name, rows=rows, usage=Usage(), now=now)
        lanes.perform(append)
        for row, item in zip(rows, items, strict=True):
            text = item if isinstance(item, str) else json.dumps(item)
            ChatMessage.objects.filter(id=row.id).update(agent_item=text)
        read(session)
        return [row.id for row in rows]

    return write


def read(session: Any) -> list[Any]:
    memory = lanes.perform(partial(recall.load_window, session_id=session.id))
    name, now = session.agent_session_id, timezone.now()
    lanes.perform(partial(recall.quarantine, agent_session_id=name, memory=memory, now=now))
    return memory.items


def page(client: Client, path: str = "", **params: Any) -> str:
    response = client.get(LIST + path, params)
    assert response.status_code == 200
    return response.content.decode()


def put_back(client: Client, *ids: Any) -> list[str]:
    """What is told about it."""
    form = {"action": "put_back", "_selected_action": [str(each) for each in ids]}
    response = client.post(LIST, form, follow=True)
    assert response.status_code == 200
    return [str(message) for message in response.context["messages"]]


def shown_item(client: Client, key: Any) -> str:
    found = re.search(r"<textarea[^>]*>\n(.*?)</textarea>", page(client, f"{key}/change/"), re.S)
    assert found
    return found[1]


# To see


def test_staff_see_which_entries_are_set_aside_and_why(staff, session, set_aside):
    first, second, third = set_aside("{broken", OUTPUT, HELLO)
    found = page(staff)
    assert found.count(str(session.id)) == 2
    assert f"no call: {REASONS['no call']}" in found
    assert f"unreadable: {REASONS['unreadable']}" in found
    assert str(first) in found
    assert str(second) in found
    assert str(third) not in found
    assert "broken" not in found
    assert staff.get(f"{LIST}{third}/change/").status_code == 302  # to the index: not set aside


def test_staff_see_what_is_in_an_entry_as_text(staff, set_aside):
    hostile = '</textarea><script>alert("1")</script>\n{{ 7 }}<b>'
    (key,) = set_aside(hostile)
    assert shown_item(staff, key) == (
        "&lt;/textarea&gt;&lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt;\n{{ 7 }}&lt;b&gt;"
    )


@pytest.mark.parametrize("letter", ["x", "ü", "\N{SLICE OF PIZZA}"])
def test_of_a_long_entry_the_beginning_is_shown(staff, set_aside, letter):
    exact, long = set_aside('"' + letter * 19_999, '"' + letter * 20_000)
    assert shown_item(staff, exact) == "&quot;" + letter * 19_999
    assert "The first" not in page(staff, f"{exact}/change/")
    assert shown_item(staff, long) == "&quot;" + letter * 19_999
    assert "The first 20,000 characters." in page(staff, f"{long}/change/")


def test_staff_see_the_turn_of_an_entry(staff, session, set_aside):
    (key,) = set_aside("{")
    assert "number" not in page(staff, f"{key}/change/")
    turn = ChatTurn.objects.create(session=session, number=7, status="completed")
    ChatMessage.objects.filter(id=key).update(turn=turn)
    assert f"{turn.id}: number 7, completed" in page(staff, f"{key}/change/")


DAMAGES = [
    *kinds(
        a_blob=Damage("agent_item", b"\x00\xff\xfe", BLOB),
        not_utf8=Damage("agent_item", b'{"a": "\xff"', TEXT),
        nothing=Damage("agent_item", None),
        nul_only_sqlite=Damage("agent_item", "{\0"),
        a_position_that_is_text_only_sqlite=Damage("position", "third"),
        a_position_that_is_not_utf8=Damage("position", b"\xff3", TEXT),
        a_kind_that_is_a_blob=Damage("kind", b"\xff", BLOB),
        a_kind_that_is_not_utf8=Damage("kind", b"\xff", TEXT),
        a_reason_nobody_knows=Damage("quarantine_reason", "odd"),
        a_reason_that_is_not_utf8=Damage("quarantine_reason", b"\xff", TEXT),
        a_time_that_is_none_only_sqlite=Damage("quarantined_at", "then"),
        a_time_that_is_not_utf8=Damage("quarantined_at", b"\xff", TEXT),
        a_text_that_is_not_utf8=Damage("text", b"\xff", TEXT),
        a_role_that_is_a_blob=Damage("role", b"\xff", BLOB),
        a_creation_that_is_none_only_sqlite=Damage("created_at", "then"),
    ),
    pytest.param(
        Damage("quarantined_at", "infinity"),
        id="infinity",
        marks=[pytest.mark.skipif("connection.vendor != 'postgresql'", reason="PostgreSQL's")],
    ),
]


def strike(damage: Damage, key: Any) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            f"UPDATE {log.MESSAGE} SET {damage.column} = {damage.expression} WHERE id = %s",
            [damage.value, lanes.from_uuid(key, is_sqlite=connection.vendor == "sqlite")],
        )
        assert cursor.rowcount == 1


@pytest.mark.parametrize("damage", DAMAGES)
def test_whatever_is_in_an_entry_it_is_shown_and_hides_no_other(damage, staff, set_aside):
    first, second = set_aside("{one", "{two")
    strike(damage, first)
    found = page(staff)
    assert str(first) in found
    assert str(second) in found
    assert "item" in page(staff, f"{first}/change/")
    assert put_back(staff, first, second)


@on_sqlite
@pytest.mark.parametrize("value", ["x'ff'", "CAST(x'ff' AS TEXT)", "'x'", "7"])
def test_an_entry_without_an_id_hides_no_other(staff, set_aside, value):
    first, second = set_aside("{one", "{two")
    with connection.cursor() as cursor:
        cursor.execute(f"UPDATE {log.MESSAGE} SET id = {value} WHERE id = %s", [first.hex])
    assert str(second) in page(staff)


# To find


def test_entries_are_found_by_reason_and_by_conversation(staff, session, set_aside):
    other = factories.ChatSessionFactory()
    broken, orphan = set_aside("{", OUTPUT)
    (elsewhere,) = set_aside("{", session=other)

    def found(**params: Any) -> set[Any]:
        text = page(staff, **params)
        return {key for key in (broken, orphan, elsewhere) if str(key) in text}

    assert found() == {broken, orphan, elsewhere}
    assert found(reason="unreadable") == {broken, elsewhere}
    assert found(reason="no call") == {orphan}
    assert found(q=str(session.id)) == {broken, orphan}
    assert found(q=f" {other.id} ", reason="unreadable") == {elsewhere}
    assert found(q="no id") == set()
    assert found(reason="odd") == set()


def test_the_newest_come_first_however_a_link_asks(staff, set_aside):
    (first,), (second,) = set_aside("{"), set_aside("{")
    for params in ({}, {"o": "1"}, {"o": "-2.1"}):
        found = page(staff, **params)
        assert found.index(str(second)) < found.index(str(first))


@on_sqlite
def test_no_query_of_the_list_reads_the_table(staff, session, set_aside):
    set_aside("{", OUTPUT)
    for params in ({}, {"reason": "no call"}, {"q": str(session.id)}):
        with CaptureQueriesContext(
            connection,
        ) as asked:
            page(staff, **params)
        statements = [query["sql"] for query in asked if log.MESSAGE in query["sql"]]
        assert len(statements) == 2  # how many, and which
        for statement in statements:
            with connection.cursor() as cursor:
                cursor.execute("EXPLAIN QUERY PLAN " + statement)
                plan = " ".join(str(row[-1]) for row in cursor.fetchall())
            assert "chat_message_quarantined" in plan or "session_id=?" in plan, plan


def test_a_long_list_is_counted_only_so_far(staff, set_aside, monkeypatch):
    monkeypatch.setattr(quarantine, "MOST_COUNTED", 3)
    set_aside(*["{"] * 5)
    assert "3 entries set aside" in page(staff)


# To put back


def test_staff_put_back_what_fits_and_are_told_why_the_rest_does_not(staff, session, set_aside):
    keys = set_aside("{", "{", OUTPUT)
    ChatMessage.objects.filter(id=keys[0]).update(agent_item=json.dumps(HELLO))
    assert put_back(staff, *keys) == [
        "1 put back into the memory.",
        "1 not put back: what it answers does not come before it.",
        "1 not put back: there is no item in it.",
    ]
    assert read(session) == [HELLO]
    entry = LogEntry.objects.get()
    assert (entry.object_id, entry.change_message) == (str(keys[0]), "Put back into the memory.")
    assert "Hello" not in entry.object_repr
    session.refresh_from_db()
    assert (session.remembered_count, session.quarantined_count) == (1, 2)


def test_entries_of_several_conversations_are_put_back_at_once(staff, session, set_aside):
    other = factories.ChatSessionFactory()
    keys = [*set_aside("{"), *set_aside("{", session=other)]
    ChatMessage.objects.update(agent_item=json.dumps(HELLO))
    assert put_back(staff, *keys) == ["2 put back into the memory."]
    assert read(session) == read(other) == [HELLO]


def test_a_conversation_whose_turn_runs_is_left_and_the_others_are_not(staff, session, set_aside):
    other = factories.ChatSessionFactory()
    keys = [*set_aside("{"), *set_aside("{", session=other)]
    ChatMessage.objects.update(agent_item=json.dumps(HELLO))
    speak(session, process=processes.new_name())
    assert put_back(staff, *keys) == [
        f"Conversation {session.id}: {ThreadBusy().message}",
        "1 put back into the memory.",
    ]
    assert ChatMessage.objects.get(id=keys[0]).quarantined_at is not None


def test_only_so_many_are_put_back_at_once(staff, set_aside, monkeypatch):
    monkeypatch.setattr(quarantine, "MOST_AT_ONCE", 2)
    set_aside(*["{"] * 3)
    ChatMessage.objects.update(agent_item=json.dumps(HELLO))
    form = {"action": "put_back", "select_across": "1", "_selected_action": ["x"]}
    assert staff.post(LIST, form).status_code == 302
    assert ChatMessage.objects.filter(quarantined_at__isnull=False).count() == 1


# Who may


def test_only_who_may_see_sees(set_aside):
    (key,) = set_aside("{broken")
    for client in (browser(), browser("restore_chatmessage"), browser("view_chatmessage")):
        for path in ("", f"{key}/change/", f"{key}/history/"):
            assert client.get(LIST + path).status_code == 403
        assert (
            client.post(LIST, {"action": "put_back", "_selected_action": [key]}).status_code == 403
        )
    assert "broken" in shown_item(browser("view_quarantinedmessage"), key)


def test_only_who_may_restore_restores(set_aside):
    (key,) = set_aside("{")
    ChatMessage.objects.update(agent_item=json.dumps(HELLO))
    viewer = browser("view_quarantinedmessage")
    assert "Put back" not in page(viewer)
    assert put_back(viewer, key) == []
    assert ChatMessage.objects.get(id=key).quarantined_at is not None
    allowed = browser("view_quarantinedmessage", "restore_chatmessage")
    assert "Put back into the memory" in page(allowed)
    assert put_back(allowed, key) == ["1 put back into the memory."]


def test_nothing_is_added_changed_or_deleted_by_hand(staff, set_aside):
    (key,) = set_aside("{broken")
    assert staff.get(f"{LIST}add/").status_code == 403
    assert staff.post(f"{LIST}{key}/change/", {"agent_item": "{}"}).status_code == 403
    assert staff.post(f"{LIST}{key}/delete/", {"post": "yes"}).status_code == 403
    assert "delete_selected" not in page(staff)
    assert ChatMessage.objects.get(id=key).agent_item == "{broken"


@pytest.mark.parametrize("rights", [[], ["restore_chatmessage"]])
def test_its_pages_have_nothing_inline_and_nothing_from_elsewhere(rights, set_aside):
    (key,) = set_aside('{"<style>"')
    client = browser("view_quarantinedmessage", *rights)
    for path in ("", f"{key}/change/"):
        response = client.get(LIST + path)
        assert "unsafe" not in response["Content-Security-Policy"]
        text = response.content.decode()
        assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:", text, re.IGNORECASE)
        assert all(" src=" in tag for tag in re.findall(r"<script[^>]*>", text))
        addresses = re.findall(r'\s(?:src|href)="([^"]*)"', text)
        assert not [each for each in addresses if re.match(r"\w+:|//", each)]
