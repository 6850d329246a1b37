"""Identifiers: how they are made, and which text names which session."""

from __future__ import annotations

import hashlib
import os
import time
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any, Final

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_USERS: Final = uuid.UUID("0c9b7b0a-6f4e-5c1d-9d58-1b7f2f2c7a11")
_DIGEST: Final = "sha256:"
MAX_SESSION_ID_CHARS: Final = 200


def new_id() -> uuid.UUID:
    """A new UUID of version 7 (RFC 9562): milliseconds and 4,096ths of one (its method 3), then 62
    random bits.

    New rows land side by side in an index: random ones touch a page of their own each, which
    doubles the cost of storing a message. Those that one process makes are in order.
    """
    milliseconds, rest = divmod(time.time_ns(), 1_000_000)
    number = (milliseconds & (1 << 48) - 1) << 80
    number |= 0x7 << 76 | (rest * 4_096 // 1_000_000) << 64
    random = int.from_bytes(os.urandom(8), "big")
    return uuid.UUID(int=number | 0b10 << 62 | random & (1 << 62) - 1)


def lowest_id(moment: datetime) -> uuid.UUID:
    """No id that `new_id` made at that moment or later is below this one."""
    return uuid.UUID(int=(moment - _EPOCH) // timedelta(milliseconds=1) << 80)


def user_uuid(user_id: Any) -> uuid.UUID:
    """A user's UUID: the key itself where it is one, else a uuid5 of it."""
    if isinstance(user_id, uuid.UUID):
        return user_id
    return uuid.uuid5(_USERS, str(user_id))


def agent_session_id(*, user_id: Any, session_id: uuid.UUID) -> str:
    """The SDK session id of a conversation: `user_{user uuid}_conv_{session uuid}`."""
    return f"user_{user_uuid(user_id)}_conv_{session_id}"


def stored_session_id(session_id: str) -> str:
    """The text a session is found by: the id itself, or a digest where a column cannot hold it.

    Any `str` is a valid SDK session id: long ones, NUL and lone surrogates included. No two share
    a text: an id that looks like a digest gets one of its own.
    """
    if not isinstance(session_id, str):
        raise TypeError(f"session_id must be a str, not {type(session_id).__name__}")
    if not session_id:
        raise ValueError("session_id must not be empty")
    fits = len(session_id) <= MAX_SESSION_ID_CHARS and is_storable(session_id)
    if fits and not session_id.startswith(_DIGEST):
        return session_id
    return _DIGEST + hashlib.sha256(session_id.encode("utf-8", "surrogatepass")).hexdigest()


def is_storable(text: str) -> bool:
    """Whether every engine can store this text: no NUL, no lone surrogate."""
    if "\x00" in text:
        return False
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def storable(text: str) -> str:
    """`text` with what no engine can store replaced by U+FFFD."""
    if is_storable(text):
        return text
    return "".join(
        "\ufffd" if char == "\x00" or "\ud800" <= char <= "\udfff" else char for char in text
    )


def storable_value(value: Any) -> Any:
    """A value of which each text is `storable`."""
    if isinstance(value, str):
        return storable(value)
    if isinstance(value, dict):
        return {storable(str(key)): storable_value(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [storable_value(inner) for inner in value]
    return value


def parse_uuid(value: str) -> uuid.UUID | None:
    """The UUID a client wrote in its canonical form, or None for anything else."""
    try:
        found = uuid.UUID(value)
    except (ValueError, AttributeError, TypeError):
        return None
    return found if str(found) == value.lower() else None
