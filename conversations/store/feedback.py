"""What people think of messages, one judgement per person and message."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from conversations.errors import ItemNotFound
from conversations.ids import new_id
from conversations.lanes import Database, from_moment, from_uuid, to_uuid
from conversations.store.damage import text_of, uuid_of
from conversations.store.log import FEEDBACK, MESSAGE
from conversations.store.thread_items import HIDDEN_KINDS, hold_session
from conversations.store.threads import owner_key


@dataclass(frozen=True, slots=True)
class Judgement:
    kind: str
    comment: str


def give(
    db: Database,
    *,
    session_id: UUID,
    owner_id: Any,
    message_ids: Sequence[UUID],
    kind: str,
    comment: str | None,
    now: datetime,
) -> None:
    """Keep the owner's judgement of messages; without a comment, an earlier one stays.

    Raises ThreadNotFound, and ItemNotFound where one of them is none that people see: then none is
    judged.
    """
    hold_session(db, session_id, owner_id)
    keys = [from_uuid(each, is_sqlite=db.is_sqlite) for each in dict.fromkeys(message_ids)]
    hidden = ", ".join(["%s"] * len(HIDDEN_KINDS))
    for key in keys:
        found = db.one(
            f"SELECT 1 FROM {MESSAGE} WHERE id = %s AND session_id = %s"
            f" AND (shown = %s OR thread_item IS NOT NULL) AND kind NOT IN ({hidden})",
            (key, from_uuid(session_id, is_sqlite=db.is_sqlite), True, *HIDDEN_KINDS),
        )
        if found is None:
            raise ItemNotFound
    moment = from_moment(now, is_sqlite=db.is_sqlite)
    keeps = f"{FEEDBACK}.comment" if comment is None else "excluded.comment"
    db.run_many(
        f"INSERT INTO {FEEDBACK} (id, message_id, session_id, user_id, kind, comment, created_at,"
        " updated_at) VALUES (%s, %s, %s, %s, %s, %s, %s, %s)"
        " ON CONFLICT (message_id, user_id) DO UPDATE SET"
        f" kind = excluded.kind, comment = {keeps}, updated_at = excluded.updated_at",
        [
            (
                from_uuid(new_id(), is_sqlite=db.is_sqlite),
                key,
                from_uuid(session_id, is_sqlite=db.is_sqlite),
                owner_key(owner_id, db),
                kind,
                comment or "",
                moment,
                moment,
            )
            for key in keys
        ],
    )


def judgements(
    db: Database, *, owner_id: Any, message_ids: Sequence[UUID]
) -> dict[UUID, Judgement]:
    """What a person thinks of these messages."""
    if not message_ids:
        return {}
    marks = ", ".join(["%s"] * len(message_ids))
    rows = db.all(
        f"SELECT message_id, kind, comment FROM {FEEDBACK}"
        f" WHERE message_id IN ({marks}) AND user_id = %s",
        (
            *[from_uuid(each, is_sqlite=db.is_sqlite) for each in message_ids],
            owner_key(owner_id, db),
        ),
    )
    return {
        to_uuid(key): Judgement(text_of(kind), text_of(comment))
        for key, kind, comment in rows
        if uuid_of(key)
    }
