"""Sessions that were left alone, with all that may belong to one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from conversations import processes
from conversations.ids import new_id
from conversations.models import (
    Attachment,
    ChatMessage,
    ChatSession,
    ChatTurn,
    Feedback,
    RecordedEvents,
)
from conversations.tests import factories
from conversations.tests.sweeps_helpers import remember, speak

NOW = datetime(2026, 5, 8, 2, tzinfo=UTC)
LONG_IDLE = NOW - timedelta(days=8)
TABLES = (ChatSession, ChatTurn, ChatMessage, RecordedEvents, Feedback, Attachment)


def idle(
    user: Any, *, messages: int = 2, since: datetime = LONG_IDLE, name: str | None = None
) -> Any:
    """A session of so many messages that nobody used since; without a user, a program's own."""
    if user is None:
        session = ChatSession.objects.create(agent_session_id=name or f"s{new_id()}")
    else:
        session = factories.ChatSessionFactory(owner=user)
    if messages:
        remember(session, messages)
    leave(session, since=since)
    return session


def leave(session: Any, *, since: datetime = LONG_IDLE) -> None:
    ChatSession.objects.filter(id=session.id).update(last_active_at=since)


def full(user: Any) -> Any:
    """An idle session with a turn that was recorded, feedback and a file."""
    session = idle(user)
    ticket = speak(session, "a secret", process=processes.new_name(), said="words")
    ChatTurn.objects.filter(id=ticket.turn_id).update(status="completed", lease_owner="")
    message = session.messages.first()
    Feedback.objects.create(message=message, user=user, kind="positive", comment="a secret")
    factories.AttachmentFactory(owner=user, session=session, message_id=message.id)
    leave(session)
    return session


def left() -> dict[str, int]:
    """How many rows there are of each kind, without kinds of which there are none."""
    counts = {model.__name__: model.objects.count() for model in TABLES}
    return {name: count for name, count in counts.items() if count}
