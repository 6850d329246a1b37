"""Attached files in what the model is given: remembered as references, expanded for one call.

A memory holds `attachment:<id>` in place of the bytes. So it stays small, and what was erased is
given to no model any more.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final
from uuid import UUID

from agents.run_config import CallModelData, ModelInputData

from conversations.assistant import TurnContext
from conversations.attachments import ModelFile, read_for_model
from conversations.ids import parse_uuid
from conversations.media import INLINE_TYPES

_SCHEME: Final = "attachment:"
_PLACES: Final = {"input_image": "image_url", "input_file": "file_data"}
"""Where a part of a message holds its bytes."""


def part_of(attachment_id: UUID, name: str, mime_type: str) -> dict[str, Any]:
    """The part of a message that refers to a file."""
    reference = f"{_SCHEME}{attachment_id}"
    if mime_type in INLINE_TYPES:
        return {"type": "input_image", "image_url": reference, "detail": "auto"}
    return {"type": "input_file", "file_data": reference, "filename": name}


async def with_files(data: CallModelData[TurnContext]) -> ModelInputData:
    """The SDK's `call_model_input_filter`: what the model is given of one call, with its files."""
    told, turn = data.model_data, data.context
    if turn is None:
        return told
    items = await expand(told.input, owner_id=turn.user_id, session_id=turn.session_id)
    return ModelInputData(input=items, instructions=told.instructions)


async def expand(items: Sequence[Any], *, owner_id: Any, session_id: UUID) -> list[Any]:
    """The items with the bytes of their files, where they refer to any, in copies.

    Items that refer to none are the same objects. What was removed, or cannot be given, is a
    sentence in its place. Where all files together are too large, the newest are given. Raises
    StoreError.
    """
    ids = _newest_first(items)
    if not ids:
        return list(items)
    files = await read_for_model(owner_id=owner_id, session_id=session_id, ids=ids)
    return [_expanded(item, files) for item in items]


def _newest_first(items: Sequence[Any]) -> list[UUID]:
    """The files that are referred to, each once."""
    found: dict[UUID, None] = {}
    for item in reversed(items):
        for part in _parts(item):
            reference = _reference(part)
            attachment_id = parse_uuid(reference) if reference else None
            if attachment_id is not None:
                found.setdefault(attachment_id)
    return list(found)


def _parts(item: Any) -> Iterable[Any]:
    """The parts of a message of the user's: only we put a reference there."""
    if isinstance(item, dict) and item.get("role") == "user":
        content = item.get("content")
        if isinstance(content, list):
            return content
    return ()


def _reference(part: Any) -> str:
    """The id that a part refers to, as it is written there; empty where it refers to none."""
    kind = part.get("type") if isinstance(part, dict) else None
    place = _PLACES.get(kind) if isinstance(kind, str) else None
    value = part.get(place) if place else None
    if not isinstance(value, str) or not value.startswith(_SCHEME):
        return ""
    return value.removeprefix(_SCHEME)


def _expanded(item: Any, files: Mapping[UUID, ModelFile]) -> Any:
    parts = _parts(item)
    if not any(map(_reference, parts)):
        return item
    return {**item, "content": [_with_bytes(part, files) for part in parts]}


def _with_bytes(part: Any, files: Mapping[UUID, ModelFile]) -> Any:
    reference = _reference(part)
    if not reference:
        return part
    attachment_id = parse_uuid(reference)
    file = files.get(attachment_id) if attachment_id else None
    if file is not None and not file.lacks:
        return {**part, _PLACES[part["type"]]: file.url}
    return {"type": "input_text", "text": _instead(part, file)}


def _instead(part: Mapping[str, Any], file: ModelFile | None) -> str:
    if file is None:
        name = part.get("filename")
        return f"[attachment {name} was removed]" if name else "[an attachment was removed]"
    if file.lacks == "room":
        return f"[attachment {file.name} was left out: all together are too large]"
    return f"[attachment {file.name} cannot be read at the moment]"
