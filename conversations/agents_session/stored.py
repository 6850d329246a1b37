"""The four methods of the SDK's `Session` on our log, byte-exact and with the run's usage."""

from __future__ import annotations

import inspect
import logging
import weakref
from typing import TYPE_CHECKING, Any, TypeVar, cast

from agents import RunContextWrapper
from agents.memory import SessionSettings
from django.utils import timezone

from conversations import lanes
from conversations.errors import StoreError
from conversations.events import Usage
from conversations.ids import stored_session_id
from conversations.items import Memory, row_from_item
from conversations.store import log, recall

if TYPE_CHECKING:
    from agents.items import TResponseInputItem

logger = logging.getLogger(__name__)

Kind = TypeVar("Kind", bound="StoredSession")


class StoredSession:
    """What a session of the SDK does with our log.

    The methods take the run's `wrapper`, so that the tokens of a run are counted as it goes.
    """

    def __init__(
        self, session_id: str, *, session_settings: SessionSettings | dict[str, Any] | None = None
    ) -> None:
        self._stored_id = stored_session_id(session_id)
        self.session_id = session_id
        if isinstance(session_settings, dict):
            session_settings = SessionSettings(**session_settings)
        self.session_settings: SessionSettings | None = session_settings or SessionSettings()
        self._counted: dict[int, Usage] = {}  # by the identity of a run's usage
        self._remembered_count = 0  # after the last batch

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.session_id!r})"

    async def get_items(
        self, limit: int | None = None, *, wrapper: RunContextWrapper[Any] | None = None
    ) -> list[TResponseInputItem]:
        """The latest `limit` items (all without one), oldest first; exactly as they were added.

        Rows that hold no item are left out and set aside for staff; without a limit also what no
        provider would take, such as an output whose call is lost (`history`).
        """
        if limit is None and self.session_settings is not None:
            limit = self.session_settings.limit
        memory = await lanes.read(
            lambda db: recall.load(db, agent_session_id=self._stored_id, limit=limit)
        )
        return await self._items_of(memory)

    async def add_items(
        self, items: list[TResponseInputItem], *, wrapper: RunContextWrapper[Any] | None = None
    ) -> None:
        """Add one batch at the end. Raises TypeError for an item that JSON cannot hold."""
        if not items:
            return
        rows = [row_from_item(item) for item in items]
        usage = self._newly_used(wrapper)
        now = timezone.now()
        self._remembered_count = await lanes.write(
            lambda db: log.append(
                db, agent_session_id=self._stored_id, rows=rows, usage=usage, now=now
            )
        )
        if wrapper is not None:
            self._count(wrapper.usage, usage_of(wrapper))

    async def pop_item(
        self, *, wrapper: RunContextWrapper[Any] | None = None
    ) -> TResponseInputItem | None:
        """Remove and return the newest item; None when there is none."""
        now = timezone.now()
        item = await lanes.write(
            lambda db: recall.pop(db, agent_session_id=self._stored_id, now=now)
        )
        return cast("TResponseInputItem | None", item)

    async def clear_session(self, *, wrapper: RunContextWrapper[Any] | None = None) -> None:
        """Forget everything said in this session."""
        now = timezone.now()
        await lanes.write(lambda db: log.clear(db, agent_session_id=self._stored_id, now=now))

    def _newly_used(self, wrapper: RunContextWrapper[Any] | None) -> Usage:
        """Tokens since the last batch of the same run: its usage counts from the run's start.

        Runs may share this object, and an agent that runs as a tool shares its caller's usage.
        """
        if wrapper is None:
            return Usage()
        return usage_of(wrapper) - self._counted.get(id(wrapper.usage), Usage())

    def _count(self, run: Any, total: Usage) -> None:
        if id(run) not in self._counted:  # forgotten with its run: identities are used again
            weakref.finalize(run, self._counted.pop, id(run), None).atexit = False
        self._counted[id(run)] = total

    async def _items_of(self, memory: Memory) -> list[TResponseInputItem]:
        """What could be read; the rest is set aside."""
        if memory.unreadable:
            logger.warning(
                "session %s: %d unreadable rows set aside", self._stored_id, len(memory.unreadable)
            )
            now = timezone.now()
            try:
                await lanes.write(
                    lambda db: recall.quarantine(
                        db, agent_session_id=self._stored_id, memory=memory, now=now
                    )
                )
            except StoreError as error:  # what could be read is no worse for it
                logger.warning("session %s: %s", self._stored_id, type(error).__name__)
        return cast("list[TResponseInputItem]", memory.items)


def keep_signatures(session_type: type[Kind]) -> type[Kind]:
    """The SDK inspects these signatures some twenty times a run; kept here, that costs nothing."""
    for name in ("get_items", "add_items", "pop_item", "clear_session"):
        method = getattr(session_type, name)
        method.__signature__ = inspect.signature(method)
    return session_type


def usage_of(wrapper: RunContextWrapper[Any]) -> Usage:
    """What the run has used so far."""
    used = wrapper.usage
    return Usage(used.requests, used.input_tokens, used.output_tokens)
