"""The checks of `manage.py doctor`: those of `/readyz`, and what takes longer or tells more."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from django.apps import apps
from django.core.checks import ERROR, run_checks
from django.core.files.storage import FileSystemStorage, InvalidStorageError, storages
from django.db import connection
from django.utils import timezone

from conversations import attachment_storage, sqlite
from conversations.health.findings import Check, Finding, moment_of
from conversations.health.readiness import READINESS, SET_UP_WORKER
from conversations.models import TaskRun

LITTLE_SPACE: Final = 512 * 1024 * 1024
LATE: Final = timedelta(minutes=3)


def check_sqlite_library() -> Finding:
    """Which library is used, and how the file is set up."""
    if connection.vendor != "sqlite":
        return Finding(None, "not used")
    pragmas = ("journal_mode", "auto_vacuum", "synchronous", "secure_delete")
    with connection.cursor() as cursor:
        values: list[Any] = [cursor.execute(f"PRAGMA {pragma}").fetchone()[0] for pragma in pragmas]
    detail = f"{sqlite.driver().__name__} {sqlite.driver().sqlite_version}"
    detail += "".join(f", {name} {value}" for name, value in zip(pragmas, values, strict=True))
    journal, auto_vacuum, _, secure_delete = values
    if journal != sqlite.journal_mode():
        return Finding(
            False,
            f"{detail}: the journal should be {sqlite.journal_mode()}",
            "Stop everything and run: "
            f"sqlite3 FILE 'PRAGMA journal_mode={sqlite.journal_mode().upper()}'",
        )
    if not secure_delete or auto_vacuum != 2:
        return Finding(
            False,
            f"{detail}: what is deleted would stay in the file",
            "Use conversations.sqlite.database_settings(path) in DATABASES. A file that was made "
            "without it: PRAGMA auto_vacuum=INCREMENTAL, then VACUUM, with everything stopped.",
        )
    return Finding(True, detail)


def check_folders() -> Finding:
    """Nobody else on this machine can look into the folders."""
    open_to_others = [
        str(folder) for folder in _folders() if folder.is_dir() and folder.stat().st_mode & 0o077
    ]
    if open_to_others:
        named = " ".join(open_to_others)
        return Finding(False, f"others can read {named}", f"chmod 700 {named}")
    return Finding(True, "private")


def check_disk() -> Finding:
    """There is space to write to."""
    spaces = [shutil.disk_usage(folder).free for folder in _folders() if folder.is_dir()]
    if not spaces:
        return Finding(None, "no folder of ours")
    free = min(spaces)
    detail = f"{free / 1024**3:.1f} GB free"
    if free < LITTLE_SPACE:
        return Finding(False, detail, "Make space: what cannot be written is answered, not kept.")
    return Finding(True, detail)


def check_settings() -> Finding:
    """Django's system checks of this app, the database's among them."""
    messages = [
        message
        for message in run_checks(databases=["default"])
        if not message.is_silenced()
        and (message.level >= ERROR or str(message.id).startswith("conversations."))
    ]
    if not messages:
        return Finding(True, "nothing to complain about")
    return Finding(
        False,
        " ".join(f"{message.id}: {message.msg}" for message in messages),
        " ".join(filter(None, (message.hint for message in messages))),
    )


def check_schedules() -> Finding:
    """All that is to run by itself is stored, is not paused, and is not overdue."""
    if not apps.is_installed("django_q"):
        return Finding(None, "no queue is installed")
    from conversations import schedules  # noqa: PLC0415 - only where there is a queue

    now, problems = timezone.now(), []
    for entry in schedules.build_table():
        name = entry.name.removeprefix(schedules.OURS)
        timing = schedules.find_timing(name, now=now)
        if timing is None:
            problems.append(f"{name} is missing")
        elif timing.is_paused:
            problems.append(f"{name} is paused")
        elif timing.next_run < now - LATE:
            problems.append(f"{name} was due at {moment_of(timing.next_run)}")
        elif timing.next_run > now + 2 * timing.period:
            problems.append(f"{name} runs only at {moment_of(timing.next_run)}")
    if problems:
        return Finding(
            False,
            ", ".join(problems),
            f"{SET_UP_WORKER} What staff or a wrong clock made of a timing stays, but for "
            "manage.py sync_schedules --reset.",
        )
    return Finding(True, f"{len(schedules.build_table())} as they should be")


def check_tasks() -> Finding:
    """The last run of every task succeeded."""
    failed = [
        f"{run.name} ({run.error})"
        for run in TaskRun.objects.order_by("name")
        if run.failed_at and (run.succeeded_at is None or run.failed_at > run.succeeded_at)
    ]
    if failed:
        return Finding(
            False, f"failed: {', '.join(failed)}", "Look at the worker's log of that time."
        )
    return Finding(True, "none failed last time")


def check_agent() -> Finding:
    """The assistant can be built. This imports it, which takes a moment."""
    try:
        agent = import_module("conversations.assistant").get_agent()
    except Exception as error:
        return Finding(
            False,
            f"cannot be built: {type(error).__name__}: {error}",
            "See CONVERSATIONS_AGENT in docs/settings.md.",
        )
    return Finding(True, f"{agent.name} is built")


def _folders() -> list[Path]:
    """Where this site keeps files on this machine."""
    folders = []
    if connection.vendor == "sqlite":
        folders.append(Path(os.path.dirname(str(connection.settings_dict["NAME"]))))
    try:
        storage = storages[attachment_storage.STORAGE]
    except InvalidStorageError:
        return folders
    if isinstance(storage, FileSystemStorage):
        folders.append(Path(storage.location))
    return folders


DOCTOR: Final[Mapping[str, Check]] = {
    **READINESS,
    "sqlite_library": check_sqlite_library,
    "folders": check_folders,
    "disk": check_disk,
    "settings": check_settings,
    "schedules": check_schedules,
    "tasks": check_tasks,
    "agent": check_agent,
}
