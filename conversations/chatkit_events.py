"""A turn's events as ChatKit's: the answer as one assistant message, growing word by word."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from chatkit.errors import CustomStreamError, ErrorCode, StreamError
from chatkit.types import (
    AssistantMessageContent,
    AssistantMessageContentPartAdded,
    AssistantMessageContentPartDone,
    AssistantMessageContentPartTextDelta,
    AssistantMessageItem,
    NoticeEvent,
    ThreadItemAddedEvent,
    ThreadItemDoneEvent,
    ThreadItemRemovedEvent,
    ThreadItemUpdatedEvent,
    ThreadStreamEvent,
)
from pydantic import TypeAdapter

from conversations.errors import GuardrailTripped, TurnError
from conversations.events import (
    ContentDelta,
    ThreadEvent,
    TurnCompleted,
    TurnEvent,
    TurnFailed,
)
from conversations.ids import new_id

if TYPE_CHECKING:
    from conversations.chatkit_context import ChatKitContext
    from conversations.turns.follow import FollowedTurn
    from conversations.turns.live import LiveTurn

_EVENT: Final[TypeAdapter[Any]] = TypeAdapter(ThreadStreamEvent)


async def tell(
    turn: LiveTurn | FollowedTurn, context: ChatKitContext
) -> AsyncIterator[ThreadStreamEvent]:
    """What a turn does, from its first event to its end; all of it is stored by the turn itself.

    Raises CustomStreamError or StreamError where the turn fails, as the library wants it.
    """
    answer_id = str(getattr(turn, "answer_id", None) or new_id())
    context.settled.add(answer_id)
    answer = Answer(answer_id, str(turn.session_id), lambda: getattr(turn, "first_token_at", None))
    async for batch in turn.listen():
        for _, event in batch:
            for told in answer.tell(event):
                if (item := getattr(told, "item", None)) is not None:
                    context.settled.add(item.id)
                elif isinstance(told, ThreadItemRemovedEvent):
                    context.settled.add(told.item_id)
                yield told


class Answer:
    """The assistant's message of one turn, as far as it was told."""

    def __init__(
        self,
        answer_id: str,
        thread_id: str,
        began_at: Callable[[], datetime | None] = lambda: None,
    ) -> None:
        self._item = AssistantMessageItem(
            id=answer_id, thread_id=thread_id, created_at=datetime.now(UTC), content=[]
        )
        self._began_at = began_at
        self._pieces: list[str] = []

    def tell(self, event: TurnEvent) -> Iterator[ThreadStreamEvent]:
        """Raises CustomStreamError, StreamError for the closing event of a turn that failed."""
        match event:
            case ContentDelta(text=text, warning=warning):
                if warning:
                    yield NoticeEvent(level="warning", message=warning)
                if text:
                    yield from self._grow(text)
            case ThreadEvent(json=told):
                yield _EVENT.validate_json(told)
            case TurnCompleted():
                yield from self._end()
            case TurnFailed(code=GuardrailTripped.code, message=message):
                if self._pieces:  # what was streamed is not kept
                    yield ThreadItemRemovedEvent(item_id=self._item.id)
                raise CustomStreamError(message, allow_retry=False)
            case TurnFailed(code=code, message=message, retryable=retryable):
                yield from self._end()
                if code == TurnError.code:
                    raise StreamError(ErrorCode.STREAM_ERROR, allow_retry=retryable)
                raise CustomStreamError(message, allow_retry=retryable)

    def _grow(self, text: str) -> Iterator[ThreadStreamEvent]:
        if not self._pieces:
            if (moment := self._began_at()) is not None:  # as it will be stored
                self._item = self._item.model_copy(update={"created_at": moment})
            yield ThreadItemAddedEvent(item=self._item)
            part = AssistantMessageContentPartAdded(
                content_index=0, content=AssistantMessageContent(text="", annotations=[])
            )
            yield ThreadItemUpdatedEvent(item_id=self._item.id, update=part)
        self._pieces.append(text)
        delta = AssistantMessageContentPartTextDelta(content_index=0, delta=text)
        yield ThreadItemUpdatedEvent(item_id=self._item.id, update=delta)

    def _end(self) -> Iterator[ThreadStreamEvent]:
        if not self._pieces:
            return
        content = AssistantMessageContent(text="".join(self._pieces), annotations=[])
        part = AssistantMessageContentPartDone(content_index=0, content=content)
        yield ThreadItemUpdatedEvent(item_id=self._item.id, update=part)
        yield ThreadItemDoneEvent(item=self._item.model_copy(update={"content": [content]}))
