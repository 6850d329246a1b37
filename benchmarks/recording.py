"""What recording the streams costs: the site beside itself without records.

    python -m benchmarks.recording [--rounds 7] [--turns 20] [--synchronous FULL|NORMAL]

Two real servers, one process each, asked in turns. In a round, many conversations stream at once:
40 words each, one every 50 ms, as a model speaks; and then the same without a pause, one after
the other. Server CPU per turn, by the scheduler's clock.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import sys
from concurrent.futures import ThreadPoolExecutor

import chatsite  # noqa: F401 - first: the SQLite library
from benchmarks.measure import fresh_site, spread, table
from benchmarks.turn_overhead import Server, Site, token_of_a_user

BAR = 1.05


class Crowd:
    """A server and some connections to it, each with a conversation of its own."""

    def __init__(self, command: list[str], environment: dict[str, str], token: str, size: int):
        self.server = Server(command, environment)
        self._sites = [Site(self.server.beside(), token) for _ in range(size)]
        self._pool = ThreadPoolExecutor(size)

    def cost(self) -> float:
        """CPU seconds of the server for each of as many turns as there are connections."""
        for site in self._sites:
            site.prepare(1)
        before = self.server.cpu_seconds()
        list(self._pool.map(lambda site: site.turn(), self._sites))
        return (self.server.cpu_seconds() - before) / len(self._sites)

    def close(self) -> None:
        self._pool.shutdown()
        for site in self._sites:
            site.server.disconnect()
        self.server.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--turns", type=int, default=20)
    parser.add_argument("--synchronous", choices=["FULL", "NORMAL"], default="FULL")
    options = parser.parse_args()
    fresh_site(synchronous=options.synchronous)
    token = token_of_a_user()
    rows = []
    for pace, size in (("50", options.turns), ("0", 1)):
        environment = os.environ | {
            "CONVERSATIONS_AGENT": "benchmarks.model.build_agent",
            "BENCHMARK_WORDS": "40",
            "BENCHMARK_PAUSE_MS": pace,
        }
        crowds = {
            "with": Crowd(["conversations.web"], environment, token, size),
            "without": Crowd(["benchmarks.unrecorded"], environment, token, size),
        }
        costs: dict[str, list[float]] = {name: [] for name in crowds}
        repeat = 1 if size > 1 else 40
        try:
            for crowd in crowds.values():
                for _ in range(repeat):
                    crowd.cost()
            for _ in range(options.rounds):
                for name in random.sample(list(crowds), 2):
                    some = [crowds[name].cost() for _ in range(repeat)]
                    costs[name].append(statistics.fmean(some))
        finally:
            for crowd in crowds.values():
                crowd.close()
        ratio = [a / b for a, b in zip(costs["with"], costs["without"], strict=True)]
        rows.append(
            [
                f"{size} at once, a word each {pace} ms",
                spread(costs["without"], 1e3),
                spread(costs["with"], 1e3),
                spread(ratio, digits=3),
                f"<= {BAR}",
                "ok" if statistics.median(ratio) <= BAR else "missed",
            ]
        )
    sys.stdout.write(
        f"Recording the stream of a turn of 40 words, synchronous {options.synchronous}; server "
        f"CPU in milliseconds a turn, median (range) of {options.rounds} rounds\n\n"
    )
    sys.stdout.write(table(["", "without ms", "with ms", "with/without", "bar", ""], rows) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
