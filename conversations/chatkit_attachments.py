"""ChatKit's attachments on our files: announced, uploaded to an address here, removed."""

from __future__ import annotations

from typing import Any, Final

from chatkit.store import AttachmentStore
from chatkit.types import (
    Attachment,
    AttachmentCreateParams,
    AttachmentUploadDescriptor,
    FileAttachment,
    ImageAttachment,
    ThreadItem,
    UserMessageItem,
)
from pydantic import AnyUrl

from conversations import attachments
from conversations.chatkit_context import ChatKitContext, UnknownAttachment
from conversations.conf import get_conf
from conversations.errors import AttachmentNotFound
from conversations.ids import new_id, parse_uuid
from conversations.store.attachments import AttachmentRow

_NOWHERE: Final = "http://localhost"


class ConversationAttachmentStore(AttachmentStore[ChatKitContext]):
    """Files are announced first and uploaded then, each by its owner."""

    def generate_attachment_id(self, mime_type: str, context: ChatKitContext) -> str:
        return str(new_id())

    async def create_attachment(
        self, input: AttachmentCreateParams, context: ChatKitContext
    ) -> Attachment:
        """Take a file's name, size and type. Raises Invalid, TooLarge, Throttled."""
        row = await attachments.announce(
            owner_id=context.owner_id,
            name=input.name,
            size=input.size,
            mime_type=input.mime_type,
        )
        return attachment_of(row, context)

    async def delete_attachment(self, attachment_id: str, context: ChatKitContext) -> None:
        """Remove a file and its bytes. Raises UnknownAttachment; ThreadHeld for one on hold."""
        found = parse_uuid(attachment_id)
        if found is None:
            raise UnknownAttachment
        try:
            await attachments.delete_attachment(owner_id=context.owner_id, attachment_id=found)
        except AttachmentNotFound:
            raise UnknownAttachment from None


def attachment_of(row: AttachmentRow, context: ChatKitContext) -> Attachment:
    """The attachment that a file is to ChatKit; where to upload it only until that is done."""
    address = _address(str(row.id), context)
    fields: dict[str, Any] = {
        "id": str(row.id),
        "name": row.name,
        "mime_type": row.mime_type,
        "thread_id": str(row.session_id) if row.session_id else None,
    }
    if not row.is_ready:
        token = attachments.upload_token(owner_id=context.owner_id, attachment_id=row.id)
        fields["upload_descriptor"] = AttachmentUploadDescriptor(
            url=address, method="PUT", headers={"X-Upload-Token": token}
        )
    if attachments.is_image(row):
        return ImageAttachment(**fields, preview_url=address)
    return FileAttachment(**fields)


def with_addresses(item: ThreadItem, context: ChatKitContext) -> ThreadItem:
    """A stored item whose images are found where this site is now."""
    if isinstance(item, UserMessageItem):
        for attachment in item.attachments:
            if isinstance(attachment, ImageAttachment) and parse_uuid(attachment.id):
                attachment.preview_url = _address(attachment.id, context)
    return item


def _address(attachment_id: str, context: ChatKitContext) -> AnyUrl:
    site = context.address or get_conf().site_url or _NOWHERE
    return AnyUrl(f"{site}/chatkit/attachments/{attachment_id}")
