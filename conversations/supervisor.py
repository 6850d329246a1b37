"""Keeps the processes of a site running: starts them, restarts what dies, leaves nothing behind.

Standard library only: the parent stays small and cannot be broken by what it looks after.

    python -m conversations.supervisor site --manage manage.py --fd 3 --url http://127.0.0.1:8000
    python -m conversations.supervisor bound manage.py qcluster

`site` is what `manage.py serve` becomes. `bound` runs a script so that it, and every process it
forks, is killed by the kernel when its parent dies (Linux; elsewhere its group is, by a watch).
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import errno
import http.client
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Final
from urllib.parse import urlsplit

BACKLOG: Final = 2048
FIRST_PAUSE_SECONDS: Final = 0.25
LONGEST_PAUSE_SECONDS: Final = 30.0
SETTLED_SECONDS: Final = 30.0  # a child that lived this long has not "died at once"
MANY_DEATHS: Final = 5
WORKER_STOP_SECONDS: Final = 15.0
WEB_STOP_MARGIN_SECONDS: Final = 15.0  # the drain's own margin, uvicorn's backstop, a bit
WORKER_PATIENCE_SECONDS: Final = 240.0  # until a fresh worker's first sign of life is due
READINESS_EVERY_SECONDS: Final = 15.0
PARENT_VARIABLE: Final = "SUPERVISOR_PID"

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36
_LINUX: Final = sys.platform == "linux"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m conversations.supervisor")
    roles = parser.add_subparsers(dest="role", required=True)
    site = roles.add_parser("site", help="look after the web server and the worker")
    site.add_argument("--manage", required=True, help="path of manage.py")
    site.add_argument("--fd", type=int, required=True, help="the listening socket")
    site.add_argument("--url", required=True, help="where the web server answers")
    site.add_argument("--grace", type=float, default=10.0)
    site.add_argument("--web-workers", type=int, default=1)
    site.add_argument("--no-worker", action="store_true")
    site.add_argument("--patience", type=float, default=WORKER_PATIENCE_SECONDS)
    bound = roles.add_parser("bound", help="run a Python script that dies with its parent")
    bound.add_argument("script")
    bound.add_argument("arguments", nargs=argparse.REMAINDER)
    options = parser.parse_args(arguments)
    if options.role == "bound":
        run_bound(options.script, options.arguments)
        return 0
    return run_site(options)


def run_site(options: argparse.Namespace) -> int:
    """Look after the site until told to stop; the exit code."""
    listener = socket.socket(fileno=options.fd)
    web = [
        Program(
            name="web" if options.web_workers == 1 else f"web-{number}",
            command=(sys.executable, "-m", "conversations.web", "--fd", str(options.fd)),
            stop_seconds=options.grace + WEB_STOP_MARGIN_SECONDS,
            pass_fds=(options.fd,),
        )
        for number in range(1, options.web_workers + 1)
    ]
    worker = Program(
        name="worker",
        command=bound_command(options.manage, "qcluster"),
        stop_seconds=WORKER_STOP_SECONDS,
    )
    watch = Watch(
        options.url,
        has_worker=not options.no_worker,
        every=min(READINESS_EVERY_SECONDS, options.patience),
    )
    supervisor = Supervisor(
        web if options.no_worker else [*web, worker],
        on_start=lambda program: watch.expect() if program in web else None,
        on_stop=listener.close,  # from here on only the web server's own copy answers
    )
    watch.on_worker_silent = lambda: supervisor.replace("worker", min_age=options.patience)
    watch.start()
    return supervisor.run()


# --- The parent ---------------------------------------------------------------------------


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
        if _LINUX:
            _prctl(_PR_SET_CHILD_SUBREAPER, 1)
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
        _kill_strays(known=set(), live_sessions=set())
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
        if child.process is not None and _has_ended(child.process):
            self._bury(child, now)
        elif child.process is not None and child.kill_at is not None and now >= child.kill_at:
            say(f"{name} did not stop within {child.program.stop_seconds:g} s: killed.")
            child.kill_at = None
            _kill_group(child.process.pid)
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
        _end_group(process)
        live_sessions = {other.process.pid for other in self._children if other.process is not None}
        _kill_strays(known=live_sessions, live_sessions=live_sessions)
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
        while _LINUX:
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
                _kill_group(child.process.pid)
        for child in self._running():
            if child.process is not None:
                _end_group(child.process)
        _kill_strays(known=set(), live_sessions=set())


def pause_after(deaths: int) -> float:
    """Seconds to wait after so many early deaths in a row."""
    return min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2.0 ** min(deaths - 1, 10))


def say(text: str) -> None:
    """One line to the operator; a terminal that has gone is no reason to stop."""
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write(f"serve: {text}\n")
        sys.stderr.flush()


def _how_it_ended(code: int) -> str:
    if code < 0:
        with contextlib.suppress(ValueError):
            return f"was killed by {signal.Signals(-code).name}"
    return f"ended with exit code {code}"


def _has_ended(process: subprocess.Popen[bytes]) -> bool:
    """Whether the process has ended. Where possible it is not reaped yet: its id stays taken."""
    if not _LINUX:
        return process.poll() is not None
    flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
    return os.waitid(os.P_PID, process.pid, flags) is not None


def _kill_group(pid: int) -> bool:
    """Kill every process of the group; False when there is none."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):  # PermissionError: macOS, only zombies left
        return False
    return True


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """Kill what is left of a group and wait until the kernel has none of it."""
    _kill_group(process.pid)
    process.wait()
    deadline = time.monotonic() + 5
    while _kill_group(process.pid) and time.monotonic() < deadline:
        with contextlib.suppress(ChildProcessError):  # its parent has not collected it yet
            while os.waitpid(-process.pid, os.WNOHANG)[0]:
                continue
        time.sleep(0.002)


def _kill_strays(*, known: set[int], live_sessions: set[int]) -> None:
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
    for entry in Path("/proc").glob("[0-9]*/stat") if _LINUX else ():
        try:
            fields = entry.read_text(errors="replace").rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):  # ended while we were reading
            continue
        if int(fields[1]) == me:
            yield int(entry.parent.name), int(fields[3])


# --- In the children ----------------------------------------------------------------------


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
    if _LINUX:
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
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before we asked
        os._exit(1)


def _leave_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os.killpg(0, signal.SIGKILL)


_libc = ctypes.CDLL(None, use_errno=True) if _LINUX else None


def _prctl(option: int, value: int) -> None:
    if _libc is not None and _libc.prctl(option, value, 0, 0, 0) != 0:
        say(f"prctl({option}) failed: {os.strerror(ctypes.get_errno())}")


# --- The address --------------------------------------------------------------------------


class CannotListen(Exception):
    """The address cannot be served; the message says why and what to do."""


def open_listener(*, host: str, port: int) -> socket.socket:
    """A listening socket for children to share; clients wait in it while no child answers."""
    if not 0 <= port <= 65_535:
        raise CannotListen(f"There is no port {port}: choose one from 1 to 65535.")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise CannotListen(
                f"Port {port} on {host} is already in use: stop what runs there, "
                "or choose another with --port."
            ) from None
        reason = error.strerror or error
        raise CannotListen(f"Cannot listen on {host}, port {port}: {reason}.") from None


def url_of(listener: socket.socket) -> str:
    """Where to reach a listener from this machine."""
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - not bound here
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class Watch(threading.Thread):
    """Asks the web server how it is: says when it is ready, and when the worker does not work.

    A worker can be alive and do nothing; `/readyz` knows, because a task of the worker's own has
    to run for it to be content.
    """

    on_worker_silent: Callable[[], object] = staticmethod(lambda: None)

    def __init__(self, url: str, *, has_worker: bool, every: float) -> None:
        super().__init__(name="watch", daemon=True)
        self._url = url
        self._has_worker = has_worker
        self._every = every
        self._expected = threading.Event()
        self._announced = False

    def expect(self) -> None:
        """A web server was started: say when it answers."""
        self._expected.set()

    def run(self) -> None:
        while True:
            self.look()

    def look(self) -> None:
        """Wait for a web server to be started, or until it is time to ask after the worker."""
        if self._expected.wait(timeout=self._every):
            self._expected.clear()
            self._until_it_answers()
            self._announce()
        elif self._has_worker and worker_is_silent(self._get("/readyz")[1]):
            self.on_worker_silent()

    def _until_it_answers(self) -> None:
        while not 200 <= self._get("/healthz")[0] < 400:
            time.sleep(0.1)

    def _announce(self) -> None:
        text = "Ready again.\n"
        if not self._announced:
            self._announced = True
            text = (
                f"Ready: {self._url}\n"
                f"  API documentation  {self._url}/api/docs\n"
                f"  Admin              {self._url}/admin/\n"
                f"  Health             {self._url}/healthz  {self._url}/readyz\n"
                "Ctrl-C stops.\n"
            )
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.write(text)
            sys.stdout.flush()

    def _get(self, path: str) -> tuple[int, bytes]:
        """Status and body; status 0 when there was no answer."""
        address = urlsplit(self._url)
        # A name the site always answers to, whatever address it listens on; as a proxy would ask.
        headers = {"Host": "localhost", "X-Forwarded-Proto": "https"}
        connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=5)
        with contextlib.closing(connection):
            try:
                connection.request("GET", path, headers=headers)
                answer = connection.getresponse()
                return answer.status, answer.read(1_000_000)
            except (OSError, http.client.HTTPException):
                return 0, b""


def worker_is_silent(body: bytes) -> bool:
    """Whether a `/readyz` answer names the worker as failing while the database is well.

    `{"checks": {"database": {"ok": true}, "worker": {"ok": false}}}`; anything else is no reason.
    """
    try:
        checks: Any = json.loads(body)["checks"]
        return checks["worker"]["ok"] is False and checks["database"]["ok"] is True
    except (ValueError, KeyError, TypeError):
        return False


if __name__ == "__main__":
    sys.exit(main())
