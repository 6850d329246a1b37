"""What the agent's tools show in ChatKit: stored in the log by the turn first, told then.

A tool finds the library's `chatkit.agents.AgentContext` as `wrapper.context.chatkit`. Whatever it
streams there is part of the turn, at whichever door somebody listens.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from agents.models.fake_id import FAKE_RESPONSES_ID
from chatkit.agents import AgentContext, ClientToolCall
from chatkit.types import (
    ClientToolCallItem,
    ThreadItem,
    ThreadItemAddedEvent,
    ThreadItemDoneEvent,
    ThreadItemRemovedEvent,
    ThreadItemReplacedEvent,
    ThreadItemUpdatedEvent,
    ThreadMetadata,
    ThreadStreamEvent,
    ThreadUpdatedEvent,
)

from conversations.assistant import get_chatkit_server
from conversations.errors import NotFound, StoreError
from conversations.events import ThreadEvent
from conversations.ids import new_id, parse_uuid
from conversations.items import Row
from conversations.thread_items import (
    aware,
    encode_thread_item,
    is_hidden,
    memory_of,
    row_from_item,
)
from conversations.turns.live import LiveTurn
from conversations.turns.session import TurnSession
from conversations.turns.unsaved import UnsavedSession

logger = logging.getLogger(__name__)


class Showing:
    """What one run shows beside its answer."""

    def __init__(self, turn: LiveTurn, session: TurnSession | UnsavedSession) -> None:
        self._turn = turn
        self._session = session
        self._server = get_chatkit_server()
        self._request = self._server.context_of(turn.owner_id)
        self._ids: dict[str, str] = {}
        self._done: set[str] = set()
        self._asked: ClientToolCall | None = None
        self._asked_by = ""
        self._known: ThreadMetadata | None = None
        self._storing = asyncio.Lock()
        self.context: AgentContext[Any] = AgentContext(
            thread=ThreadMetadata(id=str(turn.session_id), created_at=datetime.now(UTC)),
            store=self._server.store,
            request_context=self._request,
        )
        # The library's own queue would tell first, and store when somebody listens.
        self.context._events = _Outlet(self)

    async def read_thread(self) -> None:
        """Give the tools the conversation as it stands, once: its title, status and metadata."""
        if self._known is not None or self._turn.unsaved is not None:
            return
        thread = self.context.thread
        try:
            found = await self._server.store.load_thread(thread.id, self._request)
        except (StoreError, NotFound) as error:
            logger.warning("turn %s: no thread to show (%s)", self._turn.id, type(error).__name__)
            return
        self.context.thread, self._known = found, found.model_copy(deep=True)

    async def save_thread(self) -> None:
        """Store what a tool has changed of the conversation, and tell it."""
        thread = self.context.thread
        if self._known is None or thread == self._known:
            return
        self._known = thread.model_copy(deep=True)
        try:
            await self._server.store.save_thread(thread, self._request)
        except (StoreError, NotFound) as error:
            logger.warning("turn %s: thread not saved (%s)", self._turn.id, type(error).__name__)
            return
        self._tell(ThreadUpdatedEvent(thread=self._server.thread_response(thread)))

    async def put(self, event: ThreadStreamEvent) -> None:
        """Store what the event shows, then tell it. Raises LeaseLost."""
        async with self._storing:
            if self._turn.closed or self._turn.settling:
                return  # stopped: its tools are left behind
            event = self._with_own_ids(event)
            match event:
                case ThreadItemDoneEvent() | ThreadItemReplacedEvent():
                    await self._session.show(_row_of(event.item))
                case ThreadItemRemovedEvent():
                    await self._session.take_back(UUID(event.item_id))
            self._tell(event)
        await self.save_thread()

    def note_call(self, call_id: str) -> None:
        """A tool has ended: the call for the browser that is there since is its."""
        asked = self.context.client_tool_call
        if asked is not self._asked:
            self._asked, self._asked_by = asked, call_id

    async def finish(self, last_call_id: str) -> None:
        """Show what a run leaves open at its end: a workflow, and a call the browser is to make."""
        if self.context.workflow_item is not None:
            await self.put(ThreadItemDoneEvent(item=self.context.workflow_item))
            self.context.workflow_item = None
        call = self.context.client_tool_call
        if call is not None:
            item = ClientToolCallItem(
                id=str(new_id()),
                thread_id=self.context.thread.id,
                created_at=datetime.now(UTC),
                call_id=self._asked_by or last_call_id or str(new_id()),
                name=call.name,
                arguments=call.arguments,
            )
            await self.put(ThreadItemDoneEvent(item=item))
        await self.save_thread()

    def _tell(self, event: ThreadStreamEvent) -> None:
        item = getattr(event, "item", None)
        if not (item is not None and is_hidden(item)) and not self._turn.closed:
            self._turn.emit(ThreadEvent(self._server.encode_event(event)))

    def _with_own_ids(self, event: ThreadStreamEvent) -> ThreadStreamEvent:
        """The same with UUIDs: what others call their items is not unique (`__fake_id__`)."""
        match event:
            case ThreadItemAddedEvent() | ThreadItemDoneEvent() | ThreadItemReplacedEvent():
                self._begin_anew(event)
                own = {
                    "id": self._own_id(event.item.id),
                    "thread_id": str(self._turn.session_id),
                    "created_at": aware(event.item.created_at),
                }
                return event.model_copy(update={"item": event.item.model_copy(update=own)})
            case ThreadItemUpdatedEvent() | ThreadItemRemovedEvent():
                return event.model_copy(update={"item_id": self._own_id(event.item_id)})
        return event

    def _begin_anew(
        self, event: ThreadItemAddedEvent | ThreadItemDoneEvent | ThreadItemReplacedEvent
    ) -> None:
        """Where an id is that of an item which is done, this is another one that is called so."""
        name, is_done = event.item.id, isinstance(event, ThreadItemDoneEvent)
        is_of_nobody = is_done and name == FAKE_RESPONSES_ID
        if name in self._done and (isinstance(event, ThreadItemAddedEvent) or is_of_nobody):
            self._done.discard(name)
            self._ids.pop(name, None)
        if is_done:
            self._done.add(name)

    def _own_id(self, item_id: str) -> str:
        if parse_uuid(item_id) is not None:
            return item_id
        return self._ids.setdefault(item_id, str(new_id()))


def _row_of(item: ThreadItem) -> Row:
    """The row of what a tool shows. Hidden words and the assistant's are remembered, too."""
    row = row_from_item(item, message_id=UUID(item.id), agent_item=memory_of(item))
    # Always whole: a row with nothing but a text is the answer.
    return replace(
        row,
        thread_item=row.thread_item or encode_thread_item(item),
        created_at=item.created_at,
    )


class _Outlet(asyncio.Queue[Any]):
    """Stands where the library queues events; a tool goes on once its event is stored and told."""

    def __init__(self, showing: Showing) -> None:
        super().__init__()
        self._showing = showing

    async def put(self, item: Any) -> None:
        await self._showing.put(item)

    def put_nowait(self, item: Any) -> None:
        """The library's mark that a run is over, which we know."""
