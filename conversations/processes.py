"""Processes by name: who holds a lease, and whether that process is surely gone.

A name tells the boot of the machine, the room its process ids are counted in, the process id and
when that process began, so that neither a restart nor a process id used again is mistaken for life.
Reads Linux's /proc; elsewhere nobody is ever surely gone, and only the lease's time decides.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import time
from functools import cache
from pathlib import Path
from typing import Final

_PROC: Final = Path("/proc")
_START_TIME: Final = 19  # field 22 of stat(5), counted behind the command's closing bracket
_UNKNOWN: Final = "-"


def new_name() -> str:
    """A name for this process that no other process ever has, of at most 64 characters."""
    pid = os.getpid()
    began = _began(pid) or _UNKNOWN
    return f"{boot()}.{_room()}.{pid}.{began}.{secrets.token_hex(4)}"


def is_gone(name: str, *, is_one_machine: bool) -> bool:
    """Whether the process of that name surely runs no more; False where that cannot be known.

    `is_one_machine`: all names are of processes of this machine, so that one of another boot is
    of a time before it was started again.
    """
    parts = name.split(".")
    if len(parts) != 5 or boot() == _UNKNOWN:
        return False
    its_boot, room, pid, began, _ = parts
    if its_boot != boot():
        return is_one_machine and its_boot != _UNKNOWN
    if room != _room() or began == _UNKNOWN or not pid.isdigit():
        return False
    return _is_gone(int(pid), began)


def steady_milliseconds() -> int:
    """Time since this machine was started: the same in all its processes, whatever the wall clock
    is set to, and going on while the machine sleeps."""
    clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    return time.clock_gettime_ns(clock) // 1_000_000


@cache
def boot() -> str:
    """This start of the machine, in eight characters."""
    return _digest(_PROC / "sys/kernel/random/boot_id")


def _room() -> str:
    """The namespace process ids are counted in: containers have their own."""
    try:
        return hashlib.sha256(os.readlink(_PROC / "self/ns/pid").encode()).hexdigest()[:8]
    except OSError:
        return _UNKNOWN


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    except OSError:
        return _UNKNOWN


def _is_gone(pid: int, began: str) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False  # another user's; /proc may hide it
    return _began(pid) != began


def _began(pid: int) -> str:
    """When the process began, by the kernel's count; empty for one that is gone or a zombie."""
    try:
        stat = (_PROC / str(pid) / "stat").read_text(errors="replace")
    except OSError:
        return ""
    fields = stat.rpartition(")")[2].split()
    return "" if fields[0] in "ZX" else fields[_START_TIME]
