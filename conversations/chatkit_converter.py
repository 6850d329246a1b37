"""What a person sent with a message, as the model is given it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, cast

from chatkit.agents import ThreadItemConverter
from chatkit.types import Attachment, UserMessageTagContent

from conversations.ids import parse_uuid
from conversations.turns.attachments import part_of

if TYPE_CHECKING:
    from openai.types.responses import ResponseInputContentParam, ResponseInputTextParam


class ConversationConverter(ThreadItemConverter):
    """The library's converter with our files, which are remembered as references only, and tags.

    A project that resolves its tags overrides `tag_to_message_content`.
    """

    async def attachment_to_message_content(
        self, attachment: Attachment
    ) -> ResponseInputContentParam:
        attachment_id = parse_uuid(attachment.id)
        if attachment_id is None:
            raise ValueError("an attachment without an id of ours")
        part = part_of(attachment_id, attachment.name, attachment.mime_type)
        return cast("ResponseInputContentParam", part)

    async def tag_to_message_content(self, tag: UserMessageTagContent) -> ResponseInputTextParam:
        data = f": {json.dumps(tag.data)}" if tag.data else ""
        return {"type": "input_text", "text": f"@{tag.text}{data}"}
