"""What commands have in common: ids, failures in words, exit codes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from conversations.errors import Invalid, StoreBusy, ThreadNotFound
from conversations.ids import stored_session_id
from conversations.management import console
from conversations.models import ChatSession
from conversations.tests.commands import call

pytestmark = pytest.mark.django_db(transaction=True)

A_UUID = "5b8f9a3e-0000-4000-8000-000000000000"


class Failing(console.ConsoleCommand):
    """A command that does nothing but fail."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error

    def handle(self, *args: Any, **options: Any) -> None:
        raise self.error


@pytest.mark.parametrize(
    ("error", "returncode", "code"),
    [
        (StoreBusy(), console.FAILED, "store_unavailable"),
        (Invalid("Not so."), console.USAGE, "invalid"),
        (KeyboardInterrupt(), console.INTERRUPTED, "interrupted"),
    ],
)
def test_a_failure_has_its_exit_code_and_with_json_is_one_object(error, returncode, code):
    ended = call(Failing(error))
    assert (ended.returncode, ended.printed) == (returncode, "")
    told = {"code": code, "message": ended.complaint, "retryable": code == "store_unavailable"}
    assert json.loads(call(Failing(error), "--json").printed) == {"error": told}


def test_what_nobody_foresaw_is_not_hidden():
    with pytest.raises(ZeroDivisionError):
        call(Failing(ZeroDivisionError()))


def test_a_session_is_named_by_either_of_its_ids(session):
    for name in (str(session.id), str(session.id).upper(), session.agent_session_id):
        assert console.find_session(name).session_id == session.id


@pytest.mark.parametrize(
    "name", ["any-id", "x" * 500, "\udcff", "sha256:x", "5b8f9a3e-0000-4000-8000-000000000000"]
)
def test_any_name_that_the_sdk_takes_is_found(name):
    row = ChatSession.objects.create(agent_session_id=stored_session_id(name))
    assert console.find_session(name).session_id == row.id


@pytest.mark.parametrize(
    "name", ["", "any-id", "%", "\x00", "'; --", "x" * 500, "5b8f9a3e-0000-4000-8000-000000000000"]
)
def test_a_name_that_nobody_has_is_said_to_be_unknown(session, name):
    with pytest.raises(ThreadNotFound) as caught:
        console.find_session(name)
    assert caught.value.message == f"There is no session {name!r}."
