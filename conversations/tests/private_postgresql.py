"""A PostgreSQL server that belongs to one test, to be stopped, paused and started again."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest

from conversations.tests.supervisor_processes import descendants, eventually

ACCOUNT = "postgres"


def _find_programs() -> Path | None:
    """The folder of the newest server installed here."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if found:
        return found[-1].parent
    initdb = shutil.which("initdb")
    return Path(initdb).resolve().parent if initdb else None


PROGRAMS = _find_programs()

needs_programs = pytest.mark.skipif(
    PROGRAMS is None, reason="no initdb here: PostgreSQL's server programs are not installed"
)


class PrivatePostgresql:
    """One cluster in a folder of its own, on a free port; its database and superuser: postgres."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="chatsite-postgresql-"))
        self._server: subprocess.Popen[bytes] | None = None
        # The server refuses to run as root.
        self._as: dict[str, Any] = {"user": ACCOUNT, "group": ACCOUNT} if not os.geteuid() else {}
        if self._as:
            shutil.chown(self.folder, ACCOUNT, ACCOUNT)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        options = ["--auth=trust", f"--username={ACCOUNT}", "--encoding=UTF8", "--no-sync"]
        self._run("initdb", f"--pgdata={self._data}", "--locale=C.UTF-8", *options)

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    @property
    def url(self) -> str:
        return f"postgresql://{ACCOUNT}@127.0.0.1:{self.port}/{ACCOUNT}"

    @property
    def is_running(self) -> bool:
        return self._server is not None and self._server.poll() is None

    def start(self) -> None:
        """Start the server, and wait until it answers."""
        settings = {"listen_addresses": "127.0.0.1", "unix_socket_directories": self.folder}
        with (self.folder / "log").open("ab") as log:
            self._server = subprocess.Popen(
                [
                    self._program("postgres"),
                    f"-D{self._data}",
                    f"-p{self.port}",
                    *(f"-c{name}={value}" for name, value in settings.items()),
                ],
                cwd=self.folder,
                stdout=log,
                stderr=log,
                start_new_session=True,
                **self._as,
            )
        eventually(self._answers)

    def stop(self) -> None:
        """End the server at once, as a crash would (`pg_ctl stop -m immediate`)."""
        if self._server is not None and self.is_running:
            self.resume()
            self._server.send_signal(signal.SIGQUIT)
            self._server.wait(timeout=30)

    def pause(self) -> None:
        """Let the server hang: connections stay, nothing answers."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self.folder)

    def _signal(self, number: signal.Signals) -> None:
        # The server's children lead process groups of their own.
        assert self._server is not None
        for pid in (self._server.pid, *descendants(self._server.pid)):
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue

    def _answers(self) -> bool:
        assert self.is_running, (self.folder / "log").read_text()
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", self.port)):
                return False
        ready = subprocess.run(
            [self._program("pg_isready"), "-h127.0.0.1", f"-p{self.port}"],
            stdout=subprocess.DEVNULL,
            check=False,
        )
        return ready.returncode == 0

    def _run(self, name: str, *arguments: str) -> None:
        subprocess.run(
            [self._program(name), *arguments],
            cwd=self.folder,
            stdout=subprocess.DEVNULL,
            check=True,
            **self._as,
        )

    @staticmethod
    def _program(name: str) -> str:
        assert PROGRAMS is not None
        return str(PROGRAMS / name)
