"""What a person does with their conversations: begin, rename, close, clear, delete."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from django.utils import timezone

from conversations import attachments, lanes, turns
from conversations.errors import ThreadNotFound
from conversations.ids import agent_session_id, new_id
from conversations.models import ChatSession
from conversations.store import clearing, holds, ledger, log, removing, thread_items, threads
from conversations.store.threads import ThreadRow


async def create_thread(
    *,
    owner_id: Any,
    title: str = "",
    metadata: Mapping[str, Any] | None = None,
    session_id: UUID | None = None,
) -> ThreadRow:
    """Begin a conversation, with the id that was given out for it already, if one was."""
    session_id, now = session_id or new_id(), timezone.now()
    name = agent_session_id(user_id=owner_id, session_id=session_id)

    def create(db: lanes.Database) -> ThreadRow:
        log.create_session(
            db,
            agent_session_id=name,
            now=now,
            session_id=session_id,
            owner_id=owner_id,
            title=title,
            metadata_json=json.dumps(dict(metadata or {})),
        )
        return threads.find_thread(db, session_id=session_id, owner_id=owner_id)

    return await lanes.write(create)


async def update_thread(
    *,
    session_id: UUID,
    owner_id: Any,
    title: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    status: str | None = None,
) -> ThreadRow:
    """Change what is given of a conversation. Raises ThreadNotFound."""
    changes: dict[str, Any] = {"title": title, "metadata": metadata, "status": status}
    changes = {name: value for name, value in changes.items() if value is not None}
    changes["updated_at"] = timezone.now()

    def update() -> None:
        mine = ChatSession.objects.owned_by(owner_id).filter(id=session_id)
        if not mine.update(**changes):
            raise ThreadNotFound

    await lanes.call(update)
    return await lanes.read(
        lambda db: threads.find_thread(db, session_id=session_id, owner_id=owner_id)
    )


async def clear_thread(*, session_id: UUID, owner_id: Any) -> int:
    """Forget what was said, keep the conversation; returns how many messages went.

    What runs or waits in it is ended first. Raises ThreadNotFound, ThreadHeld.
    """
    await lanes.read(lambda db: _deletable(db, session_id=session_id, owner_id=owner_id))
    await turns.stop_session(session_id)
    now = timezone.now()

    def clear(db: lanes.Database) -> int:
        _deletable(db, session_id=session_id, owner_id=owner_id)
        return clearing.clear_session(db, session_id=session_id, actor=ledger.USER, now=now)

    cleared = await lanes.write(clear)
    await attachments.erase_soon()
    return cleared


async def delete_thread(*, session_id: UUID, owner_id: Any) -> None:
    """Delete a conversation and all that was said in it; what runs or waits in it is ended first.

    Raises ThreadNotFound, ThreadHeld.
    """
    await lanes.read(lambda db: _deletable(db, session_id=session_id, owner_id=owner_id))
    await turns.stop_session(session_id, reason="deleted")
    await lanes.call_patiently(_delete, session_id, owner_id)
    await attachments.erase_soon()


def _delete(session_id: UUID, owner_id: Any) -> None:
    now = timezone.now()

    def delete(db: lanes.Database) -> None:
        key = thread_items.hold_session(db, session_id, owner_id)
        holds.refuse_held(db, key)
        removed = removing.remove_sessions(db, [key])
        ledger.tell_of_session(
            db,
            action=ledger.DELETE,
            session_key=key,
            actor=ledger.USER,
            counts=removed.counts(),
            byte_count=removed.bytes,
            now=now,
        )

    lanes.perform(delete)


def _deletable(db: lanes.Database, *, session_id: UUID, owner_id: Any) -> None:
    """Raises what stands in the way. Nothing is read that may be damaged and is not needed."""
    threads.find_thread(db, session_id=session_id, owner_id=owner_id)
    holds.refuse_held(db, lanes.from_uuid(session_id, is_sqlite=db.is_sqlite))
