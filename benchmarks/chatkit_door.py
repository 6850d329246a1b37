"""How soon the first event comes at the ChatKit door, beside REST's, in a long conversation.

    python -m benchmarks.chatkit_door [--rounds 15] [--turns 20]

One real server, one conversation of 200 remembered entries, one client that asks at either door in
turns. The model has no latency and says 20 words. First event: the first `data:` of the stream.
First word: the first piece of the answer.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import statistics
import sys
import time

import chatsite  # noqa: F401 - first: the SQLite library
from benchmarks.measure import fresh_site, spread, table
from benchmarks.turn_overhead import Server, token_of_a_user

BAR = 1.5
REMEMBERED = 200
TEXT = "Hello there"
WORDS = {"REST": b'"content"', "ChatKit": b"text_delta"}


class Client:
    """Asks at both doors of one conversation."""

    def __init__(self, server: Server, token: str) -> None:
        self._port = server.port
        self._headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        made = server.post("/chatkit/threads", {}, token)
        self.thread_id = json.loads(made)["thread_id"]

    def ask(self, door: str) -> tuple[float, float, float]:
        """Seconds until the first event, the first word, and the end."""
        path, body = f"/chatkit/threads/{self.thread_id}/messages", {"text": TEXT}
        if door == "ChatKit":
            path, body = "/chatkit", self._message()
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
        connection.connect()
        begun = time.perf_counter()
        connection.request("POST", path, json.dumps(body), self._headers)
        response = connection.getresponse()
        if response.status != 200:
            raise RuntimeError(response.read().decode())
        heard, event, word = b"", 0.0, 0.0
        while chunk := response.read1(65_536):
            heard += chunk
            moment = time.perf_counter() - begun
            event = event or (moment if b"data: " in heard else 0.0)
            word = word or (moment if WORDS[door] in heard else 0.0)
        connection.close()
        return event, word, time.perf_counter() - begun

    def _message(self) -> dict[str, object]:
        said = {
            "content": [{"type": "input_text", "text": TEXT}],
            "attachments": [],
            "inference_options": {},
        }
        return {
            "type": "threads.add_user_message",
            "params": {"thread_id": self.thread_id, "input": said},
        }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--turns", type=int, default=20)
    options = parser.parse_args()
    fresh_site()
    token = token_of_a_user()
    environment = os.environ | {"CONVERSATIONS_AGENT": "benchmarks.model.build_agent"}
    server = Server(["conversations.web"], environment)
    times: dict[str, dict[str, list[float]]] = {
        what: {door: [] for door in WORDS} for what in ("first event", "first word", "whole turn")
    }
    try:
        client = Client(server, token)
        for _ in range(REMEMBERED // 4 + 5):  # full, and warm at both doors
            for door in WORDS:
                client.ask(door)
        for _ in range(options.rounds):
            found: dict[str, list[tuple[float, float, float]]] = {door: [] for door in WORDS}
            for _ in range(options.turns):
                for door in random.sample(list(WORDS), 2):
                    found[door].append(client.ask(door))
            for door, asked in found.items():
                for what, values in zip(times, zip(*asked, strict=True), strict=True):
                    times[what][door].append(statistics.median(values))
    finally:
        server.close()
    rows = []
    for what, doors in times.items():
        ratio = [a / b for a, b in zip(doors["ChatKit"], doors["REST"], strict=True)]
        is_barred = what == "first event"
        verdict = "ok" if statistics.median(ratio) <= BAR else "missed"
        rows.append(
            [
                what,
                spread(doors["REST"], 1e3),
                spread(doors["ChatKit"], 1e3),
                spread(ratio),
                f"<= {BAR}" if is_barred else "",
                verdict if is_barred else "",
            ]
        )
    sys.stdout.write(
        f"{REMEMBERED} remembered entries, 1 client; milliseconds, median (range) of "
        f"{options.rounds} rounds of {options.turns} turns at each door\n\n"
    )
    sys.stdout.write(table(["", "REST", "ChatKit", "ratio", "bar", ""], rows) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
