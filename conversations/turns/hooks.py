"""What goes along with a run: looks at its lease, care for its tools, threads of its own."""

from __future__ import annotations

from functools import partial
from typing import Any

from agents import RunHooks
from asgiref.sync import SyncToAsync, ThreadSensitiveContext
from django.db import connections

from conversations import lanes
from conversations.assistant import TurnContext
from conversations.errors import LeaseLost, StoreError
from conversations.processes import steady_milliseconds
from conversations.store import leases
from conversations.turns.live import LiveTurn
from conversations.turns.showing import Showing


class TurnHooks(RunHooks[TurnContext]):
    """A process that was paused may wake up when its turn is another's: then it asks the model, and
    uses tools, no more. While signs of life are stored, this costs a comparison.

    Tools are given the conversation as it stands, and what they change of it is stored.
    """

    def __init__(self, turn: LiveTurn, showing: Showing) -> None:
        self._turn = turn
        self._showing = showing

    async def on_llm_start(self, *_: Any, **__: Any) -> None:
        await self._refuse_if_lost()

    async def on_tool_start(self, *_: Any, **__: Any) -> None:
        await self._refuse_if_lost()
        await self._showing.read_thread()

    async def on_tool_end(self, context: Any, *_: Any, **__: Any) -> None:
        self._showing.note_call(getattr(context, "tool_call_id", ""))
        await self._showing.save_thread()

    async def _refuse_if_lost(self) -> None:
        turn = self._turn
        if turn.started is None or steady_milliseconds() < turn.held_until:
            return
        try:
            is_held = await lanes.read(partial(leases.is_held, lease=turn.started.lease))
        except StoreError:
            return  # whoever took it over cannot write either
        if not is_held:
            raise LeaseLost


class OwnThreads(ThreadSensitiveContext):
    """A thread of its own for sync code a tool calls, gone with its connections at the end.

    Nobody waits for it: a tool that hangs must not keep its turn open.
    """

    async def __aexit__(self, exc: Any, value: Any, tb: Any) -> None:
        executor = SyncToAsync.context_to_thread_executor.pop(self, None)
        if executor is not None:
            executor.submit(connections.close_all)
            executor.shutdown(wait=False)
        await super().__aexit__(exc, value, tb)  # type: ignore[no-untyped-call]
