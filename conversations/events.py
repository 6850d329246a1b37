"""What a turn tells whoever listens: small frozen values, in the order they happen.

A stream is `TurnQueued` (perhaps), `TurnRunning`, any number of `ContentDelta`, `ToolCalled` and
`ThreadEvent`, then exactly one of `TurnCompleted`, `TurnFailed`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final, Literal
from uuid import UUID

# The sentences a person may read beside an answer (CONTRACT, "The message stream")
CONTEXT_UNAVAILABLE: Final = "Context unavailable - conversation history may be incomplete"
SESSION_CORRUPTED: Final = (
    "Session data corrupted - unreadable entries were left out of the conversation history"
)
NOT_SAVED: Final = "This answer could not be saved"


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one turn, as the provider counted them, over all its model calls."""

    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        return self.input_tokens + self.output_tokens

    def __sub__(self, other: Usage) -> Usage:
        return Usage(
            self.requests - other.requests,
            self.input_tokens - other.input_tokens,
            self.output_tokens - other.output_tokens,
        )


@dataclass(frozen=True, slots=True)
class TurnQueued:
    """The turn waits; `ahead` turns of its conversation come first."""

    turn_id: UUID
    ahead: int


@dataclass(frozen=True, slots=True)
class TurnRunning:
    """The assistant has begun."""

    turn_id: UUID


@dataclass(frozen=True, slots=True)
class ContentDelta:
    """A piece of the answer; all pieces joined are the stored answer."""

    text: str
    warning: str = ""


@dataclass(frozen=True, slots=True)
class ToolCalled:
    """The assistant uses a tool."""

    name: str
    call_id: str
    status: Literal["called", "done", "failed"]


@dataclass(frozen=True, slots=True)
class ThreadEvent:
    """Something other than text is shown: an event of ChatKit's protocol, as JSON."""

    json: str


@dataclass(frozen=True, slots=True)
class TurnCompleted:
    """The answer is complete (or was stopped) and stored."""

    turn_id: UUID
    status: Literal["completed", "cancelled"]
    message_id: UUID | None
    user_message_id: UUID | None
    usage: Usage = field(default_factory=Usage)
    warning: str = ""


@dataclass(frozen=True, slots=True)
class TurnFailed:
    """There will be no (further) answer; the message for people, the code for programs."""

    turn_id: UUID
    message: str
    code: str
    retryable: bool


TurnEvent = (
    TurnQueued | TurnRunning | ContentDelta | ToolCalled | ThreadEvent | TurnCompleted | TurnFailed
)


_encode: Final = json.JSONEncoder(separators=(",", ":")).encode


def encode_events(events: Iterable[TurnEvent]) -> str:
    """Events as JSON text, ASCII only; the closing event is not among them: its row tells it."""
    return _encode([_plain(event) for event in events])


def decode_events(text: str, *, turn_id: UUID) -> list[TurnEvent]:
    """What `encode_events` wrote of that turn. Raises ValueError for anything else."""
    try:
        return [_event(value, turn_id) for value in json.loads(text)]
    except (TypeError, KeyError, RecursionError) as error:
        raise ValueError("not recorded events") from error


def _plain(event: TurnEvent) -> Any:
    match event:
        case ContentDelta(text=text, warning=""):
            return text  # nearly all of them
        case ContentDelta(text=text, warning=warning):
            return {"text": text, "warning": warning}
        case ToolCalled(name=name, call_id=call_id, status=status):
            return {"tool": name, "call_id": call_id, "status": status}
        case ThreadEvent(json=told):
            return {"thread_event": told}
        case TurnQueued(ahead=ahead):
            return {"ahead": ahead}
        case TurnRunning():
            return {}
    raise ValueError("a closing event is not recorded")


def _event(value: Any, turn_id: UUID) -> TurnEvent:
    if isinstance(value, str):
        return ContentDelta(value)
    if "text" in value:
        return ContentDelta(value["text"], value["warning"])
    if "thread_event" in value:
        return ThreadEvent(value["thread_event"])
    if "tool" in value:
        return ToolCalled(value["tool"], value["call_id"], value["status"])
    return TurnQueued(turn_id, value["ahead"]) if "ahead" in value else TurnRunning(turn_id)
