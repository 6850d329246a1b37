"""Asks the running site how it is."""

from __future__ import annotations

import contextlib
import http.client
import json
import sys
import threading
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit


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
