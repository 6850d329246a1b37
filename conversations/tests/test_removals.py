"""What Django itself deletes: not what is on hold, and not unheard of."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.db.models import ProtectedError
from django.test import Client
from django.utils import timezone

from conversations import holds, lanes
from conversations.models import ChatMessage, ChatSession, Feedback, StaffRead
from conversations.store import ledger
from conversations.tests import factories
from conversations.tests.ledger_helpers import entries
from conversations.tests.sweeps_helpers import remember

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def spoken(session: Any) -> Any:
    remember(session, 3)
    return ChatSession.objects.get(id=session.id)


@pytest.fixture
def staff() -> Client:
    client = Client()
    client.force_login(get_user_model().objects.create_superuser("chief", password="x"))
    return client


def hold(session: Any) -> None:
    said = {"reason": "a case", "actor": "command", "now": timezone.now()}
    holds.hold_session(session_id=session.id, **said)


def test_conversations_of_a_user_who_is_deleted_are_in_the_ledger(spoken, user, stranger):
    factories.ChatSessionFactory(owner=stranger)
    user.delete()
    assert entries() == [
        {
            "action": "delete",
            "actor": "code",
            "subject": ledger.of_session(spoken.id),
            "counts": {"sessions": 1, "messages": 3},
        }
    ]
    assert not ChatMessage.objects.exists()
    assert ChatSession.objects.count() == 1
    assert lanes.look_up(ledger.verify).is_whole


def test_a_user_with_a_conversation_on_hold_cannot_be_deleted(spoken, user):
    hold(spoken)
    with pytest.raises(ProtectedError):
        user.delete()
    assert spoken.messages.count() == 3


@pytest.mark.parametrize("held", ["session", "user"])
def test_nor_can_a_conversation_on_hold(spoken, user, held):
    said = {"reason": "a case", "actor": "command", "now": timezone.now()}
    if held == "session":
        holds.hold_session(session_id=spoken.id, **said)
    else:
        holds.hold_user(user_id=user.pk, **said)
    for delete in (spoken.delete, ChatSession.objects.all().delete):
        with pytest.raises(ProtectedError):
            delete()
    assert spoken.messages.count() == 3
    assert [entry["action"] for entry in entries()] == ["hold"]


def test_the_admin_says_that_it_is_protected(spoken, user, staff):
    hold(spoken)
    url = f"/admin/auth/user/{user.pk}/delete/"
    page = staff.post(url, {"post": "yes"})
    assert page.status_code == 200
    assert f"conversation {spoken.id}" in page.content.decode()
    assert spoken.messages.count() == 3
    holds.lift_session(session_id=spoken.id, reason="over", actor="command", now=timezone.now())
    assert staff.post(url, {"post": "yes"}).status_code == 302
    assert not ChatSession.objects.exists()
    assert [entry["action"] for entry in entries()] == ["hold", "lift", "delete"]


def test_an_account_takes_along_what_staff_cannot_delete_by_itself(spoken, user, staff):
    (message, *_) = spoken.messages.all()
    Feedback.objects.create(message=message, session=spoken, user=user, kind="negative")
    StaffRead.objects.create(session=spoken, reader_id=user.pk, how="page")
    for model in (ChatSession, Feedback, StaffRead):
        page = f"/admin/conversations/{model._meta.model_name}/{model.objects.get().pk}/delete/"
        assert staff.post(page, {"post": "yes"}).status_code == 403
    assert staff.post(f"/admin/auth/user/{user.pk}/delete/", {"post": "yes"}).status_code == 302
    assert not ChatSession.objects.exists()
    assert not StaffRead.objects.exists()
