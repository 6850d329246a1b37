"""`manage.py session_stats`."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
from django.utils import timezone

from conversations.events import Usage
from conversations.management.commands.session_stats import _age
from conversations.models import ChatSession
from conversations.tests.commands import call, run
from conversations.tests.other_process import run_command
from conversations.tests.sweeps_helpers import remember, sessions, tables

pytestmark = pytest.mark.django_db(transaction=True)


def read(printed: str) -> dict[str, str]:
    """What is printed in lines, by its labels."""
    pairs = (line.split(":", 1) for line in printed.splitlines())
    return {label: value.strip() for label, value in pairs}


def test_a_session_is_told_in_lines(session):
    remember(session, 2, usage=Usage(1, 100, 7))
    active = timezone.now() - timedelta(days=3)
    ChatSession.objects.update(created_at=active, last_active_at=active, title="a secret")
    before = tables()
    printed = run("session_stats", str(session.id))
    assert read(printed) == {
        "session": str(session.id),
        "SDK id": session.agent_session_id,
        "owner": str(session.owner_id),
        "status": "active",
        "remembered": "2 of 200",
        "entries": "2",
        "messages": "2",
        "pruned": "0",
        "quarantined": "0",
        "tokens": "200 in, 14 out",
        "created": f"{active:%Y-%m-%d %H:%M} UTC (3 days old)",
        "last active": f"{active:%Y-%m-%d %H:%M} UTC",
        "expires": f"{active + timedelta(days=7):%Y-%m-%d %H:%M} UTC",
    }
    assert run("session_stats", session.agent_session_id) == printed
    assert tables() == before


def test_one_on_hold_never_expires_and_one_that_only_code_uses_has_no_owner(session):
    ChatSession.objects.update(hold=True, owner=None)
    found = read(run("session_stats", str(session.id)))
    assert (found["expires"], found["owner"]) == ("never: on hold", "none")


def test_a_name_of_the_sdk_cannot_write_lines_or_colours():
    ChatSession.objects.create(agent_session_id="any\n\x1b[31mid")
    assert read(run("session_stats", "any\n\x1b[31mid"))["SDK id"] == r"'any\n\x1b[31mid'"


def test_all_sessions_are_told_together(user):
    assert read(run("session_stats"))["last active"] == "never"
    first, second = sessions(user, 2)
    remember(first, 3)
    long_ago = timezone.now() - timedelta(days=30)
    ChatSession.objects.filter(id=second.id).update(last_active_at=long_ago)
    found = read(run("session_stats"))
    assert (found["sessions"], found["expired"], found["on hold"]) == ("2", "1", "0")
    assert (found["remembered"], found["over budget"]) == ("3", "0")
    assert found["last active"].startswith(f"{long_ago:%Y-%m-%d %H:%M} UTC to ")


def test_json_is_exactly_one_object(session):
    remember(session, 2)
    found = json.loads(run("session_stats", str(session.id), "--json"))
    assert (found["session_id"], found["remembered_count"]) == (str(session.id), 2)
    assert found["expires_at"] > found["last_active_at"] >= found["created_at"]
    assert json.loads(run("session_stats", "--json"))["session_count"] == 1


def test_a_session_that_is_not_there_is_named():
    ended = call("session_stats", "any-id")
    assert (ended.returncode, ended.printed) == (1, "")
    assert ended.complaint == "There is no session 'any-id'."


@pytest.mark.slow
def test_the_program_says_so_too_and_ends_with_its_exit_code(session):
    ended = run_command("session_stats", "any-id", "--json")
    assert ended.returncode == 1
    assert json.loads(ended.stdout)["error"]["code"] == "thread_not_found"
    assert "CommandError: There is no session 'any-id'." in ended.stderr


@pytest.mark.parametrize(
    ("seconds", "age"),
    [(0, "0 seconds"), (119, "119 seconds"), (7199, "119 minutes"), (172_800, "2 days")],
)
def test_an_age_is_told_in_the_largest_unit_that_it_has_two_of(seconds, age):
    assert _age(seconds) == age
