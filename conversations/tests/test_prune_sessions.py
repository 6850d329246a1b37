"""`manage.py prune_sessions`."""

from __future__ import annotations

import json
import signal
from typing import Any

import pytest

from conversations import processes
from conversations.errors import StoreBusy, StoreDamaged
from conversations.store import pruning
from conversations.tests.commands import call, run
from conversations.tests.other_process import SITE, start_python
from conversations.tests.sweeps_helpers import (
    add_as_another_program,
    counters,
    remember,
    sessions,
    speak,
    tables,
)

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def budget(settings: Any) -> None:
    settings.AGENT_SESSION_MAX_MESSAGES = 3


@pytest.fixture
def long(user: Any) -> list[Any]:
    """Two sessions of five messages each."""
    found = sessions(user, 2)
    for session in found:
        remember(session, 5)
    return found


def test_says_how_many_sessions_and_entries_that_were(long):
    assert run("prune_sessions") == "sessions pruned: 2\nentries forgotten: 4\n"
    assert [counters(session)[:2] for session in long] == [(3, 2), (3, 2)]
    assert run("prune_sessions", "--no-input") == "sessions pruned: 0\nentries forgotten: 0\n"


def test_a_dry_run_says_what_would_be_and_changes_nothing(long):
    before = tables()
    printed = run("prune_sessions", "--dry-run")
    assert printed == "sessions would be pruned: 2\nentries would be forgotten: 4\n"
    assert tables() == before


@pytest.mark.parametrize("option", ["--dry-run", "--no-input"])
def test_json_is_exactly_one_object(long, option):
    assert json.loads(run("prune_sessions", "--json", option)) == {
        "visited": 2,
        "pruned": 2,
        "forgotten": 4,
        "running": 0,
        "over_budget": 0,
        "failed": 0,
        "dry_run": option == "--dry-run",
    }


def test_what_stays_over_its_budget_is_told_with_its_reason(long, user):
    speak(long[0], process=processes.new_name())
    (spoke_long,) = sessions(user, 1)
    remember(spoke_long, 5, at_once=True)
    assert run("prune_sessions").splitlines()[2:] == [
        "sessions left to the turn that runs in them: 1",
        "sessions of which nothing may go: 1",
    ]


def test_named_sessions_are_counted_first_and_others_left_alone(long):
    named, other = long
    add_as_another_program(named, 2)
    names = [str(named.id), named.agent_session_id]
    assert run("prune_sessions", *names) == "sessions pruned: 1\nentries forgotten: 4\n"
    assert (counters(named)[0], counters(other)[0]) == (3, 5)


def test_with_a_name_that_nobody_has_nothing_is_done(long):
    before = tables()
    ended = call("prune_sessions", str(long[0].id), "any-id")
    assert (ended.returncode, ended.complaint) == (1, "There is no session 'any-id'.")
    assert tables() == before


@pytest.mark.parametrize(("unreadable", "returncode"), [(1, 3), (2, 1)])
def test_sessions_that_cannot_be_pruned_are_counted_and_not_hidden(
    long, monkeypatch, unreadable, returncode
):
    prune = pruning.prune
    damaged = [session.id for session in long[:unreadable]]

    def fail(db: Any, *, session_id: Any, **options: Any) -> int:
        if session_id in damaged:
            raise StoreDamaged
        return prune(db, session_id=session_id, **options)

    monkeypatch.setattr(pruning, "prune", fail)
    ended = call("prune_sessions", "--json")
    assert ended.returncode == returncode
    assert ended.complaint == f"{unreadable} of 2 sessions could not be pruned."
    found = json.loads(ended.printed)
    assert (found["failed"], found["pruned"]) == (unreadable, 2 - unreadable)


def test_a_store_that_is_busy_is_said_to_be(long, monkeypatch):
    def fail(*arguments: Any, **options: Any) -> None:
        raise StoreBusy

    monkeypatch.setattr(pruning, "prune", fail)
    ended = call("prune_sessions")
    assert (ended.returncode, ended.complaint) == (1, "The conversation store is busy.")


def test_at_a_terminal_it_shows_there_how_far_it_is(long, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    ended = call("prune_sessions", typed="")
    assert ended.printed == "sessions pruned: 2\nentries forgotten: 4\n"
    assert "Pruning" in ended.shown
    assert call("prune_sessions").shown == ""


INTERRUPTED = (
    SITE
    + """
    import signal
    from django.core.management import execute_from_command_line
    from conversations import sweeps

    def rest():
        print("half way", flush=True)
        signal.pause()

    sweeps._let_others_write = rest
    execute_from_command_line(["manage.py", "prune_sessions", "--json"])
"""
)


@pytest.mark.slow
def test_ctrl_c_ends_it_and_what_was_done_stays_done(long):
    process = start_python(INTERRUPTED, AGENT_SESSION_MAX_MESSAGES="3")
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "half way\n"
        process.send_signal(signal.SIGINT)
        printed, complaint = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, complaint
    assert json.loads(printed)["error"]["code"] == "interrupted"
    assert "Interrupted. What was done until then stays done." in complaint
    assert sorted(counters(session)[0] for session in long) == [3, 5]
