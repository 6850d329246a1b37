"""ChatKit's server on our turns and our log; projects subclass it to react to their own widgets.

    class ShopServer(ConversationServer):
        async def action(self, thread, action, sender, context): ...

and name it in the setting `CONVERSATIONS_CHATKIT_SERVER`.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from functools import cache
from typing import Any, Final

from chatkit.actions import Action
from chatkit.agents import ThreadItemConverter
from chatkit.server import ChatKitServer, NonStreamingResult, StreamingResult
from chatkit.store import AttachmentStore
from chatkit.types import (
    ActiveStatus,
    AudioInput,
    ChatKitReq,
    FeedbackKind,
    StreamingReq,
    StructuredInputItem,
    StructuredInputSubmission,
    SyncCustomActionResponse,
    Thread,
    ThreadCreatedEvent,
    ThreadItem,
    ThreadMetadata,
    ThreadsCustomActionReq,
    ThreadsSyncCustomActionReq,
    ThreadStreamEvent,
    TranscriptionResult,
    UserMessageInput,
    UserMessageItem,
    WidgetItem,
    is_streaming_req,
)
from django.core.exceptions import ImproperlyConfigured
from pydantic import BaseModel, TypeAdapter
from pydantic_core import PydanticSerializationError, to_json

from conversations import chatkit_turns, feedback
from conversations.assistant import get_chatkit_server
from conversations.chatkit_answers import seen, with_zones, without_hidden
from conversations.chatkit_attachments import ConversationAttachmentStore
from conversations.chatkit_context import ChatKitContext, UnknownThread
from conversations.chatkit_converter import ConversationConverter
from conversations.chatkit_store import ConversationStore
from conversations.conf import get_conf
from conversations.errors import Invalid, NotConfigured, ThreadClosed, ThreadNotFound
from conversations.ids import parse_uuid, storable_value

_AS_SENT: Final = {"exclude_metadata": True}
"""As the library does it: the metadata of attachments stays here."""


class UnknownAction(Invalid):
    """This is an unknown action here."""


class ConversationServer(ChatKitServer[ChatKitContext]):
    """All requests of the protocol. `action`, `sync_action`, `transcribe` and `get_stream_options`
    are there to be overridden."""

    store: ConversationStore
    converter: ThreadItemConverter = ConversationConverter()
    """How what a person sent beside text becomes the model's input; projects may have their own."""

    def __init__(
        self,
        store: ConversationStore | None = None,
        attachment_store: AttachmentStore[ChatKitContext] | None = None,
    ) -> None:
        super().__init__(
            store or ConversationStore(), attachment_store or ConversationAttachmentStore()
        )

    async def process(
        self, request: str | bytes | bytearray, context: ChatKitContext
    ) -> StreamingResult | NonStreamingResult:
        """Answer a request. Raises pydantic's ValidationError for what is none."""
        return await self.answer(parse_request(request), context)

    async def answer(
        self, request: ChatKitReq, context: ChatKitContext
    ) -> StreamingResult | NonStreamingResult:
        """The same for a request that was read already.

        What is hidden never leaves, whichever way it came into an answer.
        """
        if is_streaming_req(request):
            return StreamingResult(seen(self._process_streaming(request, context)))
        return NonStreamingResult(
            without_hidden(await self._process_non_streaming(request, context))
        )

    async def check_action(
        self,
        request: ThreadsCustomActionReq | ThreadsSyncCustomActionReq,
        context: ChatKitContext,
    ) -> None:
        """Refuse an action before it begins: its thread, its widget or its handler is not there.

        Raises UnknownThread, UnknownItem, UnknownAction, Invalid, ThreadClosed.
        """
        thread = await self.store.load_thread(request.params.thread_id, context)
        if not isinstance(thread.status, ActiveStatus):
            raise ThreadClosed
        if request.params.item_id:
            item = await self.store.load_item(
                request.params.thread_id, request.params.item_id, context
            )
            if not isinstance(item, WidgetItem):
                raise Invalid(fields=[{"field": "item_id", "message": "is not a widget"}])
        ours: Any = ConversationServer
        is_sync = isinstance(request, ThreadsSyncCustomActionReq)
        name = "sync_action" if is_sync else "action"
        if getattr(type(self), name) is getattr(ours, name):
            raise UnknownAction

    async def _process_streaming_impl(
        self, request: StreamingReq, context: ChatKitContext
    ) -> AsyncGenerator[ThreadStreamEvent, None]:
        """A thread is told as it is stored: the library gives it a time of its own."""
        async with aclosing(super()._process_streaming_impl(request, context)) as events:
            async for event in events:
                if isinstance(event, ThreadCreatedEvent) and context.prepared:
                    event.thread.created_at = context.prepared.thread.created_at
                yield event

    # What the agent says

    def respond(
        self,
        thread: ThreadMetadata,
        input_user_message: UserMessageItem | None,
        context: ChatKitContext,
    ) -> AsyncIterator[ThreadStreamEvent]:
        """The events of the turn that was prepared for this request."""
        return chatkit_turns.respond(context)

    async def handle_stream_cancelled(
        self,
        thread: ThreadMetadata,
        pending_items: list[ThreadItem],
        context: ChatKitContext,
    ) -> None:
        """Leaving is the protocol's word for stop: the turn keeps what was said so far."""
        await chatkit_turns.leave(context)

    def run_agent(
        self, thread: ThreadMetadata, input_items: list[Any], context: ChatKitContext
    ) -> AsyncIterator[ThreadStreamEvent]:
        """For an action: let the agent answer these input items, as a turn of the thread."""
        return chatkit_turns.run_agent(thread, input_items, context)

    # What the turns ask of it

    def context_of(self, owner_id: Any) -> ChatKitContext:
        """For what is read and written on behalf of that user."""
        return ChatKitContext(owner_id)

    def thread_response(self, thread: ThreadMetadata) -> Thread:
        """A thread as a client is shown it: without its metadata."""
        return self._to_thread_response(thread)

    def encode_event(self, event: BaseModel) -> str:
        """An event as JSON, as a client is sent it."""
        return self._serialize(event).decode()

    async def answered(
        self, item: StructuredInputItem, submission: StructuredInputSubmission
    ) -> StructuredInputItem:
        """The item with a person's answers. Raises ValueError where it waits for none."""
        return await self._apply_structured_input_submission(item, submission)

    async def _build_user_message_item(
        self, input: UserMessageInput, thread: ThreadMetadata, context: ChatKitContext
    ) -> UserMessageItem:
        item = context.prepared and context.prepared.item
        if isinstance(item, UserMessageItem):  # as the turn stores it
            return item
        return await super()._build_user_message_item(input, thread, context)

    def _serialize(self, obj: BaseModel) -> bytes:
        """Times get their zone: the library's own are naive local ones.

        Half an emoji, which models do write, is in no UTF-8: without this, one that is stored would
        make all that holds it unreadable for good.
        """
        told = with_zones(obj)
        try:
            return super()._serialize(told)
        except PydanticSerializationError:
            plain = told.model_dump(mode="json", by_alias=True, exclude_none=True, context=_AS_SENT)
            return to_json(storable_value(plain), inf_nan_mode="null")

    # What a project may override

    def action(
        self,
        thread: ThreadMetadata,
        action: Action[str, Any],
        sender: WidgetItem | None,
        context: ChatKitContext,
    ) -> AsyncIterator[ThreadStreamEvent]:
        raise UnknownAction

    async def sync_action(
        self,
        thread: ThreadMetadata,
        action: Action[str, Any],
        sender: WidgetItem | None,
        context: ChatKitContext,
    ) -> SyncCustomActionResponse:
        raise UnknownAction

    async def transcribe(
        self, audio_input: AudioInput, context: ChatKitContext
    ) -> TranscriptionResult:
        raise NotConfigured("This site does not turn speech into text.")

    async def add_feedback(
        self,
        thread_id: str,
        item_ids: list[str],
        feedback: FeedbackKind,
        context: ChatKitContext,
    ) -> None:
        """Keep what a person thinks of messages: of all of them, or of none."""
        await _give_feedback(thread_id, item_ids, feedback, context)


async def _give_feedback(
    thread_id: str, item_ids: list[str], kind: FeedbackKind, context: ChatKitContext
) -> None:
    session_id, message_ids = parse_uuid(thread_id), [parse_uuid(each) for each in item_ids]
    if session_id is None:
        raise UnknownThread
    try:
        await feedback.give(
            session_id=session_id,
            owner_id=context.owner_id,
            message_ids=message_ids,
            kind=kind,
        )
    except ThreadNotFound:
        raise UnknownThread from None


def parse_request(body: str | bytes | bytearray) -> ChatKitReq:
    """Raises pydantic's ValidationError."""
    request: ChatKitReq = _requests().validate_json(body)
    return request


@cache
def _requests() -> TypeAdapter[Any]:
    """Built once: it takes as long as a whole answer otherwise."""
    return TypeAdapter(ChatKitReq)


def get_server() -> ConversationServer:
    """The server that `CONVERSATIONS_CHATKIT_SERVER` names, built once per process.

    Raises ImproperlyConfigured.
    """
    server = get_chatkit_server()
    if not isinstance(server, ConversationServer):
        path = get_conf().conversations_chatkit_server
        raise ImproperlyConfigured(
            f"CONVERSATIONS_CHATKIT_SERVER: {path} is no subclass of ConversationServer."
        )
    return server


class _WithoutContent(logging.Filter):
    """The library logs errors and what it was sent, and both may hold what people said."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if error is not None:
            record.msg, record.args = "%s while answering", (type(error).__name__,)
            record.exc_info = record.exc_text = None
        elif record.levelno > logging.INFO:  # it names questions as the client wrote them
            record.msg, record.args = "%s:%d warns", (record.filename, record.lineno)
        return True


logging.getLogger("chatkit").addFilter(_WithoutContent())
