"""Processes that speak in a conversation, as the tests see them."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

from conversations.tests.other_process import ROOT, environment
from conversations.tests.supervisor_processes import eventually

WIDGETS_WARN = "ignore:Direct usage of named widget classes:DeprecationWarning"
"""The ChatKit library, of its own classes, when it is imported."""


class Speaker:
    """One such process, told what to do line by line."""

    def __init__(self, session: Any, *texts: str, lease: float = 15, **options: Any) -> None:
        self.facts: list[dict[str, Any]] = []
        self._process = subprocess.Popen(
            [
                sys.executable,
                *("-W", "error", "-W", WIDGETS_WARN, "-m", "conversations.tests.turns_worker"),
                *(str(session.id), str(session.owner_id), json.dumps(options), *texts),
            ],
            cwd=ROOT,
            env=environment(
                CONVERSATIONS_AGENT="conversations.tests.turns_worker.build_agent",
                CHAT_LEASE_SECONDS=str(lease),
                CHAT_MAX_QUEUED_TURNS="100",
            ),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._complaints: list[str] = []
        self._readers = [
            threading.Thread(target=self._read_facts, daemon=True),
            threading.Thread(target=self._read_complaints, daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    def _read_facts(self) -> None:
        assert self._process.stdout is not None
        self.facts.extend(json.loads(line) for line in self._process.stdout)

    def _read_complaints(self) -> None:
        assert self._process.stderr is not None
        self._complaints.extend(self._process.stderr)

    def told(self, fact: str) -> list[dict[str, Any]]:
        return [found for found in self.facts if found["fact"] == fact]

    def until(self, fact: str) -> dict[str, Any]:
        """Wait for the first such fact."""

        def look() -> list[dict[str, Any]]:
            found = self.told(fact)
            assert found or self._process.poll() is None, "".join(self._complaints)
            return found

        return eventually(look)[0]

    def hear(self, word: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(word + "\n")
        self._process.stdin.flush()

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def ends_well(self) -> None:
        assert self._process.wait(timeout=60) == 0, "".join(self._complaints)
        for reader in self._readers:
            reader.join(timeout=10)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        for reader in self._readers:
            reader.join(timeout=10)
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


@contextlib.contextmanager
def speaking(*speakers: Speaker) -> Iterator[None]:
    """The processes are ready; at the end none is left."""
    try:
        for speaker in speakers:
            speaker.until("ready")
        yield
    finally:
        for speaker in speakers:
            speaker.close()
