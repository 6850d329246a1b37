"""What a person does with their conversations: begin, rename, close, clear, delete."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from typing import Any
from uuid import UUID

from django.db import transaction
from django.utils import timezone

from conversations import attachments, lanes, turns
from conversations.errors import ThreadHeld, ThreadNotFound
from conversations.ids import agent_session_id, new_id
from conversations.models import ChatMessage, ChatSession, ChatTurn, Feedback, RecordedEvents
from conversations.store import attachments as attached
from conversations.store import clearing, log, threads
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
        return clearing.clear_session(db, session_id=session_id, now=now)

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
    with transaction.atomic():
        session = (
            ChatSession.objects.owned_by(owner_id)
            .select_for_update()
            .filter(id=session_id)
            .only("hold")
            .first()
        )
        if session is None:
            raise ThreadNotFound
        if session.hold:
            raise ThreadHeld
        Feedback.objects.filter(message__session=session)._raw_delete(using="default")
        lanes.perform(partial(_take_files, session_id=session_id))
        ChatMessage.objects.filter(session=session)._raw_delete(using="default")
        RecordedEvents.objects.filter(turn__session=session)._raw_delete(using="default")
        ChatTurn.objects.filter(session=session)._raw_delete(using="default")
        ChatSession.objects.filter(id=session_id)._raw_delete(using="default")


def _take_files(db: lanes.Database, *, session_id: UUID) -> int:
    key = lanes.from_uuid(session_id, is_sqlite=db.is_sqlite)
    return attached.take_of_session(db, session_key=key)


def _deletable(db: lanes.Database, *, session_id: UUID, owner_id: Any) -> None:
    """Raises what stands in the way. Nothing is read that may be damaged and is not needed."""
    threads.find_thread(db, session_id=session_id, owner_id=owner_id)
    (hold,) = db.one(
        f"SELECT hold FROM {log.SESSION} WHERE id = %s",
        (lanes.from_uuid(session_id, is_sqlite=db.is_sqlite),),
    )
    if hold:
        raise ThreadHeld
