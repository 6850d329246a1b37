"""Load: hundreds of conversations stream at once, alone or beside a process that only writes."""

from __future__ import annotations

import asyncio
import json
import secrets
import subprocess
import sys
from functools import partial
from typing import Any, Final

from conversations.tests.faults.client import Client
from conversations.tests.faults.report import Report
from conversations.tests.faults.servers import ROOT, Server, Site

EVENTS_PER_SECOND: Final = 10
ARRIVALS_PER_SECOND: Final = 100
WRITER_PAUSE_MS: Final = 2
WARM_UP_TURNS: Final = 20


async def load(
    site: Site, *, streams: int, seconds: float, seed: int, processes: int = 1, writer: bool = False
) -> Report:
    """So many answers at once, ten pieces a second each; what fails, lags, and costs."""
    beside = f" + {processes} servers and a writer" if writer else ""
    report = Report(f"load of {streams}{beside}", site.engine, seed)
    servers = await asyncio.to_thread(site.start_servers, processes)
    client = Client(site.tokens[0])
    for server in servers:
        await _warm_up(client, server)
    targets = await _targets(client, servers, streams=streams, seconds=seconds)
    before = [(server.resident_bytes(), server.cpu_seconds()) for server in servers]
    listening = asyncio.create_task(_listen(targets, site.tokens[0]))
    hammering = None
    if writer:
        hammer = partial(site.call, "hammer", seconds=seconds, pause_ms=WRITER_PAUSE_MS)
        hammering = asyncio.create_task(asyncio.to_thread(hammer))
    most = [resident for resident, _ in before]
    while not listening.done():
        most = [
            max(known, server.resident_bytes()) for known, server in zip(most, servers, strict=True)
        ]
        await asyncio.wait({listening}, timeout=0.2)
    heard = await listening
    cpu = sum(
        server.cpu_seconds() - used for server, (_, used) in zip(servers, before, strict=True)
    )
    grown = sum(high - resident for high, (resident, _) in zip(most, before, strict=True))
    report.violations += heard["failures"]
    p50, p99, longest = heard["lags"] or (0, 0, 0)
    report.figures = {
        "failed": f"{len(heard['failures'])}/{streams}",
        "events": str(heard["events"]),
        "lag": f"p50/p99/max {p50 * 1e3:.1f}/{p99 * 1e3:.1f}/{longest * 1e3:.1f} ms",
        "memory": f"{grown / streams / 2**20:.3f} MB a stream",
        "CPU": f"{cpu / max(1, heard['events']) * 1e3:.3f} ms an event",
        "the client's own": f"{heard['cpu'] / max(1, heard['events']) * 1e3:.3f} ms an event",
    }
    if hammering is not None:
        report.figures |= _writers_figures(await hammering, report)
    report.violations += await asyncio.to_thread(site.stop_servers)
    lock_errors = site.server_output().count("locked")
    if lock_errors:
        report.violations.append(f"{lock_errors} lock errors in the servers' output")
    return report


async def _warm_up(client: Client, server: Server) -> None:
    thread_id = await client.new_thread(server.port)
    for number in range(WARM_UP_TURNS):
        stream = await client.open(server.port, thread_id, f"say warm.{number}")
        async for _ in stream.frames():
            pass
        stream.leave()


async def _targets(
    client: Client, servers: list[Server], *, streams: int, seconds: float
) -> list[dict[str, Any]]:
    name, pieces = secrets.token_hex(3), int(seconds * EVENTS_PER_SECOND)
    targets = []
    for number in range(streams):
        server = servers[number % len(servers)]
        targets.append(
            {
                "port": server.port,
                "thread_id": await client.new_thread(server.port),
                "text": f"clock {pieces} {1000 // EVENTS_PER_SECOND} {name}.{number}",
                "pieces": pieces,
            }
        )
    return targets


async def _listen(targets: list[dict[str, Any]], token: str) -> dict[str, Any]:
    asked = {"targets": targets, "token": token, "arrivals": ARRIVALS_PER_SECOND}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "conversations.tests.faults.listener"),
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    told, _ = await process.communicate(json.dumps(asked).encode())
    assert process.returncode == 0, "the listener failed: see above"
    return dict(json.loads(told))


def _writers_figures(written: dict[str, Any], report: Report) -> dict[str, str]:
    report.violations += [
        f"the writer met {message!r} {count} times"
        for message, count in written["failures"].items()
    ]
    return {
        "writer": f"{written['writes']} transactions, p99 {written['p99'] * 1e3:.1f} ms,"
        f" max {written['max'] * 1e3:.1f} ms"
    }
