"""What a session's operations cost beside the SDK's own sessions and raw SQL, in one run.

    python -m benchmarks.session_ops [--rounds 15] [--synchronous FULL|NORMAL]

All on SQLite files in the same folder, journal mode and durability.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import sys
from pathlib import Path
from typing import Any

import chatsite  # noqa: F401 - first: one SQLite library for all candidates
from benchmarks.measure import fresh_site, race, ratios, spread, table

BARS = {
    ("append turn (2)", "FULL"): 0.8,
    ("append turn (2)", "NORMAL"): 0.5,
    ("load 200", "FULL"): 0.7,
    ("last 20 of 10,000", "FULL"): 0.6,
    ("32 sessions at once", "FULL"): 0.3,
    ("append at 300 turns", "FULL"): 1.15,
}
_numbers = itertools.count()


def turn_items() -> list[dict[str, Any]]:
    n = next(_numbers)
    return [
        {"role": "user", "content": f"question {n} " + "q" * 400},
        {
            "id": f"msg_{n}",
            "type": "message",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": "a" * 350, "annotations": []}],
        },
    ]


def tool_items() -> list[dict[str, Any]]:
    n = next(_numbers)
    question, answer = turn_items()
    calls = [
        {"type": "function_call", "call_id": f"c{n}{i}", "name": "find", "arguments": '{"q":"x"}'}
        for i in range(2)
    ]
    outputs = [
        {"type": "function_call_output", "call_id": f"c{n}{i}", "output": "o" * 300}
        for i in range(2)
    ]
    return [question, *calls, *outputs, answer]


class RawSession:
    """The least SQL that could work, on one connection, without a thread: the limit."""

    def __init__(self, session_id: str, connection: Any) -> None:
        self.session_id, self._db = session_id, connection

    async def add_items(self, items: list[Any]) -> None:
        self._db.execute("BEGIN IMMEDIATE")
        self._db.executemany(
            "INSERT INTO raw (session, data) VALUES (?, ?)",
            [(self.session_id, json.dumps(item)) for item in items],
        )
        self._db.execute("COMMIT")

    async def get_items(self, limit: int = -1) -> list[Any]:
        rows = self._db.execute(
            "SELECT data FROM raw WHERE session = ? ORDER BY id DESC LIMIT ?",
            (self.session_id, limit),
        ).fetchall()
        return [json.loads(row) for (row,) in reversed(rows)]


def raw_connection(path: Path, synchronous: str) -> Any:
    from conversations import sqlite

    connection = sqlite.driver().connect(path, isolation_level=None)
    connection.execute(f"PRAGMA journal_mode={sqlite.journal_mode()}")
    connection.execute(f"PRAGMA synchronous={synchronous}")
    connection.execute("CREATE TABLE raw (id INTEGER PRIMARY KEY, session TEXT, data TEXT)")
    connection.execute("CREATE INDEX raw_session ON raw (session, id)")
    return connection


def makers(folder: Path, synchronous: str) -> dict[str, Any]:
    """How each candidate opens a session."""
    from agents import SQLiteSession
    from agents.extensions.memory import SQLAlchemySession
    from sqlalchemy import event
    from sqlalchemy.ext.asyncio import create_async_engine

    from conversations import sqlite
    from conversations.agents_session import AgentSession

    raw = raw_connection(folder / "raw.db", synchronous)
    engine = create_async_engine(f"sqlite+aiosqlite:///{folder / 'alchemy.db'}")

    @event.listens_for(engine.sync_engine, "connect")
    def configure(connection: Any, _: Any) -> None:
        connection.execute(f"PRAGMA journal_mode={sqlite.journal_mode()}")
        connection.execute(f"PRAGMA synchronous={synchronous}")

    class Sdk(SQLiteSession):
        """The SDK's own, with the run's durability."""

        def _configure_connection(self, conn: Any) -> None:
            super()._configure_connection(conn)
            conn.execute(f"PRAGMA synchronous={synchronous}")

    shared: dict[str, Sdk] = {}

    def sdk(name: str) -> Sdk:
        return shared.setdefault(name, Sdk(name, folder / "sdk.db"))

    return {
        "raw": lambda name: RawSession(name, raw),
        "ours": AgentSession,
        "sdk": sdk,
        "alchemy": lambda name: SQLAlchemySession(name, engine=engine, create_tables=True),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--synchronous", choices=["FULL", "NORMAL"], default="FULL")
    options = parser.parse_args()
    folder = fresh_site(synchronous=options.synchronous)
    return asyncio.run(run(options, folder))


async def run(options: argparse.Namespace, folder: Path) -> int:
    from conversations import lanes, sqlite

    make = makers(folder, options.synchronous)
    sessions = {name: opener("main") for name, opener in make.items()}
    results: list[tuple[str, dict[str, list[float]]]] = []

    async def measure(title: str, action: Any, repeat: int) -> None:
        candidates = {name: (lambda n=name: action(n)) for name in make}
        results.append((title, await race(candidates, rounds=options.rounds, repeat=repeat)))

    await measure("append turn (2)", lambda n: sessions[n].add_items(turn_items()), 40)
    await measure("append tool turn (6)", lambda n: sessions[n].add_items(tool_items()), 40)

    filled = {name: opener("filled") for name, opener in make.items()}
    for name in make:
        for _ in range(100):
            await filled[name].add_items(turn_items())
    await measure("load 200", lambda n: filled[n].get_items(), 20)

    long = {name: opener("long") for name, opener in make.items()}
    for name in make:
        for _ in range(50):
            await long[name].add_items([item for _ in range(100) for item in turn_items()])
    await measure("last 20 of 10,000", lambda n: long[n].get_items(20), 40)

    async def burst(name: str) -> None:
        openers = [make[name](f"burst{i}") for i in range(32)]
        await asyncio.gather(*[one.add_items(turn_items()) for one in openers])

    await measure("32 sessions at once", burst, 2)

    growing = {f"turn {turns}": make["ours"](f"grow{turns}") for turns in (1, 300)}
    for _ in range(300):
        await growing["turn 300"].add_items(turn_items())
    counter = itertools.count()

    async def append_first() -> None:
        await make["ours"](f"fresh{next(counter) // 2}").add_items(turn_items())

    growth = await race(
        {
            "first": append_first,
            "at 300": lambda: growing["turn 300"].add_items(turn_items()),
        },
        rounds=options.rounds,
        repeat=40,
    )

    rows = []
    missed = 0
    for title, times in results:
        to_sdk = ratios(times, "ours", "sdk")
        bar = BARS.get((title, options.synchronous))
        verdict = "" if bar is None else f"<= {bar}"
        missed += bar is not None and sorted(to_sdk)[len(to_sdk) // 2] > bar
        rows.append(
            [
                title,
                *[spread(times[name], 1e6, 0) for name in make],
                spread(to_sdk),
                verdict,
                spread(ratios(times, "ours", "alchemy")),
                spread(ratios(times, "ours", "raw")),
            ]
        )
    write = sys.stdout.write
    version = sqlite.driver().sqlite_version
    write(
        f"SQLite {version}, journal {sqlite.journal_mode()}, synchronous {options.synchronous}; "
        f"microseconds, median (range) of {options.rounds} rounds\n\n"
    )
    names = [f"{name} us" for name in make]
    write(table(["operation", *names, "ours/sdk", "bar", "ours/alchemy", "ours/raw"], rows))
    write(f"\n\nappend at 300 turns / first: {spread(ratios(growth, 'at 300', 'first'))}")
    write(f" (bar <= {BARS[('append at 300 turns', 'FULL')]})\n")
    write(f"bars missed: {missed}\n")
    for session in sessions.values():
        if hasattr(session, "close"):
            session.close()
    lanes.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
