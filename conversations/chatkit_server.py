"""The official ChatKit protocol on our log."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from chatkit.agents import ThreadItemConverter
from chatkit.server import ChatKitServer
from chatkit.types import (
    StructuredInputItem,
    StructuredInputSubmission,
    Thread,
    ThreadItem,
    ThreadMetadata,
    ThreadStreamEvent,
    UserMessageItem,
)
from pydantic import BaseModel

from conversations import chatkit_turns
from conversations.chatkit_store import ChatKitContext, ConversationStore


class ConversationServer(ChatKitServer[ChatKitContext]):
    def __init__(self) -> None:
        self.store: ConversationStore
        super().__init__(ConversationStore())
        self.converter = ThreadItemConverter()

    @property
    def takes_actions(self) -> bool:
        return type(self).action is not ConversationServer.action

    def context_of(self, owner_id: Any) -> ChatKitContext:
        return ChatKitContext(owner_id)

    async def respond(
        self,
        thread: ThreadMetadata,
        input_user_message: UserMessageItem | None,
        context: ChatKitContext,
    ) -> AsyncIterator[ThreadStreamEvent]:
        context.is_under_way = True
        async for event in chatkit_turns.respond(context):
            yield event

    async def handle_stream_cancelled(
        self, thread: ThreadMetadata, pending_items: list[ThreadItem], context: ChatKitContext
    ) -> None:
        await chatkit_turns.leave(context)

    async def answered(
        self, item: StructuredInputItem, submission: StructuredInputSubmission
    ) -> StructuredInputItem:
        return await self._apply_structured_input_submission(item, submission)

    def thread_response(self, thread: ThreadMetadata) -> Thread:
        return self._to_thread_response(thread)

    def encode_event(self, event: BaseModel) -> str:
        return self._serialize(event).decode()
