"""What forgetting costs beside the bare statements that delete the same rows, in one run.

    python -m benchmarks.pruning [--rounds 15] [--database-url postgresql://.../empty]

A session of 10,000 entries with tool calls is pruned to 200; the same where nothing is due; and a
batch is added to a full memory, pruned and not.
"""

from __future__ import annotations

import argparse
import itertools
import random
import statistics
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any

import chatsite  # noqa: F401 - first: the SQLite library
from benchmarks.measure import fresh_site, ratios, spread, table
from benchmarks.session_ops import tool_items

BUDGET, TURNS, ROWS_A_TURN = 200, 1667, 6
BARS = {"10,000 to 200": 5.0}
NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Sessions:
    """Sessions filled anew for each measurement, and the ways to prune them."""

    def __init__(self) -> None:
        from conversations import lanes
        from conversations.events import Usage
        from conversations.items import row_from_item
        from conversations.store import log, pruning

        self._lanes, self._log, self._pruning = lanes, log, pruning
        self._rows: Callable[[], list[Any]] = lambda: [row_from_item(i) for i in tool_items()]
        self._usage, self._names = Usage(), (f"s{n}" for n in itertools.count())

    def fill(self, *, turns: int) -> str:
        """A session of so many turns, six entries each; its name."""
        name = next(self._names)
        batches = [self._rows() for _ in range(turns)]

        def job(db: Any) -> None:
            for rows in batches:
                self._append(db, name, rows)

        self._lanes.perform(job)
        return name

    def prune(self, name: str) -> None:
        self._lanes.perform(partial(self._pruning.prune_named, agent_session_id=name, now=NOW))

    def raw(self, name: str, *, keep: int) -> None:
        """The least that deletes the same rows, where somebody has said which they are."""
        log = self._log

        def job(db: Any) -> None:
            key, last = db.one(
                f"SELECT id, last_position FROM {log.SESSION} WHERE agent_session_id = %s", (name,)
            )
            of_old = "session_id = %s AND position <= %s"
            params = (key, last - keep)
            dropped = db.run(
                f"DELETE FROM {log.MESSAGE} WHERE {of_old} AND shown = %s", (*params, False)
            )
            db.run(f"UPDATE {log.MESSAGE} SET agent_item = NULL WHERE {of_old}", params)
            db.run(
                f"UPDATE {log.SESSION} SET remembered_count = %s, item_count = item_count - %s"
                " WHERE id = %s",
                (keep, dropped, key),
            )

        self._lanes.perform(job)

    def look(self, name: str) -> None:
        """One row by its key, in a transaction."""
        sql = f"SELECT remembered_count FROM {self._log.SESSION} WHERE agent_session_id = %s"
        self._lanes.perform(lambda db: db.one(sql, (name,)))

    def append(self, name: str, *, prunes: bool) -> None:
        rows = self._rows()

        def job(db: Any) -> None:
            self._append(db, name, rows)
            if prunes:
                self._pruning.prune_named(db, agent_session_id=name, now=NOW)

        self._lanes.perform(job)

    def _append(self, db: Any, name: str, rows: list[Any]) -> None:
        self._log.append(db, agent_session_id=name, rows=rows, usage=self._usage, now=NOW)


def race(candidates: dict[str, Callable[[], Any]], *, rounds: int) -> dict[str, list[float]]:
    """Seconds a call; a candidate prepares itself, and returns what is measured."""
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for number in range(rounds + 1):
        order = list(candidates)
        random.shuffle(order)
        for name in order:
            action = candidates[name]()
            begun = time.perf_counter()
            action()
            if number:  # the first warms up
                times[name].append(time.perf_counter() - begun)
    return times


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--database-url", default="")
    options = parser.parse_args()
    fresh_site(database_url=options.database_url)
    sessions = Sessions()
    whole_turns = BUDGET // ROWS_A_TURN * ROWS_A_TURN
    full = [sessions.fill(turns=BUDGET // ROWS_A_TURN) for _ in range(3)]
    comparisons: dict[str, dict[str, Callable[[], Any]]] = {
        "10,000 to 200": {
            "ours": lambda: partial(sessions.prune, sessions.fill(turns=TURNS)),
            "raw": lambda: partial(sessions.raw, sessions.fill(turns=TURNS), keep=whole_turns),
        },
        "nothing due": {
            "ours": lambda: partial(sessions.prune, full[0]),
            "raw": lambda: partial(sessions.look, full[0]),
        },
        "6 more, full memory": {
            "ours": lambda: partial(sessions.append, full[1], prunes=True),
            "raw": lambda: partial(sessions.append, full[2], prunes=False),
        },
    }
    rows, missed = [], 0
    for title, candidates in comparisons.items():
        times = race(candidates, rounds=options.rounds)
        ratio = ratios(times, "ours", "raw")
        bar = BARS.get(title)
        missed += bar is not None and statistics.median(ratio) > bar
        rows.append(
            [
                title,
                spread(times["ours"], 1e6, 0),
                spread(times["raw"], 1e6, 0),
                spread(ratio),
                "" if bar is None else f"<= {bar}",
            ]
        )
    sys.stdout.write(f"microseconds, median (range) of {options.rounds} rounds\n\n")
    sys.stdout.write(table(["pruning", "ours us", "bare us", "ours/bare", "bar"], rows))
    sys.stdout.write(f"\nbars missed: {missed}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
