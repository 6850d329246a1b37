"""A process that speaks in a conversation, for the tests of several processes.

python -m conversations.tests.turns_worker SESSION OWNER OPTIONS TEXT...

It tells facts as JSON lines and waits for words on stdin: `go` sends the texts, all at once; `open`
lets a held answer go on. OPTIONS is a JSON object: `key` and `hold`.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import sys
import threading
import time
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

importlib.import_module("chatsite")  # first of all: the SQLite library

import django  # noqa: E402

if __name__ == "__main__":
    django.setup()

from agents import Agent  # noqa: E402

from conversations import lanes, turns  # noqa: E402
from conversations.assistant import TurnContext, get_agent  # noqa: E402
from conversations.events import ContentDelta, TurnCompleted  # noqa: E402
from conversations.tests import scripted  # noqa: E402
from conversations.turns.follow import FollowedTurn  # noqa: E402
from conversations.turns.live import LiveTurn  # noqa: E402

ANSWER = "Answer to "
MODEL_SECONDS = 0.004


def tell(fact: str, **details: Any) -> None:
    print(json.dumps({"fact": fact, "at": time.monotonic(), **details}), flush=True)  # noqa: T201


class TellingModel(scripted.ScriptedModel):
    """Answers with the question; tells when it runs, on the clock all processes share."""

    gate: asyncio.Event | None = None

    async def stream_response(
        self, system_instructions: Any, input: Any, *args: Any, **kwargs: Any
    ) -> AsyncIterator[Any]:
        text = input[-1]["content"]
        pieces = [ANSWER, str(text)]
        scripted.SCRIPT.steps.append(
            scripted.Say("".join(pieces), pieces=pieces, gate=self.gate, pause=MODEL_SECONDS)
        )
        tell("begun", text=text)
        try:
            async for event in super().stream_response(system_instructions, input, *args, **kwargs):
                yield event
        finally:
            tell("ended", text=text)


def build_agent() -> Agent[TurnContext]:
    return Agent(name="telling", model=TellingModel())


async def main(session_id: str, owner_id: str, options: str, *texts: str) -> None:
    wanted = json.loads(options)
    gate, go = asyncio.Event(), asyncio.Event()
    model = get_agent().model
    # Run as a script, this module is not the one the agent was built from.
    model.gate = gate if wanted.get("hold") else None  # type: ignore[union-attr]
    _listen_to_stdin(asyncio.get_running_loop(), {"go": go, "open": gate})
    tell("ready")
    await go.wait()

    async def ask(text: str) -> None:
        turn = await turns.send(
            session_id=UUID(session_id),
            owner_id=int(owner_id),
            text=text,
            idempotency_key=wanted.get("key"),
        )
        tell("taken", text=text, turn=str(turn.id))
        tell("answered", text=text, said=await _end_of(turn), turn=str(turn.id))

    await asyncio.gather(*map(ask, texts))
    await turns.drain(10)
    lanes.close()


async def _end_of(turn: LiveTurn | FollowedTurn) -> list[str]:
    """What was said, and how it closed."""
    events = [event async for batch in turn.listen() for _, event in batch]
    said, last = "".join(e.text for e in events if isinstance(e, ContentDelta)), events[-1]
    return [said, last.status if isinstance(last, TurnCompleted) else last.code]  # type: ignore[union-attr]


def _listen_to_stdin(loop: asyncio.AbstractEventLoop, words: dict[str, asyncio.Event]) -> None:
    def listen() -> None:
        for line in sys.stdin:
            loop.call_soon_threadsafe(words[line.strip()].set)

    threading.Thread(target=listen, daemon=True).start()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
