"""What ChatKit's server answers, as it leaves: times have zones, and what is hidden stays here."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from typing import Any, Final

from pydantic import BaseModel

from conversations.store.thread_items import HIDDEN_KINDS
from conversations.thread_items import aware

_HIDDEN: Final = tuple(f'"{kind}"'.encode() for kind in HIDDEN_KINDS)


def with_zones(told: BaseModel) -> BaseModel:
    """An event or an answer with the zone of each time that the library gave it."""
    parts = {name: getattr(told, name, None) for name in ("item", "thread", "updated_item")}
    zoned = {
        name: part.model_copy(update={"created_at": aware(part.created_at)})
        for name, part in parts.items()
        if part is not None and part.created_at.tzinfo is None
    }
    return told.model_copy(update=zoned) if zoned else told


async def seen(events: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """A stream without what is told of hidden items."""
    async for event in events:
        if any(kind in event for kind in _HIDDEN):
            told = json.loads(event.removeprefix(b"data: "))
            if _is_hidden(told.get("item")):
                continue
        yield event


def without_hidden(answer: bytes) -> bytes:
    """An answer without its hidden items, wherever it holds items."""
    if not any(kind in answer for kind in _HIDDEN):
        return answer
    told = json.loads(answer)
    if _is_hidden(told.get("updated_item")):
        del told["updated_item"]
    for page in (told, told.get("items")):
        if isinstance(page, dict) and isinstance(page.get("data"), list):
            page["data"] = [item for item in page["data"] if not _is_hidden(item)]
    return json.dumps(told).encode()


def _is_hidden(item: Any) -> bool:
    return isinstance(item, dict) and item.get("type") in HIDDEN_KINDS
