"""`manage.py clear_session`: all that was said goes, when somebody meant it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.core.files.storage import storages

from conversations import processes
from conversations.models import Attachment, ChatMessage, ChatSession
from conversations.store import clearing
from conversations.tests import factories
from conversations.tests.commands import Terminal, call, run
from conversations.tests.other_process import run_command
from conversations.tests.sweeps_helpers import (
    add_as_another_program,
    counters,
    recorded,
    remember,
    speak,
    statuses,
    tables,
)

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def spoken(session: Any) -> Any:
    """A session of three messages, beside one of another that nothing may touch."""
    remember(session, 3)
    return session


def clear(session: Any, *options: str) -> str:
    return run("clear_session", str(session.id), "--no-input", *options)


def test_what_was_said_goes_and_the_session_stays(spoken):
    assert clear(spoken) == "messages cleared: 3\n"
    assert counters(spoken) == (0, 0, 0, 0)
    assert not ChatMessage.objects.exists()
    assert clear(spoken) == "messages cleared: 0\n"


def test_the_sdks_id_names_it_too_and_no_other_is_touched(spoken, stranger):
    other = ChatSession.objects.create(owner=stranger, agent_session_id="any-id")
    remember(other, 2)
    assert run("clear_session", "any-id", "--no-input") == "messages cleared: 2\n"
    assert (counters(spoken)[0], counters(other)[0]) == (3, 0)


def test_json_is_exactly_one_object(spoken):
    found = json.loads(clear(spoken, "--json"))
    assert found == {"session_id": str(spoken.id), "cleared": 3, "dry_run": False}


def test_files_go_with_what_was_said_but_not_in_a_dry_run(spoken):
    file = factories.AttachmentFactory(owner=spoken.owner, session=spoken, message_id=spoken.id)
    clear(spoken, "--dry-run")
    assert storages["attachments"].exists(file.storage_name)
    assert Attachment.objects.get().status == "ready"
    clear(spoken)
    assert not storages["attachments"].exists(file.storage_name)
    assert not Attachment.objects.exists()


def test_a_dry_run_says_the_same_asks_nothing_and_changes_nothing(spoken):
    speak(spoken, "a secret", process=processes.new_name(), said="words")
    before = tables()
    dry = run("clear_session", str(spoken.id), "--dry-run")
    assert dry == "messages would be cleared: 5\n"
    assert json.loads(clear(spoken, "--dry-run", "--json"))["dry_run"] is True
    assert tables() == before
    assert clear(spoken) == "messages cleared: 5\n"


def test_what_runs_and_what_waits_in_it_is_ended(spoken):
    process = processes.new_name()
    for text in ("a secret", "another"):
        speak(spoken, text, process=process, said="words" if text == "a secret" else "")
    clear(spoken)
    assert statuses(spoken) == ["interrupted", "interrupted"]
    assert recorded() == set()
    assert not ChatMessage.objects.exists()
    assert set(spoken.turns.values_list("input", flat=True)) == {""}


def test_what_another_program_added_is_counted_and_goes_too(spoken):
    add_as_another_program(spoken, 2)
    assert clear(spoken) == "messages cleared: 5\n"
    assert not ChatMessage.objects.exists()


@pytest.mark.parametrize("option", ["--no-input", "--dry-run"])
def test_a_session_on_hold_is_refused(spoken, option):
    ChatSession.objects.update(hold=True)
    before = tables()
    ended = call("clear_session", str(spoken.id), option)
    assert (ended.returncode, ended.printed) == (1, "")
    assert ended.complaint == "This conversation is on hold and cannot be changed or deleted."
    assert tables() == before


def test_a_hold_that_came_after_the_question_holds(spoken):
    class Slow(Terminal):
        def readline(self, *limit: Any) -> str:
            ChatSession.objects.update(hold=True)
            return "yes\n"

    assert call("clear_session", str(spoken.id), typed=Slow()).returncode == 1
    assert counters(spoken)[0] == 3


@pytest.mark.parametrize("typed", ["yes\n", "Y\n"])
def test_at_a_terminal_it_asks_there(spoken, typed):
    ended = call("clear_session", str(spoken.id), typed=typed)
    assert (ended.returncode, ended.printed) == (0, "messages cleared: 3\n")
    assert f"3 messages of session {spoken.id}, last active " in ended.shown
    assert "Type yes to go on: " in ended.shown


@pytest.mark.parametrize("typed", ["no\n", "\n", ""])
def test_any_other_answer_is_no(spoken, typed):
    before = tables()
    ended = call("clear_session", str(spoken.id), typed=typed)
    assert (ended.returncode, ended.complaint) == (1, "Nothing was changed.")
    assert tables() == before


def test_a_session_that_is_not_there_is_named():
    ended = call("clear_session", "any-id", "--no-input")
    assert (ended.returncode, ended.complaint) == (1, "There is no session 'any-id'.")


def test_one_that_was_deleted_after_it_was_found_is_not_there(spoken, monkeypatch):
    mend = clearing.mend_counters

    def delete(db: Any, **options: Any) -> bool:
        ChatMessage.objects.all().delete()
        ChatSession.objects.all().delete()
        return mend(db, **options)

    monkeypatch.setattr(clearing, "mend_counters", delete)
    ended = call("clear_session", str(spoken.id), "--no-input")
    assert (ended.returncode, ended.complaint) == (1, "There is no such conversation.")


@pytest.mark.slow
def test_a_program_without_a_terminal_is_refused_and_does_not_hang(spoken):
    ended = run_command("clear_session", str(spoken.id))
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "There is no terminal to ask at: add --no-input to do it unasked." in ended.stderr
    assert counters(spoken)[0] == 3
