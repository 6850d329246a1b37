"""What tools show to people beside the answer: rows of a running turn, written under its lease."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from conversations.errors import LeaseLost
from conversations.items import Row
from conversations.lanes import Database, from_moment, from_uuid
from conversations.store import ledger
from conversations.store.damage import flag_of
from conversations.store.holds import is_held
from conversations.store.log import MESSAGE, REMEMBERED, SESSION, Lease, delete_messages
from conversations.store.weights import weigh


def rewrite(db: Database, *, lease: Lease, row: Row, now: datetime) -> bool:
    """Show `row` in place of what is shown by its id; whether there was such a row to show it in.

    What the model remembers of it stays. Raises LeaseLost.
    """
    _touch(db, lease=lease, now=now)
    changed = db.run(
        f"UPDATE {MESSAGE} SET text = %s, thread_item = %s WHERE id = %s AND session_id = %s",
        (
            row.text,
            row.thread_item,
            from_uuid(row.id, is_sqlite=db.is_sqlite),
            from_uuid(lease.session_id, is_sqlite=db.is_sqlite),
        ),
    )
    return bool(changed)


def take_back(db: Database, *, lease: Lease, message_id: UUID, now: datetime) -> bool:
    """Delete what is shown by that id, also from the memory; whether there was something.

    Only what a tool has shown: the words of people and of the assistant stay, and so does all in a
    conversation on hold. Raises LeaseLost.
    """
    _touch(db, lease=lease, now=None)
    key = from_uuid(message_id, is_sqlite=db.is_sqlite)
    session_key = from_uuid(lease.session_id, is_sqlite=db.is_sqlite)
    found = db.one(
        f"SELECT shown, CASE WHEN {REMEMBERED} THEN 1 ELSE 0 END FROM {MESSAGE}"
        " WHERE id = %s AND session_id = %s AND thread_item IS NOT NULL AND role <> 'user'",
        (key, session_key),
    )
    if found is None or is_held(db, session_key):
        return False
    _, size = weigh(db, "id = %s", (key,))
    delete_messages(db, "id = %s", (key,))
    db.run(
        f"UPDATE {SESSION} SET item_count = item_count - 1, message_count = message_count - %s,"
        " remembered_count = remembered_count - %s WHERE id = %s",
        (int(flag_of(found[0])), int(found[1]), session_key),
    )
    ledger.tell_of_session(
        db,
        action=ledger.ITEM_DELETED,
        session_key=session_key,
        actor=ledger.CODE,
        counts={"messages": 1},
        byte_count=size,
        now=now,
    )
    return True


def _touch(db: Database, *, lease: Lease, now: datetime | None) -> None:
    """Lock the session for this transaction, if the turn still holds it."""
    moment = "updated_at" if now is None else "%s"
    params = [] if now is None else [from_moment(now, is_sqlite=db.is_sqlite)]
    kept = db.run(
        f"UPDATE {SESSION} SET updated_at = {moment} WHERE id = %s AND fence = %s",
        (*params, from_uuid(lease.session_id, is_sqlite=db.is_sqlite), lease.fence),
    )
    if not kept:
        raise LeaseLost
