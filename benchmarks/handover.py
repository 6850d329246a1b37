"""How long a thread rests between two turns, when each may be in another process.

    python -m benchmarks.handover [--processes 4] [--sends 50] [--rounds 1]

Real servers on every engine that is here. All messages go to one thread, in an order that changes
between the processes all the time; measured is from the end of one run of the model to the begin
of the next, by the clock all processes share.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys

import chatsite  # noqa: F401 - first: the SQLite library
from benchmarks.measure import table
from conversations.tests.faults.engines import engines_present
from conversations.tests.faults.report import percentile
from conversations.tests.faults.runs import crowd
from conversations.tests.faults.servers import Site

BARS = {"wal": (10, 60), "delete": (10, 60), "postgresql": (10, 50)}


def gaps_on(engine: str, *, processes: int, sends: int, rounds: int) -> dict[str, list[float]]:
    """Milliseconds: of all hand-overs, of those within a process, and of those to another."""
    gaps: dict[str, list[float]] = {"all": [], "within a process": [], "to another process": []}
    with Site(engine) as site:
        for _ in range(rounds):
            seed = random.randrange(1_000_000)
            report, (within, across) = asyncio.run(
                crowd(site, processes=processes, sends=sends, seed=seed)
            )
            report.assert_kept()
            for name, found in zip(gaps, (within + across, within, across), strict=True):
                gaps[name] += [gap * 1e3 for gap in found]
    return gaps


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--sends", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    rows = []
    for engine in engines_present():
        for name, gaps in gaps_on(engine, **vars(options)).items():
            p50, p95 = percentile(gaps, 0.5), percentile(gaps, 0.95)
            bars = BARS[engine]
            is_met = p50 < bars[0] and p95 < bars[1]
            rows.append(
                [
                    engine,
                    name,
                    str(len(gaps)),
                    f"{p50:.1f}",
                    f"{p95:.1f}",
                    f"{max(gaps, default=0):.1f}",
                    "" if name != "all" else f"< {bars[0]}, < {bars[1]}",
                    "" if name != "all" else "ok" if is_met else "missed",
                ]
            )
    sys.stdout.write(
        f"Hand-over between turns of one thread, {options.processes} processes x {options.sends} "
        f"messages, {options.rounds} round(s); milliseconds\n\n"
    )
    header = ["engine", "hand-overs", "count", "p50", "p95", "max", "bar (p50, p95)", ""]
    sys.stdout.write(table(header, rows) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
