"""A turn the store could not take: answered all the same, with what could be read.

The person is told so with the first words. Its place is behind the turns of its conversation that
live in this process; with those of others there is no order without a store. What was said is saved
when the store is back (`turns.late`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast
from uuid import UUID

from conversations.agents_session import StoredSession
from conversations.events import CONTEXT_UNAVAILABLE, NOT_SAVED
from conversations.ids import agent_session_id
from conversations.items import Memory, Row
from conversations.store.inputs import TurnInput
from conversations.store.line import Ticket
from conversations.turns.live import LiveTurn, Unsaved

if TYPE_CHECKING:
    from agents import RunContextWrapper
    from agents.items import TResponseInputItem


def build_unsaved_turn(
    *,
    turn_id: UUID,
    session_id: UUID,
    owner_id: Any,
    text: str,
    line: list[LiveTurn],
    unsaved: Unsaved,
    given: TurnInput | None = None,
) -> LiveTurn:
    """A turn without a ticket in the store, behind those of `line` that do not wait for it."""
    number = line[-1].ticket.number if line else 0
    ahead = sum(not turn.closed and not turn.waits_for_store for turn in line)
    ticket = Ticket(turn_id, session_id, number, ahead, None)
    return LiveTurn(ticket, owner_id=owner_id, text=text, given=given, unsaved=unsaved)


class UnsavedSession(StoredSession):
    """The session of one such turn: what could be read, and what the run adds, in memory only."""

    answer_id: UUID | None = None
    answer_text = ""

    def __init__(self, turn: LiveTurn, unsaved: Unsaved) -> None:
        super().__init__(agent_session_id(user_id=turn.owner_id, session_id=turn.session_id))
        window = unsaved.window
        self.warnings = [NOT_SAVED] if window is not None else [CONTEXT_UNAVAILABLE, NOT_SAVED]
        self._items: list[Any] = list((window or Memory([])).items)
        self._known = len(self._items)
        self.shown: dict[UUID, Row] = {}
        """What tools have shown."""

    async def get_items(
        self, limit: int | None = None, *, wrapper: RunContextWrapper[Any] | None = None
    ) -> list[TResponseInputItem]:
        first = 0 if limit is None else max(0, len(self._items) - limit)
        return cast("list[TResponseInputItem]", self._items[first:])

    async def add_items(
        self, items: list[TResponseInputItem], *, wrapper: RunContextWrapper[Any] | None = None
    ) -> None:
        self._items += items

    async def pop_item(
        self, *, wrapper: RunContextWrapper[Any] | None = None
    ) -> TResponseInputItem | None:
        return self._items.pop() if self._items else None

    async def clear_session(self, *, wrapper: RunContextWrapper[Any] | None = None) -> None:
        self._items.clear()

    @property
    def added(self) -> list[Any]:
        """What the run has added."""
        return self._items[self._known :]

    async def show(self, row: Row) -> None:
        """Keep what a tool shows, in place of what it showed by that id."""
        self.shown[row.id] = row

    async def take_back(self, message_id: UUID) -> None:
        """Forget what a tool has shown."""
        self.shown.pop(message_id, None)

    async def flush(self) -> None:
        """There is nowhere to store anything."""

    def unsaved(self) -> None:
        """Nothing is to be stored."""
