"""What the tests of turns ask: what was told, what is stored, what a person would notice."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeVar

from django.utils import timezone

from conversations import lanes
from conversations.events import ContentDelta, ToolCalled, TurnEvent, TurnRunning, encode_events
from conversations.ids import new_id
from conversations.models import ChatMessage, ChatSession, ChatTurn
from conversations.store import records, tickets
from conversations.store.leases import Holder
from conversations.store.line import Ticket
from conversations.store.records import Recording
from conversations.turns import send as _send
from conversations.turns.live import LiveTurn

T = TypeVar("T")
PATIENCE = 20.0


async def say(session: Any, text: str = "Hello", **options: Any) -> LiveTurn:
    """Say something in a conversation, as its owner."""
    return await _send(session_id=session.id, owner_id=session.owner_id, text=text, **options)


async def told(turn: LiveTurn) -> list[TurnEvent]:
    """All events of a turn, once it has closed."""
    async with asyncio.timeout(PATIENCE):
        return [event async for batch in turn.listen() for _, event in batch]


async def ask(session: Any, text: str = "Hello", **options: Any) -> list[TurnEvent]:
    return await told(await say(session, text, **options))


def words(events: list[TurnEvent]) -> str:
    """All deltas joined: what the person has read."""
    return "".join(event.text for event in events if isinstance(event, ContentDelta))


def warnings(events: list[TurnEvent]) -> list[str]:
    return [event.warning for event in events if isinstance(event, ContentDelta) and event.warning]


def tools(events: list[TurnEvent]) -> list[tuple[str, str]]:
    return [(event.name, event.status) for event in events if isinstance(event, ToolCalled)]


async def until(look: Callable[[], Awaitable[T]]) -> T:
    """The first true value of `look`."""
    deadline = time.monotonic() + PATIENCE
    while True:
        value = await look()
        if value:
            return value
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.005)


async def until_said(turn: LiveTurn, text: str) -> None:
    """Wait until the person can read `text`."""

    async def is_said() -> bool:
        return turn.said == text

    await until(is_said)


async def shown(session: Any) -> list[tuple[str, str]]:
    """The transcript: (role, text), a cut answer with `…` at its end."""

    def look() -> list[tuple[str, str]]:
        rows = ChatMessage.objects.filter(session_id=session.id, shown=True).order_by("position")
        return [(row.role, row.text + "…" * row.incomplete) for row in rows]

    return await lanes.call(look)


async def log(session: Any) -> list[ChatMessage]:
    return await lanes.call(
        lambda: list(ChatMessage.objects.filter(session_id=session.id).order_by("position"))
    )


async def row(turn: Any) -> ChatTurn:
    """The turn as it is stored."""
    return await lanes.call(lambda: ChatTurn.objects.get(id=turn.id))


async def rows(session: Any) -> list[ChatTurn]:
    return await lanes.call(
        lambda: list(ChatTurn.objects.filter(session_id=session.id).order_by("number"))
    )


async def stored(session: Any) -> ChatSession:
    return await lanes.call(lambda: ChatSession.objects.get(id=session.id))


async def recorded(turn: Any) -> str:
    """What is recorded of a turn's answer."""
    said, _ = await lanes.read(partial(records.recorded_answer, turn_id=turn.id))
    return said


async def until_recorded(turn: Any, text: str) -> None:
    """Wait until any process could tell `text`."""

    async def is_recorded() -> bool:
        return await recorded(turn) == text

    await until(is_recorded)


async def abandon(session: Any, text: str, *, recorded: str = "", key: str | None = None) -> Ticket:
    """A turn whose process said `recorded` and was never heard of again."""
    ticket = await lanes.write(
        partial(
            tickets.submit,
            holder=Holder("gone", 0),
            session_id=session.id,
            owner_id=session.owner_id,
            turn_id=new_id(),
            text=text,
            idempotency_key=key,
            now=timezone.now(),
            max_queued=5,
        )
    )
    if recorded:
        recording = Recording(
            1, 2, encode_events([TurnRunning(ticket.turn_id), ContentDelta(recorded)])
        )
        lease = ticket.started.lease
        await lanes.write(partial(records.record, recordings=[(lease, recording)]))
    return ticket


async def counters_fit(session: Any) -> None:
    """The session's counters are what its rows say."""
    found, messages, turns = await stored(session), await log(session), await rows(session)
    assert found.message_count == sum(message.shown for message in messages)
    assert found.remembered_count == sum(message.agent_item is not None for message in messages)
    assert found.last_position == len(messages)
    assert [message.position for message in messages] == list(range(1, len(messages) + 1))
    ended = [turn for turn in turns if turn.status not in {"queued", "running"}]
    assert found.input_tokens == sum(turn.input_tokens for turn in ended)
    assert found.output_tokens == sum(turn.output_tokens for turn in ended)
