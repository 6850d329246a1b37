"""The staff's list: what is found, in which order, page after page, and at what cost."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Final
from uuid import uuid4

import pytest
from django.db import connection
from django.utils import timezone

from conversations import lanes
from conversations.errors import ThreadNotFound
from conversations.ids import new_id
from conversations.models import ChatMessage, ChatSession, Feedback, UserHold
from conversations.store import removing, review
from conversations.store.criteria import Criteria
from conversations.store.review import Flags
from conversations.store.threads import Place
from conversations.tests.factories import ChatSessionFactory
from conversations.tests.staff_helpers import answered, said, take_turn
from conversations.tests.test_store_thread_items import Explained, on_sqlite

NOW: Final = datetime(2026, 3, 1, tzinfo=UTC)


def listed(criteria: Criteria | None = None, **options: Any) -> review.ReviewPage:
    options = {"limit": 50} | options
    return lanes.look_up(partial(review.list_sessions, criteria=criteria or Criteria(), **options))


def found(criteria: Criteria | None = None, **options: Any) -> list[Any]:
    return [session.id for session in listed(criteria, **options).sessions]


@pytest.fixture
def several(user: Any) -> list[ChatSession]:
    """Seven conversations, the most recently active first."""
    return [
        ChatSessionFactory(owner=user, title=f"Plan {n}", last_active_at=NOW - timedelta(days=n))
        for n in range(7)
    ]


# What is found


def test_newest_activity_comes_first_with_its_owner(several, user):
    page = listed()
    assert [session.id for session in page.sessions] == [session.id for session in several]
    assert {session.owner for session in page.sessions} == {user.username}
    assert (page.has_more, page.looked_to) == (False, None)


def test_each_criterion_finds_what_it_says(several, user, stranger):
    first, second, third, fourth, fifth, sixth, _ = several
    theirs = ChatSessionFactory(owner=stranger, last_active_at=NOW - timedelta(days=9))
    nobodys = ChatSessionFactory(owner=None, agent_session_id="job")
    ChatSession.objects.filter(id=nobodys.id).update(last_active_at=NOW - timedelta(days=10))
    ChatSession.objects.filter(id=first.id).update(status="locked")
    ChatSession.objects.filter(id=second.id).update(hold=True, quarantined_count=2)
    failed = take_turn(third, said("Hi"), status="failed", now=third.last_active_at)
    take_turn(fourth, said("Hi"), status="interrupted", now=fourth.last_active_at)
    row = answered("Hello")
    take_turn(fifth, said("Hi"), row, warning="W", now=fifth.last_active_at, model="other")
    message = ChatMessage.objects.get(id=row.id)
    Feedback.objects.create(message=message, session=fifth, user=user, kind="negative")
    expected: list[tuple[Criteria, list[Any]]] = [
        (Criteria(status="locked"), [first]),
        (Criteria(status="closed"), []),
        (Criteria(status="active"), [*several[1:], theirs, nobodys]),
        (Criteria(held=True), [second]),
        (Criteria(damaged=True), [second]),
        (Criteria(trouble="any"), [third, fourth, fifth]),
        (Criteria(trouble="failed"), [third]),
        (Criteria(trouble="interrupted"), [fourth]),
        (Criteria(trouble="warning"), [fifth]),
        (Criteria(feedback="negative"), [fifth]),
        (Criteria(feedback="positive"), []),
        (Criteria(model="other"), [fifth]),
        (Criteria(title="PLAN 5"), [sixth]),
        (Criteria(title="%"), []),
        (Criteria(since=NOW - timedelta(days=1)), [first, second]),
        (Criteria(before=NOW - timedelta(days=8)), [theirs, nobodys]),
        (Criteria(owner_ids=(stranger.pk,)), [theirs]),
        (Criteria(owner_ids=()), []),
        (Criteria(any_id=third.id), [third]),
        (Criteria(any_id=failed.id), [third]),
        (Criteria(any_id=message.id), [fifth]),
        (Criteria(any_id="job"), [nobodys]),
        (Criteria(any_id=uuid4()), []),
        (Criteria(held=True, trouble="failed"), []),
    ]
    for criteria, sessions in expected:
        assert found(criteria) == [session.id for session in sessions], criteria


def test_a_hold_on_its_owner_is_a_hold(several, stranger):
    theirs = ChatSessionFactory(owner=stranger)
    UserHold.objects.create(user=stranger, reason="Case 7", placed_by="command")
    ChatSession.objects.filter(id=several[1].id).update(hold=True, hold_reason="Case 8")
    sessions = listed(Criteria(held=True)).sessions
    assert [(each.id, each.hold, each.hold_reason) for each in sessions] == [
        (theirs.id, True, "Case 7"),
        (several[1].id, True, "Case 8"),
    ]
    assert [each.hold for each in listed().sessions].count(False) == 6


def test_what_is_on_its_way_out_is_gone_for_staff_too(session, several):
    key = lanes.from_uuid(session.id, is_sqlite=connection.vendor == "sqlite")
    lanes.perform(lambda db: removing.set_apart(db, key))
    assert session.id not in found()
    with pytest.raises(ThreadNotFound):
        lanes.look_up(partial(review.find_session, session_id=session.id))


def test_one_conversation_is_found_by_its_id(session, user):
    seen = lanes.look_up(partial(review.find_session, session_id=session.id))
    assert (seen.id, seen.owner, seen.owner_id) == (session.id, user.username, user.pk)
    with pytest.raises(ThreadNotFound):
        lanes.look_up(partial(review.find_session, session_id=uuid4()))


def test_flags_tell_what_happened(several, user):
    first, second, *_ = several
    take_turn(first, said("Hi"), status="failed")
    row = answered("Hello")
    take_turn(first, row, warning="W")
    message = ChatMessage.objects.get(id=row.id)
    Feedback.objects.create(message=message, session=first, user=user, kind="positive")
    ids = [first.id, second.id]
    flags = lanes.look_up(partial(review.flags_of, session_ids=ids))
    assert flags == {first.id: Flags(failed=True, warned=True, liked=True)}
    assert lanes.look_up(partial(review.flags_of, session_ids=[])) == {}


def test_the_models_of_the_latest_turns_are_known(session):
    for model in ("b", "a", "", "b"):
        take_turn(session, model=model)
    assert lanes.look_up(review.latest_models) == ["a", "b"]


# Page after page


def walk(criteria: Criteria, *, limit: int = 2) -> list[Any]:
    """What is found from the newest to the oldest, and on where looking stopped."""
    seen: list[Any] = []
    place: Place | None = None
    while True:
        page = listed(criteria, limit=limit, after=place)
        seen += [session.id for session in page.sessions]
        if page.has_more:
            place = page.sessions[-1].place
        elif page.looked_to:
            place = page.looked_to
        else:
            return seen


@pytest.mark.parametrize(
    "criteria", [Criteria(), Criteria(title="plan")], ids=["all", "looked for"]
)
def test_pages_hold_everything_once(several, criteria, monkeypatch):
    monkeypatch.setattr(review, "LOOKED_THROUGH", 3)
    same = NOW - timedelta(days=2)
    ChatSession.objects.filter(id__in=[each.id for each in several[3:5]]).update(
        last_active_at=same
    )
    seen = walk(criteria)
    assert len(seen) == len(set(seen)) == 7
    assert seen == walk(Criteria(), limit=50)


def test_looking_stops_and_says_where(several, monkeypatch):
    monkeypatch.setattr(review, "LOOKED_THROUGH", 3)
    page = listed(Criteria(title="Plan 6"))
    assert (page.sessions, page.looked_to) == ([], Place(NOW - timedelta(days=2), several[2].id))
    assert walk(Criteria(title="Plan 6")) == [several[6].id]


def test_one_can_go_back(several):
    place = Place(several[5].last_active_at, several[5].id)
    page = listed(limit=2, before=place)
    assert [session.id for session in page.sessions] == [several[3].id, several[4].id]
    assert page.has_more
    assert found(limit=9, before=place) == [session.id for session in several[:5]]


def test_one_can_go_back_where_looking_stops(several, monkeypatch):
    monkeypatch.setattr(review, "LOOKED_THROUGH", 2)
    place = Place(several[6].last_active_at, several[6].id)
    page = listed(Criteria(title="Plan 0"), before=place)
    assert (page.sessions, page.looked_to) == ([], Place(NOW - timedelta(days=4), several[4].id))


# Rows that are damaged


@on_sqlite
def test_damage_hides_nothing_else(several):
    with connection.cursor() as cursor:
        for n, change in enumerate(
            [
                "title = CAST(x'ff' AS TEXT)",
                "last_active_at = 'never'",
                "input_tokens = 'many'",
                "hold = 'x'",
                "last_active_at = x'ff'",
            ]
        ):
            table = ChatSession._meta.db_table
            cursor.execute(f"UPDATE {table} SET {change} WHERE id = %s", [several[n].id.hex])
    assert set(found()) == {session.id for session in several}
    seen = walk(Criteria())
    assert sorted(seen) == sorted(session.id for session in several)


# What it costs

CASES: Final = {
    "all": Criteria(),
    "active": Criteria(status="active"),
    "locked": Criteria(status="locked"),
    "held": Criteria(held=True),
    "damaged": Criteria(damaged=True),
    "dates": Criteria(since=NOW, before=NOW),
    "owner": Criteria(owner_ids=(1,)),
    "id": Criteria(any_id=new_id()),
    "name": Criteria(any_id="job"),
    "title": Criteria(title="x"),
    "trouble": Criteria(trouble="any"),
    "failed": Criteria(trouble="failed"),
    "feedback": Criteria(feedback="negative"),
    "model": Criteria(model="x"),
    "everything": Criteria("locked", True, True, NOW, NOW, (1,), None, "x", "any", "negative", "m"),
}


@on_sqlite
@pytest.mark.parametrize("name", CASES)
def test_no_table_is_read_and_nothing_is_sorted(name, session):
    def job(db: lanes.Database) -> list[str]:
        explained = Explained(db)
        place = Place(timezone.now(), session.id)
        for places in ({}, {"after": place}, {"before": place}):
            review.list_sessions(explained, CASES[name], limit=50, **places)
        review.flags_of(explained, session_ids=[session.id])
        return explained.plans

    for plan in lanes.perform(job):
        if plan.startswith("SCAN"):
            assert "INDEX" in plan or "CONSTANT" in plan, plan
        # One person's, or one id's, are few and may be sorted.
        assert name in {"owner", "id", "name", "everything"} or "ORDER BY" not in plan, plan


@on_sqlite
def test_the_latest_models_are_read_from_few_rows(session):
    plans: list[str] = []

    def job(db: lanes.Database) -> None:
        explained = Explained(db)
        review.latest_models(explained)
        plans.extend(explained.plans)

    lanes.perform(job)
    scans = [plan for plan in plans if plan.startswith("SCAN") and "chatturn" in plan]
    assert len(scans) == 1
    assert "INDEX" in scans[0]
