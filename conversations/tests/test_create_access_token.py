"""`manage.py create_access_token`."""

from __future__ import annotations

import json
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from conversations.models import AccessToken
from conversations.tests.commands import call
from conversations.tokens import read_claims


def test_prints_a_token_that_opens_the_door(user: Any) -> None:
    out, err = StringIO(), StringIO()
    call_command("create_access_token", user.username, "--name", "robot", stdout=out, stderr=err)
    token_id, user_id, _ = read_claims(out.getvalue().strip())
    row = AccessToken.objects.get(id=token_id)
    assert (user_id, row.name, row.user_id) == (user.pk, "robot", user.pk)
    assert "shown once" in err.getvalue()


def test_json_is_exactly_one_object(user: Any) -> None:
    out = StringIO()
    call_command("create_access_token", user.username, "--days", "3", "--json", stdout=out)
    assert set(json.loads(out.getvalue())) == {"access_token", "expires_at"}


def test_an_unknown_user_is_named(user: Any) -> None:
    with pytest.raises(CommandError, match="no user named 'nobody-here'"):
        call_command("create_access_token", "nobody-here")


@pytest.mark.parametrize("days", ["0", "-1", "99999"])
def test_days_out_of_bounds_are_refused(user: Any, days: str) -> None:
    with pytest.raises(CommandError, match="--days") as raised:
        call_command("create_access_token", user.username, "--days", days)
    assert raised.value.returncode == 2


@pytest.mark.parametrize("wrong", [["nobody-here"], ["{}", "--days", "0"]], ids=["user", "days"])
def test_a_failure_is_one_object_too_where_json_is_asked_for(user: Any, wrong: list[str]) -> None:
    arguments = [part.format(user.username) for part in wrong]
    ended = call("create_access_token", *arguments, "--json")
    assert json.loads(ended.printed)["error"]["message"] == ended.complaint
