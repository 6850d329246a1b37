"""Many listeners in one light process, so that the load measures the server and not the client.

It reads what to ask from stdin as JSON and prints what it saw as JSON. Standard library only.
"""

from __future__ import annotations

import json
import re
import selectors
import socket
import sys
import time
from typing import Any, Final

PIECE: Final = re.compile(rb'"content":"(\d+\.\d+) "')
PATIENCE: Final = 60.0


class Listener:
    """One answer, read as it comes; each piece says when it was sent."""

    def __init__(self, target: dict[str, Any], token: str) -> None:
        self.pieces = 0
        self.failure = ""
        self._expected = target["pieces"]
        self._rest = b""
        self._is_completed = False
        body = json.dumps({"text": target["text"]}).encode()
        head = (
            f"POST /chatkit/threads/{target['thread_id']}/messages HTTP/1.1\r\nHost: localhost\r\n"
            f"Authorization: Bearer {token}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        self.socket = socket.create_connection(("127.0.0.1", target["port"]), timeout=PATIENCE)
        self.socket.sendall(head.encode() + body)
        self.socket.setblocking(False)

    def read(self, lags: list[float]) -> bool:
        """Take what has come; whether that was the end."""
        try:
            received = self.socket.recv(65_536)
        except OSError as error:
            self.failure = type(error).__name__
            return True
        now = time.monotonic()
        if not received:
            self.failure = "closed before [DONE]"
            return True
        whole, mark, self._rest = (self._rest + received).rpartition(b"\n\n")
        whole += mark
        for moment in PIECE.findall(whole):
            lags.append(now - float(moment))
            self.pieces += 1
        self._is_completed |= b'"status":"completed"' in whole
        if b'"error"' in whole or b'"warning"' in whole:
            self.failure = whole.decode(errors="replace")
        if b"[DONE]" not in whole:
            return False
        if not self.failure and not (self._is_completed and self.pieces == self._expected):
            self.failure = f"{self.pieces} of {self._expected} pieces"
        return True


def main() -> None:
    asked = json.load(sys.stdin)
    lags: list[float] = []
    listeners: list[Listener] = []
    selector = selectors.DefaultSelector()
    begun = time.monotonic()
    waiting = list(asked["targets"])
    listening = 0
    heard_at = begun
    while (waiting or listening) and time.monotonic() - heard_at < PATIENCE:
        # So many begin a second: a flood of arrivals is not what is measured.
        while waiting and len(listeners) <= (time.monotonic() - begun) * asked["arrivals"]:
            listener = Listener(waiting.pop(), asked["token"])
            listeners.append(listener)
            selector.register(listener.socket, selectors.EVENT_READ, listener)
            listening += 1
        for key, _ in selector.select(timeout=0.005 if waiting else 1):
            heard_at = time.monotonic()
            if key.data.read(lags):
                selector.unregister(key.fileobj)
                key.data.socket.close()
                listening -= 1
    lags.sort()
    failures = [listener.failure for listener in listeners if listener.failure]
    failures += ["silent to the end"] * listening
    told = {
        "events": len(lags),
        "failures": failures,
        "lags": [lags[min(len(lags) - 1, int(len(lags) * part))] for part in (0.5, 0.99, 1)]
        if lags
        else [],
        "cpu": time.process_time(),
    }
    sys.stdout.write(json.dumps(told))


if __name__ == "__main__":
    main()
