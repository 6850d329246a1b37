"""`manage.py sync_schedules`."""

from __future__ import annotations

import json
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import OperationalError
from django.test import override_settings
from django_q.models import Schedule

from conversations import schedules

NAMES = [row.name for row in schedules.build_table()]

pytestmark = pytest.mark.django_db(transaction=True)


def run(*options: str) -> str:
    out = StringIO()
    call_command("sync_schedules", *options, stdout=out)
    return out.getvalue()


def test_says_what_became_of_each_schedule():
    assert run() == "".join(f"{name}: created\n" for name in NAMES)
    assert run() == "".join(f"{name}: unchanged\n" for name in NAMES)


def test_a_dry_run_says_what_would_be():
    assert run("--dry-run") == "".join(f"{name}: would be created\n" for name in NAMES)
    assert not Schedule.objects.exists()
    run()
    assert run("--dry-run") == "".join(f"{name}: unchanged\n" for name in NAMES)


@pytest.mark.parametrize(("options", "dry_run"), [(["--dry-run"], True), ([], False)])
def test_json_is_exactly_one_object(options, dry_run):
    assert json.loads(run("--json", *options)) == {
        "created": NAMES,
        "updated": [],
        "removed": [],
        "unchanged": [],
        "dry_run": dry_run,
    }
    assert Schedule.objects.exists() != dry_run


def test_a_database_that_is_down_is_said_in_one_line(monkeypatch):
    def fail(**options: Any) -> None:
        raise OperationalError("connection refused")

    monkeypatch.setattr(schedules, "sync_schedules", fail)
    with pytest.raises(CommandError, match="could not be stored: connection refused"):
        run()


@override_settings(INSTALLED_APPS=["conversations"])
def test_a_site_without_the_queue_is_told_so():
    with pytest.raises(CommandError, match="'django_q' is not in INSTALLED_APPS"):
        run()
