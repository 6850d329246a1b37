"""Web processes on a database of their own, which can be killed, paused, stopped and started.

with Site("wal", lease_seconds=1.5) as site:
    first, second = site.start_servers(2)
    first.kill()
    first.start()
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from conversations import supervisor
from conversations.tests.faults import agent
from conversations.tests.faults.engines import database

ROOT: Final = Path(__file__).resolve().parents[3]
BOUND_BY_MODES: Final = (
    "setpriv",
    "--inh-caps=-dac_override,-dac_read_search",
    "--bounding-set=-dac_override,-dac_read_search",
)
"""Even root obeys the modes of its own files then."""
PATIENCE: Final = 30.0
SECRET_KEY: Final = "only-for-the-fault-harness-" + "f" * 40


@dataclass
class Life:
    """One process of a server, from its start to its end."""

    pid: int
    begun_at: float
    ended: Future[int] = field(default_factory=Future)


class Zygote:
    """The process that forks the servers."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._guard = threading.Lock()
        self._born: Future[int] = Future()
        self._lives: dict[int, Life] = {}
        self._ready: Future[int] = Future()
        with theirs:
            self._process = subprocess.Popen(
                [
                    *(BOUND_BY_MODES if os.geteuid() == 0 and shutil.which("setpriv") else ()),
                    *(sys.executable, "-m", "conversations.tests.faults.zygote"),
                    str(theirs.fileno()),
                ],
                cwd=ROOT,
                env=environment,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def wait_until_ready(self) -> None:
        self._ready.result(timeout=60)

    def fork(self, handed: int, **request: Any) -> Life:
        """A child at work with the file or socket it is handed."""
        with self._guard:
            self._born = Future()
            socket.send_fds(self._control, [json.dumps(request).encode()], [handed])
            return self._lives[self._born.result(timeout=PATIENCE)]

    def call(self, function: str, **arguments: Any) -> Any:
        """The result of a function, run in a child."""
        ours, theirs = os.pipe()
        with os.fdopen(ours) as pipe:
            try:
                life = self.fork(theirs, work=function, arguments=arguments)
            finally:
                os.close(theirs)
            told = pipe.read()
        assert life.ended.result(timeout=PATIENCE) == 0, f"{function} failed: see above"
        return json.loads(told)

    def close(self) -> None:
        """End it and whatever it forked; nothing is left."""
        for life in list(self._lives.values()):
            if not life.ended.done():
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(life.pid, signal.SIGKILL)
        for life in list(self._lives.values()):
            life.ended.result(timeout=PATIENCE)
        self._control.shutdown(socket.SHUT_RDWR)
        self._process.wait(timeout=PATIENCE)
        self._reader.join(timeout=PATIENCE)
        self._control.close()

    def _read(self) -> None:
        while message := self._receive():
            facts = json.loads(message)
            if "pid" in facts:
                self._lives[facts["pid"]] = Life(facts["pid"], time.monotonic())
                self._born.set_result(facts["pid"])
            elif "ended" in facts:
                self._lives[facts["ended"]].ended.set_result(facts["code"])
            else:
                self._ready.set_result(facts["ready"])
        if not self._ready.done():
            self._ready.set_exception(RuntimeError("the site could not be loaded: see above"))

    def _receive(self) -> bytes:
        try:
            return self._control.recv(65_536)
        except OSError:
            return b""


class Server:
    """One web process at a time on one port. The socket stays open while no process answers it."""

    def __init__(self, zygote: Zygote, output: Path) -> None:
        self._zygote = zygote
        self._listener = supervisor.open_listener(host="127.0.0.1", port=0)
        self.port: int = self._listener.getsockname()[1]
        self.output = output
        self.life: Life | None = None
        self.is_paused = False

    @property
    def is_up(self) -> bool:
        return self.life is not None and not self.is_paused

    @property
    def pid(self) -> int:
        assert self.life is not None, "the server does not run"
        return self.life.pid

    def start(self) -> None:
        """Start a process; it answers a little later."""
        assert self.life is None
        self.life = self._zygote.fork(
            self._listener.fileno(), work="serve", output=str(self.output)
        )

    def wait_until_it_answers(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        with contextlib.closing(connection):
            connection.request("GET", "/healthz")
            assert connection.getresponse().status == 200

    def kill(self) -> None:
        self._signal(signal.SIGKILL)
        self.wait()

    def stop(self) -> None:
        """Ask it to stop, as a deploy does; `wait` tells how it ended."""
        self._signal(signal.SIGTERM)

    def wait(self, *, within: float = PATIENCE) -> int:
        """Its exit code, once it has ended."""
        assert self.life is not None
        code = self.life.ended.result(timeout=within)
        self.life, self.is_paused = None, False
        return code

    def pause(self) -> None:
        self._signal(signal.SIGSTOP)
        self.is_paused = True

    def resume(self) -> None:
        self.is_paused = False
        self._signal(signal.SIGCONT)

    def resident_bytes(self) -> int:
        """The memory the process holds now."""
        pages = Path(f"/proc/{self.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    def cpu_seconds(self) -> float:
        """By the scheduler's own clock: the usual counters only count in hundredths."""
        threads = Path(f"/proc/{self.pid}/task").glob("*/schedstat")
        return sum(int(thread.read_text().split()[0]) for thread in threads) / 1e9

    def close(self) -> None:
        self._listener.close()

    def _signal(self, number: signal.Signals) -> None:
        os.killpg(self.pid, number)


class Site:
    """A database, its users, and the servers on it; nothing is left of it at the end."""

    def __init__(
        self,
        engine: str,
        *,
        lease_seconds: float = 15,
        grace_seconds: float = 10,
        users: int = 2,
        **environment: str,
    ) -> None:
        self.engine = engine
        self.lease_seconds = lease_seconds
        self.grace_seconds = grace_seconds
        self.tokens: list[str] = []
        self.servers: list[Server] = []
        self._users = users
        self._environment = environment
        self._ending = contextlib.ExitStack()

    def __enter__(self) -> Site:
        with contextlib.ExitStack() as ending:
            self.folder = Path(tempfile.mkdtemp(prefix="chatsite-faults-"))
            ending.callback(shutil.rmtree, self.folder, ignore_errors=True)
            (self.folder / agent.GATES).mkdir()
            place = ending.enter_context(database(self.engine, self.folder))
            self.zygote = Zygote(self._environment_with(place))
            ending.callback(self.zygote.close)
            self.zygote.wait_until_ready()
            prepared = self.call("prepare", users=self._users)
            self.tokens = prepared["tokens"]
            assert prepared["journal"] in {"", self.engine}, prepared["journal"]
            self._ending = ending.pop_all()
        return self

    def __exit__(self, *_: Any) -> None:
        with self._ending:
            for server in self.servers:
                server.close()

    def start_servers(self, count: int) -> list[Server]:
        """So many servers that answer; what an earlier run left behind is killed."""
        for server in self.servers:
            if server.life is not None:
                server.kill()
        while len(self.servers) < count:
            output = self.folder / f"server-{len(self.servers)}.log"
            self.servers.append(Server(self.zygote, output))
        started = self.servers[:count]
        for server in started:
            server.start()
        for server in started:
            server.wait_until_it_answers()
        return started

    def stop_servers(self) -> list[str]:
        """Stop all that run; returns what was wrong with how they ended."""
        running = [server for server in self.servers if server.life is not None]
        for server in running:
            server.stop()
        codes = [server.wait(within=self.grace_seconds + PATIENCE) for server in running]
        return [f"a server stopped with exit code {code}" for code in codes if code]

    def call(self, name: str, **arguments: Any) -> Any:
        """A function of `faults.database`, run in a child."""
        return self.zygote.call(f"conversations.tests.faults.database:{name}", **arguments)

    def journal(self) -> list[dict[str, Any]]:
        """All that the models of this site have noted."""
        path = self.folder / agent.JOURNAL
        lines = path.read_text().splitlines() if path.exists() else []
        return [json.loads(line) for line in lines]

    def open_gate(self, name: str) -> None:
        (self.folder / agent.GATES / name).touch()

    def server_output(self) -> str:
        return "".join(server.output.read_text() for server in self.servers)

    def _environment_with(self, place: dict[str, str]) -> dict[str, str]:
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("COVERAGE_", "OPENAI_", "COV_"))
        }
        return (
            kept
            | {
                "DJANGO_SETTINGS_MODULE": "chatsite.settings",
                "SECRET_KEY": SECRET_KEY,
                "CONVERSATIONS_AGENT": "conversations.tests.faults.agent.build_agent",
                "CHAT_LEASE_SECONDS": str(self.lease_seconds),
                "CHAT_SHUTDOWN_GRACE_SECONDS": str(self.grace_seconds),
                "CHAT_MAX_QUEUED_TURNS": "500",
                agent.FOLDER_VARIABLE: str(self.folder),
            }
            | place
            | self._environment
        )
