"""The trace of who read what: seen by whoever may, changed by nobody."""

from __future__ import annotations

from typing import Any

import pytest

from conversations.admin import reads as page_of_reads
from conversations.models import StaffRead
from conversations.tests.factories import ChatSessionFactory, UserFactory
from conversations.tests.staff_helpers import browser, counted, page
from conversations.tests.test_store_reads import record

pytestmark = pytest.mark.django_db(transaction=True)

READS = "/admin/conversations/staffread/"


def test_the_list_says_who_read_what_and_how(session, stranger):
    record(session.id, stranger, "model")
    html = page(browser("view_staffread"), READS)
    assert stranger.username in html
    assert str(session.id) in html
    assert "As the model saw it" in html


def test_an_account_that_is_gone_is_named_by_its_key(session):
    reader = UserFactory()
    key = reader.pk
    record(session.id, reader)
    reader.delete()
    assert f"account {key}, deleted" in page(browser("view_staffread"), READS)


def test_reads_are_found_by_conversation_and_by_name(session, stranger, user):
    other = ChatSessionFactory()
    record(session.id, stranger)
    record(other.id, user)
    client = browser("view_staffread")
    for term in (str(session.id), stranger.username):
        html = page(client, READS, q=term)
        assert (str(session.id) in html, str(other.id) in html) == (True, False)
    assert str(session.id) not in page(client, READS, q="nobody")


def test_nobody_changes_the_trace(session, stranger):
    record(session.id, stranger)
    read = StaffRead.objects.get()
    client: Any = browser(is_superuser=True)
    assert client.get(f"{READS}add/").status_code == 403
    assert client.post(f"{READS}{read.pk}/delete/", {"post": "yes"}).status_code == 403
    assert client.post(f"{READS}{read.pk}/change/", {"how": "export"}).status_code == 403
    form = {"action": "delete_selected", "_selected_action": [str(read.pk)], "post": "yes"}
    client.post(READS, form)
    assert StaffRead.objects.get().how == "page"
    assert browser("view_chatsession").get(READS).status_code == 403


def test_reads_stand_in_nobodys_way_when_a_person_is_deleted(session, stranger):
    record(session.id, stranger)
    client = browser(is_superuser=True)
    response = client.post(f"/admin/auth/user/{session.owner_id}/delete/", {"post": "yes"})
    assert response.status_code == 302
    assert not StaffRead.objects.exists()


def test_a_read_has_a_page_without_buttons(session, stranger):
    record(session.id, stranger)
    html = page(browser(is_superuser=True), f"{READS}{StaffRead.objects.get().pk}/change/")
    assert str(session.id) in html
    assert "/delete/" not in html


def test_a_long_trace_is_not_counted_to_its_end(session, stranger, monkeypatch):
    monkeypatch.setattr(page_of_reads, "MOST_COUNTED", 2)
    for _ in range(3):
        record(session.id, stranger)
    client = browser("view_staffread")
    with counted() as queries:
        html = page(client, READS)
    assert "2 staff reads" in html
    assert len(queries) < 10
    assert not [sql for sql in queries if "COUNT(*)" in sql and "staffread" in sql]
