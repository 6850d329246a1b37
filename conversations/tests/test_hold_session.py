"""`manage.py hold_session`: what must be kept is kept, and why is on record."""

from __future__ import annotations

import json
from typing import Any

import pytest

from conversations.models import ChatSession, LedgerEntry, UserHold
from conversations.tests.commands import call, run
from conversations.tests.ledger_helpers import entries

pytestmark = pytest.mark.django_db(transaction=True)


def is_held(session: Any) -> bool:
    return ChatSession.objects.get(id=session.id).hold


def test_a_session_is_held_by_either_name_and_let_go(session):
    name = str(session.id)
    assert run("hold_session", name, "--reason", "a case") == f"session {name}: on hold\n"
    assert is_held(session)
    printed = run("hold_session", session.agent_session_id, "--lift", "--reason", "over")
    assert printed == f"session {name}: let go\n"
    assert not is_held(session)
    assert [(entry["action"], entry["reason"]) for entry in entries()] == [
        ("hold", "a case"),
        ("lift", "over"),
    ]
    assert {entry["actor"] for entry in entries()} == {"command"}


def test_all_of_a_user_is_held_and_let_go(user):
    options = ("--user", user.username, "--reason", "a case")
    assert run("hold_session", *options) == f"all sessions of user {user.pk}: on hold\n"
    assert UserHold.objects.get().user == user
    assert run("hold_session", "--lift", *options) == f"all sessions of user {user.pk}: let go\n"
    assert not UserHold.objects.exists()


def test_json_is_exactly_one_object_and_a_dry_run_changes_nothing(session):
    options = ("--reason", "a case", "--json", "--dry-run")
    found = json.loads(run("hold_session", str(session.id), *options))
    assert found == {"session_id": str(session.id), "hold": True, "dry_run": True}
    assert run("hold_session", str(session.id), *options[:2], "--dry-run").endswith(
        "would be on hold\n"
    )
    assert not is_held(session)
    assert not LedgerEntry.objects.exists()


@pytest.mark.parametrize(
    ("arguments", "returncode", "code"),
    [
        ((), 2, "invalid"),
        (("{id}", "--user", "{user}", "--reason", "why"), 2, "invalid"),
        (("{id}",), 2, "invalid"),
        (("{id}", "--reason", " "), 2, "invalid"),
        (("{id}", "--lift", "--reason", "why"), 1, "not_held"),
        (("nobody", "--reason", "why"), 1, "thread_not_found"),
        (("--user", "nobody", "--reason", "why"), 1, "not_found"),
    ],
    ids=["nothing", "both", "no reason", "blank reason", "not held", "no session", "no user"],
)
def test_what_makes_no_sense_is_refused(session, arguments, returncode, code):
    names = {"id": session.id, "user": session.owner.username}
    ended = call("hold_session", "--json", *(each.format(**names) for each in arguments))
    assert (ended.returncode, json.loads(ended.printed)["error"]["code"]) == (returncode, code)
    assert not is_held(session)
