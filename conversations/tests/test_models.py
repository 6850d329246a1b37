"""The tables: what the database itself refuses, and the phrases querysets speak."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import IntegrityError, transaction
from django.utils import timezone

from conversations.models import (
    AccessToken,
    Attachment,
    ChatMessage,
    ChatSession,
    ChatTurn,
    RecordedEvents,
    Throttle,
)
from conversations.tests.factories import AttachmentFactory, ChatSessionFactory, UserFactory

pytestmark = pytest.mark.django_db(transaction=True)

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


def turn(session: ChatSession, number: int, status: str = "queued", **values: Any) -> ChatTurn:
    return ChatTurn.objects.create(session=session, number=number, status=status, **values)


def running(session: ChatSession, number: int, **values: Any) -> ChatTurn:
    return turn(session, number, "running", lease_until=0, **values)


def message(session: ChatSession, position: int, **values: Any) -> ChatMessage:
    return ChatMessage.objects.create(session=session, position=position, kind="message", **values)


def refused() -> Any:
    """The database says no; what was there stays."""
    return pytest.raises(IntegrityError)


# A conversation


def test_two_conversations_cannot_share_an_sdk_id(session):
    with refused():
        ChatSessionFactory(agent_session_id=session.agent_session_id)


@pytest.mark.parametrize("status", ["", "open", "ACTIVE"])
def test_a_conversation_has_a_known_status(session, status):
    with refused():
        ChatSession.objects.filter(id=session.id).update(status=status)


@pytest.mark.parametrize("counter", ["remembered_count", "message_count", "input_tokens"])
def test_a_count_is_never_negative(session, counter):
    with refused():
        ChatSession.objects.filter(id=session.id).update(**{counter: -1})


def test_a_new_conversation_is_active_and_empty(session):
    session.refresh_from_db()
    assert session.status == "active"
    assert (session.last_position, session.remembered_count, session.message_count) == (0, 0, 0)
    assert session.metadata == {}


def test_querysets_speak_of_owners_and_idleness(user, stranger):
    mine = ChatSessionFactory(owner=user, last_active_at=NOW - HOUR)
    fresh = ChatSessionFactory(owner=user, last_active_at=NOW)
    ChatSessionFactory(owner=stranger, last_active_at=NOW - HOUR)
    sessions = ChatSession.objects
    assert set(sessions.owned_by(user.pk)) == {mine, fresh}
    assert list(sessions.owned_by(user.pk).idle_since(NOW)) == [mine]
    assert list(sessions.owned_by(user.pk).idle_since(NOW - HOUR)) == []


def test_with_a_user_go_their_conversations_and_tokens(user, stranger):
    mine, theirs = ChatSessionFactory(owner=user), ChatSessionFactory(owner=stranger)
    for owner, session in ((user, mine), (stranger, theirs)):
        message(session, 1, turn=running(session, 1))
        AccessToken.objects.create(user=owner, expires_at=timezone.now() + HOUR)
    user.delete()
    assert list(ChatSession.objects.all()) == [theirs]
    for model in (ChatTurn, ChatMessage):
        assert {row.session_id for row in model.objects.all()} == {theirs.id}
    assert AccessToken.objects.get().user == stranger


# A turn


def test_one_turn_of_a_conversation_runs_at_a_time(session):
    running(session, 1)
    with refused():
        running(session, 2)
    turn(session, 2)
    running(ChatSessionFactory(), 1)


def test_the_next_runs_when_the_one_before_has_ended(session):
    first = running(session, 1)
    ChatTurn.objects.filter(id=first.id).update(status="completed")
    running(session, 2)


def test_two_turns_cannot_have_the_same_place_in_the_line(session):
    turn(session, 1, "completed")
    with refused():
        turn(session, 1)
    turn(ChatSessionFactory(), 1)


def test_a_running_turn_has_a_lease(session):
    with refused():
        turn(session, 1, "running")


@pytest.mark.parametrize("status", ["", "paused", "RUNNING"])
def test_a_turn_has_a_known_status(session, status):
    with refused():
        turn(session, 1, status)


@pytest.mark.parametrize("status", ChatTurn.Status.values)
def test_every_status_we_name_is_known(session, status):
    turn(session, 1, status, lease_until=0)


@pytest.mark.parametrize("status", ChatSession.Status.values)
def test_every_status_of_a_conversation_is_known(session, status):
    assert ChatSession.objects.filter(id=session.id).update(status=status) == 1


def test_an_idempotency_key_is_used_once_in_a_conversation(session):
    turn(session, 1, "completed", idempotency_key="again")
    with refused():
        turn(session, 2, idempotency_key="again")
    turn(ChatSessionFactory(), 1, idempotency_key="again")


def test_turns_without_an_idempotency_key_do_not_meet(session):
    turn(session, 1)
    turn(session, 2)


def test_a_turn_needs_its_conversation():
    with refused(), transaction.atomic():  # some engines look only at the commit
        ChatTurn.objects.create(session=ChatSession(owner=None), number=1)


# The log


def test_two_entries_cannot_have_the_same_position(session):
    message(session, 1)
    with refused():
        message(session, 1)
    message(ChatSessionFactory(), 1)


def test_a_remembered_empty_item_is_not_a_forgotten_one(session):
    message(session, 1, agent_item="")
    message(session, 2, agent_item=None)
    assert ChatMessage.objects.filter(agent_item=None).get().position == 2


# Signing in


def test_a_token_expires_after_it_was_made(user):
    with refused():
        AccessToken.objects.create(user=user, created_at=NOW, expires_at=NOW)


def test_a_token_is_valid_until_it_expires_is_revoked_or_its_user_goes_inactive(user):
    def token(**values: Any) -> AccessToken:
        defaults = {"user": user, "created_at": NOW - HOUR, "expires_at": NOW + HOUR}
        return AccessToken.objects.create(**(defaults | values))

    valid = token()
    token(expires_at=NOW)
    token(revoked_at=NOW)
    token(user=UserFactory(is_active=False))
    assert list(AccessToken.objects.valid_at(NOW)) == [valid]


# A file


@pytest.mark.parametrize("status", ["", "uploaded", "READY"])
def test_a_file_has_a_known_status(user, status):
    row = AttachmentFactory(owner=user)
    with refused():
        Attachment.objects.filter(id=row.id).update(status=status)


def test_a_file_outlives_its_owner_and_its_conversation_until_its_bytes_are_erased(session):
    row = AttachmentFactory(owner=session.owner, session=session, message_id=session.id)
    session.owner.delete()
    row.refresh_from_db()
    assert (row.owner, row.session) == (None, None)


# What a log line or the admin shows: ids, never what was said


def test_rows_introduce_themselves_without_what_was_said(session, user):
    ChatSession.objects.filter(id=session.id).update(title="a secret")
    one = running(session, 1, input="a secret")
    entries = [message(session, 1, role="user", text="a secret"), message(session, 2)]
    token = AccessToken.objects.create(user=user, expires_at=timezone.now() + HOUR)
    throttle = Throttle(key="k", window_ends_at=NOW)
    told = RecordedEvents(turn=one, first_number=1, last_number=2, events='["a secret"]')
    file = AttachmentFactory(owner=user, name="a secret.png")
    shown = [str(row) for row in (session, one, *entries, token, throttle, told, file)]
    assert shown == [
        f"conversation {session.id}",
        f"turn 1 of {session.id}",
        f"user at 1 of {session.id}",
        f"message at 2 of {session.id}",
        f"token {token.id}",
        "k",
        f"events 1 to 2 of {one.id}",
        f"attachment {file.id}",
    ]
    token.name = "laptop"
    assert str(token) == "laptop"
