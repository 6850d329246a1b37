"""In the children: to die with the supervisor, and with them all that they fork."""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from conversations.supervisor.processes import LINUX, PR_SET_PDEATHSIG, prctl

PARENT_VARIABLE: Final = "SUPERVISOR_PID"


def run_bound(script: str, arguments: Sequence[str]) -> None:
    """Run a Python script in this process, bound to the parent with everything it forks."""
    die_with_parent(forks=True)
    sys.argv = [script, *arguments]
    sys.path[0] = str(Path(script).resolve().parent)
    runpy.run_path(script, run_name="__main__")


def bound_command(script: str, *arguments: str) -> tuple[str, ...]:
    """The command line that runs `script` by `run_bound`."""
    return (sys.executable, "-m", "conversations.supervisor", "bound", script, *arguments)


def die_with_parent(*, forks: bool = False) -> None:
    """Have this process killed as soon as the supervisor that started it is gone.

    With `forks`, every process it forks later is bound to its own parent in the same way; the
    kernel means the forking *thread*, so fork from one that stays. Without a supervisor: nothing.
    """
    parent = int(os.environ.pop(PARENT_VARIABLE, "0"))
    if not parent:
        return
    if LINUX:
        _bind_to(parent)
        if forks:
            os.register_at_fork(before=_note_parent, after_in_child=_bind_to_noted_parent)
    else:
        threading.Thread(target=_leave_with, args=(parent,), daemon=True).start()


_forking_parent = 0


def _note_parent() -> None:
    global _forking_parent  # noqa: PLW0603 - read by the forked child only
    _forking_parent = os.getpid()


def _bind_to_noted_parent() -> None:
    _bind_to(_forking_parent)


def _bind_to(parent: int) -> None:
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before we asked
        os._exit(1)


def _leave_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os.killpg(0, signal.SIGKILL)
