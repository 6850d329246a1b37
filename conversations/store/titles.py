"""An untitled conversation takes its title from its first message."""

from __future__ import annotations

from typing import Any, Final

from conversations.lanes import Database
from conversations.store.damage import select, text_of
from conversations.store.log import MESSAGE, SESSION

TITLE_CHARS: Final = 50


def give_title(db: Database, session_id: Any) -> None:
    """Title the session, unless it has one or nothing was said; its key is the engine's."""
    rows = select(
        db,
        ["text"],
        f"FROM {MESSAGE} WHERE session_id = %s AND role = 'user' AND shown = %s"
        " ORDER BY position LIMIT 1",
        (session_id, True),
    )
    for (text,) in rows:
        db.run(
            f"UPDATE {SESSION} SET title = %s WHERE id = %s AND title = ''",
            (title_from(text_of(text)), session_id),
        )


def title_from(text: str) -> str:
    """The first 50 characters of a message, on one line, with `...` where it goes on."""
    line = " ".join(text.split())
    return line if len(line) <= TITLE_CHARS else line[:TITLE_CHARS] + "..."
