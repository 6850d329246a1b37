"""Whose ChatKit request it is, and what was settled before the library takes over."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from chatkit.store import NotFoundError
from chatkit.types import ThreadItem, ThreadMetadata

from conversations.errors import AttachmentNotFound, ItemNotFound, ThreadNotFound

if TYPE_CHECKING:
    from conversations.turns.follow import FollowedTurn
    from conversations.turns.live import LiveTurn


@dataclass(slots=True)
class Prepared:
    """What was settled before the library takes over."""

    thread: ThreadMetadata
    turn: LiveTurn | FollowedTurn
    item: ThreadItem | None = None
    """The user's message, or the pending item that was answered."""


@dataclass(slots=True)
class ChatKitContext:
    """Whose request it is, and what is known of it: what ChatKit hands through to every method."""

    owner_id: Any
    prepared: Prepared | None = None
    settled: set[str] = field(default_factory=set)
    """Ids of items that a turn stores: they are never written again."""
    address: str = ""
    """What this site's own addresses begin with, for links that a client opens."""
    known: dict[str, ThreadMetadata] = field(default_factory=dict)
    """Threads as they were last read or written here: only what differs from that is written."""
    begun: set[str] = field(default_factory=set)
    """Ids of threads that were begun here: no other thread is made by saving it."""
    has_named: bool = False
    """Whether the id of the user's message was asked for."""
    is_under_way: bool = False
    """Whether the answer has begun: from then on all items are really read."""


class UnknownThread(ThreadNotFound, NotFoundError):
    """There is no such conversation."""


class UnknownItem(ItemNotFound, NotFoundError):
    """There is no such entry in this conversation."""


class UnknownAttachment(AttachmentNotFound, NotFoundError):
    """There is no such attachment."""
