"""The staff's list of conversations, and who may see what of them."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from html import unescape
from typing import Any, Final
from uuid import uuid4

import pytest
from django.contrib.auth.models import Group
from django.test import Client
from django.utils import timezone

from conversations import lanes
from conversations.admin import sessions as pages
from conversations.errors import StoreBusy, StoreReadOnly
from conversations.models import ChatSession, StaffRead
from conversations.rights import ensure_groups
from conversations.store import reads, review
from conversations.tests import factories
from conversations.tests.staff_helpers import (
    LIST,
    READER,
    browser,
    counted,
    page,
    said,
    take_turn,
    transcript,
)

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def staff() -> Client:
    return browser(*READER)


@pytest.fixture
def several(user: Any) -> list[ChatSession]:
    now = timezone.now()
    return [
        factories.ChatSessionFactory(
            owner=user, title=f"Plan {n}", last_active_at=now - timedelta(days=n)
        )
        for n in range(4)
    ]


def titles(html: str) -> list[str]:
    return re.findall(r'<th scope="row">.*?<bdi>(.*?)</bdi>', html, re.S)


def link(html: str, text: str) -> str:
    (found,) = re.findall(rf'<a href="([^"]*)"[^>]*>{text}</a>', html)
    return unescape(found)


# The list


def test_the_list_says_what_one_wants_to_know(staff, session, user):
    take_turn(session, said("Hi"), status="failed")
    ChatSession.objects.filter(id=session.id).update(
        title="Plans",
        status="locked",
        message_count=3,
        remembered_count=7,
        input_tokens=1234,
        output_tokens=56,
        quarantined_count=2,
        last_active_at=timezone.now() - timedelta(days=2, hours=1),
    )
    html = page(staff, LIST)
    for text in (
        *("Plans", user.username, "locked", "1234 / 56", "2 d ago", "4 d", "failed"),
        *("2 set aside", str(session.id)),
    ):
        assert text in html, text


def test_a_hold_takes_the_place_of_the_end(staff, session):
    ChatSession.objects.update(hold=True, hold_reason='Case "7"', last_active_at=timezone.now())
    html = page(staff, LIST)
    assert "on hold" in html
    assert "Case &quot;7&quot;" in html


def test_what_is_past_its_time_is_due(staff, session):
    ChatSession.objects.update(last_active_at=timezone.now() - timedelta(days=30))
    assert ">due<" in page(staff, LIST)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({}, [0, 1, 2, 3]),
        ({"q": "plan 2"}, [2]),
        ({"idle": "1"}, [1, 2, 3]),
        ({"status": "closed"}, []),
        ({"held": "1"}, []),
        ({"trouble": "any"}, []),
        ({"trouble": "damaged"}, []),
        ({"feedback": "negative"}, []),
        ({"model": "gpt"}, []),
        ({"until": "2001-01-01"}, []),
        ({"since": "2001-01-01", "until": "9999-12-31"}, [0, 1, 2, 3]),
        ({"owner": "nobody"}, []),
        ({"owner": "nobody@example.com"}, []),
        ({"q": "user_0_conv_0"}, []),
        ({"status": "", "q": "  "}, [0, 1, 2, 3]),
    ],
    ids=str,
)
def test_filters_are_in_the_address(staff, several, query, expected):
    html = page(staff, LIST, **query)
    assert titles(html) == [f"Plan {n}" for n in expected]
    for value in query.values():
        if value.strip():
            assert f'value="{value}"' in html


def test_people_are_found_by_name_and_by_address(staff, several, user, stranger):
    factories.ChatSessionFactory(owner=stranger, title="Theirs")
    for name in (user.username, user.email):
        assert "Theirs" not in titles(page(staff, LIST, owner=name))
    assert titles(page(staff, LIST, owner=stranger.email)) == ["Theirs"]


def test_a_conversation_is_found_by_every_id_of_it(staff, several):
    turn = take_turn(several[2], said("Hi"))
    for key in (several[2].id, several[2].agent_session_id, turn.id, turn.user_message_id):
        assert titles(page(staff, LIST, q=str(key))) == ["Plan 2"]


@pytest.mark.parametrize(
    "query",
    [
        {"status": "x"},
        {"idle": "-1"},
        {"since": "31.12."},
        {"q": "x" * 201},
        {"q": "a\x00"},
        {"trouble": "' OR 1=1"},
    ],
    ids=str,
)
def test_a_filter_that_makes_no_sense_finds_nothing_and_says_so(staff, several, query):
    html = page(staff, LIST, **query)
    assert titles(html) == []
    assert "does not make sense" in html
    assert 'class="wrong"' in html


@pytest.mark.parametrize("place", ["x", "é", "2026~", "a" * 500])
def test_a_place_that_is_none_is_the_beginning(staff, several, place):
    assert len(titles(page(staff, LIST, after=place))) == 4


def test_pages_lead_to_each_other_with_the_same_filters(staff, several, monkeypatch):
    monkeypatch.setattr(pages, "LISTED", 2)
    first = page(staff, LIST, q="Plan")
    assert titles(first) == ["Plan 0", "Plan 1"]
    second = page(staff, LIST + link(first, "Older"))
    assert titles(second) == ["Plan 2", "Plan 3"]
    assert "q=Plan" in link(first, "Older")
    assert ">Older<" not in second
    assert titles(page(staff, LIST + link(second, "Newer"))) == ["Plan 0", "Plan 1"]
    assert ">Newer<" not in first


def test_where_looking_stops_one_can_look_further(staff, several, monkeypatch):
    monkeypatch.setattr(review, "LOOKED_THROUGH", 2)
    html = page(staff, LIST, q="Plan 3")
    assert "None among the 2" in html
    assert titles(page(staff, LIST + link(html, "Look further"))) == ["Plan 3"]


def test_an_empty_list_says_so(staff):
    assert "There are no conversations." in page(staff, LIST)


def test_a_title_is_text_in_its_own_direction(staff, session):
    ChatSession.objects.update(title="<b>\u202e\n x</b>")
    html = page(staff, LIST)
    assert "<bdi>&lt;b&gt;\u27e6U+202E\u27e7 x&lt;/b&gt;</bdi>" in html
    ChatSession.objects.update(title="")
    assert titles(page(staff, LIST)) == ["Untitled"]


# Nothing is changed by hand


def test_nothing_is_added_changed_or_deleted(session):
    client = browser(is_superuser=True)
    assert client.get(f"{LIST}add/").status_code == 403
    assert client.post(f"{LIST}add/", {"title": "x"}).status_code == 403
    assert client.post(f"{LIST}{session.id}/delete/", {"post": "yes"}).status_code == 403
    form = {"action": "delete_selected", "_selected_action": [str(session.id)], "post": "yes"}
    client.post(LIST, form)
    client.post(f"{LIST}{session.id}/change/", {"title": "x"})
    session.refresh_from_db()
    assert session.title == ""


def test_there_is_no_form_but_the_transcript(staff, session):
    response = staff.get(f"{LIST}{session.id}/change/")
    assert (response.status_code, response["Location"]) == (302, f"{LIST}{session.id}/transcript/")
    assert staff.get(f"{LIST}nonsense/change/").status_code == 404


# Rights

PATHS: Final = ("", "{}/transcript/", "{}/model/", "{}/change/")


@pytest.mark.parametrize("path", PATHS)
def test_who_is_no_staff_is_sent_to_sign_in(session, user, path):
    signed_in = Client()
    signed_in.force_login(user)
    for client in (Client(), signed_in):
        response = client.get(LIST + path.format(session.id))
        assert response.status_code == 302
        assert "/admin/login/" in response["Location"]


@pytest.mark.parametrize("path", PATHS)
def test_staff_without_rights_see_nothing(session, path):
    response = browser().get(LIST + path.format(session.id))
    assert response.status_code == 403
    assert not StaffRead.objects.exists()


def test_the_list_and_the_transcript_are_separate_rights(session):
    lists, reader = browser("view_chatsession"), browser("view_transcript")
    html = page(lists, LIST)
    assert str(session.id) in html
    assert f"{session.id}/transcript/" not in html
    for path in PATHS[1:3]:
        assert lists.get(LIST + path.format(session.id)).status_code == 403
        assert reader.get(LIST + path.format(session.id)).status_code == 200
    assert reader.get(LIST).status_code == 403


def test_the_groups_give_what_they_are_for(session):
    ensure_groups()
    support, protection = browser(), browser()
    for client, name in ((support, "Support"), (protection, "Data protection")):
        client.user.groups.add(Group.objects.get(name=name))
        page(client, LIST)
    transcript(support, session)
    assert support.get("/admin/conversations/staffread/").status_code == 403
    assert protection.get(f"{LIST}{session.id}/transcript/").status_code == 403
    page(protection, "/admin/conversations/staffread/")


# Reads are written down

READS: Final = {"transcript/": "page", "model/": "model"}


@pytest.mark.parametrize("path", READS)
def test_each_read_leaves_exactly_one_row(staff, session, path):
    page(staff, f"{LIST}{session.id}/{path}")
    read = StaffRead.objects.get()
    assert (read.session_id, read.reader_id, read.how) == (session.id, staff.user.pk, READS[path])
    assert timezone.now() - read.read_at < timedelta(minutes=1)


def test_the_list_is_no_read(staff, session):
    page(staff, LIST)
    assert not StaffRead.objects.exists()


@pytest.mark.parametrize("path", READS)
def test_without_a_row_nothing_goes_out(staff, session, path, monkeypatch):
    take_turn(session, said("a secret"))

    def fail(*args: Any, **kwargs: Any) -> None:
        raise StoreReadOnly

    monkeypatch.setattr(reads, "record", fail)
    response = staff.get(f"{LIST}{session.id}/{path}")
    assert response.status_code == 503
    assert b"secret" not in response.content


@pytest.mark.parametrize("path", READS)
def test_what_is_not_there_is_404_and_no_read(staff, session, path):
    assert staff.get(f"{LIST}{uuid4()}/{path}").status_code == 404
    assert staff.get(f"{LIST}1/{path}", follow=True).status_code == 404
    assert not StaffRead.objects.exists()


@pytest.mark.parametrize("path", READS)
def test_a_conversation_deleted_meanwhile_is_not_shown(staff, session, path, monkeypatch):
    take_turn(session, said("a secret"))
    looked_up = lanes.look_up

    def look_up(job: Callable[..., Any]) -> Any:
        monkeypatch.setattr(lanes, "look_up", looked_up)  # deleting looks up, too
        found = looked_up(job)
        monkeypatch.undo()
        session.delete()
        return found

    monkeypatch.setattr(lanes, "look_up", look_up)
    response = staff.get(f"{LIST}{session.id}/{path}")
    assert response.status_code == 404
    assert b"secret" not in response.content
    assert not StaffRead.objects.exists()


@pytest.mark.parametrize("path", ["", *READS])
def test_a_store_that_is_busy_is_said_so(staff, session, path, monkeypatch):
    def fail(*args: Any) -> None:
        raise StoreBusy

    monkeypatch.setattr(lanes, "look_up", fail)
    address = f"{LIST}{session.id}/{path}" if path else LIST
    response = staff.get(address)
    assert (response.status_code, response["Content-Type"]) == (503, "text/plain; charset=utf-8")


def test_no_page_of_a_conversation_is_kept_by_anybody(staff, session):
    for path in READS:
        response = staff.get(f"{LIST}{session.id}/{path}")
        assert "no-store" in response["Cache-Control"]


# What it costs


@pytest.mark.parametrize(
    "query",
    [
        "",
        "?status=active&trouble=any&feedback=negative&model=m&q=Plan&owner=a@example.com",
        "?status=locked&held=1&idle=1&since=2001-01-01",
    ],
    ids=["all", "everything", "indexed"],
)
def test_a_list_takes_fewer_than_ten_queries(staff, several, query):
    with counted() as queries:
        page(staff, LIST + query)
    assert len(queries) < 10, queries


def test_a_longer_list_takes_no_more_queries(staff, user, several):
    with counted() as few:
        page(staff, LIST)
    for n in range(60):
        take_turn(factories.ChatSessionFactory(owner=user), said(f"{n}"), warning="W")
    with counted() as many:
        page(staff, LIST)
    assert len(many) == len(few)
