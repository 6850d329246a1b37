"""Python in another process, on this test run's database."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path
from urllib.parse import urlsplit

from django.db import connection

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 60

SITE = """
    import asyncio, os, sys
    import chatsite
    import django
    django.setup()
"""
"""What a script begins with when it needs the site."""


def environment(**changes: str) -> dict[str, str]:
    """The environment of a process that works on the tests' database with the real settings."""
    place = {"AGENT_SESSION_DB_PATH": str(connection.settings_dict["NAME"])}
    if connection.vendor == "postgresql":
        url = urlsplit(os.environ["DATABASE_URL"])
        place = {"DATABASE_URL": url._replace(path=f"/{connection.settings_dict['NAME']}").geturl()}
    return os.environ | {"DJANGO_SETTINGS_MODULE": "chatsite.settings"} | place | changes


def start_python(script: str, *arguments: str, **changes: str) -> subprocess.Popen[str]:
    """Start a script; warnings are errors there too."""
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(script), *arguments],
        cwd=ROOT,
        env=environment(**changes),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run_command(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A command of `manage.py`, as a program without a terminal runs it."""
    return subprocess.run(
        [sys.executable, "-W", "error", "manage.py", *arguments],
        cwd=ROOT,
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def finish(process: subprocess.Popen[str]) -> str:
    """What the script printed; fails with its complaint when it did not end well."""
    try:
        output, complaint = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
    assert process.returncode == 0, complaint
    return output.strip()


def run_python(script: str, *arguments: str, **changes: str) -> str:
    return finish(start_python(script, *arguments, **changes))
