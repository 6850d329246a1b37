"""Retention: what is idle for too long goes, exactly that, once, and with a receipt."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.core.files.storage import storages
from django.db import IntegrityError, connection, connections, transaction

from conversations import holds, lanes, processes, retention
from conversations.errors import (
    CleanupLost,
    CleanupRunning,
    Invalid,
    PlanApplied,
    PlanExpired,
    PlanNotFound,
    StoreBusy,
    StoreDamaged,
    StoreReadOnly,
)
from conversations.models import ChatSession, Cleanup, CleanupPage, LedgerEntry
from conversations.retention import applying, planning
from conversations.store import cleanups, ledger, plans, removing
from conversations.store.plans import PAGE_SESSIONS
from conversations.tests.ledger_helpers import entries
from conversations.tests.retention_helpers import LONG_IDLE, NOW, full, idle, leave, left
from conversations.tests.sweeps_helpers import remember, speak, tables

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: Any) -> None:
    monkeypatch.setattr(applying.random, "uniform", lambda low, high: 0.0)


def plan(**options: Any) -> retention.CleanupPlan:
    return retention.plan_cleanup(**{"now": NOW} | options)


def apply(planned: retention.CleanupPlan, **options: Any) -> retention.CleanupReceipt:
    return retention.apply(planned.plan_id, **{"now": NOW} | options)


def remaining() -> set[Any]:
    return set(ChatSession.objects.values_list("id", flat=True))


# --- The plan ------------------------------------------------------------------------------


def test_a_plan_says_what_would_go_and_removes_nothing(user, stranger):
    first = full(user)
    idle(stranger, since=LONG_IDLE + timedelta(hours=1))
    used = idle(user, since=NOW)
    before = tables()
    planned = plan()
    assert (planned.sessions, planned.attachments) == (2, 1)
    assert planned.messages == first.messages.count() + 2
    assert planned.bytes > 206
    assert (planned.oldest, planned.newest) == (LONG_IDLE, LONG_IDLE + timedelta(hours=1))
    assert (planned.cutoff, planned.idle_seconds) == (NOW - timedelta(days=7), 7 * 86_400)
    assert planned.expires_at == NOW + timedelta(days=1)
    assert tables() == before
    assert used.id in remaining()
    assert not LedgerEntry.objects.exists()


def test_what_is_planned_is_what_goes_to_the_byte(user):
    full(user)
    idle(None, messages=3)
    planned = plan()
    receipt = apply(planned)
    names = ("sessions", "messages", "attachments", "bytes")
    assert [getattr(receipt, name) for name in names] == [getattr(planned, name) for name in names]
    assert left() == {}


def test_only_a_time_before_the_cutoff_is_idle(user):
    at_cutoff = idle(user, since=NOW - timedelta(days=7))
    idle(user, since=NOW - timedelta(days=7, microseconds=1))
    assert retention.cleanup(now=NOW).sessions == 1
    assert remaining() == {at_cutoff.id}


def test_a_plan_may_be_of_another_age_and_of_at_most_so_many(user):
    sessions = [idle(user, since=NOW - timedelta(hours=hours)) for hours in (1, 2, 3)]
    assert plan().sessions == 0
    assert plan(idle_for=timedelta(hours=2)).sessions == 1
    oldest = plan(idle_for=timedelta(minutes=30), limit=2)
    assert oldest.sessions == 2
    apply(oldest)
    assert remaining() == {sessions[0].id}


@pytest.mark.parametrize(
    "options",
    [
        {"idle_for": timedelta(0)},
        {"idle_for": timedelta(days=-1)},
        {"idle_for": timedelta.max},
        {"idle_for": timedelta(days=36_500), "now": NOW.replace(year=50)},
        {"limit": 0},
        {"limit": -1},
    ],
    ids=["zero", "negative", "too long", "before all time", "none", "fewer than none"],
)
def test_what_is_no_age_or_no_number_is_refused(options, user):
    with pytest.raises(Invalid):
        plan(**options)
    assert not Cleanup.objects.exists()


@pytest.mark.parametrize("days", [0, -1])
def test_a_retention_of_no_days_removes_nothing(settings, user, days):
    settings.AGENT_SESSION_RETENTION_DAYS = days
    idle(user)
    with pytest.raises(Invalid, match="AGENT_SESSION_RETENTION_DAYS"):
        retention.cleanup(now=NOW)
    assert len(remaining()) == 1


def test_what_is_held_or_busy_is_not_in_the_plan(user, stranger):
    held, busy = idle(user), idle(user)
    holds.hold_session(session_id=held.id, reason="a case", actor="command", now=NOW)
    of_held = idle(stranger)
    holds.hold_user(user_id=stranger.pk, reason="a case", actor="command", now=NOW)
    speak(busy, process=processes.new_name())
    leave(busy)
    planned = plan()
    assert (planned.sessions, planned.held, planned.busy) == (0, 2, 1)
    assert apply(planned).sessions == 0
    assert remaining() == {held.id, busy.id, of_held.id}


def test_a_plan_that_is_applied_at_once_reads_no_rows(user):
    idle(user)
    planned = plan(measures=False)
    assert (planned.sessions, planned.messages, planned.bytes) == (1, 0, 0)
    receipt = apply(planned)
    assert (receipt.sessions, receipt.messages) == (1, 2)


def test_a_dry_run_stores_no_plan(user):
    idle(user)
    planned = plan(stores=False)
    assert planned.sessions == 1
    assert not Cleanup.objects.exists()
    with pytest.raises(PlanNotFound):
        apply(planned)


@pytest.mark.parametrize("value", ["odd", b"\xff", 7, "-3"], ids=["odd", "bytes", "number", "-3"])
def test_a_time_that_cannot_be_read_makes_nothing_idle(user, value):
    if connection.vendor != "sqlite":
        pytest.skip("SQLite stores anything anywhere")
    damaged, _ = idle(user), idle(user)
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE conversations_chatsession SET last_active_at = %s WHERE id = %s",
            [value, damaged.id.hex],
        )
    assert retention.cleanup(now=NOW).sessions == 1
    with connection.cursor() as cursor:
        cursor.execute("SELECT id FROM conversations_chatsession")
        assert cursor.fetchall() == [(damaged.id.hex,)]


def test_the_longest_idle_are_found_by_an_index(user):
    idle(user)
    with connection.cursor() as cursor:
        seen: list[str] = []

        class Listening:
            is_sqlite = connection.vendor == "sqlite"

            def all(self, sql: str, params: Any) -> list[Any]:
                word = "EXPLAIN QUERY PLAN " if self.is_sqlite else "EXPLAIN "
                if not self.is_sqlite:
                    cursor.execute("SET enable_seqscan = off")
                cursor.execute(word + sql, params)
                seen.extend(str(row) for row in cursor.fetchall())
                return []

        plans.find_idle(Listening(), cutoff=NOW, after=None, limit=5)  # type: ignore[arg-type]
    assert "chat_session_idle" in "".join(seen)
    assert "TEMP B-TREE" not in "".join(seen)


# --- Applying it ---------------------------------------------------------------------------


def test_all_that_belongs_to_a_session_goes_and_nothing_of_others(user, stranger):
    full(user)
    other = full(stranger)
    leave(other, since=NOW)
    before = left()
    file = other.attachments.get()
    retention.cleanup(now=NOW)
    assert left() == {name: count // 2 for name, count in before.items()}
    assert remaining() == {other.id}
    assert storages["attachments"].exists(file.storage_name)


def test_the_bytes_of_files_are_erased(user):
    file = full(user).attachments.get()
    retention.cleanup(now=NOW)
    assert not storages["attachments"].exists(file.storage_name)


def test_sessions_of_a_program_without_an_owner_go_too(user):
    idle(None, name="any-id")
    assert retention.cleanup(now=NOW).sessions == 1
    assert remaining() == set()


def test_a_session_that_was_touched_since_the_plan_survives(user):
    touched, later, _ = idle(user), idle(user), idle(user)
    planned = plan()
    remember(touched, 1)
    leave(later, since=LONG_IDLE + timedelta(seconds=1))  # a clock that was set back
    receipt = apply(planned)
    assert (receipt.planned, receipt.sessions, receipt.awake) == (3, 1, 2)
    assert remaining() == {touched.id, later.id}
    assert touched.messages.count() == 3


def test_one_that_is_held_or_busy_by_then_survives(user, stranger):
    held, busy, of_held = idle(user), idle(user), idle(stranger)
    planned = plan()
    holds.hold_session(session_id=held.id, reason="a case", actor="command", now=NOW)
    holds.hold_user(user_id=stranger.pk, reason="a case", actor="command", now=NOW)
    speak(busy, process=processes.new_name())
    leave(busy)
    receipt = apply(planned)
    assert (receipt.sessions, receipt.held, receipt.busy, receipt.awake) == (0, 2, 1, 0)
    assert remaining() == {held.id, busy.id, of_held.id}


def test_one_that_somebody_has_locked_and_does_not_let_go_is_left(user, monkeypatch):
    if connection.vendor == "sqlite":
        pytest.skip("SQLite has one lock for all")
    monkeypatch.setattr(plans, "WAIT_MILLISECONDS", 50)
    locked, _ = idle(user), idle(user)
    planned = plan()
    ready, done = threading.Event(), threading.Event()

    def lock() -> None:
        with transaction.atomic():
            ChatSession.objects.select_for_update().get(id=locked.id)
            ready.set()
            done.wait(30)
        connections.close_all()

    thread = threading.Thread(target=lock)
    thread.start()
    assert ready.wait(30)
    try:
        receipt = apply(planned)
    finally:
        done.set()
        thread.join()
    assert (receipt.sessions, receipt.busy, receipt.finished) == (1, 1, True)
    assert remaining() == {locked.id}


def test_one_that_its_owner_deleted_since_is_no_error(user):
    gone, _ = idle(user), idle(user)
    planned = plan()
    lanes.perform(
        lambda db: removing.remove_sessions(db, [lanes.from_uuid(gone.id, is_sqlite=db.is_sqlite)])
    )
    receipt = apply(planned)
    assert (receipt.planned, receipt.sessions, receipt.failed) == (2, 1, 0)


def test_what_came_after_the_plan_is_not_in_it(user):
    idle(user)
    planned = plan()
    late = idle(user)
    assert apply(planned).sessions == 1
    assert remaining() == {late.id}


def test_the_ledger_says_by_which_rule_and_how_much(user):
    idle(user, messages=3)
    receipt = retention.cleanup(now=NOW, idle_for=timedelta(hours=36))
    assert receipt.ledger_number == 1
    (entry,) = entries()
    assert entry.pop("byte_count") == receipt.bytes > 0
    assert entry == {
        "action": "cleanup",
        "actor": "schedule",
        "policy": "idle for 129600 s",
        "cutoff": NOW - timedelta(hours=36),
        "counts": {"sessions": 1, "messages": 3},
    }


def test_a_run_that_finds_nothing_is_told_too(user):
    receipt = retention.cleanup(now=NOW)
    assert (receipt.finished, receipt.sessions, receipt.ledger_number) == (True, 0, 1)
    assert Cleanup.objects.get().finished_at == NOW
    assert not CleanupPage.objects.exists()


def test_a_preview_says_what_would_go_now(user):
    touched, _ = idle(user), idle(user, messages=3)
    planned = plan()
    remember(touched, 1)
    before = tables()
    found = retention.preview(planned.plan_id)
    assert (found.planned, found.sessions, found.messages, found.awake) == (2, 1, 3, 1)
    assert (found.finished, tables()) == (False, before)
    receipt = apply(planned)
    assert (receipt.sessions, receipt.messages, receipt.bytes) == (1, 3, found.bytes)


def test_a_receipt_stays(user):
    idle(user)
    planned = plan()
    receipt = apply(planned)
    assert retention.get_receipt(planned.plan_id) == receipt
    with pytest.raises(PlanNotFound):
        retention.get_receipt(uuid4())


def test_a_session_too_large_for_one_transaction_goes_in_pieces(user, monkeypatch):
    monkeypatch.setattr(applying, "PIECE_ROWS", 10)
    monkeypatch.setattr(applying, "FIRST_ROWS", 4)
    large, small = idle(user, messages=25), full(user)
    planned = plan()
    batches: list[int] = []
    remove_piece = removing.remove_piece

    def listening(db: Any, key: Any, *, limit: int) -> Any:
        removed = remove_piece(db, key, limit=limit)
        batches.append(removed.messages)
        return removed

    monkeypatch.setattr(removing, "remove_piece", listening)
    receipt = apply(planned)
    assert max(batches) <= 10
    assert len([count for count in batches if count]) > 2
    names = ("sessions", "messages", "attachments", "bytes")
    assert [getattr(receipt, name) for name in names] == [getattr(planned, name) for name in names]
    assert (left(), large.id in remaining(), small.id in remaining()) == ({}, False, False)


async def test_what_is_set_apart_is_gone_for_everybody(user, client):
    large = await lanes.call(full, user)

    def set_apart() -> None:
        lanes.perform(
            lambda db: removing.set_apart(db, lanes.from_uuid(large.id, is_sqlite=db.is_sqlite))
        )

    await lanes.call(set_apart)
    assert (await client.get(f"/chatkit/threads/{large.id}")).status_code == 404
    assert (await client.get("/chatkit/threads")).json()["data"] == []
    await lanes.call(idle, None, name=large.agent_session_id)  # begins anew, and in peace
    receipt = await lanes.call(retention.cleanup, now=NOW)
    assert receipt.sessions == 1  # the new one: the other was counted when it was set apart
    assert receipt.messages > 2
    assert await lanes.call(left) == {}


def test_many_go_in_batches_of_a_size_that_can_be_set(user, monkeypatch):
    for _ in range(7):
        idle(user)
    sizes: list[int] = []
    remove = removing.remove_sessions

    def listening(db: Any, keys: Any) -> Any:
        sizes.append(len(keys))
        return remove(db, keys)

    monkeypatch.setattr(removing, "remove_sessions", listening)
    receipt = apply(plan(), batch_size=2)
    assert (max(sizes), sum(sizes), receipt.sessions) == (2, 7, 7)
    with pytest.raises(Invalid):
        apply(plan(), batch_size=0)


def test_more_than_a_page_is_walked_to_its_end(user, monkeypatch):
    for module in (planning, applying):
        monkeypatch.setattr(module, "PAGE_SESSIONS", 2)
    for _ in range(5):
        idle(user)
    planned = plan()
    assert sorted(CleanupPage.objects.values_list("number", flat=True)) == [0, 1, 2]
    told: list[int] = []
    assert apply(planned, batch_size=1, told=told.append).sessions == 5
    assert told == [1, 2, 3, 4, 5]
    assert PAGE_SESSIONS == 500


# --- Twice, at once, too late --------------------------------------------------------------


def test_a_plan_is_applied_once(user):
    idle(user)
    planned = plan()
    apply(planned)
    with pytest.raises(PlanApplied):
        apply(planned)
    assert LedgerEntry.objects.count() == 1


def test_an_unknown_plan_is_refused():
    with pytest.raises(PlanNotFound):
        retention.apply(uuid4(), now=NOW)


def test_a_plan_is_good_for_a_day(user):
    idle(user)
    planned = plan()
    with pytest.raises(PlanExpired):
        apply(planned, now=NOW + timedelta(days=1, seconds=1))
    assert len(remaining()) == 1


def test_a_plan_of_the_future_is_refused_and_a_clock_that_differs_a_little_is_not(user):
    idle(user)
    planned = plan()
    with pytest.raises(PlanExpired, match="clock"):
        apply(planned, now=NOW - timedelta(minutes=2))
    assert len(remaining()) == 1
    assert apply(planned, now=NOW - timedelta(seconds=30)).sessions == 1


def test_with_a_clock_that_was_set_back_what_was_used_since_is_spared(user):
    idle(user, since=NOW)
    assert retention.cleanup(now=NOW - timedelta(days=30)).sessions == 0


def test_plans_that_nobody_applied_are_dropped_by_the_next_plan(user):
    idle(user)
    old = plan()
    plan(now=NOW + timedelta(days=1, seconds=1))
    with pytest.raises(PlanNotFound):
        apply(old)
    assert Cleanup.objects.count() == 1
    assert CleanupPage.objects.count() == 1


def run_elsewhere(planned: Any, *, process: str) -> Any:
    """Another process has begun to apply the plan."""
    return lanes.perform(
        lambda db: cleanups.begin(
            db, plan_id=planned.plan_id, process=process, actor="command", now=NOW
        )
    )


def test_two_never_run_at_once(user):
    idle(user)
    first, second = plan(), plan()
    run_elsewhere(first, process=processes.new_name())
    for planned in (first, second):
        with pytest.raises(CleanupRunning):
            apply(planned)
    assert len(remaining()) == 1
    with pytest.raises(IntegrityError):
        Cleanup.objects.filter(id=second.plan_id).update(status="running")


def test_nor_where_both_looked_before_either_began(user, monkeypatch):
    def begin(*_: Any, **__: Any) -> None:
        raise IntegrityError

    monkeypatch.setattr(cleanups, "begin", begin)
    with pytest.raises(CleanupRunning):
        apply(plan())


@pytest.mark.parametrize("sign", ["gone", "silent", "of another boot"])
def test_what_a_process_has_left_is_gone_on_with_and_it_can_write_no_more(user, gone, sign):
    idle(user)
    planned = plan()
    left_run = run_elsewhere(planned, process=gone if sign == "gone" else processes.new_name())
    if sign == "silent":
        Cleanup.objects.update(seen=0)
    if sign == "of another boot":
        Cleanup.objects.update(seen=2**50)
    assert apply(planned).sessions == 1
    with pytest.raises(CleanupLost):
        lanes.perform(
            lambda db: cleanups.add_outcome(
                db, run=left_run, outcome=plans.Outcome(), looked_at=1, milliseconds=0
            )
        )
    with pytest.raises(CleanupLost):
        lanes.perform(
            lambda db: cleanups.finish(db, cleanup_id=left_run.id, fence=left_run.fence, now=NOW)
        )


def test_one_that_lost_its_run_removes_nothing_any_more(user, monkeypatch):
    for _ in range(3):
        idle(user)
    planned = plan()
    remove = removing.remove_sessions

    def be_late(db: Any, keys: Any) -> Any:
        db.run("UPDATE conversations_cleanup SET fence = fence + 1")
        return remove(db, keys)

    monkeypatch.setattr(removing, "remove_sessions", be_late)
    with pytest.raises(CleanupLost):
        apply(planned, batch_size=1)
    assert len(remaining()) == 3


def test_another_run_that_was_left_is_closed_as_it_stands(user, gone):
    for _ in range(2):
        idle(user)
    run_elsewhere(plan(limit=1), process=gone)
    Cleanup.objects.update(sessions=5)
    receipt = apply(plan())
    assert receipt.sessions == 2
    closed, ours = entries()
    assert (closed["counts"], closed["errors"]) == ({"sessions": 5}, {"abandoned": 1})
    assert ours["counts"]["sessions"] == 2
    assert lanes.look_up(ledger.verify).is_whole


# --- Cut short -----------------------------------------------------------------------------


def test_out_of_time_it_stops_and_the_next_goes_on(user):
    for _ in range(3):
        idle(user)
    receipt = retention.cleanup(now=NOW, seconds=-1)
    assert (receipt.finished, receipt.planned, receipt.sessions) == (False, 3, 0)
    assert not LedgerEntry.objects.exists()
    assert retention.finish_cleanup(now=NOW, actor="command") is None
    done = retention.finish_cleanup(now=NOW)
    assert (done.plan_id, done.finished, done.sessions) == (receipt.plan_id, True, 3)
    assert retention.finish_cleanup(now=NOW) is None
    assert len(entries()) == 1


def test_nothing_new_is_begun_before_the_old_one_is_done(user):
    idle(user)
    first = retention.cleanup(now=NOW, seconds=-1)
    assert retention.cleanup(now=NOW, seconds=-1) == first
    idle(user)
    done = retention.cleanup(now=NOW)
    assert (done.plan_id != first.plan_id, done.sessions, left()) == (True, 1, {})
    assert [entry["counts"]["sessions"] for entry in entries()] == [1, 1]


def test_what_an_error_ends_is_gone_on_with_and_counted_once(user, monkeypatch):
    held, _, _ = idle(user), idle(user), idle(user)
    planned = plan()
    holds.hold_session(session_id=held.id, reason="a case", actor="command", now=NOW)
    remove = removing.remove_sessions
    calls: list[int] = []

    def fail_third(db: Any, keys: Any) -> Any:
        calls.append(len(keys))
        if len(calls) == 3:
            raise StoreReadOnly
        return remove(db, keys)

    monkeypatch.setattr(removing, "remove_sessions", fail_third)
    with pytest.raises(StoreReadOnly):
        apply(planned, batch_size=1)
    assert Cleanup.objects.get().position == 2
    receipt = apply(planned, batch_size=1)
    assert (receipt.sessions, receipt.held, receipt.finished) == (2, 1, True)
    assert [entry["action"] for entry in entries()] == ["hold", "cleanup"]


def test_one_that_cannot_be_removed_keeps_no_other(user, monkeypatch, caplog):
    sessions = [idle(user) for _ in range(3)]
    bad = {sessions[1].id.hex, sessions[1].id}
    remove = removing.remove_sessions

    def fail(db: Any, keys: Any) -> Any:
        if bad & set(keys):
            raise StoreDamaged("a secret")
        return remove(db, keys)

    monkeypatch.setattr(removing, "remove_sessions", fail)
    receipt = retention.cleanup(now=NOW)
    assert (receipt.sessions, receipt.failed, receipt.finished) == (2, 1, True)
    assert remaining() == {sessions[1].id}
    assert entries()[0]["errors"] == {"StoreDamaged": 1}
    lines = [record.getMessage() for record in caplog.records]
    assert lines == [f"session {sessions[1].id} not removed: StoreDamaged"]


def test_that_it_could_not_be_released_is_only_logged(user, monkeypatch, caplog):
    def fail(*_: Any, **__: Any) -> None:
        raise StoreBusy

    monkeypatch.setattr(cleanups, "release", fail)
    idle(user)
    assert retention.cleanup(now=NOW, seconds=-1).finished is False
    assert "not released: StoreBusy" in caplog.text
