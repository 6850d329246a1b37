"""A site with one server, whose database breaks and is mended while somebody speaks.

with world(site) as found:
    sending = await found.say("memory")
    ...
    await found.assert_whole()
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from conversations.events import CONTEXT_UNAVAILABLE, NOT_SAVED
from conversations.tests.faults import files
from conversations.tests.faults.checker import Evidence, find_violations
from conversations.tests.faults.client import Client, Sending, Stream
from conversations.tests.faults.runs import gather_evidence
from conversations.tests.faults.servers import Server, Site

logger = logging.getLogger(__name__)

T = TypeVar("T")
PATIENCE: Final = 20.0
BOUND_SECONDS: Final = 10.0
"""What is promised within 3 s, on a machine that is busy with other things."""


@dataclass
class World:
    """Two people's conversations, and what was said in them."""

    site: Site
    server: Server
    path: Path
    seconds: list[float] = field(default_factory=list)
    """How long each answer took."""
    sendings: list[Sending] = field(default_factory=list)
    thread_id: str = ""
    others_thread_id: str = ""

    def __post_init__(self) -> None:
        mine, others = (Client(token, silence_seconds=PATIENCE) for token in self.site.tokens[:2])
        self.client, self._others_client = mine, others
        self._pid = self.server.pid

    async def begin(self) -> None:
        """Both have said something that is saved."""
        self.thread_id = await self.client.new_thread(self.server.port)
        self.others_thread_id = await self._others_client.new_thread(self.server.port)
        for is_other in (False, True):
            assert_saved(await self.say("say", is_other=is_other))

    async def say(self, deed: str, tag: str = "", *, is_other: bool = False) -> Sending:
        """Say something; it is answered at the first attempt, and in time."""
        text = f"{deed} {tag or secrets.token_hex(4)}"
        client = self._others_client if is_other else self.client
        thread_id = self.others_thread_id if is_other else self.thread_id
        key = secrets.token_hex(8)
        sending = await client.send(lambda: self.server, thread_id, text, key=key)
        (attempt,) = sending.attempts
        assert sending.complaints == [], sending.complaints
        assert (sending.closing or {}).get("status") == "completed", sending.closing
        self.seconds.append(attempt.ended_at - attempt.begun_at)
        assert self.seconds[-1] < BOUND_SECONDS
        self.sendings.append(sending)
        return sending

    async def begin_answer(self) -> Answer:
        """An answer that has begun, and waits in its middle."""
        tag = secrets.token_hex(4)
        sending = Sending(self.thread_id, f"gate {tag} {tag}", key="")
        stream = await self.client.open(self.server.port, sending.thread_id, sending.text)
        sending.turn_ids.add(stream.turn_id)
        frames = stream.frames()
        async for frame in frames:
            sending.said += frame.content
            if frame.content:
                break
        self.sendings.append(sending)
        return Answer(self.site, sending, stream, frames, tag)

    async def transcript(self, *, is_other: bool = False) -> list[str]:
        """What a person sees of a conversation."""
        client = self._others_client if is_other else self.client
        thread_id = self.others_thread_id if is_other else self.thread_id
        return [text for _, text in await client.transcript(self.server.port, thread_id)]

    async def is_ready(self) -> bool:
        """Whether /readyz says so; the answer comes in time either way."""
        begun = time.monotonic()
        status, _ = await self.client.ask(self.server.port, "GET", "/readyz")
        assert time.monotonic() - begun < BOUND_SECONDS
        assert status in {200, 503}
        return status == 200

    async def stop(self) -> None:
        """An orderly end: nothing is left in a log."""
        assert await asyncio.to_thread(self.site.stop_servers) == []

    async def start(self) -> None:
        """Serve again, in a new process."""
        await asyncio.to_thread(self.site.start_servers, 1)
        self._pid = self.server.pid

    def forget_saved(self, *, since: int) -> None:
        """What was saved since then went with the file; what was not may be saved yet."""
        kept, later = self.sendings[:since], self.sendings[since:]
        self.sendings = kept + [sending for sending in later if is_unsaved(sending)]

    def assert_alive(self) -> None:
        """The process is the one there was from the beginning."""
        assert self.server.life is not None
        assert not self.server.life.ended.done(), self.site.server_output()
        assert self.server.pid == self._pid

    async def assert_whole(self) -> None:
        """Each message is stored once, as it was told; one that was not saved so, or not at all.

        Stops the server.
        """
        threads = [self.thread_id, self.others_thread_id]
        await until(lambda: self._has_none_open(threads))
        self.assert_alive()
        await self.stop()
        found = await gather_evidence(self.site, self.sendings)
        stored = [s for s in self.sendings if s.text in found.user_row or not is_unsaved(s)]
        late = [s for s in stored if is_unsaved(s)]
        evidence = Evidence(stored, found.rows, found.journal, found.lease_seconds)
        # They ran before they were stored: what they remembered, they remembered then.
        names = {
            f"turn {turn['number']} of thread {turn['session_id']}"
            for sending in late
            if (turn := evidence.turn_of(sending.text)) is not None
        }
        violations = [
            violation
            for violation in find_violations(evidence)
            if not (late and " ran after turn " in violation)
            and violation.removesuffix(" did not remember all") not in names
        ]
        answers = {row["id"]: row["text"] for row in found.rows["messages"]}
        for sending in late:
            turn = evidence.turn_of(sending.text)
            answer = answers.get(str(turn and turn["answer_message_id"]))
            if answer != sending.said:
                violations.append(f"{sending.text!r} is stored in part: {answer!r}")
        assert violations == [], violations

    async def _has_none_open(self, threads: list[str]) -> bool:
        count = partial(self.site.call, "count_live", threads=threads)
        return not await asyncio.to_thread(count)


@dataclass
class Answer:
    """An answer under way."""

    site: Site
    sending: Sending
    stream: Stream
    frames: Any
    gate: str

    async def finish(self) -> Sending:
        """Let the model end; the closing frame comes in time."""
        begun = time.monotonic()
        self.site.open_gate(self.gate)
        async for frame in self.frames:
            self.sending.said += frame.content
            if isinstance(frame.body, dict) and "warning" in frame.body:
                self.sending.warnings.append(frame.body["warning"])
            if frame.is_closing:
                assert self.sending.closing is None, "two closing frames"
                self.sending.closing = frame.body
        self.stream.leave()
        assert self.sending.closing is not None
        assert time.monotonic() - begun < BOUND_SECONDS
        return self.sending


@contextmanager
def world(site: Site) -> Iterator[World]:
    """The site with one server, which lives to the end, and the file as it was at first."""
    for server in site.servers:
        if server.life is not None:
            server.kill()
    path = site.folder / "data" / "chat.db"
    pristine = site.folder / "pristine"
    if not pristine.exists():
        pristine.write_bytes(files.back_up(site, path))
    for file in path.parent.iterdir():
        file.unlink()
    files.put(path, pristine.read_bytes())
    (server,) = site.start_servers(1)
    found = World(site, server, path)
    asyncio.run(found.begin())
    yield found
    logger.info("answered after %s s", " ".join(f"{seconds:.2f}" for seconds in found.seconds))
    if server.life is not None:
        found.assert_alive()
        server.kill()


async def until(look: Callable[[], Awaitable[T]], *, within: float = PATIENCE) -> T:
    """The first true value of `look`."""
    deadline = time.monotonic() + within
    while not (found := await look()):
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.02)
    return found


def is_unsaved(sending: Sending) -> bool:
    """Whether its sender was told that it is not saved."""
    return NOT_SAVED in sending.warnings


def assert_saved(sending: Sending) -> None:
    assert sending.warnings == []
    assert sending.closing is not None
    assert sending.closing["message_id"]


def assert_unsaved(sending: Sending, *, with_context: bool) -> None:
    """It was answered, and its sender told what is missing."""
    expected = {NOT_SAVED} if with_context else {NOT_SAVED, CONTEXT_UNAVAILABLE}
    assert set(sending.warnings) == expected
    assert sending.closing is not None
    assert sending.closing.get("message_id") is None


def assert_truthful(sending: Sending) -> None:
    """It was answered with what was remembered, and is saved, or its sender told that it is not."""
    if is_unsaved(sending):
        assert_unsaved(sending, with_context=True)
    else:
        assert_saved(sending)


async def until_seen(found: World, text: str) -> None:
    """Wait until a person finds it in the conversation."""

    async def is_seen() -> bool:
        return text in await found.transcript()

    await until(is_seen)


def remembers(sending: Sending) -> list[str]:
    """The tags of what the model was given, as it said when it was asked."""
    return sending.said.removeprefix("I remember:").split()
