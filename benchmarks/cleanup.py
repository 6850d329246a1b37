"""What a cleanup costs beside raw chunked SQL that deletes the same rows, and who waits for it.

    python -m benchmarks.cleanup [--rounds 3] [--sessions 2000] [--messages 20] [--others 20000]
        [--database-url postgresql://.../empty]

In each round as many idle sessions go by a plan (`retention`) and by bare statements in chunks of
200 sessions without a pause, beside others that stay, while somebody chats in another process: a
message every few milliseconds. The large set of the issue: --sessions 100000 --others 1000000
--rounds 1.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import chatsite  # noqa: F401 - first: the SQLite library
from benchmarks.measure import fresh_site, ratios, spread, table

NOW = datetime(2026, 1, 31, tzinfo=UTC)
IDLE, USED = NOW - timedelta(days=20), NOW
TEXT = "What a person says is about so long, and what is answered a little longer. " * 3
CHUNK = 200
TIME_BAR, SLOWEST_BAR, P99_BAR = 3.0, 50.0, 20.0


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sessions", type=int, default=2_000)
    parser.add_argument("--messages", type=int, default=20, help="in each session")
    parser.add_argument("--others", type=int, default=20_000, help="messages that stay")
    parser.add_argument("--database-url", default="")
    parser.add_argument("--chat", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.chat:
        return chat()
    fresh_site(database_url=options.database_url)
    rows, missed = measure(options)
    head = ["cleanup", "ours s", "bare s", "ours/bare", "bar"]
    sys.stdout.write(
        f"{options.sessions} sessions of {options.messages} messages, median (range) of"
        f" {options.rounds} rounds\n\n{table(head, rows)}\n"
    )
    sys.stdout.write(f"\nbars missed: {missed}\n")
    return 0


def measure(options: argparse.Namespace) -> tuple[list[list[str]], int]:
    fill(options.others // options.messages, options.messages, active_at=USED)
    times: dict[str, list[float]] = {"ours": [], "bare": []}
    waits: dict[str, list[Any]] = {"ours": [], "bare": []}
    removed: set[int] = set()
    grown, given_back = 0, list[float]()
    for _ in range(options.rounds):
        candidates: list[tuple[str, Callable[[], int]]] = [("ours", ours), ("bare", bare)]
        random.shuffle(candidates)
        for name, clean in candidates:
            fill(options.sessions, options.messages, active_at=IDLE)
            chatting = Chatting()
            before, begun = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
            with giving_back() as spent:
                removed.add(clean())
            times[name].append(time.perf_counter() - begun - sum(spent))
            given_back += spent
            if name == "ours":
                grown = max(grown, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
            waits[name].append(chatting.end())
    if removed != {options.sessions}:
        raise SystemExit(f"not the same was removed: {removed}")
    ratio = ratios(times, "ours", "bare")
    slowest = [1000 * max(wait["times"]) for wait in waits["ours"]]
    p99 = [1000 * percentile(wait["times"], 0.99) for wait in waits["ours"]]
    failed = sum(wait["failed"] for wait in waits["ours"])
    bare_slowest = [1000 * max(wait["times"]) for wait in waits["bare"]]
    bare_p99 = [1000 * percentile(wait["times"], 0.99) for wait in waits["bare"]]
    rows = [
        ["time", spread(times["ours"]), spread(times["bare"]), spread(ratio), f"<= {TIME_BAR}"],
        ["slowest write ms", spread(slowest, 1, 1), spread(bare_slowest, 1, 1), "", "<= 50"],
        ["p99 write ms", spread(p99, 1, 1), spread(bare_p99, 1, 1), "", "<= 20"],
        ["failed writes", str(failed), "", "", "0"],
        ["space given back", spread(given_back), "", "", ""],
        ["memory grown MB", f"{grown / 1024:.1f}", "", "", ""],
    ]
    missed = (statistics.median(ratio) > TIME_BAR) + (statistics.median(slowest) > SLOWEST_BAR)
    return rows, missed + (statistics.median(p99) > P99_BAR) + (failed > 0)


def percentile(values: list[float], part: float) -> float:
    return sorted(values)[int(part * (len(values) - 1))]


def ours() -> int:
    from conversations import retention

    return retention.cleanup(now=NOW).sessions


@contextmanager
def giving_back() -> Iterator[list[float]]:
    """How long the space takes that is given back after a cleanup, which bare SQL does not do."""
    from conversations import retention

    spent: list[float] = []

    def reclaim(**options: Any) -> Any:
        begun = time.perf_counter()
        try:
            return plain(**options)
        finally:
            spent.append(time.perf_counter() - begun)

    plain, retention.reclaim_space = retention.reclaim_space, reclaim
    try:
        yield spent
    finally:
        retention.reclaim_space = plain


def bare() -> int:
    """The least that deletes the same rows, in chunks."""
    from conversations import lanes
    from conversations.store import log
    from conversations.store.removing import marks

    cutoff = NOW - timedelta(days=7)
    attachment = "conversations_attachment"

    def chunk(db: Any) -> int:
        moment = lanes.from_moment(cutoff, is_sqlite=db.is_sqlite)
        rows = db.all(
            f"SELECT id FROM {log.SESSION} WHERE last_active_at < %s LIMIT {CHUNK}", (moment,)
        )
        keys = [key for (key,) in rows]
        if not keys:
            return 0
        of_them = f"session_id IN ({marks(keys)})"
        turns = f"SELECT id FROM {log.TURN} WHERE {of_them}"
        messages = f"SELECT id FROM {log.MESSAGE} WHERE {of_them}"
        db.run(f"DELETE FROM {log.EVENTS} WHERE turn_id IN ({turns})", keys)
        db.run(f"DELETE FROM {log.FEEDBACK} WHERE message_id IN ({messages})", keys)
        for name in (log.MESSAGE, attachment, log.TURN):
            db.run(f"DELETE FROM {name} WHERE {of_them}", keys)
        return int(db.run(f"DELETE FROM {log.SESSION} WHERE id IN ({marks(keys)})", keys))

    total = 0
    while removed := lanes.perform(chunk):
        total += removed
    return total


def fill(sessions: int, messages: int, *, active_at: datetime) -> None:
    """So many sessions of so many messages and half as many turns, last active then."""
    from conversations import lanes
    from conversations.ids import new_id
    from conversations.items import row_from_item
    from conversations.store import log

    def some(count: int) -> Callable[[Any], None]:
        def job(db: Any) -> None:
            moment = lanes.from_moment(active_at, is_sqlite=db.is_sqlite)
            for session_id in ids(count):
                log.create_session(
                    db, agent_session_id=str(session_id), now=active_at, session_id=session_id
                )
                key = lanes.from_uuid(session_id, is_sqlite=db.is_sqlite)
                turns = [new_id() for _ in range(messages // 2)]
                db.run_many(
                    f"INSERT INTO {log.TURN} (id, session_id, number, status, input, lease_owner,"
                    " fence, model, requests, input_tokens, output_tokens, error_code, warning,"
                    " event_count, queued_at) VALUES (%s, %s, %s, 'completed', '', '', 0, '', 0, 0,"
                    " 0, '', '', 0, %s)",
                    [
                        (lanes.from_uuid(turn, is_sqlite=db.is_sqlite), key, number, moment)
                        for number, turn in enumerate(turns)
                    ],
                )
                for number in range(messages // 2):
                    said = [{"role": role, "content": TEXT} for role in ("user", "assistant")]
                    log.insert_rows(
                        db,
                        session_id=key,
                        turn_id=lanes.from_uuid(turns[number], is_sqlite=db.is_sqlite),
                        first_position=2 * number + 1,
                        rows=[row_from_item(item) for item in said],
                        moment=moment,
                    )

        return job

    while sessions > 0:
        lanes.perform(some(min(sessions, 500)))
        sessions -= 500


def ids(count: int) -> Iterator[UUID]:
    from conversations.ids import new_id

    for _ in range(count):
        yield new_id()


class Chatting:
    """Somebody who writes in another process, until it is ended."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.cleanup", "--chat"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ,
            text=True,
        )
        assert self._process.stdout is not None
        self._process.stdout.readline()  # it writes

    def end(self) -> Any:
        """How long each write took, and how many failed."""
        printed, _ = self._process.communicate("")
        return json.loads(printed)


def chat() -> int:
    """Add messages to a session until stdin ends."""
    import django

    django.setup()
    from conversations import lanes
    from conversations.errors import StoreError
    from conversations.events import Usage
    from conversations.items import row_from_item
    from conversations.store import log

    def append(db: Any) -> None:
        rows = [row_from_item({"role": role, "content": TEXT}) for role in ("user", "assistant")]
        log.append(db, agent_session_id="chatting", rows=rows, usage=Usage(), now=NOW)

    async def write() -> dict[str, Any]:
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(sys.stdin.fileno(), ended.set)
        times, failed = [], 0
        for _ in range(20):
            await lanes.write(append)
        sys.stdout.write("writing\n")
        sys.stdout.flush()
        while not ended.is_set():
            begun = time.perf_counter()
            try:
                await lanes.write(append)
            except StoreError:
                failed += 1
            times.append(time.perf_counter() - begun)
            await asyncio.sleep(random.uniform(0.002, 0.01))
        return {"times": times, "failed": failed}

    sys.stdout.write(json.dumps(asyncio.run(write())))
    lanes.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
