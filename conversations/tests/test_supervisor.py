"""The supervisor with real processes and real kills: what dies comes back, nothing is left."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from conversations import supervisor
from conversations.tests.supervisor_processes import (
    ROOT,
    Command,
    alive,
    descendants,
    eventually,
    is_running,
    running,
)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

TREE = str(Path(__file__).with_name("supervisor_tree.py"))


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    path = tmp_path / "notes"
    path.touch()
    return path


@pytest.fixture
def supervise(notes: Path) -> Iterator[Callable[..., Command]]:
    """Start a supervisor over one tree of processes."""
    started: list[Command] = []

    def start(*options: str, **plan: Any) -> Command:
        programs = {"tree": supervisor.bound_command(TREE, str(notes), *options)}
        plan = {"programs": programs} | plan
        command = Command("-m", "conversations.tests.supervisor_run", json.dumps(plan))
        started.append(command)
        return command

    yield start
    for command in started:
        command.close()


def generations(notes: Path) -> list[list[int]]:
    return [[int(pid) for pid in line.split()] for line in notes.read_text().splitlines()]


def generation(notes: Path, number: int, command: Command) -> list[int]:
    """The pids of the tree's n-th start, once it stands."""
    pids = eventually(lambda: generations(notes)[number - 1 : number])[0]
    command.started |= set(pids)
    return pids


# --- Stopping -----------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_stop_signal_ends_everything_with_exit_code_0(supervise, notes, number):
    command = supervise("own-time")
    pids = generation(notes, 1, command)
    command.send(number)
    assert command.ends() == 0
    assert alive(pids) == set()


def test_a_program_that_does_not_stop_is_killed_at_its_bound(supervise, notes):
    command = supervise("deaf", stop_seconds=0.5)
    pids = generation(notes, 1, command)
    command.send(signal.SIGTERM)
    assert command.ends(within=5) == 1
    assert "tree did not stop within 0.5 s: killed." in command.output
    assert alive(pids) == set()


def test_a_second_ctrl_c_kills_at_once(supervise, notes):
    command = supervise("deaf", stop_seconds=60)
    pids = generation(notes, 1, command)
    command.send(signal.SIGINT)
    command.says("Stopping")
    command.send(signal.SIGINT)
    assert command.ends(within=5) == 130
    assert alive(pids) == set()


def test_a_repeated_sigterm_changes_nothing(supervise, notes):
    command = supervise("own-time")
    pids = generation(notes, 1, command)
    command.send(signal.SIGTERM)
    command.says("Stopping")
    command.send(signal.SIGTERM)
    command.send(signal.SIGHUP)
    assert command.ends() == 0
    assert alive(pids) == set()


def test_a_stop_while_a_restart_is_pending_is_immediate(supervise, notes):
    command = supervise("quick")
    command.says(r"starting it again in [48] s")
    command.send(signal.SIGTERM)
    assert command.ends(within=3) == 0


def test_nohup_is_respected(notes):
    plan = json.dumps({"programs": {"tree": supervisor.bound_command(TREE, str(notes))}})
    code = (
        "import os, signal, sys; signal.signal(signal.SIGHUP, signal.SIG_IGN);"
        "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    )
    with running("-c", code, "-m", "conversations.tests.supervisor_run", plan) as command:
        pids = generation(notes, 1, command)
        command.send(signal.SIGHUP)
        command.send(signal.SIGHUP)
        os.kill(pids[0], signal.SIGKILL)
        generation(notes, 2, command)  # still at work
        command.send(signal.SIGTERM)
        assert command.ends() == 0


# --- Dying --------------------------------------------------------------------------------


@pytest.mark.parametrize("victim", [0, 1], ids=["the program", "its child"])
def test_a_killed_program_comes_back_and_leaves_no_orphan(supervise, notes, victim):
    command = supervise()
    pids = generation(notes, 1, command)
    os.kill(pids[victim], signal.SIGKILL)
    if victim:
        eventually(lambda: not is_running(pids[2]))  # bound to its own parent
        os.kill(pids[0], signal.SIGTERM)  # as qcluster leaves when its sentinel is gone
    fresh = generation(notes, 2, command)
    assert alive(pids) == set()
    assert alive(fresh) == set(fresh)


def test_exit_code_0_is_a_failure_too(supervise, notes):
    command = supervise()
    pids = generation(notes, 1, command)
    os.kill(pids[0], signal.SIGTERM)
    generation(notes, 2, command)
    assert "tree ended with exit code 0; starting it again in 0.25 s." in command.output
    assert alive(pids) == set()


def test_a_process_that_left_the_session_dies_with_its_program(supervise, notes):
    command = supervise("stray")
    pids = generation(notes, 1, command)
    assert os.getsid(pids[3]) == pids[3]
    os.kill(pids[0], signal.SIGKILL)
    generation(notes, 2, command)
    assert alive(pids) == set()
    fresh = generation(notes, 2, command)
    command.send(signal.SIGTERM)
    assert command.ends() == 0
    assert alive(fresh) == set()


def test_one_program_is_restarted_and_the_other_is_left_alone(notes, tmp_path):
    other = tmp_path / "other"
    other.touch()
    programs = {
        "tree": supervisor.bound_command(TREE, str(notes)),
        "other": supervisor.bound_command(TREE, str(other), "stray"),
    }
    plan = json.dumps({"programs": programs})
    with running("-m", "conversations.tests.supervisor_run", plan) as command:
        first, spared = generation(notes, 1, command), generation(other, 1, command)
        os.kill(first[0], signal.SIGKILL)
        generation(notes, 2, command)
        assert alive(first) == set()
        assert alive(spared) == set(spared)
        assert len(generations(other)) == 1
        command.send(signal.SIGTERM)
        assert command.ends() == 0
        assert alive(spared) == set()


def test_a_program_that_keeps_dying_is_tried_ever_more_slowly_and_for_ever(supervise, notes):
    command = supervise("quick")
    command.says("tree has died 5 times in a row: look at the messages above")
    pauses = re.findall(r"starting it again in ([\d.]+) s", command.output)
    assert pauses == ["0.25", "0.5", "1", "2", "4"]
    assert command.process.poll() is None
    assert command.tree() == set()


def test_a_program_that_cannot_be_started_is_tried_again():
    plan = json.dumps({"programs": {"tree": ["/nowhere/to/be/found"]}})
    with running("-m", "conversations.tests.supervisor_run", plan) as command:
        command.says(r"tree cannot be started \(No such file or directory\); .* in 0.5 s")
        command.send(signal.SIGTERM)
        assert command.ends() == 0


def test_a_killed_supervisor_takes_everything_along(supervise, notes):
    command = supervise()
    pids = generation(notes, 1, command)
    assert alive(pids) == set(pids)
    command.send(signal.SIGKILL)
    command.ends()
    eventually(lambda: alive(pids) == set(), within=2)


def test_a_program_that_does_not_work_is_replaced(supervise, notes):
    command = supervise("deaf", replace=0.5, stop_seconds=0.5)
    pids = generation(notes, 1, command)
    generation(notes, 2, command)
    assert "tree is alive but does not work: it is replaced." in command.output
    assert alive(pids) == set()
    command.send(signal.SIGTERM)
    assert command.ends() == 1


def test_a_young_program_is_not_replaced(supervise, notes):
    command = supervise(replace=0.5, min_age=60)
    generation(notes, 1, command)
    with pytest.raises(AssertionError):
        eventually(lambda: len(generations(notes)) > 1, within=1.5)


def test_repeated_kills_leave_exactly_one_tree(supervise, notes):
    command = supervise()
    seen: list[int] = []
    for number in range(1, 5):
        pids = generation(notes, number, command)
        assert alive(seen) == set()
        assert command.tree() == set(pids)
        seen += pids
        os.kill(pids[number % 3], signal.SIGKILL)
        if number % 3:
            os.kill(pids[0], signal.SIGKILL)


# --- Details ------------------------------------------------------------------------------


def test_pauses_double_up_to_half_a_minute():
    pauses = [supervisor.pause_after(deaths) for deaths in (1, 2, 3, 7, 8, 9, 500)]
    assert pauses == [0.25, 0.5, 1, 16, 30, 30, 30]


def test_without_a_supervisor_nothing_is_bound(monkeypatch):
    monkeypatch.delenv(supervisor.PARENT_VARIABLE, raising=False)
    supervisor.die_with_parent()


@pytest.mark.parametrize("platform", ["linux", "elsewhere"])
def test_a_process_whose_parent_is_gone_already_leaves(platform):
    code = (
        "from conversations import supervisor\n"
        f"supervisor.bound.LINUX = {platform == 'linux'}\n"
        "supervisor.die_with_parent()\n"
        "import time; time.sleep(60)"
    )
    with running("-c", code, **{supervisor.PARENT_VARIABLE: "1"}) as command:
        assert command.ends(within=10) in {1, -signal.SIGKILL}


def test_the_supervisor_knows_neither_django_nor_the_agents():
    code = (
        "import sys, conversations.supervisor;"
        "print([m for m in ('django', 'agents', 'sqlite3', 'uvicorn') if m in sys.modules])"
    )
    with running("-S", "-c", code) as command:  # without any installed package, too
        assert command.says(r"\[.*\]")[0] == "[]"


def test_a_port_in_use_is_told_with_the_cure():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(supervisor.CannotListen, match=f"Port {port} .* in use.*--port"):
            supervisor.open_listener(host="127.0.0.1", port=port)


@pytest.mark.parametrize(
    ("host", "port", "told"),
    [
        ("192.0.2.1", 8000, "Cannot listen on 192.0.2.1, port 8000"),
        ("no such host", 8000, "Cannot listen on no such host"),
        ("127.0.0.1", 70_000, "There is no port 70000"),
    ],
)
def test_an_impossible_address_is_told(host, port, told):
    with pytest.raises(supervisor.CannotListen, match=told):
        supervisor.open_listener(host=host, port=port)


@pytest.mark.parametrize(
    ("host", "shown"),
    [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("::1", "[::1]"), ("::", "[::1]")],
)
def test_the_shown_address_can_be_opened(host, shown):
    with supervisor.open_listener(host=host, port=0) as listener:
        url = supervisor.url_of(listener)
        assert url == f"http://{shown}:{listener.getsockname()[1]}"
        with socket.create_connection((shown.strip("[]"), listener.getsockname()[1])):
            assert url


@pytest.mark.parametrize(
    ("body", "silent"),
    [
        ({"checks": {"database": {"ok": True}, "worker": {"ok": False}}}, True),
        ({"checks": {"database": {"ok": True}, "worker": {"ok": True}}}, False),
        ({"checks": {"database": {"ok": False}, "worker": {"ok": False}}}, False),
        ({"checks": {"worker": None}}, False),
        ({"checks": []}, False),
        ([], False),
    ],
)
def test_only_a_worker_that_fails_alone_is_silent(body, silent):
    assert supervisor.worker_is_silent(json.dumps(body).encode()) is silent


def test_an_answer_that_is_not_json_is_no_reason():
    assert supervisor.worker_is_silent(b"<html>") is False
    assert supervisor.worker_is_silent(b"") is False


def test_the_operator_may_leave(monkeypatch):
    class Gone:
        def write(self, text: str) -> None:
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stderr", Gone())
    supervisor.say("still here")


# --- The site -----------------------------------------------------------------------------

SITE = {"DJANGO_SETTINGS_MODULE": "conversations.tests.supervisor_site"}


@pytest.fixture
def site(tmp_path: Path, notes: Path) -> Iterator[Callable[..., Command]]:
    """The supervisor as `serve` starts it, over a small site and a worker of sticks."""
    manage = tmp_path / "manage.py"
    manage.write_text(
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from conversations.tests.supervisor_tree import main\n"
        f"sys.exit(main({str(notes)!r}))\n"
    )
    started: list[Command] = []

    def start(*options: str) -> Command:
        listener = supervisor.open_listener(host="127.0.0.1", port=0)
        code = "import os, sys; os.dup2(0, 9); os.execv(sys.executable, sys.argv[1:])"
        command = Command(
            "-c", code, sys.executable, "-m", "conversations.supervisor", "site",
            "--manage", str(manage), "--fd", "9", "--url", supervisor.url_of(listener), *options,
            stdin=listener.fileno(), **SITE,
        )  # fmt: skip
        listener.close()
        started.append(command)
        return command

    yield start
    for command in started:
        command.close()


def get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return bytes(answer.read())


def test_the_site_says_when_it_is_ready_and_stops_clean(site, notes):
    command = site("--grace", "1")
    url = command.says(r"^Ready: (http://127.0.0.1:\d+)$")[1]
    assert f"{url}/api/docs" in command.output
    assert f"{url}/admin/" in command.output
    assert get(f"{url}/healthz") == b"ok"
    pids = set(generation(notes, 1, command)) | command.tree()
    command.send(signal.SIGTERM)
    assert command.ends() == 0
    assert alive(pids) == set()
    assert "lanes closed" in command.output
    with pytest.raises(urllib.error.URLError):
        get(f"{url}/healthz")


def test_a_killed_web_server_comes_back_on_the_same_socket(site):
    command = site("--no-worker")
    url = command.says(r"^Ready: (http://\S+)$")[1]
    first = json.loads(get(f"{url}/whoami"))["pid"]
    os.kill(first, signal.SIGKILL)
    second = json.loads(get(f"{url}/whoami"))["pid"]  # waited in the socket, was not refused
    assert second != first
    command.says("^Ready again")
    assert descendants(command.pid) == {second}


def test_several_web_servers_share_the_socket(site):
    command = site("--no-worker", "--web-workers", "2")
    url = command.says(r"^Ready: (http://\S+)$")[1]
    pids = eventually(lambda: command.tree() if len(command.tree()) == 2 else set())
    seen: set[int] = set()

    def answered() -> bool:
        seen.add(json.loads(get(f"{url}/whoami"))["pid"])
        return seen == pids

    eventually(answered)
    command.send(signal.SIGTERM)
    assert command.ends() == 0
    assert alive(pids) == set()


def test_a_worker_that_readyz_calls_silent_is_replaced(site, notes):
    command = site("--patience", "0.5")
    first = generation(notes, 1, command)
    generation(notes, 2, command)
    assert "worker is alive but does not work: it is replaced." in command.output
    assert alive(first) == set()


def test_a_silent_worker_is_noticed(monkeypatch):
    noticed: list[bool] = []
    watch = supervisor.Watch("http://127.0.0.1:1", has_worker=True, every=0.01)
    watch.on_worker_silent = lambda: noticed.append(True)
    watch.look()
    assert noticed == []  # no answer is not a silent worker
    body = b'{"checks": {"database": {"ok": true}, "worker": {"ok": false}}}'
    monkeypatch.setattr(watch, "_get", lambda path: (503, body))
    watch.look()
    assert noticed == [True]


def test_no_answer_is_no_error():
    watch = supervisor.Watch("http://127.0.0.1:1", has_worker=True, every=1)
    assert watch._get("/healthz") == (0, b"")
