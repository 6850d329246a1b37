"""`manage.py doctor`: green and red, each with what to do, and changing nothing."""

from __future__ import annotations

import json
import os
import shutil
from collections import namedtuple
from datetime import timedelta
from io import StringIO
from types import SimpleNamespace
from typing import Any

import pytest
from django.core.files.storage import storages
from django.core.management import CommandError, call_command
from django.db import connection
from django.test import override_settings
from django.utils import timezone
from django_q.models import Schedule

from conversations import health
from conversations.health import doctor
from conversations.models import TaskRun
from conversations.tests.health_helpers import grow_silent, set_up
from conversations.tests.other_process import run_command

pytestmark = pytest.mark.django_db(transaction=True)

on_sqlite = pytest.mark.skipif("connection.vendor != 'sqlite'", reason="about the embedded file")


@pytest.fixture
def site(monkeypatch: Any, settings: Any) -> None:
    set_up(monkeypatch, settings)


def ask(*arguments: str) -> tuple[int, dict[str, Any]]:
    """How it ends, and what it finds."""
    code, printed = run(*arguments, "--json")
    found = json.loads(printed)
    assert found["ok"] is (code == 0)
    return code, found["checks"]


def run(*arguments: str) -> tuple[int, str]:
    out = StringIO()
    try:
        call_command("doctor", *arguments, stdout=out, stderr=StringIO())
    except SystemExit as leaving:
        return int(str(leaving.code)), out.getvalue()
    return 0, out.getvalue()


def test_a_site_that_is_well_is_green_in_every_part(site, script):
    code, checks = ask()
    wrong = {name: check for name, check in checks.items() if check["status"] == "failed"}
    assert (code, wrong) == (0, {})
    assert list(checks) == list(health.DOCTOR)
    assert set(checks["worker"]) == {"status", "ok", "detail", "hint"}


def test_what_is_not_well_is_red_with_what_to_do(site):
    grow_silent(timedelta(hours=1))
    code, printed = run("worker", "clock")
    assert code == 1
    assert printed.splitlines() == [
        "failed  worker: a task ran 60 minutes ago",
        f"        -> {health.examine(health.DOCTOR['worker']).hint}",
        "ok      clock: right",
    ]


def test_only_what_is_asked_for_is_looked_at(site):
    assert list(ask("clock")[1]) == ["clock"]


def test_a_check_that_there_is_not_is_refused():
    with pytest.raises(CommandError, match="invalid choice: 'worm'"):
        call_command("doctor", "worm")


@pytest.mark.slow
def test_as_a_program_it_ends_by_its_code():
    done = run_command("doctor", "--json", "clock")
    assert (done.returncode, json.loads(done.stdout)["ok"]) == (0, True)
    assert done.stderr == ""


# --- What only the doctor asks --------------------------------------------------------------


def find(name: str) -> health.Finding:
    return health.examine(health.DOCTOR[name])


@on_sqlite
@pytest.mark.parametrize(
    ("pragma", "value", "said"),
    [
        ("journal_mode", "memory", "the journal should be"),
        ("secure_delete", 0, "would stay in the file"),
        ("auto_vacuum", 0, "would stay in the file"),
    ],
)
def test_a_file_that_is_set_up_otherwise_is_told(monkeypatch, pragma, value, said):
    right = {
        "journal_mode": doctor.sqlite.journal_mode(),
        "auto_vacuum": 2,
        "synchronous": 2,
        "secure_delete": 1,
    }

    def answering(values: dict[str, Any]) -> Any:
        class Cursor:
            def __enter__(self) -> Any:
                return self

            def __exit__(self, *_: object) -> None: ...

            def execute(self, sql: str) -> Any:
                (_, name) = sql.split()
                return SimpleNamespace(fetchone=lambda: (values[name],))

        return SimpleNamespace(vendor="sqlite", cursor=Cursor)

    monkeypatch.setattr(doctor, "connection", answering(right))
    assert doctor.check_sqlite_library().ok is True
    monkeypatch.setattr(doctor, "connection", answering(right | {pragma: value}))
    found = doctor.check_sqlite_library()
    assert (found.ok, said in found.detail, bool(found.hint)) == (False, True, True)


def test_another_engine_has_no_library_of_ours(monkeypatch):
    monkeypatch.setattr(doctor, "connection", SimpleNamespace(vendor="postgresql"))
    assert doctor.check_sqlite_library().ok is None


def test_folders_that_others_can_read_are_told(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "_folders", lambda: [tmp_path, tmp_path / "later"])
    os.chmod(tmp_path, 0o700)
    assert find("folders").ok is True
    os.chmod(tmp_path, 0o755)
    assert find("folders").hint == f"chmod 700 {tmp_path}"


def test_where_files_are_kept_is_known():
    folders = {str(folder) for folder in doctor._folders()}
    assert str(storages["attachments"].location) in folders
    assert len(folders) == (2 if connection.vendor == "sqlite" else 1)
    with override_settings(STORAGES={}):
        assert len(doctor._folders()) == len(folders) - 1


@pytest.mark.parametrize(("free", "is_well"), [(10**12, True), (10**6, False)])
def test_a_full_disk_is_told(monkeypatch, tmp_path, free, is_well):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(0, 0, free))
    monkeypatch.setattr(doctor, "_folders", lambda: [tmp_path])
    assert find("disk").ok is is_well
    monkeypatch.setattr(doctor, "_folders", lambda: [])
    assert find("disk").ok is None


def test_what_the_system_checks_say_is_told():
    assert find("settings").ok is True
    with override_settings(AGENT_TRACING=True):
        found = find("settings")
    assert (found.ok, "conversations.W003" in found.detail) == (False, True)
    assert "AGENT_TRACING=false" in found.hint


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (None, "heartbeat is missing"),
        ({"next_run": None}, "heartbeat is paused"),
        ({"next_run": timezone.now() - timedelta(hours=1)}, "heartbeat was due at"),
        ({"next_run": timezone.now() + timedelta(hours=3)}, "heartbeat runs only at"),
    ],
    ids=["missing", "paused", "overdue", "far away"],
)
def test_a_schedule_that_is_not_as_it_should_be_is_told(site, change, said):
    assert find("schedules").ok is True
    row = Schedule.objects.filter(name="conversations.heartbeat")
    if change is None:
        row.delete()
    else:
        row.update(**change)
    found = find("schedules")
    assert (found.ok, said in found.detail) == (False, True)


def test_a_site_without_a_queue_has_no_schedules(settings):
    settings.INSTALLED_APPS = [app for app in settings.INSTALLED_APPS if app != "django_q"]
    assert find("schedules").ok is None


def test_a_task_whose_last_run_failed_is_told(site):
    assert find("tasks").ok is True
    now = timezone.now()
    TaskRun.objects.filter(name="heartbeat").update(failed_at=now, error="LookupError, at a.py:1")
    found = find("tasks")
    assert (found.ok, found.detail) == (False, "failed: heartbeat (LookupError, at a.py:1)")
    TaskRun.objects.filter(name="heartbeat").update(succeeded_at=now + timedelta(seconds=1))
    assert find("tasks").ok is True


def test_an_agent_that_cannot_be_built_is_told():
    assert find("agent").ok is True
    with override_settings(CONVERSATIONS_AGENT="conversations.tests.nowhere.build_agent"):
        found = find("agent")
    assert (found.ok, "cannot be built: " in found.detail) == (False, True)
