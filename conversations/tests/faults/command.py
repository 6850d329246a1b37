"""The harness as a command: which runs, on which engines, at which size."""

from __future__ import annotations

import argparse
import asyncio
import secrets
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

from conversations.tests.faults import load, runs, storm
from conversations.tests.faults.engines import ENGINES, engines_present
from conversations.tests.faults.report import Report
from conversations.tests.faults.servers import Site

CRASH_LEASE_SECONDS = 1.5

Runner = Callable[[str, argparse.Namespace], Report]


def main() -> int:
    """The number of runs with a violation decides the exit code: 0 where there is none."""
    parser = argparse.ArgumentParser(prog="python -m conversations.tests.faults")
    parser.add_argument("--engine", choices=[*ENGINES, "all"], default="all")
    parser.add_argument("--only", choices=[*RUNS], action="append", help="may be repeated")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--pauses", type=int, default=40)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1_000_000))
    options = parser.parse_args()
    present = engines_present()
    engines = present if options.engine == "all" else [options.engine]
    for engine in [*ENGINES] if options.engine == "all" else []:
        if engine not in present:
            say(f"SKIPPED: {engine} cannot be had here")
    failed = False
    for engine in engines:
        for name in options.only or DEFAULT_RUNS:
            begun = time.monotonic()
            report = RUNS[name](engine, options)
            say(f"{report.line()} ({time.monotonic() - begun:.0f} s)")
            for violation in report.violations[:50]:
                say(f"  VIOLATION {violation}")
            failed = failed or bool(report.violations)
    return 1 if failed else 0


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def on_site(run: Callable[[Site], Awaitable[Report]], engine: str, **site: Any) -> Report:
    with Site(engine, **site) as started:
        return asyncio.run(run(started))  # type: ignore[arg-type]


def run_order(engine: str, options: argparse.Namespace) -> Report:
    return on_site(lambda site: runs.order(site, processes=4, sends=50, seed=options.seed), engine)


def run_shutdown(engine: str, options: argparse.Namespace) -> Report:
    return on_site(
        lambda site: runs.shutdown(site, streams=50, seed=options.seed), engine, grace_seconds=2
    )


def run_crash(engine: str, options: argparse.Namespace) -> Report:
    return on_site(
        lambda site: storm.crash(
            site, kills=options.kills, pauses=options.pauses, seed=options.seed
        ),
        engine,
        lease_seconds=CRASH_LEASE_SECONDS,
    )


def run_load(engine: str, options: argparse.Namespace) -> Report:
    return on_site(lambda site: load.load(site, streams=300, seconds=10, seed=options.seed), engine)


def run_load_beside_a_writer(engine: str, options: argparse.Namespace) -> Report:
    return on_site(
        lambda site: load.load(
            site, streams=300, seconds=10, seed=options.seed, processes=2, writer=True
        ),
        engine,
    )


RUNS: dict[str, Runner] = {
    "order": run_order,
    "crash": run_crash,
    "shutdown": run_shutdown,
    "load": run_load,
    "load-beside-a-writer": run_load_beside_a_writer,
}
DEFAULT_RUNS = ["order", "crash", "shutdown"]
