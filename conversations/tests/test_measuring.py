"""What takes long to count: counted some at a time, and all of it."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone

from conversations import measuring
from conversations.conf import get_conf
from conversations.models import ChatSession, Measurement
from conversations.tests import factories
from conversations.tests.sweeps_helpers import remember, statements

pytestmark = pytest.mark.django_db(transaction=True)


def measured() -> dict[str, int]:
    return dict(Measurement.objects.values_list("name", "value"))


def test_nothing_is_counted_as_nothing():
    assert measuring.measure_sessions(now=timezone.now()) == 0
    assert measured() == dict.fromkeys(measuring.NAMES, 0)


@pytest.mark.parametrize("at_once", [1, 2, 3, 5, 1_000])
def test_all_are_counted_once_however_many_at_a_time(user, monkeypatch, at_once):
    monkeypatch.setattr(measuring, "SESSIONS_AT_ONCE", at_once)
    found = [factories.ChatSessionFactory(owner=user) for _ in range(5)]
    for session in found[:3]:
        remember(session, 2)
    now = timezone.now()
    old = now - get_conf().retention - timedelta(days=1)
    ChatSession.objects.filter(id=found[3].id).update(last_active_at=old)
    ChatSession.objects.filter(id=found[4].id).update(hold=True, last_active_at=old)
    with statements() as seen:
        assert measuring.measure_sessions(now=now) == 5
    assert len(seen) <= 2 * (5 // at_once + 1)
    assert measured() == {
        "sessions": 5,
        "held_sessions": 1,
        "expired_sessions": 1,
        "remembered_rows": 6,
        "stored_rows": 6,
        "messages": 6,
        "quarantined_rows": 0,
    }


def test_it_is_measured_anew_in_the_same_rows(user):
    measuring.measure_sessions(now=timezone.now())
    factories.ChatSessionFactory(owner=user)
    now = timezone.now()
    measuring.measure_sessions(now=now)
    assert measured()["sessions"] == 1
    assert set(Measurement.objects.values_list("measured_at", flat=True)) == {now}
    assert str(Measurement.objects.get(name="sessions")) == "sessions: 1"
