"""Sweeps: what nobody asked for is done all the same, once, and never to the living."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import pytest
from django.core.files.storage import storages
from django.db import connection
from django.utils import timezone

from conversations import processes, sweeps
from conversations.errors import StoreBusy, StoreDamaged, StoreError, StoreReadOnly
from conversations.models import Attachment, ChatMessage, ChatSession, ChatTurn, RecordedEvents
from conversations.store import line, pruning
from conversations.sweeps import PrunedSessions
from conversations.tests import factories
from conversations.tests.other_process import SITE, start_python
from conversations.tests.sweeps_helpers import (
    add_as_another_program,
    answer,
    counters,
    die,
    recorded,
    remember,
    sessions,
    speak,
    statements,
    statuses,
    tables,
)


def transcript(session: Any) -> list[str]:
    rows = ChatMessage.objects.filter(session=session, shown=True).order_by("position")
    return [row.text + "…" * row.incomplete for row in rows]


def everything() -> list[Any]:
    """All rows a sweep may touch, as they are stored."""
    models = (ChatTurn, ChatMessage, RecordedEvents)
    return [row for model in models for row in model.objects.order_by("pk").values()]


@pytest.fixture
def here() -> str:
    """The name of a process that runs."""
    return processes.new_name()


# --- Turns --------------------------------------------------------------------------------


def test_a_turn_whose_process_is_gone_is_closed_and_keeps_what_was_said(session, gone):
    speak(session, "Tell me", process=gone, said="Once upon")
    assert sweeps.recover_turns(now=timezone.now()) == 1
    assert statuses(session) == ["interrupted"]
    assert transcript(session) == ["Tell me", "Once upon…"]


def test_a_turn_whose_lease_ran_out_is_closed(session, here):
    ticket = speak(session, process=here)
    ChatTurn.objects.filter(id=ticket.turn_id).update(lease_until=0)
    assert sweeps.recover_turns(now=timezone.now()) == 1
    assert statuses(session) == ["interrupted"]


def test_the_living_are_left_alone(session, here):
    for text in ("running", "waiting"):
        speak(session, text, process=here)
    before = everything()
    assert sweeps.recover_turns(now=timezone.now()) == 0
    assert everything() == before


def test_what_waits_goes_on_waiting_for_a_process_that_answers(session, gone, here):
    other = processes.new_name()
    for text, process in (("1", other), ("2", other), ("3", here)):
        speak(session, text, process=process)
    die(other, gone)
    assert sweeps.recover_turns(now=timezone.now()) == 1
    assert statuses(session) == ["interrupted", "queued", "queued"]
    assert list(session.turns.order_by("number").values_list("lease_owner", flat=True)) == [
        gone,
        gone,
        here,
    ]


def test_what_waited_too_long_is_kept_and_waits_no_more(session, gone, here):
    long_ago = timezone.now() - line.ADOPT_WITHIN - timedelta(minutes=1)
    for text in ("1", "2"):
        speak(session, text, process=here, now=long_ago)
    speak(session, "3", process=here)
    die(here, gone)
    assert sweeps.recover_turns(now=timezone.now()) == 2
    assert statuses(session) == ["interrupted", "interrupted", "queued"]
    assert transcript(session) == ["1", "2"]


def test_a_second_time_there_is_nothing_to_do(session, gone, here):
    for text in ("1", "2"):
        speak(session, text, process=here)
    die(here, gone)
    now = timezone.now()
    assert sweeps.recover_turns(now=now) == 1
    before = everything()
    assert sweeps.recover_turns(now=now) == 0
    assert everything() == before


def test_conversations_that_can_only_wait_keep_no_other_from_being_closed(user, gone, here):
    """There are more of them than are looked for at once."""
    waiting = sessions(user, 50)
    for session in waiting:
        for text in ("1", "2"):
            speak(session, text, process=here)
    die(here, gone)
    assert sweeps.recover_turns(now=timezone.now()) == 50  # each one's first
    (dead,) = sessions(user, 1)
    speak(dead, process=gone)
    assert sweeps.recover_turns(now=timezone.now()) == 1
    assert statuses(dead) == ["interrupted"]
    assert {status for session in waiting for status in statuses(session)[1:]} == {"queued"}


@pytest.mark.parametrize("error", [StoreDamaged, StoreError])
def test_a_conversation_that_cannot_be_read_keeps_no_other_from_being_closed(
    user, gone, monkeypatch, caplog, error
):
    damaged, whole = sorted(sessions(user, 2), key=lambda session: session.id)
    for session in (damaged, whole):
        speak(session, "a secret", process=gone)
    recover = line.recover

    def fail_once(db: Any, *, session_id: Any, **options: Any) -> Any:
        if session_id == damaged.id:
            raise error("a secret")
        return recover(db, session_id=session_id, **options)

    monkeypatch.setattr(line, "recover", fail_once)
    assert sweeps.recover_turns(now=timezone.now()) == 1
    assert [statuses(session) for session in (damaged, whole)] == [["running"], ["interrupted"]]
    (told,) = [record.getMessage() for record in caplog.records]
    assert told == f"session {damaged.id} not recovered: {error.__name__}"


@pytest.mark.parametrize("error", [StoreBusy, StoreReadOnly])
def test_where_nothing_can_be_written_the_sweep_ends_at_once(user, gone, monkeypatch, error):
    for session in sessions(user, 3):
        speak(session, process=gone)
    tried = []

    def fail(*arguments: Any, **options: Any) -> None:
        tried.append(1)
        raise error

    monkeypatch.setattr(line, "recover", fail)
    with pytest.raises(error):
        sweeps.recover_turns(now=timezone.now())
    assert tried == [1]


# --- Records ------------------------------------------------------------------------------


def test_the_records_of_turns_that_ended_long_enough_ago_go(user, here, settings):
    settings.CHAT_EVENTS_KEPT_SECONDS = 600
    began = timezone.now()
    now = began + timedelta(hours=1)
    old, recent, running = (
        answer(session, here, ended=ended).turn_id
        for session, ended in zip(
            sessions(user, 3), (began, now - timedelta(minutes=9), None), strict=True
        )
    )
    assert sweeps.forget_events(now=began) == 0
    assert recorded() == {old, recent, running}
    assert sweeps.forget_events(now=now) == 1
    assert sweeps.forget_events(now=now) == 0
    assert recorded() == {recent, running}


def test_more_than_one_transaction_may_hold_is_forgotten_too(user, here, monkeypatch):
    monkeypatch.setattr(sweeps, "FORGET_TURNS", 3)
    began = timezone.now()
    for session in sessions(user, 10):
        answer(session, here, ended=began)
    assert sweeps.forget_events(now=began + timedelta(hours=1)) == 10
    assert recorded() == set()


# --- Memories -----------------------------------------------------------------------------


@pytest.fixture
def budget(settings: Any) -> None:
    settings.AGENT_SESSION_MAX_MESSAGES = 3


def by_id(found: list[Any]) -> list[Any]:
    return sorted(found, key=lambda session: session.id)


def test_every_memory_over_its_budget_is_pruned(user, budget):
    found = by_id(sessions(user, 4))
    for session, count in zip(found, (5, 3, 4, 0), strict=True):
        remember(session, count)
    now = timezone.now()
    assert sweeps.prune_sessions(now=now) == PrunedSessions(visited=2, pruned=2, forgotten=3)
    assert [counters(session)[:2] for session in found] == [(3, 2), (3, 0), (3, 1), (0, 0)]
    before = tables()
    assert sweeps.prune_sessions(now=now) == PrunedSessions()
    assert tables() == before


def test_where_no_memory_is_over_its_budget_that_is_two_queries(session, budget):
    remember(session, 3)
    with statements() as seen:
        sweeps.prune_sessions(now=timezone.now())
    assert len(seen) == 2


def test_what_stays_over_its_budget_is_visited_once_and_told_apart(user, here, budget, monkeypatch):
    monkeypatch.setattr(pruning, "find_over_budget", partial(pruning.find_over_budget, limit=1))
    answered, spoke_long, spoke_often = sessions(user, 3)
    for session, at_once in ((answered, False), (spoke_long, True), (spoke_often, False)):
        remember(session, 5, at_once=at_once)
    speak(answered, process=here)
    so_far: list[int] = []
    found = sweeps.prune_sessions(
        now=timezone.now(), told=lambda outcome: so_far.append(outcome.visited)
    )
    assert found == PrunedSessions(visited=3, pruned=1, forgotten=2, running=1, over_budget=1)
    assert so_far == [1, 2, 3]
    assert counters(answered)[0] == counters(spoke_long)[0] == 5


@pytest.mark.parametrize("error", [StoreDamaged, StoreError])
def test_a_memory_that_cannot_be_read_keeps_no_other_from_being_pruned(
    user, budget, monkeypatch, caplog, error
):
    damaged, whole = by_id(sessions(user, 2))
    for session in (damaged, whole):
        remember(session, 4)
    prune = pruning.prune

    def fail_once(db: Any, *, session_id: Any, **options: Any) -> int:
        if session_id == damaged.id:
            raise error("a secret")
        return prune(db, session_id=session_id, **options)

    monkeypatch.setattr(pruning, "prune", fail_once)
    found = sweeps.prune_sessions(now=timezone.now())
    assert found == PrunedSessions(visited=2, pruned=1, forgotten=1, failed=1)
    assert [counters(session)[0] for session in (damaged, whole)] == [4, 3]
    (told,) = [record.getMessage() for record in caplog.records]
    assert told == f"session {damaged.id} not pruned: {error.__name__}"


@pytest.mark.parametrize("error", [StoreBusy, StoreReadOnly])
def test_where_nothing_can_be_written_no_other_memory_is_tried(user, budget, monkeypatch, error):
    for session in sessions(user, 2):
        remember(session, 4)
    tried = []

    def fail(*arguments: Any, **options: Any) -> None:
        tried.append(1)
        raise error

    monkeypatch.setattr(pruning, "prune", fail)
    with pytest.raises(error):
        sweeps.prune_sessions(now=timezone.now())
    assert tried == [1]


@pytest.mark.parametrize("value", ["many", b"\xff"])
def test_a_session_whose_id_or_counter_is_damaged_keeps_no_other_from_being_pruned(
    user, budget, value
):
    if connection.vendor != "sqlite":
        pytest.skip("another engine refuses what is not of its type")
    nameless, uncounted, whole = by_id(sessions(user, 3))
    for session in (uncounted, whole):
        remember(session, 4)
    with connection.cursor() as cursor:
        table = ChatSession._meta.db_table
        cursor.execute(
            f"UPDATE {table} SET remembered_count = CAST(%s AS TEXT), id = CAST(%s AS TEXT)"
            " WHERE id = %s",
            [value, value, nameless.id.hex],
        )
        cursor.execute(
            f"UPDATE {table} SET remembered_count = CAST(%s AS TEXT) WHERE id = %s",
            [value, uncounted.id.hex],
        )
    found = sweeps.prune_sessions(now=timezone.now())
    assert counters(whole)[0] == 3
    assert found.visited == 2
    named = sweeps.prune_sessions(now=timezone.now(), session_ids=[uncounted.id])
    assert found.pruned + named.pruned == 2
    assert counters(uncounted)[0] == 3


def test_of_named_sessions_what_another_program_added_is_counted_and_pruned(user, budget):
    named, other = sessions(user, 2)
    for session in (named, other):
        remember(session, 2)
        add_as_another_program(session, 3)
    now = timezone.now()
    assert sweeps.prune_sessions(now=now) == PrunedSessions()
    found = sweeps.prune_sessions(now=now, session_ids=[named.id])
    assert found == PrunedSessions(visited=1, pruned=1, forgotten=2)
    assert (counters(named), counters(other)) == ((3, 2, 5, 5), (2, 0, 2, 2))


def test_a_dry_run_says_the_same_and_changes_nothing(user, here, budget):
    found = sessions(user, 3)
    for session in found:
        remember(session, 5)
    speak(found[0], process=here)
    before, now = tables(), timezone.now()
    said = sweeps.prune_sessions(now=now, dry_run=True)
    assert tables() == before
    assert sweeps.prune_sessions(now=now) == said != PrunedSessions()


def test_pruning_that_is_interrupted_is_ended_by_the_next(user, budget, monkeypatch):
    found = by_id(sessions(user, 3))
    for session in found:
        remember(session, 4)

    def leave(so_far: PrunedSessions) -> None:
        if so_far.visited == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweeps.prune_sessions(now=timezone.now(), told=leave)
    assert [counters(session)[0] for session in found] == [3, 3, 4]
    assert sweeps.prune_sessions(now=timezone.now()).pruned == 1


# --- Killed -------------------------------------------------------------------------------

PARTLY = (
    SITE
    + """
    import signal
    from datetime import datetime
    from conversations import sweeps

    rests = iter(range(1, 100))

    def rest():
        if next(rests) == 2:
            print("half way", flush=True)
            signal.pause()

    sweeps._let_others_write = rest
    sweeps.FORGET_TURNS = 1
    getattr(sweeps, sys.argv[1])(now=datetime.fromisoformat(sys.argv[2]))
"""
)


def kill_half_way(sweep: str, *, now: datetime) -> None:
    process = start_python(PARTLY, sweep, now.isoformat())
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "half way\n"
    finally:
        process.kill()
        process.communicate()


@pytest.mark.slow
@pytest.mark.parametrize("sweep", [sweeps.recover_turns, sweeps.forget_events])
def test_a_sweep_that_was_killed_half_way_is_ended_by_the_next(
    user, gone, sweep: Callable[..., int]
):
    began = timezone.now()
    for session in sessions(user, 5):
        answer(session, gone, ended=None if sweep is sweeps.recover_turns else began)
    now = began + timedelta(minutes=30)
    kill_half_way(sweep.__name__, now=now)
    assert sweep(now=now) == 3
    assert sweep(now=now) == 0
    assert set(ChatTurn.objects.values_list("status", flat=True)) <= {"interrupted", "completed"}


def test_others_may_write_between_two_transactions_of_a_sweep(user, gone, monkeypatch):
    for session in sessions(user, 3):
        speak(session, process=gone)
    rests: list[float] = []
    monkeypatch.setattr(time, "sleep", rests.append)
    sweeps.recover_turns(now=timezone.now())
    assert len(rests) == 3
    assert len(set(rests)) > 1


# --- Files --------------------------------------------------------------------------------


def test_files_nobody_will_miss_are_erased(session, stranger):
    now, storage = timezone.now(), storages["attachments"]
    old, file = now - sweeps.UNUSED_KEPT - timedelta(seconds=1), factories.AttachmentFactory
    sent = file(owner=session.owner, session=session, message_id=session.id, created_at=old)
    kept = [sent, file(owner=session.owner), file(owner=session.owner, data=None)]
    gone = [
        file(owner=session.owner, created_at=old),
        file(owner=stranger),
        file(owner=session.owner, status="removed"),
    ]
    file(owner=session.owner, created_at=old, data=None)
    stranger.delete()
    assert sweeps.sweep_orphans(now=now) == 3
    assert set(Attachment.objects.values_list("id", flat=True)) == {row.id for row in kept}
    assert not any(storage.exists(row.storage_name) for row in gone)
    assert storage.exists(sent.storage_name)
    assert sweeps.sweep_orphans(now=now) == 0
