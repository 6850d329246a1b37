"""Processes and their groups: ended wholly, and waited for; and a line to the operator."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

PR_SET_PDEATHSIG: Final = 1
PR_SET_CHILD_SUBREAPER: Final = 36
LINUX: Final = sys.platform == "linux"


def say(text: str) -> None:
    """One line to the operator; a terminal that has gone is no reason to stop."""
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write(f"serve: {text}\n")
        sys.stderr.flush()


def has_ended(process: subprocess.Popen[bytes]) -> bool:
    """Whether the process has ended. Where possible it is not reaped yet: its id stays taken."""
    if not LINUX:
        return process.poll() is not None
    flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
    return os.waitid(os.P_PID, process.pid, flags) is not None


def kill_group(pid: int) -> bool:
    """Kill every process of the group; False when there is none."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):  # PermissionError: macOS, only zombies left
        return False
    return True


def end_group(process: subprocess.Popen[bytes]) -> None:
    """Kill what is left of a group and wait until the kernel has none of it."""
    kill_group(process.pid)
    process.wait()
    deadline = time.monotonic() + 5
    while kill_group(process.pid) and time.monotonic() < deadline:
        with contextlib.suppress(ChildProcessError):  # its parent has not collected it yet
            while os.waitpid(-process.pid, os.WNOHANG)[0]:
                continue
        time.sleep(0.002)


def kill_strays(*, known: set[int], live_sessions: set[int]) -> None:
    """Kill processes handed to us that left their program's session (Linux)."""
    while strays := [
        pid
        for pid, session in _own_processes()
        if pid not in known and session not in live_sessions
    ]:
        for pid in strays:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def _own_processes() -> Iterator[tuple[int, int]]:
    """(pid, session) of the processes whose parent we are; they cannot vanish unless we reap."""
    me = os.getpid()
    for entry in Path("/proc").glob("[0-9]*/stat") if LINUX else ():
        try:
            fields = entry.read_text(errors="replace").rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):  # ended while we were reading
            continue
        if int(fields[1]) == me:
            yield int(entry.parent.name), int(fields[3])


_libc = ctypes.CDLL(None, use_errno=True) if LINUX else None


def prctl(option: int, value: int) -> None:
    """Ask the kernel (Linux)."""
    if _libc is not None and _libc.prctl(option, value, 0, 0, 0) != 0:
        say(f"prctl({option}) failed: {os.strerror(ctypes.get_errno())}")
