"""What the buttons of the test agent's card do: the actions of an integrator's own server class.

`CONVERSATIONS_CHATKIT_SERVER = "conversations.tests.chatkit_test_server.ConformanceServer"`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

from chatkit.actions import Action
from chatkit.errors import CustomStreamError
from chatkit.types import (
    AssistantMessageContent,
    AssistantMessageItem,
    SyncCustomActionResponse,
    ThreadItemDoneEvent,
    ThreadMetadata,
    ThreadStreamEvent,
    WidgetItem,
)

from conversations.chatkit_context import ChatKitContext
from conversations.chatkit_server import ConversationServer
from conversations.tests.chatkit_agent import PING, SYNC, build_card


class ConformanceServer(ConversationServer):
    """Answers `conformance.ping` with a message, and `conformance.sync` with a changed card."""

    async def action(
        self,
        thread: ThreadMetadata,
        action: Action[str, Any],
        sender: WidgetItem | None,
        context: ChatKitContext,
    ) -> AsyncIterator[ThreadStreamEvent]:
        if action.type != PING:
            raise CustomStreamError("There is no such action.")
        yield ThreadItemDoneEvent(
            item=AssistantMessageItem(
                id=self.store.generate_item_id("message", thread, context),
                thread_id=thread.id,
                created_at=datetime.now(UTC),
                content=[AssistantMessageContent(text=f"pong {token_of(action)}")],
            )
        )

    async def sync_action(
        self,
        thread: ThreadMetadata,
        action: Action[str, Any],
        sender: WidgetItem | None,
        context: ChatKitContext,
    ) -> SyncCustomActionResponse:
        if action.type != SYNC or sender is None:
            return await super().sync_action(thread, action, sender, context)  # refused
        line = f"Synced {token_of(action)}".strip() + "."
        changed = sender.model_copy(update={"widget": build_card(line), "copy_text": line})
        await self.store.save_item(thread.id, changed, context)
        return SyncCustomActionResponse(updated_item=changed)


def token_of(action: Action[str, Any]) -> str:
    payload = action.payload if isinstance(action.payload, dict) else {}
    return str(payload.get("token", ""))
