"""A message as ChatKit sends it: read, checked, and put as a turn's input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Protocol
from uuid import UUID

from chatkit.types import (
    Attachment,
    StructuredInputItem,
    UserMessageInput,
    UserMessageItem,
    UserMessageTextContent,
)

from conversations.chatkit_context import ChatKitContext
from conversations.conf import get_conf
from conversations.errors import Invalid, ThreadNotFound
from conversations.ids import new_id, parse_uuid
from conversations.store.inputs import TurnInput
from conversations.thread_items import item_text, row_from_item

if TYPE_CHECKING:
    from chatkit.agents import ThreadItemConverter
    from chatkit.types import StructuredInputSubmission, ThreadsCustomActionReq

    from conversations.chatkit_store import ConversationStore

MAX_ATTACHMENTS: Final = 20


class Server(Protocol):
    """What is asked here of the site's ChatKit server (`chatkit_server.ConversationServer`)."""

    store: ConversationStore
    converter: ThreadItemConverter

    async def check_action(self, request: ThreadsCustomActionReq, context: ChatKitContext) -> None:
        """Refuse an action before it begins."""

    async def answered(
        self, item: StructuredInputItem, submission: StructuredInputSubmission
    ) -> StructuredInputItem:
        """The item with a person's answers."""


async def read_message(
    server: Server, said: UserMessageInput, session_id: UUID, context: ChatKitContext
) -> UserMessageItem:
    """The item of what a person sends to a conversation, with its files.

    Raises AttachmentNotFound; Invalid for an empty or too long text, and for files that are too
    many or not uploaded.
    """
    return _user_item(said, await _load_attachments(server, said, context), session_id)


async def beside_text(server: Server, item: UserMessageItem) -> TurnInput:
    """What a message is beside its text: for people where that is more, and for the model."""
    given = TurnInput(
        message_id=to_id(item.id),
        thread_item=row_from_item(item, message_id=to_id(item.id)).thread_item,
        attachment_ids=[to_id(each.id) for each in item.attachments],
        created_at=item.created_at,
    )
    match item:
        case UserMessageItem(content=[UserMessageTextContent()], attachments=[], quoted_text=None):
            return given  # the text is all of it, as over REST
    parts = [
        part
        for message in plain_items(await server.converter.user_message_to_input(item))
        for part in message["content"]
    ]
    # One item: the memory is cut where a person has said something, never within it.
    return replace(given, agent_items=[{"role": "user", "content": parts}])


def plain_items(items: Any) -> list[dict[str, Any]]:
    """What a converter made, as a list of items."""
    if items is None:
        return []
    return [dict(each) for each in (items if isinstance(items, list) else [items])]


def to_id(text: str) -> UUID:
    """Raises ThreadNotFound: what cannot be an id is as unknown as any other."""
    found = parse_uuid(text)
    if found is None:
        raise ThreadNotFound
    return found


def invalid(field: str, message: str, code: str) -> Invalid:
    """What is wrong with one parameter of a request."""
    return Invalid(fields=[{"field": f"params.{field}", "message": message, "code": code}])


async def _load_attachments(
    server: Server, said: UserMessageInput, context: ChatKitContext
) -> list[Attachment]:
    ids = list(dict.fromkeys(said.attachments))
    if len(ids) > MAX_ATTACHMENTS:
        raise invalid("attachments", f"are more than {MAX_ATTACHMENTS}", "too_many")
    found = [await server.store.load_attachment(each, context) for each in ids]
    for attachment in found:
        if attachment.upload_descriptor is not None:
            raise invalid("attachments", "are not all uploaded", "not_uploaded")
    return found


def _user_item(
    said: UserMessageInput, attachments: Sequence[Attachment], session_id: UUID
) -> UserMessageItem:
    item = UserMessageItem(
        id=str(new_id()),
        thread_id=str(session_id),
        created_at=datetime.now(UTC),
        content=said.content,
        attachments=[
            each.model_copy(update={"thread_id": str(session_id)}) for each in attachments
        ],
        quoted_text=said.quoted_text,
        inference_options=said.inference_options,
    )
    limit = get_conf().chat_max_message_chars
    text = item_text(item)
    if not text.strip() and not attachments:
        raise invalid("content", "is empty", "empty")
    if len(text) + len(said.quoted_text or "") > 2 * limit or len(text) > limit:
        raise invalid("content", f"has more than {limit} characters", "too_long")
    return item
