"""`manage.py serve`: one command, and what it leaves behind."""

from __future__ import annotations

import os
import re
import signal
import socket
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import OperationalError
from django_q.models import Schedule

from conversations import schedules
from conversations.management.commands import serve
from conversations.tests.supervisor_processes import Command, alive, eventually, is_running

# --- In this process ----------------------------------------------------------------------


class Replaced(Exception):
    """What `os.execve` would have done."""


@pytest.fixture
def replaced(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The command lines that `serve` would have become."""
    seen: list[list[str]] = []

    def execve(path: str, arguments: list[str], environment: dict[str, str]) -> None:
        seen.append(arguments)
        assert path == sys.executable
        assert environment["PYTHONPATH"].split(os.pathsep)[0] == str(
            Path(sys.argv[0]).resolve().parent
        )
        raise Replaced

    monkeypatch.setattr(os, "execve", execve)
    return seen


@pytest.mark.django_db(transaction=True)
def test_it_becomes_the_supervisor_with_a_listening_socket(replaced, capsys):
    with pytest.raises(Replaced):
        call_command("serve", port=0, no_worker=True, web_workers=2)
    (command,) = replaced
    assert command[1:4] == ["-m", "conversations.supervisor", "site"]
    assert "--no-worker" in command
    assert command[command.index("--web-workers") + 1] == "2"
    url = command[command.index("--url") + 1]
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+", url)
    assert f"Starting: {url}" in capsys.readouterr().out


@pytest.mark.django_db(transaction=True)
def test_the_workers_schedules_are_there_before_it_starts(replaced):
    with pytest.raises(Replaced):
        call_command("serve", port=0)
    names = {row.name for row in schedules.build_table()}
    assert set(Schedule.objects.values_list("name", flat=True)) == names


@pytest.mark.django_db(transaction=True)
def test_demo_passwords_are_shown_once(replaced, capsys):
    with pytest.raises(Replaced):
        call_command("serve", port=0, demo=True)
    shown = capsys.readouterr().out
    assert re.search(r"demo@example.com \(username demo\), password \S{16}  \(shown only", shown)
    assert re.search(r"staff@example.com \(username staff\), password \S{16}", shown)
    with pytest.raises(Replaced):
        call_command("serve", port=0, demo=True)
    shown = capsys.readouterr().out
    assert "password as printed at the first start; a new one: manage.py changepassword de" in shown


@pytest.mark.django_db(transaction=True)
def test_without_demo_nobody_is_created(replaced, django_user_model):
    with pytest.raises(Replaced):
        call_command("serve", port=0)
    assert not django_user_model.objects.exists()


def test_a_database_that_is_down_is_said_in_one_line(replaced, monkeypatch):
    def fail(*arguments: Any, **options: Any) -> None:
        raise OperationalError("connection refused")

    monkeypatch.setattr(serve, "call_command", fail)
    with pytest.raises(CommandError, match="could not be prepared: connection refused"):
        call_command("serve", port=0)
    assert replaced == []


def test_no_web_server_at_all_is_refused():
    with pytest.raises(CommandError, match="write 1 or more"):
        call_command("serve", web_workers=0)


# --- For real -----------------------------------------------------------------------------

slow = pytest.mark.slow


class Site(Command):
    """`manage.py serve` on a database of its own."""

    def __init__(self, folder: Path, *options: str, port: int = 0) -> None:
        super().__init__(
            "manage.py", "serve", "--port", str(port), *options,
            DJANGO_SETTINGS_MODULE="chatsite.settings",
            SECRET_KEY="serve-test-" + "s" * 50,
            AGENT_SESSION_DB_PATH=str(folder / "data" / "site.db"),
            DATABASE_URL="",
            OPENAI_API_KEY="",
        )  # fmt: skip

    def is_ready(self) -> str:
        """Wait for the web server and the whole worker; the site's address."""
        url = self.says(r"^Ready: (http://\S+)$")[1]
        self.cluster()
        return url

    def web(self) -> int:
        return self._one_child("conversations.web")

    def cluster(self) -> dict[str, int]:
        """The pids of the worker's processes, once all five stand."""

        def look() -> dict[str, int]:
            main = self._find_child("qcluster")
            for sentinel in children(main) if main else []:
                helpers = sorted(children(sentinel))
                if len(helpers) == 3:
                    names = ("worker", "monitor", "pusher")
                    return {"main": main, "sentinel": sentinel} | dict(
                        zip(names, helpers, strict=True)
                    )
            return {}

        found = eventually(look)
        self.started |= set(found.values())
        return found

    def _find_child(self, word: str) -> int:
        for pid in children(self.pid):
            if word.encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                return pid
        return 0

    def _one_child(self, word: str) -> int:
        return eventually(lambda: self._find_child(word))


def children(pid: int) -> list[int]:
    """The living children of a process; none when it is gone."""
    try:
        listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [child for child in map(int, listed) if is_running(child)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir(mode=0o700)
    return tmp_path


@pytest.fixture
def site(folder: Path) -> Iterator[Site]:
    started = Site(folder)
    yield started
    started.close()


def healthz(url: str) -> int:
    with urllib.request.urlopen(f"{url}/healthz", timeout=30) as answer:
        return int(answer.status)


@slow
def test_a_site_from_nothing_stops_clean_and_remembers(folder):
    for time, number, password in (
        ("first", signal.SIGINT, r"password \S{16} "),
        ("second", signal.SIGTERM, "as printed at the first"),
    ):
        site = Site(folder, "--demo")
        try:
            url = site.is_ready()
            assert healthz(url) == 200
            assert re.search(rf"username staff\), .*{password}", site.output), time
            pids = site.tree()
            assert len(pids) >= 6
            site.send(number)
            assert site.ends(within=20) == 0, site.output
            assert alive(pids) == set()
        finally:
            site.close()
    assert (folder / "data" / "site.db").stat().st_mode & 0o777 == 0o600


@slow
def test_whatever_is_killed_comes_back_and_leaves_no_orphan(site):
    url = site.is_ready()

    web = site.web()
    os.kill(web, signal.SIGKILL)
    assert healthz(url) == 200  # the socket waited for the next web server
    assert site.web() != web
    assert not is_running(web)

    for victim in ("main", "sentinel"):
        before = site.cluster()
        os.kill(before[victim], signal.SIGKILL)
        eventually(lambda: alive(list(before.values())) == set(), within=10)  # noqa: B023
        after = site.cluster()
        assert not set(before.values()) & set(after.values())

    before = site.cluster()
    os.kill(before["worker"], signal.SIGKILL)
    eventually(lambda: site.cluster()["sentinel"] == before["sentinel"])
    after = eventually(lambda: {p for p in site.cluster().values() if p not in before.values()})
    assert len(after) == 1  # the cluster replaced it by itself

    # A killed idle worker takes the queue's lock along: such a cluster may not stop by itself.
    pids = site.tree()
    site.send(signal.SIGTERM)
    assert site.ends(within=25) in {0, 1}
    assert alive(pids) == set()


@slow
def test_a_killed_supervisor_takes_the_whole_site_along(site):
    site.is_ready()
    pids = site.tree()
    assert len(pids) >= 6
    site.send(signal.SIGKILL)
    site.ends()
    eventually(lambda: alive(pids) == set(), within=2)


@slow
def test_a_port_in_use_is_one_line_and_no_start(folder):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        site = Site(folder, port=taken.getsockname()[1])
        try:
            assert site.ends() == 1
            site.says(r"\ACommandError: Port \d+ on 127.0.0.1 is already in use: .*--port.\n\Z")
            assert not (folder / "data" / "site.db").exists()
        finally:
            site.close()
