"""System checks: what would break a promise, said before it does."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from django.apps import apps
from django.apps.config import AppConfig
from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, Warning, register
from django.core.files.storage import FileSystemStorage, InvalidStorageError, storages
from django.db import connection
from django.utils.module_loading import import_string

from conversations import attachment_storage, sqlite
from conversations.conf import Conf, get_conf

HEARTBEAT_SECONDS: Final = 90
"""So long apart two heartbeats of a worker may be that works."""


@register(Tags.compatibility)
def check_sqlite_library(
    app_configs: Sequence[AppConfig] | None, **kwargs: Any
) -> list[CheckMessage]:
    """One SQLite library per process, and a private folder for its file."""
    if connection.vendor != "sqlite":
        return []
    found: list[CheckMessage] = []
    backend = sys.modules["django.db.backends.sqlite3.base"].Database
    if backend.sqlite_version != sqlite.driver().sqlite_version:
        found.append(
            Error(
                f"Django uses SQLite {backend.sqlite_version}, other code in this process "
                f"{sqlite.driver().sqlite_version}: they are blind to each other's locks.",
                hint="Call conversations.sqlite.use_safe_library() before anything imports "
                "sqlite3, as chatsite/__init__.py does.",
                id="conversations.E001",
            )
        )
    name = str(connection.settings_dict["NAME"])
    options = connection.settings_dict.get("OPTIONS", {})
    if options.get("transaction_mode") != "IMMEDIATE":
        found.append(
            Warning(
                "SQLite transactions do not start with BEGIN IMMEDIATE: concurrent writes will "
                'fail with "database is locked".',
                hint="Use conversations.sqlite.database_settings(path) in DATABASES.",
                id="conversations.W001",
            )
        )
    folder = os.path.dirname(name)
    if os.path.isdir(folder) and os.stat(folder).st_mode & 0o077:
        found.append(
            Warning(
                f"The folder {folder} can be read by other users of this machine.",
                hint=f"chmod 700 {folder}",
                id="conversations.W002",
            )
        )
    return found


@register(Tags.database)
def check_journal_mode(
    app_configs: Sequence[AppConfig] | None, databases: Sequence[str] | None = None, **kwargs: Any
) -> list[CheckMessage]:
    """WAL only under a library that has the fix of the WAL-reset bug."""
    if not databases or "default" not in databases or connection.vendor != "sqlite":
        return []
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA journal_mode")
        (mode,) = cursor.fetchone()
    if mode == "wal" and not sqlite.is_wal_safe(sqlite.engine_version()):
        version = sqlite.driver().sqlite_version
        return [
            Error(
                f"The database is in WAL mode, and SQLite {version} may corrupt it.",
                hint="Install pysqlite3, or stop everything and run: "
                "sqlite3 FILE 'PRAGMA journal_mode=DELETE'",
                id="conversations.E002",
            )
        ]
    return []


@register(Tags.security)
def check_tracing(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    """The SDK's traces hold what people said."""
    if not get_conf().agent_tracing:
        return []
    return [
        Warning(
            "AGENT_TRACING is on: what people say is sent to the tracing service.",
            hint="Set AGENT_TRACING=false unless people have agreed to it.",
            id="conversations.W003",
        )
    ]


@register(Tags.compatibility)
def check_agent_is_named(
    app_configs: Sequence[AppConfig] | None, **kwargs: Any
) -> list[CheckMessage]:
    """Somebody must answer. The path is not imported here: importing an agent costs seconds."""
    if get_conf().conversations_agent:
        return []
    return [
        Warning(
            "CONVERSATIONS_AGENT is not set: nobody answers messages.",
            hint="Name a callable that builds an agents.Agent, such as shop.assistant.build_agent. "
            "AgentSession alone needs none.",
            id="conversations.W004",
        )
    ]


@register(Tags.security)
def check_attachments(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    """Attached files are handed out to their owners only: nothing else may serve or read them."""
    try:
        storage = storages[attachment_storage.STORAGE]
    except InvalidStorageError:
        return [
            Warning(
                'STORAGES has no "attachments": no file can be attached to a message.',
                hint="Name a private storage, as chatsite/settings.py does.",
                id="conversations.W010",
            )
        ]
    if not isinstance(storage, FileSystemStorage):
        return []
    folder = Path(storage.location)
    found: list[CheckMessage] = []
    for name in ("MEDIA_ROOT", "STATIC_ROOT"):
        public = getattr(settings, name, None)
        if public and folder.is_relative_to(Path(public).absolute()):
            found.append(
                Error(
                    f"Attached files are kept below {name}, from where anybody may get them.",
                    hint='Give the storage "attachments" a location of its own.',
                    id="conversations.E005",
                )
            )
    if folder.is_dir() and folder.stat().st_mode & 0o077:
        found.append(
            Warning(
                f"The folder {folder} can be read by other users of this machine.",
                hint=f"chmod 700 {folder}",
                id="conversations.W011",
            )
        )
    return found


@register(Tags.compatibility)
def check_chatkit_server(
    app_configs: Sequence[AppConfig] | None, **kwargs: Any
) -> list[CheckMessage]:
    """A server class of one's own must be there; ours is, and importing it costs seconds."""
    ours, path = Conf().conversations_chatkit_server, get_conf().conversations_chatkit_server
    if path == ours:
        return []
    try:
        kind = import_string(path)
        problem = "" if issubclass(kind, import_string(ours)) else "it is not one"
    except (ImportError, TypeError) as error:
        problem = str(error)
    if not problem:
        return []
    return [
        Error(
            f"CONVERSATIONS_CHATKIT_SERVER is {path}: {problem}.",
            hint=f"Name a subclass of {ours}.",
            id="conversations.E007",
        )
    ]


@register(Tags.compatibility)
def check_worker_is_given_time(
    app_configs: Sequence[AppConfig] | None, **kwargs: Any
) -> list[CheckMessage]:
    """A worker that works must not be taken for one that hangs."""
    silent_after = get_conf().chat_worker_silent_seconds
    if not 0 < silent_after < HEARTBEAT_SECONDS:
        return []
    return [
        Warning(
            f"CHAT_WORKER_SILENT_SECONDS is {silent_after:g}: a worker that works would be "
            "restarted again and again.",
            hint=f"Its heartbeat runs every 60 to {HEARTBEAT_SECONDS} seconds: write more, or 0 "
            "where there is no worker.",
            id="conversations.W016",
        )
    ]


@register(Tags.security)
def check_queue_pages(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    """django-q2's own pages: whoever may add a schedule there may run any code."""
    if not (apps.is_installed("django_q") and apps.is_installed("django.contrib.admin")):
        return []
    from django.contrib import admin  # noqa: PLC0415 - only where it is used

    served = [
        (site, model)
        for site in admin.sites.all_sites
        for model, page in site._registry.items()
        if type(page).__module__ == "django_q.admin"
    ]
    return [
        Error(
            f'The admin site "{site.name}" serves django-q2\'s page of {model.__name__}: the right '
            "to add a schedule is the right to run any code.",
            hint="Unregister it; read-only pages are in conversations.admin.worker.",
            id="conversations.E006",
        )
        for site, model in served
    ]


@register(Tags.compatibility)
def check_queue(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    """What django-q2 does by default, and what it must not do with tasks that matter."""
    if not apps.is_installed("django_q"):
        return []
    cluster = getattr(settings, "Q_CLUSTER", {})
    timeout, retry = cluster.get("timeout"), cluster.get("retry", 60)
    found: list[CheckMessage] = []
    if timeout is None or timeout >= retry:
        found.append(
            Error(
                "Q_CLUSTER: timeout must be set and shorter than retry, else tasks run twice.",
                hint='For example "timeout": 300, "retry": 360.',
                id="conversations.E004",
            )
        )
    rules = [
        (
            "W005",
            cluster.get("max_attempts", 0) > 0,
            "max_attempts is not set: a task that fails is tried again for ever.",
            '"max_attempts": 3',
        ),
        (
            "W006",
            cluster.get("catch_up", True) is False,
            "catch_up is not off: after a downtime, all runs that were missed are made up for.",
            '"catch_up": False',
        ),
        (
            "W007",
            cluster.get("time_zone", settings.TIME_ZONE) == "UTC",
            "time_zone is not UTC: what is to run at an hour of UTC runs at another.",
            '"time_zone": "UTC"',
        ),
        (
            "W008",
            cluster.get("orm") == "default",
            "orm is not the default database: a run may be queued twice, or never.",
            '"orm": "default", where the schedules are',
        ),
        (
            "W009",
            cluster.get("poll", 0.2) >= 1,
            "poll is under a second: a worker with nothing to do keeps the database busy.",
            '"poll": 1',
        ),
        (
            "W012",
            cluster.get("ack_failures", False) is True,
            "ack_failures is not on: a task that failed stays in the queue and runs again.",
            '"ack_failures": True',
        ),
        (
            "W013",
            cluster.get("scheduler", True) is True,
            "scheduler is off: nothing runs by itself, unless another cluster has it on.",
            '"scheduler": True',
        ),
        (
            "W014",
            cluster.get("sync", False) is False,
            "sync is on: tasks run in the process that asks for them, and nothing is scheduled.",
            '"sync": False',
        ),
        (
            "W015",
            cluster.get("save_limit", 250) > 0,
            "save_limit is 0 or less: results are kept for ever, or not at all.",
            '"save_limit": 250',
        ),
    ]
    found += [
        Warning(f"Q_CLUSTER: {sentence}", hint=f"Write {hint}.", id=f"conversations.{number}")
        for number, is_kept, sentence, hint in rules
        if not is_kept
    ]
    return found
