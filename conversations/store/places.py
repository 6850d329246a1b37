"""Where a page of the list of conversations ended, as a text that a client brings back."""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from uuid import UUID

from conversations.store.threads import Place, ThreadRow


def write_place(thread: ThreadRow | Place) -> str:
    text = f"{thread.last_active_at.isoformat()}~{thread.id.hex}"
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def read_place(after: str) -> Place | None:
    """The place that was written; None where it is none."""
    try:
        text = base64.urlsafe_b64decode(after + "=" * (-len(after) % 4)).decode()
        moment, _, thread_id = text.partition("~")
        last_active_at = datetime.fromisoformat(moment)
        place = Place(last_active_at.astimezone(UTC), UUID(thread_id))
    except (ValueError, OverflowError):  # overflow: a time beyond the calendar
        return None
    return place if last_active_at.tzinfo is not None else None
