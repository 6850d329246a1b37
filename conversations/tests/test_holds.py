"""Holds: placed and lifted with a reason, which the ledger keeps."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest
from django.db.models import ProtectedError

from conversations import holds, lanes
from conversations.errors import Invalid, NotHeld, ThreadNotFound
from conversations.models import ChatSession, LedgerEntry, UserHold
from conversations.store import holds as stored
from conversations.store import ledger
from conversations.tests import factories
from conversations.tests.ledger_helpers import entries

pytestmark = pytest.mark.django_db(transaction=True)

NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)
SAID: dict[str, Any] = {"reason": " a case ", "actor": "staff:3", "now": NOON}


def is_held(session: Any) -> bool:
    return lanes.look_up(
        lambda db: stored.is_held(db, lanes.from_uuid(session.id, is_sqlite=db.is_sqlite))
    )


def test_a_session_is_held_until_it_is_let_go(session):
    assert not is_held(session)
    holds.hold_session(session_id=session.id, **SAID)
    assert is_held(session)
    row = ChatSession.objects.get(id=session.id)
    assert (row.hold, row.hold_reason, row.last_active_at) == (True, "a case", row.last_active_at)
    holds.lift_session(session_id=session.id, **SAID | {"reason": "it is over"})
    assert not is_held(session)
    assert ChatSession.objects.get(id=session.id).hold_reason == ""
    common = {"actor": "staff:3", "subject": ledger.of_session(session.id)}
    assert [{k: v for k, v in each.items() if v} for each in entries()] == [
        {"action": "hold", "reason": "a case", **common},
        {"action": "lift", "reason": "it is over", **common},
    ]


def test_all_of_a_person_is_held_also_what_they_begin_later(session, user, stranger):
    other = factories.ChatSessionFactory(owner=stranger)
    holds.hold_user(user_id=user.pk, **SAID)
    later = factories.ChatSessionFactory(owner=user)
    assert [is_held(each) for each in (session, later, other)] == [True, True, False]
    row = UserHold.objects.get()
    assert (row.user, row.reason, row.placed_by, row.at) == (user, "a case", "staff:3", NOON)
    assert str(row) == f"hold on user {user.pk}"
    holds.lift_user(user_id=user.pk, **SAID)
    assert not is_held(session)
    assert [entry["subject"] for entry in entries()] == [ledger.of_user(user.pk)] * 2


def test_a_hold_of_its_own_outlives_that_of_its_owners_all(session, user):
    holds.hold_session(session_id=session.id, **SAID)
    holds.hold_user(user_id=user.pk, **SAID)
    holds.lift_user(user_id=user.pk, **SAID)
    assert is_held(session)


def test_a_person_on_hold_cannot_be_deleted(user):
    holds.hold_user(user_id=user.pk, **SAID)
    with pytest.raises(ProtectedError):
        user.delete()


def test_placed_again_it_has_the_new_reason_and_both_are_told(session, user):
    for reason in ("one", "two"):
        holds.hold_session(session_id=session.id, **SAID | {"reason": reason})
        holds.hold_user(user_id=user.pk, **SAID | {"reason": reason})
    assert ChatSession.objects.get(id=session.id).hold_reason == "two"
    assert UserHold.objects.get().reason == "two"
    assert LedgerEntry.objects.count() == 4


@pytest.mark.parametrize(
    "reason", ["", "  ", "x" * 501, "a\0b"], ids=["none", "blank", "long", "NUL"]
)
@pytest.mark.parametrize("change", ["hold_session", "lift_session", "hold_user", "lift_user"])
def test_whoever_does_it_says_why(session, user, change, reason):
    key = {"session_id": session.id} if change.endswith("session") else {"user_id": user.pk}
    with pytest.raises(Invalid):
        getattr(holds, change)(**key, **SAID | {"reason": reason})
    assert not is_held(session)
    assert not LedgerEntry.objects.exists()


def test_what_is_not_there_is_not_held_and_what_is_not_held_is_not_let_go(session, user):
    for change in (holds.hold_session, holds.lift_session):
        with pytest.raises(ThreadNotFound):
            change(session_id=uuid4(), **SAID)
    with pytest.raises(NotHeld):
        holds.lift_session(session_id=session.id, **SAID)
    with pytest.raises(NotHeld):
        holds.lift_user(user_id=user.pk, **SAID)
    assert not LedgerEntry.objects.exists()


def test_a_dry_run_places_none(session):
    holds.hold_session(session_id=session.id, dry_run=True, **SAID)
    assert not is_held(session)
    assert not LedgerEntry.objects.exists()
