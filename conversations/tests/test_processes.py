"""Who is gone for sure: named by boot, namespace, process id and start, never by a number alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from conversations import processes
from conversations.tests.other_process import ROOT
from conversations.tests.supervisor_processes import eventually

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")

PRINT_NAME = "from conversations import processes; print(processes.new_name(), flush=True)"


def named(**changes: str) -> str:
    """This process's name with other parts."""
    parts = ["boot", "room", "pid", "began", "salt"]
    mine = dict(zip(parts, processes.new_name().split("."), strict=True))
    return ".".join((mine | changes).values())


def test_names_are_short_and_no_two_are_alike():
    first, second = processes.new_name(), processes.new_name()
    assert first != second
    assert max(len(first), len(second)) <= 64


def test_who_runs_is_not_gone():
    assert not processes.is_gone(processes.new_name(), is_one_machine=True)


def test_who_was_killed_is_gone_also_while_nobody_has_collected_it():
    with subprocess.Popen(
        [sys.executable, "-c", PRINT_NAME + "; input()"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        name = process.stdout.readline().strip()
        assert not processes.is_gone(name, is_one_machine=False)
        process.send_signal(signal.SIGSTOP)
        assert not processes.is_gone(name, is_one_machine=False)  # paused is not gone
        process.kill()
        eventually(lambda: processes.is_gone(name, is_one_machine=False))  # a zombie
    assert processes.is_gone(name, is_one_machine=False)


def test_a_process_id_used_again_is_another_process():
    assert processes.is_gone(named(began="1"), is_one_machine=False)


def test_another_boot_is_over_where_there_is_one_machine_and_may_be_another_machine_elsewhere():
    name = named(boot="00000000")
    assert processes.is_gone(name, is_one_machine=True)
    assert not processes.is_gone(name, is_one_machine=False)


@pytest.mark.parametrize(
    "name",
    ["", "gone", named(room="00000000"), named(began="-"), named(pid="x"), named(boot="-")],
    ids=["no name", "one part", "another room", "no start", "no number", "no boot"],
)
def test_what_cannot_be_known_is_not_gone(name):
    assert not processes.is_gone(name, is_one_machine=True)


def test_a_process_of_another_user_is_not_taken_for_gone(monkeypatch):
    def forbidden(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "kill", forbidden)
    assert not processes.is_gone(named(began="1"), is_one_machine=False)


def test_without_proc_nobody_is_gone(monkeypatch, tmp_path):
    monkeypatch.setattr(processes, "_PROC", tmp_path)
    processes.boot.cache_clear()
    try:
        name = processes.new_name()
        assert name.startswith("-.-.")
        assert not processes.is_gone(name, is_one_machine=True)
    finally:
        processes.boot.cache_clear()


def test_the_steady_clock_is_the_same_in_all_processes():
    before = processes.steady_milliseconds()
    script = "from conversations import processes; print(processes.steady_milliseconds())"
    other = int(subprocess.check_output([sys.executable, "-c", script], cwd=ROOT, text=True))
    assert before <= other <= processes.steady_milliseconds()
