"""The parent: programs that are kept running, and stopped together."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Final

from conversations.supervisor.bound import PARENT_VARIABLE
from conversations.supervisor.processes import (
    LINUX,
    PR_SET_CHILD_SUBREAPER,
    end_group,
    has_ended,
    kill_group,
    kill_strays,
    prctl,
    say,
)

FIRST_PAUSE_SECONDS: Final = 0.25
LONGEST_PAUSE_SECONDS: Final = 30.0
SETTLED_SECONDS: Final = 30.0  # a child that lived this long has not "died at once"
MANY_DEATHS: Final = 5


@dataclass(frozen=True, slots=True)
class Program:
    """A command to keep running, and how long it may take to stop after SIGTERM."""

    name: str
    command: tuple[str, ...]
    stop_seconds: float
    pass_fds: tuple[int, ...] = ()


@dataclass(slots=True)
class Child:
    """A program's present process, or the time at which it is started again."""

    program: Program
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    start_at: float | None = 0.0
    kill_at: float | None = None
    deaths: int = 0  # in a row, each soon after its start


class Supervisor:
    """Runs programs until SIGTERM, SIGINT or SIGHUP, each in a session of its own.

    Any exit of a program is a failure: its process group is killed and it is started again, with
    growing pauses. Nothing a program started outlives it, or the supervisor.
    """

    def __init__(
        self,
        programs: Sequence[Program],
        *,
        on_start: Callable[[Program], object] = lambda program: None,
        on_stop: Callable[[], object] = lambda: None,
    ) -> None:
        self._children = [Child(program) for program in programs]
        self._on_start = on_start
        self._on_stop = on_stop
        self._stop_requested = False
        self._kill_requested = False
        self._replace: dict[str, float] = {}
        self._wake_up: int | None = None

    def run(self) -> int:
        """0 after a stop in time, 1 when a program had to be killed, 130 when Ctrl-C cut it short.

        Call it from the main thread: signals arrive there, and the kernel ties the children's
        lives to the thread that starts them.
        """
        if LINUX:
            prctl(PR_SET_CHILD_SUBREAPER, 1)
        stopping, in_time = False, True
        with self._signals() as awake:
            while True:
                now = time.monotonic()
                if self._stop_requested and not stopping:
                    stopping = True
                    self._begin_stop(now)
                if self._kill_requested:
                    self._kill_everything()
                    return 128 + signal.SIGINT
                for child in self._children:
                    in_time &= self._attend(child, now)
                self._reap_adopted()
                if stopping and not self._running():
                    break
                self._wait(awake)
        kill_strays(known=set(), live_sessions=set())
        return 0 if in_time else 1

    def replace(self, name: str, *, min_age: float) -> None:
        """Stop a program that is alive but does not work, so that it is started anew.

        Nothing happens to a process younger than `min_age` seconds. May be called from any thread.
        """
        self._replace[name] = min_age
        if self._wake_up is not None:
            with contextlib.suppress(OSError):  # the supervisor is leaving
                os.write(self._wake_up, b"\0")

    @contextlib.contextmanager
    def _signals(self) -> Iterator[int]:
        awake, self._wake_up = os.pipe()
        os.set_blocking(awake, False)
        os.set_blocking(self._wake_up, False)
        wanted = [signal.SIGTERM, signal.SIGINT, signal.SIGCHLD]
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # nohup means it
            wanted.append(signal.SIGHUP)
        before = {number: signal.signal(number, self._note_signal) for number in wanted}
        signal.set_wakeup_fd(self._wake_up, warn_on_full_buffer=False)
        try:
            yield awake
        finally:
            signal.set_wakeup_fd(-1)
            for number, handler in before.items():
                signal.signal(number, handler)
            wake_up, self._wake_up = self._wake_up, None
            os.close(wake_up)
            os.close(awake)

    def _note_signal(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGCHLD:
            return  # arrived through the pipe
        self._kill_requested |= self._stop_requested and number == signal.SIGINT
        self._stop_requested = True

    def _wait(self, awake: int) -> None:
        times = [at for c in self._children for at in (c.start_at, c.kill_at) if at is not None]
        pause = max(0.0, min(times) - time.monotonic()) if times else None
        if select.select([awake], [], [], pause)[0]:
            os.read(awake, 4096)

    def _running(self) -> list[Child]:
        return [child for child in self._children if child.process is not None]

    def _begin_stop(self, now: float) -> None:
        say("Stopping.")
        self._on_stop()
        for child in self._children:
            child.start_at = None
            self._terminate(child, now)

    def _terminate(self, child: Child, now: float) -> None:
        if child.process is not None and child.kill_at is None:
            # Only the program itself: its helpers are its own to stop.
            child.process.send_signal(signal.SIGTERM)
            child.kill_at = now + child.program.stop_seconds

    def _attend(self, child: Child, now: float) -> bool:
        """Do for a child what is due; False when it had to be killed."""
        name = child.program.name
        min_age = self._replace.pop(name, None)
        if child.process is not None and has_ended(child.process):
            self._bury(child, now)
        elif child.process is not None and child.kill_at is not None and now >= child.kill_at:
            say(f"{name} did not stop within {child.program.stop_seconds:g} s: killed.")
            child.kill_at = None
            kill_group(child.process.pid)
            return not self._stop_requested
        elif min_age is not None and now - child.started_at >= min_age and not self._stop_requested:
            say(f"{name} is alive but does not work: it is replaced.")
            self._terminate(child, now)
        elif child.start_at is not None and now >= child.start_at:
            self._start(child, now)
        return True

    def _start(self, child: Child, now: float) -> None:
        child.start_at, child.started_at = None, now
        try:
            child.process = subprocess.Popen(  # noqa: S603 - our own command
                child.program.command,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                pass_fds=child.program.pass_fds,
                env=os.environ | {PARENT_VARIABLE: str(os.getpid())},
            )
        except OSError as error:
            self._start_later(child, now, f"cannot be started ({error.strerror})")
        else:
            self._on_start(child.program)

    def _bury(self, child: Child, now: float) -> None:
        """Clear away an ended process with all that it started, and plan the next."""
        process, child.process, child.kill_at = child.process, None, None
        if process is None:
            return
        end_group(process)
        live_sessions = {other.process.pid for other in self._children if other.process is not None}
        kill_strays(known=live_sessions, live_sessions=live_sessions)
        if not self._stop_requested:
            self._start_later(child, now, _how_it_ended(process.returncode))

    def _start_later(self, child: Child, now: float, how: str) -> None:
        child.deaths = child.deaths + 1 if now - child.started_at < SETTLED_SECONDS else 1
        pause = pause_after(child.deaths)
        child.start_at = now + pause
        name = child.program.name
        say(f"{name} {how}; starting it again in {pause:g} s.")
        if child.deaths >= MANY_DEATHS:
            say(f"{name} has died {child.deaths} times in a row: look at the messages above.")

    def _reap_adopted(self) -> None:
        """Collect orphans' orphans: a subreaper is handed every process whose parent died."""
        known = {child.process.pid for child in self._running() if child.process is not None}
        while LINUX:
            try:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if ended is None or ended.si_pid in known:  # a child's end is `_attend`'s to see
                return
            os.waitpid(ended.si_pid, 0)

    def _kill_everything(self) -> None:
        say("Killing everything at once.")
        for child in self._running():
            if child.process is not None:
                kill_group(child.process.pid)
        for child in self._running():
            if child.process is not None:
                end_group(child.process)
        kill_strays(known=set(), live_sessions=set())


def pause_after(deaths: int) -> float:
    """Seconds to wait after so many early deaths in a row."""
    return min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2.0 ** min(deaths - 1, 10))


def _how_it_ended(code: int) -> str:
    if code < 0:
        with contextlib.suppress(ValueError):
            return f"was killed by {signal.Signals(-code).name}"
    return f"ended with exit code {code}"
