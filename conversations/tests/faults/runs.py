"""Runs without faults or with an orderly one: the order of a crowded thread, and a deploy."""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from functools import partial
from itertools import pairwise
from typing import Final

from conversations.tests.faults.checker import Evidence, Run, find_violations
from conversations.tests.faults.client import Client, Frame, Lost, Sending, Stream
from conversations.tests.faults.report import Report, spread
from conversations.tests.faults.servers import Server, Site

MARGIN_SECONDS: Final = 1.0
"""What a stop may take beyond its grace."""


async def order(site: Site, *, processes: int, sends: int, seed: int) -> Report:
    """Many processes, one thread: all that is said at once is answered one after the other."""
    report, _ = await crowd(site, processes=processes, sends=sends, seed=seed)
    return report


async def crowd(
    site: Site, *, processes: int, sends: int, seed: int
) -> tuple[Report, tuple[list[float], list[float]]]:
    """The same, with the gaps between the runs: in one process, and from one to another."""
    report = Report("order", site.engine, seed)
    servers = await asyncio.to_thread(site.start_servers, processes)
    client = Client(site.tokens[0])
    thread_id = await client.new_thread(servers[0].port)
    name = secrets.token_hex(3)
    places = [(index, number) for index in range(processes) for number in range(sends)]
    random.Random(seed).shuffle(places)  # so that the line changes between processes all the time
    begun = time.monotonic()
    waiting = []
    for index, number in places:
        acknowledged = asyncio.Event()
        sending = client.send(
            partial(_always, servers[index]),
            thread_id,
            f"slow 2 4 {name}.{index}.{number}",
            key=f"{name}.{index}.{number}",
            acknowledged=acknowledged,
        )
        waiting.append(asyncio.create_task(sending))
        await acknowledged.wait()
    sendings = list(await asyncio.gather(*waiting))
    took = time.monotonic() - begun
    report.violations += await asyncio.to_thread(site.stop_servers)
    evidence = await gather_evidence(site, sendings)
    report.violations += find_violations(evidence)
    answered = sum(_is_completed(sending) for sending in sendings)
    if answered != len(sendings):
        report.violations.append(f"{answered} of {len(sendings)} were answered")
    within, across = hand_overs(evidence.runs)
    report.figures = {
        "answered": f"{answered}/{len(sendings)}",
        "hand-over": spread(within + across, scale=1e3, unit=" ms"),
        f"within a process ({len(within)})": spread(within, scale=1e3, unit=" ms"),
        f"to another ({len(across)})": spread(across, scale=1e3, unit=" ms"),
        "a turn": f"{took / len(sendings) * 1e3:.1f} ms",
    }
    return report, (within, across)


async def shutdown(
    site: Site, *, streams: int, seed: int, is_late_a_violation: bool = True
) -> Report:
    """A stop in the middle of many answers: each is finished or marked, stored, and told."""
    report = Report("shutdown", site.engine, seed)
    (server,) = await asyncio.to_thread(site.start_servers, 1)
    client = Client(site.tokens[0])
    rng, name = random.Random(seed), secrets.token_hex(3)
    threads = [await client.new_thread(server.port) for _ in range(streams)]
    # Half of them would end within the grace, half never.
    pieces = max(2, int(site.grace_seconds * 5))
    deeds = [f"slow {pieces} 100" if index % 2 else "hold" for index in range(streams)]
    rng.shuffle(deeds)
    sendings = [
        Sending(thread_id, f"{deed} {name}.{index}", key="")
        for index, (deed, thread_id) in enumerate(zip(deeds, threads, strict=True))
    ]
    speaking = asyncio.Barrier(streams + 1)
    listening = [
        asyncio.create_task(_listen(client, server, sending, speaking)) for sending in sendings
    ]
    await speaking.wait()
    begun = time.monotonic()
    server.stop()
    code = await asyncio.to_thread(partial(server.wait, within=site.grace_seconds + 30))
    took = time.monotonic() - begun
    told = sum(await asyncio.gather(*listening))
    evidence = await gather_evidence(site, sendings)
    report.violations += find_violations(evidence)
    answers = {message["id"]: message["text"] for message in evidence.rows["messages"]}
    saved = sum(
        (turn := evidence.turn_of(sending.text)) is not None
        and answers.get(str(turn["answer_message_id"])) == sending.said
        for sending in sendings
    )
    completed = sum(_is_completed(sending) for sending in sendings)
    report.figures = {
        "exit": f"{took:.2f} s of {site.grace_seconds:g} + {MARGIN_SECONDS:g}",
        "told": f"{told}/{streams}",
        "saved": f"{saved}/{streams}",
        "finished": str(completed),
        "interrupted": str(streams - completed),
    }
    if code:
        report.violations.append(f"exit code {code}")
    if told < streams or saved < streams:
        report.violations.append(f"{told} told and {saved} saved of {streams}")
    if is_late_a_violation and took > site.grace_seconds + MARGIN_SECONDS:
        report.violations.append(f"the stop took {took:.2f} s")
    return report


async def gather_evidence(site: Site, sendings: list[Sending]) -> Evidence:
    """All that is known once the servers have ended."""
    threads = sorted({sending.thread_id for sending in sendings})
    rows = await asyncio.to_thread(partial(site.call, "read", threads=threads))
    return Evidence(sendings, rows, site.journal(), site.lease_seconds)


def hand_overs(runs: list[Run]) -> tuple[list[float], list[float]]:
    """From one run's end to the next one's begin: in the same process, and to another."""
    within: list[float] = []
    across: list[float] = []
    for earlier, later in pairwise(runs):
        if earlier.ended_at is not None:
            gaps = within if earlier.pid == later.pid else across
            gaps.append(later.begun_at - earlier.ended_at)
    return within, across


async def _listen(
    client: Client, server: Server, sending: Sending, speaking: asyncio.Barrier
) -> bool:
    """Follow an answer to its end; whether its closing frame and `[DONE]` came."""
    stream: Stream = await client.open(server.port, sending.thread_id, sending.text)
    sending.turn_ids.add(stream.turn_id)
    frames: list[Frame] = []
    try:
        async for frame in stream.frames():
            frames.append(frame)
            if frame.content and not sending.said:
                await speaking.wait()
            sending.said += frame.content
            if frame.is_closing:
                sending.closing = frame.body
    except Lost as error:
        sending.complaints.append(f"lost: {error}")
        return False
    finally:
        stream.leave()
    return sending.closing is not None


def _is_completed(sending: Sending) -> bool:
    return sending.closing is not None and sending.closing["status"] == "completed"


def _always(server: Server) -> Server:
    return server
