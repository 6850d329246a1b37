"""System checks: each one speaks when its promise is broken, and is silent otherwise."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import closing
from types import SimpleNamespace
from typing import Any

import pytest
from django.conf import settings
from django.contrib import admin
from django.core.checks import run_checks
from django.db import connection
from django.test import override_settings
from django_q.admin import ScheduleAdmin as QueuesOwnPage
from django_q.models import Schedule

from conversations import checks, sqlite

on_sqlite = pytest.mark.skipif(
    "connection.vendor != 'sqlite'", reason="the embedded engine's own check"
)


def ids(found: list[Any]) -> list[str]:
    return [message.id for message in found]


@pytest.fixture
def database(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`database(NAME=..., OPTIONS=...)`: other settings of the database, for one test."""

    def change(**settings: Any) -> None:
        for name, value in settings.items():
            monkeypatch.setitem(connection.settings_dict, name, value)

    return change


@pytest.fixture
def wal_database(database: Callable[..., None], tmp_path: Any) -> Iterator[None]:
    """The default database is a file in WAL mode."""
    name = tmp_path / "wal.db"
    with closing(sqlite.driver().connect(name)) as raw:
        raw.execute("PRAGMA journal_mode=WAL")
    connection.close()
    database(NAME=str(name))
    yield
    connection.close()


@pytest.mark.django_db
def test_this_site_has_nothing_to_complain_about():
    found = run_checks(databases=["default"])
    assert [message for message in found if message.id.startswith("conversations.")] == []


@on_sqlite
def test_e001_two_sqlite_libraries_in_one_process(monkeypatch):
    other = SimpleNamespace(sqlite_version="3.0.0")
    monkeypatch.setattr(sqlite, "driver", lambda: other)
    (error,) = checks.check_sqlite_library(None)
    assert error.id == "conversations.E001"
    assert "3.0.0" in error.msg


@on_sqlite
@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("wal_database")
@pytest.mark.parametrize(("version", "complaints"), [((3, 40, 1), 1), ((3, 51, 3), 0)])
def test_e002_wal_only_where_it_is_safe(monkeypatch, version, complaints):
    monkeypatch.setattr(sqlite, "engine_version", lambda: version)
    found = checks.check_journal_mode(None, databases=["default"])
    assert ids(found) == ["conversations.E002"] * complaints


@on_sqlite
@pytest.mark.parametrize("databases", [None, [], ["other"]])
def test_e002_touches_no_database_it_was_not_asked_to(databases):
    assert checks.check_journal_mode(None, databases=databases) == []


@pytest.mark.parametrize(("named", "complaints"), [("", 1), ("shop.assistant.build_agent", 0)])
def test_w004_somebody_must_answer(named, complaints):
    with override_settings(CONVERSATIONS_AGENT=named):
        assert ids(checks.check_agent_is_named(None)) == ["conversations.W004"] * complaints


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({}, None),
        ({"timeout": 30, "retry": None}, None),
        ({"timeout": 60, "retry": None}, "E004"),  # retry is 60 where nobody says otherwise
        ({"timeout": 360}, "E004"),
        ({"timeout": None}, "E004"),
        ({"max_attempts": None}, "W005"),
        ({"max_attempts": 0}, "W005"),
        ({"catch_up": None}, "W006"),
        ({"catch_up": True}, "W006"),
        ({"time_zone": "Europe/Berlin"}, "W007"),
        ({"time_zone": None}, None),  # the site's own, which is UTC
        ({"orm": None}, "W008"),
        ({"orm": "queue"}, "W008"),
        ({"poll": None}, "W009"),
        ({"poll": 0.2}, "W009"),
        ({"ack_failures": None}, "W012"),
        ({"scheduler": False}, "W013"),
        ({"sync": True}, "W014"),
        ({"save_limit": 0}, "W015"),
        ({"save_limit": None}, None),  # 250 where nobody says otherwise
    ],
)
def test_what_the_queue_does_unless_told_otherwise(changes, complaint):
    """None: not set at all."""
    changed = settings.Q_CLUSTER | changes
    cluster = {name: value for name, value in changed.items() if value is not None}
    with override_settings(Q_CLUSTER=cluster):
        found = checks.check_queue(None)
    assert ids(found) == ([f"conversations.{complaint}"] if complaint else [])
    assert all(message.msg and message.hint for message in found)


@override_settings(TIME_ZONE="Europe/Berlin")
def test_w007_the_sites_time_zone_is_the_queues_where_it_has_none():
    cluster = {name: value for name, value in settings.Q_CLUSTER.items() if name != "time_zone"}
    with override_settings(Q_CLUSTER=cluster):
        assert ids(checks.check_queue(None)) == ["conversations.W007"]


@pytest.mark.parametrize("cluster", [{}, {"name": "shop"}])
def test_a_queue_that_is_left_as_it_comes_is_told_all_of_it(cluster):
    with override_settings(Q_CLUSTER=cluster):
        found = [message.id.removeprefix("conversations.") for message in checks.check_queue(None)]
    assert found == ["E004", "W005", "W006", "W008", "W009", "W012"]


@pytest.mark.parametrize(("seconds", "complaints"), [(0, 0), (1, 1), (89, 1), (90, 0)])
def test_w016_a_worker_that_works_is_given_its_time(seconds, complaints):
    with override_settings(CHAT_WORKER_SILENT_SECONDS=seconds):
        found = ids(checks.check_worker_is_given_time(None))
    assert found == ["conversations.W016"] * complaints


def test_e006_the_queues_own_pages_may_not_be_served():
    assert checks.check_queue_pages(None) == []
    site = admin.AdminSite(name="back office")
    site.register(Schedule, QueuesOwnPage)
    (error,) = checks.check_queue_pages(None)
    assert error.id == "conversations.E006"
    assert '"back office" serves django-q2\'s page of Schedule' in error.msg


def test_e006_has_no_opinion_where_there_is_no_queue():
    others = [name for name in settings.INSTALLED_APPS if name != "django_q"]
    with override_settings(INSTALLED_APPS=others):
        assert checks.check_queue_pages(None) == []


def test_a_site_without_the_queue_hears_nothing_of_it():
    others = [name for name in settings.INSTALLED_APPS if name != "django_q"]
    with override_settings(INSTALLED_APPS=others, Q_CLUSTER={}):
        assert checks.check_queue(None) == []


@on_sqlite
@pytest.mark.parametrize("options", [{}, {"transaction_mode": "DEFERRED"}])
def test_w001_transactions_that_begin_by_reading(database, options):
    database(OPTIONS=options)
    assert ids(checks.check_sqlite_library(None)) == ["conversations.W001"]


@on_sqlite
def test_w002_a_folder_that_others_can_read(database, tmp_path):
    database(NAME=str(tmp_path / "chat.db"))
    os.chmod(tmp_path, 0o750)
    (warning,) = checks.check_sqlite_library(None)
    assert warning.id == "conversations.W002"
    assert warning.hint == f"chmod 700 {tmp_path}"
    os.chmod(tmp_path, 0o700)
    assert checks.check_sqlite_library(None) == []


@on_sqlite
def test_w002_has_no_opinion_of_a_folder_that_is_not_there_yet(database, tmp_path):
    database(NAME=str(tmp_path / "later" / "chat.db"))
    assert checks.check_sqlite_library(None) == []


@pytest.mark.parametrize(("tracing", "complaints"), [(True, 1), (False, 0)])
def test_w003_traces_hold_what_people_said(tracing, complaints):
    with override_settings(AGENT_TRACING=tracing):
        assert ids(checks.check_tracing(None)) == ["conversations.W003"] * complaints


def kept_in(folder: Any) -> Any:
    storage = settings.STORAGES["attachments"]
    options = storage["OPTIONS"] | {"location": str(folder)}
    return settings.STORAGES | {"attachments": storage | {"OPTIONS": options}}


def test_w010_a_site_that_keeps_no_files():
    others = {name: it for name, it in settings.STORAGES.items() if name != "attachments"}
    with override_settings(STORAGES=others):
        assert ids(checks.check_attachments(None)) == ["conversations.W010"]


@pytest.mark.parametrize("name", ["MEDIA_ROOT", "STATIC_ROOT"])
def test_e005_files_that_anybody_may_get(name, tmp_path):
    for folder, complaints in ((tmp_path, 1), (tmp_path / "files", 1), (tmp_path.parent, 0)):
        with override_settings(STORAGES=kept_in(folder), **{name: str(tmp_path)}):
            os.chmod(folder, 0o700) if folder.exists() else None
            assert ids(checks.check_attachments(None)) == ["conversations.E005"] * complaints


def test_w011_files_that_others_can_read(tmp_path):
    with override_settings(STORAGES=kept_in(tmp_path)):
        os.chmod(tmp_path, 0o711)
        (warning,) = checks.check_attachments(None)
        assert (warning.id, warning.hint) == ("conversations.W011", f"chmod 700 {tmp_path}")
        os.chmod(tmp_path, 0o700)
        assert checks.check_attachments(None) == []


def test_a_storage_elsewhere_has_no_folder_to_look_at():
    memory = {"BACKEND": "django.core.files.storage.InMemoryStorage"}
    with override_settings(STORAGES=settings.STORAGES | {"attachments": memory}):
        assert checks.check_attachments(None) == []


@pytest.mark.skipif("connection.vendor == 'sqlite'", reason="what another engine is spared")
def test_another_engine_hears_nothing_of_sqlite():
    assert checks.check_sqlite_library(None) == []
    assert checks.check_journal_mode(None, databases=["default"]) == []
