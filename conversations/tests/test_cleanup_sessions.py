"""`manage.py cleanup_sessions`: what is idle goes, when somebody meant it."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.utils import timezone

from conversations import holds, lanes, processes
from conversations.errors import StoreDamaged
from conversations.models import ChatSession, Cleanup, LedgerEntry
from conversations.retention import applying
from conversations.store import cleanups, removing
from conversations.store.leases import lease_clock
from conversations.tests.commands import call, run
from conversations.tests.ledger_helpers import entries
from conversations.tests.retention_helpers import idle, leave
from conversations.tests.sweeps_helpers import remember, speak

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: Any) -> None:
    monkeypatch.setattr(applying.random, "uniform", lambda low, high: 0.0)


@pytest.fixture
def old(user: Any) -> list[Any]:
    """Three sessions of two messages, idle for 8 to 10 days, beside one that is in use."""
    now = timezone.now()
    idle(user, since=now)
    return [idle(user, since=now - timedelta(days=days)) for days in (10, 9, 8)]


def remaining() -> int:
    return ChatSession.objects.count()


def test_says_what_it_removed(old):
    lines = run("cleanup_sessions", "--no-input").splitlines()
    assert lines[:3] == ["sessions removed: 3", "messages removed: 6", "attachments removed: 0"]
    assert lines[3].startswith("bytes removed: ")
    assert lines[4].endswith("ledger row: 1")
    assert remaining() == 1
    assert entries()[0]["actor"] == "command"
    assert run("cleanup_sessions").startswith("sessions removed: 0\n")  # nothing to ask about


def test_a_dry_run_says_what_would_go_and_stores_nothing(old):
    lines = run("cleanup_sessions", "--dry-run").splitlines()
    assert lines[1:4] == [
        "sessions would be removed: 3",
        "messages would be removed: 6",
        "attachments would be removed: 0",
    ]
    assert lines[5].startswith("oldest: ")
    assert remaining() == 4
    assert not Cleanup.objects.exists()


def test_json_is_exactly_one_object(old):
    dry = json.loads(run("cleanup_sessions", "--dry-run", "--json"))
    assert set(dry) == {
        *("cutoff", "idle_seconds", "sessions", "messages", "attachments", "bytes"),
        *("oldest", "newest", "held", "busy", "dry_run"),
    }
    planned = json.loads(run("cleanup_sessions", "--plan", "--json"))
    assert {**dry, "dry_run": False, "cutoff": 0} == {
        name: 0 if name == "cutoff" else planned[name] for name in dry
    }
    done = json.loads(
        run("cleanup_sessions", "--apply", planned["plan_id"], "--json", "--no-input")
    )
    assert done["dry_run"] is False
    names = ("sessions", "messages", "attachments", "bytes", "plan_id")
    assert [done[name] for name in names] == [planned[name] for name in names]
    assert (done["finished"], done["ledger_number"]) == (True, 1)


def test_a_plan_is_applied_minus_what_woke_up(old):
    plan_id = run("cleanup_sessions", "--plan").splitlines()[-1].split()[1].rstrip(",")
    assert remaining() == 4
    remember(old[0], 1)
    dry = run("cleanup_sessions", "--apply", plan_id, "--dry-run").splitlines()
    assert dry[0] == "sessions would be removed: 2"
    assert dry[-1] == "sessions left because somebody used them: 1"
    assert remaining() == 4
    lines = run("cleanup_sessions", "--apply", plan_id, "--no-input").splitlines()
    assert lines[0] == "sessions removed: 2"
    assert lines[4] == "sessions left because somebody used them: 1"
    assert ChatSession.objects.filter(id=old[0].id).exists()


def test_what_is_left_is_told_with_its_reason(old, stranger):
    holds.hold_session(session_id=old[0].id, reason="a case", actor="command", now=timezone.now())
    speak(old[1], process=processes.new_name())
    leave(old[1])
    lines = run("cleanup_sessions", "--dry-run").splitlines()
    assert lines[-2:] == [
        "sessions left because they are on hold: 1",
        "sessions left to the turn in them: 1",
    ]


def test_age_limit_and_batch_size(old):
    assert "sessions removed: 1\n" in run("cleanup_sessions", "--no-input", "--idle-for", "228h")
    options = ("--idle-for", "1w", "--limit", "1", "--batch-size", "1")
    assert "sessions removed: 1\n" in run("cleanup_sessions", "--no-input", *options)
    assert remaining() == 2


REFUSED = [
    ("--idle-for", "90x"),
    ("--idle-for", "0d"),
    ("--idle-for", "0"),
    ("--idle-for=-3d",),
    ("--idle-for", ""),
    ("--idle-for", "1.5d"),
    ("--idle-for", "999999w"),
    ("--idle-for", "\u0667d"),
    ("--limit", "0"),
    ("--limit=-1",),
    ("--limit", "many"),
    ("--batch-size", "0"),
    ("--batch-size", "99999999999"),
    ("--apply", str(uuid4()), "--idle-for", "7d"),
    ("--apply", str(uuid4()), "--limit", "7"),
]


@pytest.mark.parametrize("options", REFUSED, ids=[f"bad{n}" for n in range(len(REFUSED))])
def test_what_makes_no_sense_is_a_usage_error_and_removes_nothing(old, options):
    ended = call("cleanup_sessions", "--no-input", "--json", *options)
    assert ended.returncode == 2
    assert json.loads(ended.printed)["error"]["code"] == "invalid"
    assert remaining() == 4


def test_a_retention_of_no_days_is_refused(old, settings):
    settings.AGENT_SESSION_RETENTION_DAYS = 0
    ended = call("cleanup_sessions", "--no-input")
    assert ended.returncode == 2
    assert "AGENT_SESSION_RETENTION_DAYS" in ended.complaint
    assert remaining() == 4


@pytest.mark.parametrize("option", [[], ["--dry-run"]], ids=["apply", "preview"])
@pytest.mark.parametrize("name", [str(uuid4()), "odd"], ids=["unknown", "no id"])
def test_an_unknown_plan_is_refused(option, name):
    ended = call("cleanup_sessions", "--no-input", "--json", "--apply", name, *option)
    assert ended.returncode == 1
    assert json.loads(ended.printed)["error"]["code"] == "plan_not_found"


def test_a_plan_is_applied_once(old):
    planned = json.loads(run("cleanup_sessions", "--plan", "--json"))
    run("cleanup_sessions", "--apply", planned["plan_id"], "--no-input")
    for option in ("--no-input", "--dry-run"):
        ended = call("cleanup_sessions", "--apply", planned["plan_id"], option)
        assert (ended.returncode, "applied already" in ended.complaint) == (1, True)
    assert LedgerEntry.objects.count() == 1


def test_two_at_once_are_refused(old):
    planned = json.loads(run("cleanup_sessions", "--plan", "--json"))
    seen = lanes.look_up(lease_clock)
    Cleanup.objects.update(status="running", process=processes.new_name(), seen=seen)
    ended = call("cleanup_sessions", "--no-input", "--json")
    told = json.loads(ended.printed)["error"]
    assert (ended.returncode, told["code"], told["retryable"]) == (1, "cleanup_running", True)
    assert planned["sessions"] == 3
    assert remaining() == 4


def test_without_a_terminal_somebody_must_have_meant_it(old):
    ended = call("cleanup_sessions")
    assert (ended.returncode, "--no-input" in ended.complaint) == (2, True)
    assert remaining() == 4


@pytest.mark.parametrize(("typed", "returncode", "left"), [("yes\n", 0, 1), ("no\n", 1, 4)])
def test_at_a_terminal_it_asks_and_shows_how_far_it_is(old, typed, returncode, left, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    ended = call("cleanup_sessions", typed=typed)
    assert (ended.returncode, remaining()) == (returncode, left)
    assert "Up to 3 sessions and all that was said in them will be gone." in ended.shown
    assert ("Removing" in ended.shown) == (left == 1)
    assert ("3/3" in ended.shown) == (left == 1)


@pytest.mark.parametrize(("unreadable", "returncode"), [(1, 3), (3, 1)])
def test_sessions_that_cannot_be_removed_are_counted_and_not_hidden(
    old, monkeypatch, unreadable, returncode
):
    bad = {key for session in old[:unreadable] for key in (session.id, session.id.hex)}
    remove = removing.remove_sessions

    def fail(db: Any, keys: Any) -> Any:
        if bad & set(keys):
            raise StoreDamaged
        return remove(db, keys)

    monkeypatch.setattr(removing, "remove_sessions", fail)
    ended = call("cleanup_sessions", "--no-input", "--json")
    assert ended.returncode == returncode
    assert ended.complaint == f"{unreadable} of 3 sessions could not be removed."
    assert json.loads(ended.printed)["failed"] == unreadable


def test_ctrl_c_ends_it_and_the_rest_can_be_applied_later(old, monkeypatch):
    planned = json.loads(run("cleanup_sessions", "--plan", "--json"))
    add = cleanups.add_outcome

    def interrupt(db: Any, **options: Any) -> None:
        if Cleanup.objects.get().position:
            raise KeyboardInterrupt
        add(db, **options)

    options = ("--apply", planned["plan_id"], "--no-input", "--batch-size", "1")
    with monkeypatch.context() as patch:
        patch.setattr(cleanups, "add_outcome", interrupt)
        ended = call("cleanup_sessions", *options)
    assert (ended.returncode, remaining()) == (130, 3)
    assert "sessions removed: 3\n" in run("cleanup_sessions", *options)
    assert entries()[0]["counts"] == {"sessions": 3, "messages": 6}
