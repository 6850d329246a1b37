"""What a whole turn over HTTP costs beyond the SDK's run alone.

    python -m benchmarks.turn_overhead [--rounds 15] [--turns 60] [--synchronous FULL|NORMAL]

Two real servers side by side, one process each, driven in turns by one client over one connection:
the floor (`benchmarks.floor`: uvicorn, `Runner.run_streamed`, no session) and this site with
everything on (token, ticket, lease, log, stream). The model has no latency and says 20 words.
A thread serves five turns.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path

import chatsite  # noqa: F401 - first: the SQLite library
from benchmarks.measure import fresh_site, spread, table

BAR = 2.5
TURNS_PER_THREAD = 5


class Server:
    """A server process, and one kept-alive connection to it."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.process = subprocess.Popen(
            [sys.executable, "-m", *command, "--port", str(self.port)],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._socket = self._connect()
        self._file = self._socket.makefile("rb")

    def beside(self) -> Server:
        """One more connection to the same process."""
        other = copy.copy(self)
        other._socket = other._connect()
        other._file = other._socket.makefile("rb")
        return other

    def disconnect(self) -> None:
        self._file.close()
        self._socket.close()

    def _connect(self) -> socket.socket:
        deadline = time.monotonic() + 30
        while True:
            try:
                found = socket.create_connection(("127.0.0.1", self.port), timeout=30)
            except OSError:
                if time.monotonic() > deadline or self.process.poll() is not None:
                    raise
                time.sleep(0.05)
            else:
                found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                return found

    def post(self, path: str, body: object, token: str = "") -> bytes:
        """POST and read the whole answer, chunked or not."""
        data = json.dumps(body).encode()
        self._socket.sendall(
            f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            f"Authorization: Bearer {token}\r\nContent-Length: {len(data)}\r\n\r\n".encode()
            + data
        )
        status = self._file.readline().split()[1]
        length, chunked = 0, False
        while (line := self._file.readline()) != b"\r\n":
            name, _, value = line.lower().partition(b":")
            chunked |= name == b"transfer-encoding"
            length = int(value) if name == b"content-length" else length
        answer = b""
        while chunked and (size := int(self._file.readline(), 16)) >= 0:
            answer += self._file.read(size)
            self._file.readline()
            if size == 0:
                break
        answer += self._file.read(length)
        if not status.startswith(b"2"):
            raise RuntimeError(answer.decode())
        return answer

    def cpu_seconds(self) -> float:
        """By the scheduler's own clock: the usual counters only count in hundredths."""
        threads = Path(f"/proc/{self.process.pid}/task").glob("*/schedstat")
        return sum(int(thread.read_text().split()[0]) for thread in threads) / 1e9

    def close(self) -> None:
        self.disconnect()
        self.process.terminate()
        self.process.wait(timeout=30)


class Floor:
    def __init__(self, server: Server) -> None:
        self.server = server

    def prepare(self, turns: int) -> None:
        """Nothing to prepare."""

    def turn(self) -> None:
        if b"[DONE]" not in self.server.post("/", {"text": "Hello there"}):
            raise RuntimeError("no answer")


class Site:
    def __init__(self, server: Server, token: str) -> None:
        self.server, self._token = server, token
        self._threads: list[str] = []

    def prepare(self, turns: int) -> None:
        """Threads for that many turns."""
        self._threads = []
        for _ in range(0, turns, TURNS_PER_THREAD):
            made = self.server.post("/chatkit/threads", {}, self._token)
            self._threads += [json.loads(made)["thread_id"]] * TURNS_PER_THREAD

    def turn(self) -> None:
        path = f"/chatkit/threads/{self._threads.pop()}/messages"
        answer = self.server.post(path, {"text": "Hello there"}, self._token)
        if b'"completed"' not in answer:
            raise RuntimeError(answer.decode())


def token_of_a_user() -> str:
    from datetime import timedelta

    from django.contrib.auth import get_user_model
    from django.utils import timezone

    from conversations.tokens import issue_token

    user = get_user_model().objects.create_user("bench")
    lifetime = timedelta(days=1)
    return issue_token(user=user, name="", lifetime=lifetime, now=timezone.now()).text


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--turns", type=int, default=60)
    parser.add_argument("--synchronous", choices=["FULL", "NORMAL"], default="FULL")
    options = parser.parse_args()
    fresh_site(synchronous=options.synchronous)
    token = token_of_a_user()
    environment = os.environ | {"CONVERSATIONS_AGENT": "benchmarks.model.build_agent"}
    uvicorn = ["uvicorn", "benchmarks.floor:application", "--no-access-log", "--lifespan", "off"]
    floor = Floor(Server(uvicorn, environment))
    site = Site(Server(["conversations.web"], environment), token)
    candidates = {"floor": floor, "site": site}
    wall: dict[str, list[float]] = {name: [] for name in candidates}
    cpu: dict[str, list[float]] = {name: [] for name in candidates}
    try:
        for candidate in (floor, site):
            candidate.prepare(100)
            for _ in range(100):
                candidate.turn()
        for _ in range(options.rounds):
            for name in random.sample(list(candidates), 2):
                candidate = candidates[name]
                candidate.prepare(options.turns)
                cpu_before, begun = candidate.server.cpu_seconds(), time.perf_counter()
                for _ in range(options.turns):
                    candidate.turn()
                wall[name].append((time.perf_counter() - begun) / options.turns)
                cpu[name].append((candidate.server.cpu_seconds() - cpu_before) / options.turns)
    finally:
        floor.server.close()
        site.server.close()
    rows = []
    for what, times in (("wall", wall), ("server CPU", cpu)):
        ratio = [a / b for a, b in zip(times["site"], times["floor"], strict=True)]
        rows.append(
            [
                what,
                spread(times["floor"], 1e3),
                spread(times["site"], 1e3),
                spread(ratio),
                f"<= {BAR}",
                "ok" if statistics.median(ratio) <= BAR else "missed",
            ]
        )
    sys.stdout.write(
        f"A turn over HTTP, 1 client, 20 deltas, synchronous {options.synchronous}; milliseconds, "
        f"median (range) of {options.rounds} rounds of {options.turns} turns\n\n"
    )
    sys.stdout.write(table(["", "floor ms", "site ms", "site/floor", "bar", ""], rows) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
