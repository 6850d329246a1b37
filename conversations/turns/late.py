"""What was answered without the store, saved when the store is back: the same turn, exactly once.

It takes a ticket like any message, so that it comes into the log in its order, and stores then what
has been said already. The person was told that it could not be saved; this makes that untrue.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from conversations.errors import ConversationsError
from conversations.events import NOT_SAVED
from conversations.store.line import Started
from conversations.turns.live import LiveTurn
from conversations.turns.run import AgentRun
from conversations.turns.session import TurnSession
from conversations.turns.unsaved import UnsavedSession


@dataclass(frozen=True, slots=True)
class Late:
    """A run that is over, and how it ended, with the items the SDK gave its session."""

    run: AgentRun
    status: str
    error: ConversationsError | None
    items: list[Any]

    @property
    def told(self) -> LiveTurn:
        """The turn as its listeners heard it."""
        return self.run.turn

    async def remember(self, started: Started) -> None:
        """From now on the run's session is the one in the store. Raises LeaseLost."""
        session = TurnSession.of(started, self.told)
        unsaved = self.run.session
        session.warnings = [w for w in unsaved.warnings if w != NOT_SAVED]
        self.run.session = session
        await session.add_items(self.items)
        if isinstance(unsaved, UnsavedSession):
            for row in unsaved.shown.values():
                await session.show(row)
