"""Processes as the tests see them: started, watched and ended, always the tests' own."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 30.0


T = TypeVar("T")


def eventually(look: Callable[[], T | None], *, within: float = PATIENCE) -> T:
    """The first true value of `look`; fails when there is none in time."""
    deadline = time.monotonic() + within
    while not (value := look()):
        assert time.monotonic() < deadline, f"not within {within:g} s"
        time.sleep(0.02)
    return value


def is_running(pid: int) -> bool:
    """Whether the process exists and is more than a zombie."""
    return bool(state := _stat(pid)) and state[0] not in "ZX"


def alive(pids: set[int] | list[int]) -> set[int]:
    return {pid for pid in pids if is_running(pid)}


def descendants(pid: int) -> set[int]:
    """All living processes below `pid`."""
    parents = {}
    for entry in Path("/proc").glob("[0-9]*"):
        if state := _stat(int(entry.name)):
            parents[int(entry.name)] = int(state[1])
    found: set[int] = set()
    level = {pid}
    while level := {child for child, parent in parents.items() if parent in level} - found:
        found |= level
    return {child for child in found if is_running(child)}


def _stat(pid: int) -> list[str]:
    """State, parent, group, session of a process; empty when it is gone."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    return []


class Command:
    """A running command whose output is collected; at the end nothing of it is left."""

    def __init__(
        self, *arguments: str, stdin: int = subprocess.DEVNULL, **environment: str
    ) -> None:
        self.started: set[int] = set()
        self._lines: list[str] = []
        self.process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=ROOT,
            env=os.environ | environment,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.append(line)

    @property
    def output(self) -> str:
        return "".join(self._lines)

    @property
    def pid(self) -> int:
        return self.process.pid

    def says(self, pattern: str) -> re.Match[str]:
        """Wait until the output matches."""

        def look() -> re.Match[str] | None:
            found = re.search(pattern, self.output, re.MULTILINE)
            assert found or self.process.poll() is None or self._reader.is_alive(), self.output
            return found

        try:
            return eventually(look)
        except AssertionError:
            raise AssertionError(f"{pattern!r} was not said:\n{self.output}") from None

    def tree(self) -> set[int]:
        """The living processes below the command, remembered for the end of the test."""
        found = descendants(self.pid)
        self.started |= found
        return found

    def send(self, number: signal.Signals) -> None:
        self.tree()
        self.process.send_signal(number)

    def ends(self, *, within: float = PATIENCE) -> int:
        """Wait for the command; its exit code."""
        return self.process.wait(timeout=within)

    def close(self) -> None:
        if self.process.poll() is None:
            self.tree()
            self.process.kill()
        self.process.wait()
        for pid in alive(self.started):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._reader.join(timeout=10)
        assert self.process.stdout is not None
        self.process.stdout.close()


@contextlib.contextmanager
def running(
    *arguments: str, stdin: int = subprocess.DEVNULL, **environment: str
) -> Iterator[Command]:
    command = Command(*arguments, stdin=stdin, **environment)
    try:
        yield command
    finally:
        command.close()
