"""The lines of one process: in each conversation the oldest turn here asks the store for its start.

Order between processes is the store's; a turn that leaves wakes exactly the next one here.
"""

from __future__ import annotations

import asyncio
from bisect import insort
from typing import Any
from uuid import UUID

from conversations.turns.live import LiveTurn

Key = tuple[UUID, Any]
"""A conversation and who speaks in it: somebody who was not verified blocks nobody else's line."""


class Lines:
    """Who runs or waits here, by conversation, in the order of their tickets."""

    def __init__(self) -> None:
        self._lines: dict[Key, list[LiveTurn]] = {}

    def of(self, *, session_id: UUID, owner_id: Any) -> list[LiveTurn]:
        """The turns of a conversation, the oldest first."""
        return list(self._lines.get((session_id, owner_id), ()))

    def join(self, turn: LiveTurn) -> None:
        insort(self._lines.setdefault(_key(turn), []), turn, key=_number)

    def leave(self, turn: LiveTurn) -> None:
        line = self._lines[_key(turn)]
        line.remove(turn)
        if line:
            line[0].is_next.set()
        else:
            del self._lines[_key(turn)]

    async def until_first(self, turn: LiveTurn) -> None:
        """Wait until no older turn of its conversation is here."""
        line = self._lines[_key(turn)]
        while line[0] is not turn:
            turn.is_next.clear()
            await turn.is_next.wait()

    async def until_free(self, turn: LiveTurn) -> None:
        """Wait until no older turn of its conversation is answered here, or will be without the
        store: those that wait for it may wait long."""
        while True:
            line = self._lines[_key(turn)]
            ahead = [one for one in line[: line.index(turn)] if not one.waits_for_store]
            tasks = [one.task for one in ahead if one.task is not None]
            if not tasks:
                return
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)


def _key(turn: LiveTurn) -> Key:
    return turn.session_id, turn.owner_id


def _number(turn: LiveTurn) -> int:
    return turn.ticket.number
