"""A storm: servers are killed and paused at random moments while people go on speaking."""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from conversations.tests.faults.checker import Evidence, Fault, find_violations, is_sleepers
from conversations.tests.faults.client import Attempt, Client, Sending
from conversations.tests.faults.report import Report, spread
from conversations.tests.faults.runs import gather_evidence
from conversations.tests.faults.servers import Server, Site

BETWEEN_FAULTS: Final = (0.1, 0.5)
DOWN_SECONDS: Final = (0.0, 0.4)
PAUSE_LEASES: Final = (1.1, 1.7)
STUCK_AFTER_LEASES: Final = 1.5
SETTLE_LEASES: Final = 6
POLL_SECONDS: Final = 0.05


@dataclass
class Storm:
    """What goes on: the servers, the choices, and what was done to whom."""

    site: Site
    servers: list[Server]
    rng: random.Random
    faults: list[Fault] = field(default_factory=list)
    repairs: list[asyncio.Task[None]] = field(default_factory=list)

    def any_server(self) -> Server:
        """For a client: one that runs, if there is one; it may be gone in the next moment."""
        running = [server for server in self.servers if server.life is not None]
        return self.rng.choice(running or self.servers)

    async def rage(self, *, kills: int, pauses: int) -> None:
        """Faults one after the other, in shuffled order. One server at least is awake always."""
        kinds = ["kill"] * kills + ["pause"] * pauses
        self.rng.shuffle(kinds)
        for kind in kinds:
            await asyncio.sleep(self.rng.uniform(*BETWEEN_FAULTS))
            server = self.rng.choice(await self._awake())
            work = self._kill(server) if kind == "kill" else self._pause(server)
            self.repairs.append(asyncio.create_task(work))
            await asyncio.sleep(0)
        await asyncio.gather(*self.repairs)

    async def _awake(self) -> list[Server]:
        """Those that run and are not paused, once they are two or more."""
        while True:
            awake = [server for server in self.servers if server.is_up]
            if len(awake) >= 2:
                return awake
            await asyncio.sleep(POLL_SECONDS)

    async def _kill(self, server: Server) -> None:
        at, pid = time.monotonic(), server.pid
        server.kill()
        self.faults.append(Fault("kill", pid, at, at))
        await asyncio.sleep(self.rng.uniform(*DOWN_SECONDS))
        await asyncio.to_thread(server.start)

    async def _pause(self, server: Server) -> None:
        at, pid = time.monotonic(), server.pid
        server.pause()
        await asyncio.sleep(self.rng.uniform(*PAUSE_LEASES) * self.site.lease_seconds)
        self.faults.append(Fault("pause", pid, at, time.monotonic()))
        server.resume()


async def crash(
    site: Site,
    *,
    kills: int,
    pauses: int,
    seed: int,
    processes: int = 4,
    threads: int = 8,
    speakers: int = 3,
    is_stall_a_violation: bool = True,
) -> Report:
    """People speak while the storm goes on, several in each thread; then all is counted."""
    report = Report("crash", site.engine, seed)
    servers = await asyncio.to_thread(site.start_servers, processes)
    storm = Storm(site, servers, random.Random(seed))
    client = Client(site.tokens[0], silence_seconds=2 * site.lease_seconds)
    thread_ids = [await client.new_thread(servers[0].port) for _ in range(threads)]
    is_over = asyncio.Event()
    people = [
        asyncio.create_task(_speak(client, storm, thread_id, is_over, random.Random(seed + number)))
        for number, thread_id in enumerate(thread_ids * speakers)
    ]
    begun = time.monotonic()
    await storm.rage(kills=kills, pauses=pauses)
    last_fault_at = max((fault.ended_at for fault in storm.faults), default=begun)
    probes = await asyncio.gather(*(_probe(client, storm, thread_id) for thread_id in thread_ids))
    is_over.set()
    sendings = [sending for said in await asyncio.gather(*people) for sending in said]
    sendings += probes
    await _settled(site, thread_ids)
    report.violations += await asyncio.to_thread(site.stop_servers)
    evidence = await gather_evidence(site, sendings)
    evidence.faults = storm.faults
    report.violations += find_violations(evidence)
    late = [probe.running_at - last_fault_at for probe in probes]
    leases = [seconds / site.lease_seconds for seconds in late]
    if is_stall_a_violation and max(leases) > STUCK_AFTER_LEASES:
        report.violations.append(f"a thread was stuck for {max(leases):.2f} leases")
    report.figures = {
        **_counts(evidence),
        "stall after a fault": spread(_stalls(evidence), unit=" leases", digits=2),
        "fresh message after the last": spread(leases, unit=" leases", digits=2),
    }
    return report


async def _speak(
    client: Client, storm: Storm, thread_id: str, is_over: asyncio.Event, rng: random.Random
) -> list[Sending]:
    """Say one thing after the other until the storm is over."""
    said = []
    while not is_over.is_set():
        tag = secrets.token_hex(4)
        deed = rng.choice(
            ["say", "tool", "memory", f"slow {rng.randint(1, 8)} {rng.randint(2, 40)}"]
        )
        said.append(
            await client.send(storm.any_server, thread_id, f"{deed} {tag}", key=f"key-{tag}")
        )
    return said


async def _probe(client: Client, storm: Storm, thread_id: str) -> Sending:
    """A fresh message to a thread, now that the storm is over."""
    tag = secrets.token_hex(4)
    return await client.send(storm.any_server, thread_id, f"say {tag}", key=f"key-{tag}")


async def _settled(site: Site, thread_ids: list[str]) -> None:
    """Wait until no turn is open, as long as that may take: the checker says what still is."""
    deadline = time.monotonic() + SETTLE_LEASES * site.lease_seconds
    look = partial(site.call, "count_live", threads=thread_ids)
    while await asyncio.to_thread(look):
        if time.monotonic() > deadline:
            return
        await asyncio.sleep(POLL_SECONDS)


def _counts(evidence: Evidence) -> dict[str, str]:
    """What happened, in numbers."""
    kinds = Counter(fault.kind for fault in evidence.faults)
    statuses = Counter(turn["status"] for turn in evidence.rows["turns"])
    unstarted, adopted = 0, 0
    for sending in evidence.sendings:
        turn = evidence.turn_of(sending.text)
        if turn is None:
            continue
        ran_in = {run.pid for run in evidence.runs if run.text == sending.text}
        unstarted += not ran_in and turn["status"] == "interrupted"
        adopted += bool(sending.acknowledged_by and ran_in - {sending.acknowledged_by})
    attempts = sum(len(sending.attempts) for sending in evidence.sendings)
    return {
        "kills": str(kinds["kill"]),
        "pauses": str(kinds["pause"]),
        "acknowledged": str(sum(sending.is_acknowledged for sending in evidence.sendings)),
        "requests": str(attempts),
        "turns": " ".join(f"{status} {count}" for status, count in sorted(statuses.items())),
        "queued turns of dead processes": f"{unstarted} interrupted, {adopted} answered elsewhere",
        "answered by a sleeper too": str(sum(is_sleepers(evidence, run) for run in evidence.runs)),
        "warned": str(sum(bool(sending.warnings) for sending in evidence.sendings)),
    }


def _stalls(evidence: Evidence) -> list[float]:
    """How long a thread rested that had an open turn at a fault's victim, in leases.

    From the last such fault, or the first request to a living server after it, to the next turn's
    start.
    """
    clock = time.time() - time.monotonic()
    rested: dict[tuple[str, float], float] = {}
    for fault in evidence.faults:
        for thread_id in _hit_threads(evidence, fault, clock):
            starts = [turn["started_at"] or 0.0 for turn in evidence.turns[thread_id]]
            next_start = min((at - clock for at in starts if at - clock > fault.at), default=0.0)
            asked_at = min(
                (
                    max(fault.at, attempt.begun_at)
                    for sending in evidence.sendings
                    if sending.thread_id == thread_id
                    for attempt in sending.attempts
                    if attempt.ended_at > fault.at and not _met_a_fault(evidence, attempt)
                ),
                default=next_start,
            )
            if next_start:
                rest, key = max(0.0, next_start - asked_at), (thread_id, next_start)
                rested[key] = min(rested.get(key, rest), rest)
    return [rest / evidence.lease_seconds for rest in rested.values()]


def _hit_threads(evidence: Evidence, fault: Fault, clock: float) -> set[str]:
    """Threads of which the victim held an open turn."""
    hit = set()
    for sending in evidence.sendings:
        turn = evidence.turn_of(sending.text)
        was_open = turn and turn["queued_at"] - clock <= fault.at < turn["finished_at"] - clock
        if was_open and any(
            attempt.pid == fault.pid and attempt.begun_at <= fault.at <= attempt.ended_at
            for attempt in sending.attempts
        ):
            hit.add(sending.thread_id)
    return hit


def _met_a_fault(evidence: Evidence, attempt: Attempt) -> bool:
    """Whether the server that was asked was killed or asleep meanwhile."""
    return any(
        fault.pid == attempt.pid
        and fault.at <= attempt.ended_at
        and attempt.begun_at <= fault.ended_at
        for fault in evidence.faults
    )
