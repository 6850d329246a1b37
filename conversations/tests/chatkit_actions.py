"""A ChatKit server whose actions do what their type says, for tests of the door."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

from chatkit import types
from chatkit.store import NotFoundError

from conversations.chatkit_server import ConversationServer
from conversations.errors import StoreError


class Stage:
    """What the actions met, and what they wait for."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.entered = asyncio.Event()
        self.cancelled = 0
        self.told = 0


class ActingServer(ConversationServer):
    """Actions by their type; the stage is the test's."""

    stage: Stage

    async def action(
        self, thread: Any, action: Any, sender: Any, context: Any
    ) -> AsyncIterator[types.ThreadStreamEvent]:
        stage, payload = ActingServer.stage, action.payload
        stage.entered.set()
        match action.type:
            case "say":
                yield types.ThreadItemDoneEvent(item=self.message(thread, context, payload))
            case "show":
                yield types.ThreadItemDoneEvent(item=self.widget(thread, context, payload))
            case "replace":
                changed = sender.model_copy(update={"copy_text": payload})
                yield types.ThreadItemReplacedEvent(item=changed)
            case "remove":
                yield types.ThreadItemRemovedEvent(item_id=payload)
            case "rename":
                thread.title = payload
                yield types.ProgressUpdateEvent(text="renamed")
            case "hide":
                note = types.HiddenContextItem(**self.names(thread, context), content=payload)
                yield types.ThreadItemAddedEvent(item=note)
                yield types.ThreadItemDoneEvent(item=note)
                yield types.ThreadItemReplacedEvent(item=note)
                yield types.ProgressUpdateEvent(text="hidden_context_item")
            case "wait":
                yield types.ProgressUpdateEvent(text="waiting")
                try:
                    await stage.gate.wait()
                except asyncio.CancelledError:
                    stage.cancelled += 1
                    raise
                yield types.ProgressUpdateEvent(text="went on")
            case "flood":
                try:
                    for number in range(payload):
                        stage.told = number + 1
                        yield types.ProgressUpdateEvent(text=str(number))
                    await stage.gate.wait()
                except asyncio.CancelledError:
                    stage.cancelled += 1
                    raise
            case _:
                raise ValueError("no such action, but a secret")

    async def sync_action(
        self, thread: Any, action: Any, sender: Any, context: Any
    ) -> types.SyncCustomActionResponse:
        match action.type:
            case "touch":
                changed = sender.model_copy(update={"copy_text": "touched"})
                await self.store.save_item(thread.id, changed, context)
                return types.SyncCustomActionResponse(updated_item=changed)
            case "hide":
                note = types.HiddenContextItem(**self.names(thread, context), content="secret")
                return types.SyncCustomActionResponse(updated_item=note)
            case "store":
                raise StoreError
            case "fail":
                raise KeyError("a secret")
            case "lose":
                raise NotFoundError("a secret")
        raise ValueError("no such action, but a secret")

    async def transcribe(self, audio_input: Any, context: Any) -> types.TranscriptionResult:
        return types.TranscriptionResult(text=f"{audio_input.media_type} {audio_input.data!r}")

    def names(self, thread: Any, context: Any) -> dict[str, Any]:
        item_id = self.store.generate_item_id("message", thread, context)
        return {"id": item_id, "thread_id": thread.id, "created_at": datetime.now(UTC)}

    def message(self, thread: Any, context: Any, text: str) -> types.AssistantMessageItem:
        return types.AssistantMessageItem(
            **self.names(thread, context), content=[types.AssistantMessageContent(text=text)]
        )

    def widget(self, thread: Any, context: Any, text: str) -> types.WidgetItem:
        root = {"type": "Card", "children": [{"type": "Text", "value": text}]}
        return types.WidgetItem.model_validate(
            {**self.names(thread, context), "widget": root, "copy_text": text}
        )


class BrokenServer(ActingServer):
    """Its streams fail outside of what the library looks after."""

    async def answer(self, request: Any, context: Any) -> Any:
        result = await super().answer(request, context)
        if hasattr(result, "json_events"):
            result.json_events = broken(result.json_events)
        return result


async def broken(events: Any) -> AsyncIterator[bytes]:
    async for event in events:
        yield event
        if b"store" in event:
            raise StoreError
        if b"went wrong" in event:
            raise KeyError("a secret")
