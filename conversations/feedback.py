"""What people think of what they were told: kept for staff, one judgement per message."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final
from uuid import UUID

from django.utils import timezone

from conversations import lanes
from conversations.errors import Invalid, ItemNotFound
from conversations.store import feedback, threads
from conversations.store.feedback import Judgement

MAX_AT_ONCE: Final = 100


async def give(
    *,
    session_id: UUID,
    owner_id: Any,
    message_ids: Sequence[UUID | None],
    kind: str,
    comment: str | None = None,
) -> dict[UUID, Judgement]:
    """Keep what the owner of a conversation thinks of messages in it: of all of them, or of none.

    Returns what they think of each now. The last judgement counts; without a comment, an earlier
    one stays. None stands for an id that cannot be one. Raises ThreadNotFound, ItemNotFound;
    Invalid where they are too many for one transaction.
    """
    if len(message_ids) > MAX_AT_ONCE:
        field = {"field": "params.item_ids", "message": f"must be at most {MAX_AT_ONCE}"}
        raise Invalid(fields=[field])
    known = [message_id for message_id in message_ids if message_id is not None]
    now = timezone.now()

    def keep(db: lanes.Database) -> dict[UUID, Judgement]:
        threads.find_thread(db, session_id=session_id, owner_id=owner_id)
        if len(known) < len(message_ids):
            raise ItemNotFound
        feedback.give(
            db,
            session_id=session_id,
            owner_id=owner_id,
            message_ids=known,
            kind=kind,
            comment=comment,
            now=now,
        )
        return feedback.judgements(db, owner_id=owner_id, message_ids=known)

    return await lanes.write(keep)
