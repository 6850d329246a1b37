"""Between the log's rows and ChatKit's thread items: what each tells of the other."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

from chatkit.types import (
    AssistantMessageContent,
    AssistantMessageItem,
    HiddenContextItem,
    InferenceOptions,
    SDKHiddenContextItem,
    ThreadItem,
    UserMessageItem,
    UserMessageTextContent,
)
from pydantic import TypeAdapter

from conversations.ids import storable
from conversations.items import Row, decode_item, encode_item
from conversations.store.thread_items import HIDDEN_KINDS, ItemRow

_ITEM: Final[TypeAdapter[Any]] = TypeAdapter(ThreadItem)
_OF_THE_ROW: Final = {"id", "thread_id", "created_at"}
HIDDEN_CONTEXT: Final = (
    "Hidden context for the agent (not shown to the user):\n<HiddenContext>\n{}\n</HiddenContext>"
)
"""As the library puts it to a model (`ThreadItemConverter.hidden_context_to_input`)."""
_ROLES: Final = {"user_message": "user", "assistant_message": "assistant"}


def item_from_row(row: ItemRow) -> ThreadItem | None:
    """The item a row stands for; its text alone where the rest is damaged.

    None where nothing of it can be shown.
    """
    if row.thread_item is None:
        return _item_of_text(row) if row.shown else None
    item = _decode(row)
    if item is not None:
        return item
    return _item_of_text(row) if row.shown and row.text else None


def row_from_item(item: ThreadItem, *, message_id: UUID, agent_item: str | None = None) -> Row:
    """The row that stands for an item. What a text alone says again is not stored twice."""
    role = _ROLES.get(item.type, "" if is_hidden(item) else "assistant")
    text = item_text(item)
    return Row(
        "message" if item.type in _ROLES else item.type,
        role,
        text=storable(text),
        shown=item.type in _ROLES,
        agent_item=agent_item,
        thread_item=None if _is_plain(item, text) else encode_thread_item(item),
        id=message_id,
    )


def encode_thread_item(item: ThreadItem) -> str:
    """All that no column says of an item, as JSON that every engine stores and gives back exactly.

    Raises ValueError for what JSON cannot hold.
    """
    return encode_item(item.model_dump(mode="json", by_alias=True, exclude=_OF_THE_ROW))


def item_text(item: ThreadItem) -> str:
    """What people read of a message, and what is found of any item."""
    match item:
        case UserMessageItem() | AssistantMessageItem():
            return "".join(part.text for part in item.content)
        case _:
            return getattr(item, "copy_text", None) or ""


def memory_of(item: ThreadItem) -> str | None:
    """What the model is to know of an item that it has not said or been told itself."""
    if item.type in _ROLES:
        text = item_text(item)
        return encode_item({"role": _ROLES[item.type], "content": text}) if text else None
    if is_hidden(item):
        content = getattr(item, "content", None)
        text = content if isinstance(content, str) else encode_item(content)
        # Not the user's: a memory is cut where somebody has said something.
        return encode_item({"role": "system", "content": HIDDEN_CONTEXT.format(text)})
    return None


def aware(moment: datetime) -> datetime:
    """The library's times are naive and local, which is UTC here."""
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def is_hidden(item: ThreadItem) -> bool:
    """Whether an item is for the server alone: it is sent to nobody."""
    return isinstance(item, HiddenContextItem | SDKHiddenContextItem)


def _is_plain(item: ThreadItem, text: str) -> bool:
    """Whether `_item_of_text` would make the same item."""
    if text != storable(text):
        return False
    match item:
        case UserMessageItem(content=[UserMessageTextContent()]):
            return not (
                item.attachments
                or item.quoted_text is not None
                or item.inference_options != InferenceOptions()
            )
        case AssistantMessageItem(content=[AssistantMessageContent(annotations=[])]):
            return True
    return False


def _decode(row: ItemRow) -> ThreadItem | None:
    stored = decode_item(row.thread_item)
    if stored is None:
        return None
    try:
        item: ThreadItem = _ITEM.validate_python(stored | _names(row))
    except (ValueError, RecursionError):
        return None
    if row.kind in HIDDEN_KINDS and not is_hidden(item):
        return None
    return item


def _item_of_text(row: ItemRow) -> ThreadItem | None:
    if row.role == "user":
        content = [UserMessageTextContent(text=row.text)]
        options = InferenceOptions()
        return UserMessageItem(**_names(row), content=content, inference_options=options)
    if row.role == "assistant":
        return AssistantMessageItem(**_names(row), content=[AssistantMessageContent(text=row.text)])
    return None


def _names(row: ItemRow) -> dict[str, Any]:
    return {"id": str(row.id), "thread_id": str(row.session_id), "created_at": row.created_at}
