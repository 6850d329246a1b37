"""`manage.py export_sessions`: conversations as files, private ones."""

from __future__ import annotations

import json
import os
import stat
from typing import Any

import pytest

from conversations.management import files
from conversations.models import ChatSession
from conversations.tests import factories
from conversations.tests.commands import call, run
from conversations.tests.sweeps_helpers import remember

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def spoken(session: Any) -> Any:
    remember(session, 2)
    return session


def ids(printed: str) -> list[str]:
    return [json.loads(line)["thread_id"] for line in printed.splitlines()]


def test_all_of_them_or_those_of_one_user(spoken, stranger):
    foreign = factories.ChatSessionFactory(owner=stranger)
    assert ids(run("export_sessions")) == [str(spoken.id), str(foreign.id)]
    assert ids(run("export_sessions", "--user", stranger.username)) == [str(foreign.id)]
    assert ids(run("export_sessions", "--format", "ndjson", "--user", stranger.username)) == [
        str(foreign.id)
    ]


def test_one_by_either_of_its_ids_also_without_an_owner(spoken):
    ChatSession.objects.filter(id=spoken.id).update(owner=None, agent_session_id="any-id")
    for name in (str(spoken.id), "any-id"):
        found = json.loads(run("export_sessions", "--session", name))
        assert [each["content"] for each in found["messages"]] == ["a secret 0", "a secret 1"]
    told = run("export_sessions", "--session", "any-id", "--format", "markdown")
    assert "a secret 1" in told
    assert len(run("export_sessions", "--session", "any-id", "--format", "jsonl").splitlines()) == 3


def test_a_file_is_new_private_and_whole(spoken, tmp_path):
    file = tmp_path / "all.ndjson"
    printed = run("export_sessions", "--output", str(file))
    assert printed == "exported: 1 conversations, 2 messages\n"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert ids(file.read_text()) == [str(spoken.id)]
    again = call("export_sessions", "--output", str(file))
    assert again.returncode == 1
    assert again.complaint == f"{file} is there already; name a new file."
    assert list(tmp_path.iterdir()) == [file]


def test_json_is_about_the_file(spoken, tmp_path):
    file = tmp_path / "one.md"
    options = ("--session", str(spoken.id), "--format", "markdown", "--output", str(file))
    found = json.loads(run("export_sessions", *options, "--json"))
    size = file.stat().st_size
    assert found == {"output": str(file), "conversations": 1, "messages": 2, "bytes": size}


@pytest.mark.parametrize(
    ("options", "returncode", "complaint"),
    [
        (["--json"], 2, "--json needs --output FILE"),
        (["--format", "markdown"], 2, "--format markdown is for one session"),
        (["--user", "nobody"], 1, "There is no user named 'nobody'."),
        (["--session", "nothing"], 1, "There is no session 'nothing'."),
        (["--output", "/nowhere/at/all"], 1, "/nowhere/at/all cannot be written: No such file"),
    ],
    ids=["json-without-a-file", "format", "user", "session", "folder"],
)
def test_what_cannot_be_is_said_and_leaves_nothing(spoken, options, returncode, complaint):
    ended = call("export_sessions", *options)
    assert ended.returncode == returncode
    assert ended.complaint.startswith(complaint)


def test_where_it_fails_there_is_no_file(tmp_path):
    def pieces() -> Any:
        yield "a"
        raise RuntimeError

    with pytest.raises(RuntimeError):
        files.write_new(str(tmp_path / "x"), pieces())
    assert list(tmp_path.iterdir()) == []


def test_the_file_and_its_name_are_on_the_disk(tmp_path, monkeypatch):
    file, seen, fsync = tmp_path / "x", [], os.fsync

    def look(descriptor: int) -> None:
        seen.append((stat.S_ISDIR(os.fstat(descriptor).st_mode), file.exists()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", look)
    assert files.write_new(str(file), ["a", "b"]) == 2
    assert seen == [(False, False), (True, True)]


def test_of_two_at_once_one_writes(tmp_path):
    file = tmp_path / "x"

    def pieces() -> Any:
        file.write_text("another's")
        yield "a"

    with pytest.raises(files.CannotWrite):
        files.write_new(str(file), pieces())
    assert file.read_text() == "another's"


def test_a_terminal_is_told_how_far_it_is(spoken, tmp_path):
    ended = call("export_sessions", "--output", str(tmp_path / "x"), typed="")
    assert ended.returncode == 0
