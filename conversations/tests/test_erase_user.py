"""`manage.py erase_user`: all that is kept of a person goes, when somebody meant it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.contrib.auth import get_user_model

from conversations import erasure
from conversations.models import ChatSession, UserHold
from conversations.store import ledger
from conversations.tests import factories
from conversations.tests.commands import call, run
from conversations.tests.ledger_helpers import entries
from conversations.tests.sweeps_helpers import remember, tables

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def spoken(session: Any) -> Any:
    remember(session, 2)
    factories.token_for(session.owner)
    return session


def erase(session: Any, *options: str) -> str:
    return run("erase_user", session.owner.username, "--no-input", *options)


def exists(session: Any) -> bool:
    return bool(get_user_model().objects.filter(pk=session.owner_id).exists())


def test_all_of_it_goes_with_a_receipt(spoken, stranger):
    remember(factories.ChatSessionFactory(owner=stranger), 1)
    lines = erase(spoken).splitlines()
    assert lines[0] == "access tokens erased: 1"
    assert {"accounts erased: 1", "messages erased: 2", "sessions erased: 1"} < set(lines)
    assert lines[-1] == "receipt: number 1 of the ledger"
    assert not exists(spoken)
    assert ChatSession.objects.get().owner == stranger


def test_json_is_exactly_one_object(spoken):
    found = json.loads(erase(spoken, "--json"))
    counts = found.pop("counts")
    assert found == {
        "subject": ledger.of_user(spoken.owner_id),
        "receipt": 1,
        "dry_run": False,
        "exported": None,
        "gone_from_disk": True,
    }
    assert counts["messages"] == 2


def test_a_dry_run_says_the_same_and_changes_nothing(spoken):
    before = tables()
    dry = run("erase_user", spoken.owner.username, "--dry-run")
    assert "messages would be erased: 2\n" in dry
    found = json.loads(erase(spoken, "--dry-run", "--json"))
    assert (found["dry_run"], found["receipt"]) == (True, None)
    assert tables() == before
    assert entries() == []
    assert json.loads(erase(spoken, "--json"))["counts"] == found["counts"]


def test_the_account_may_stay(spoken):
    assert "accounts" not in erase(spoken, "--keep-account")
    assert exists(spoken)
    assert erase(spoken, "--keep-account") == "nothing to erase\n"


def test_what_is_exported_first_is_all_of_theirs(spoken, tmp_path):
    file = tmp_path / "theirs.ndjson"
    found = json.loads(erase(spoken, "--json", "--export", str(file)))
    assert found["exported"] == str(file)
    (line,) = file.read_text().splitlines()
    assert len(json.loads(line)["messages"]) == 2
    assert not exists(spoken)


def test_where_it_cannot_be_exported_nothing_is_erased(spoken, tmp_path):
    file = tmp_path / "theirs.ndjson"
    file.write_text("kept")
    ended = call("erase_user", spoken.owner.username, "--no-input", "--export", str(file))
    assert (ended.returncode, ended.printed) == (1, "")
    assert file.read_text() == "kept"
    assert exists(spoken)
    assert spoken.messages.count() == 2


def test_an_export_without_a_name_is_refused_and_nothing_is_erased(spoken):
    ended = call("erase_user", spoken.owner.username, "--no-input", "--export", "")
    assert (ended.returncode, ended.printed) == (1, "")
    assert exists(spoken)
    assert spoken.messages.count() == 2


@pytest.mark.parametrize("option", ["--no-input", "--dry-run"])
@pytest.mark.parametrize("whole", [True, False], ids=["person", "conversation"])
def test_on_hold_is_refused_and_named(spoken, option, whole):
    if whole:
        UserHold.objects.create(user=spoken.owner, reason="r", placed_by="command")
    else:
        ChatSession.objects.update(hold=True)
    before = tables()
    ended = call("erase_user", spoken.owner.username, option, "--json")
    assert ended.returncode == 1
    error = json.loads(ended.printed)["error"]
    assert error["code"] == "held"
    assert whole or str(spoken.id) in error["message"]
    assert tables() == before


def test_at_a_terminal_it_asks(spoken):
    name = spoken.owner.username
    no = call("erase_user", name, typed="no\n")
    assert (no.returncode, no.complaint) == (1, "Nothing was changed.")
    assert f"1 conversations with 2 messages of {name}, and all else" in no.shown
    assert exists(spoken)
    assert call("erase_user", name, typed="yes\n").returncode == 0
    assert not exists(spoken)


def test_without_a_terminal_it_is_refused(spoken):
    ended = call("erase_user", spoken.owner.username)
    assert (ended.returncode, ended.printed) == (2, "")
    assert exists(spoken)


@pytest.mark.parametrize(
    "name", ["nobody", "", "\udcff", "\0"], ids=["none", "empty", "half", "nul"]
)
def test_nobody_of_that_name_is_said(user, name):
    ended = call("erase_user", name, "--no-input", "--json")
    assert (ended.returncode, ended.complaint) == (1, f"There is no user named {name!r}.")
    assert json.loads(ended.printed)["error"]["code"] == "not_found"


def test_what_is_not_gone_from_the_disk_yet_is_said(spoken, monkeypatch):
    monkeypatch.setattr(erasure, "tidy", lambda: False)
    ended = call("erase_user", spoken.owner.username, "--no-input", "--json")
    assert ended.returncode == 0
    assert json.loads(ended.printed)["gone_from_disk"] is False
    assert ended.shown.startswith("Erased, but not all gone from the disk yet")


def test_interrupted_it_goes_on_when_called_again(spoken, monkeypatch):
    def interrupt(*args: Any, **options: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(erasure, "_end", interrupt)
        ended = call("erase_user", spoken.owner.username, "--no-input")
    assert ended.returncode == 130
    assert not spoken.messages.exists()
    found = json.loads(erase(spoken, "--json"))
    assert (found["counts"]["messages"], found["receipt"]) == (2, 1)
