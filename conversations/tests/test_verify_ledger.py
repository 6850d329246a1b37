"""`manage.py verify_ledger`: whole, or broken, and where."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from conversations import lanes
from conversations.store import ledger
from conversations.tests.commands import call, run
from conversations.tests.ledger_helpers import LEDGER, unguarded

pytestmark = pytest.mark.django_db(transaction=True)

NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _three_entries() -> None:
    for count in range(1, 4):
        entry = ledger.Entry(action="delete", actor="user", at=NOON, counts={"sessions": count})
        lanes.perform(lambda db, entry=entry: ledger.append(db, entry))


def test_a_ledger_that_is_whole_is_said_to_be(transactional_db):
    lines = run("verify_ledger").splitlines()
    assert lines[0] == "entries: 3"
    assert (len(lines[1].removeprefix("head: ")), lines[2:]) == (64, ["whole"])
    head = lines[1].removeprefix("head: ")
    found = json.loads(run("verify_ledger", "--json", "--head", head.upper()))
    assert found == {
        "entries": 3,
        "head": head,
        "broken_at": None,
        "why": "",
        "guarded": True,
        "whole": True,
    }


def test_one_byte_that_was_changed_is_found():
    with unguarded() as cursor:
        cursor.execute(f"UPDATE {LEDGER} SET actor = 'uses' WHERE number = 2")
    ended = call("verify_ledger", "--json")
    assert ended.returncode == 1
    assert ended.complaint == "The ledger is broken at entry 2: it was changed."
    found = json.loads(ended.printed)
    assert (found["whole"], found["broken_at"], found["entries"]) == (False, 2, 1)


def test_that_the_latest_are_missing_is_found_by_a_hash_that_was_noted():
    head = json.loads(run("verify_ledger", "--json"))["head"]
    with unguarded() as cursor:
        cursor.execute(f"DELETE FROM {LEDGER} WHERE number = 3")
        lines = run("verify_ledger").splitlines()
    assert lines[2:] == [
        "whole",
        "not guarded: the triggers that refuse changes are missing",
    ]
    ended = call("verify_ledger", "--head", head)
    assert (ended.returncode, "later rows are missing" in ended.complaint) == (1, True)


@pytest.mark.parametrize("wrong", ["abc", "0" * 63, "0" * 65, "0" * 63 + "z"])
def test_a_hash_that_is_none_is_refused_and_raises_no_alarm(wrong):
    ended = call("verify_ledger", "--head", wrong)
    assert (ended.returncode, ended.printed) == (2, "")
    assert ended.complaint == "--head: write all 64 digits of the hash that was printed."
    told = json.loads(call("verify_ledger", "--json", "--head", wrong).printed)
    assert (told["error"]["code"], told["error"]["message"]) == ("invalid", ended.complaint)
