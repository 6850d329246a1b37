"""What one person has said, been told and attached goes, in transactions of bounded size.

Any of them may be the last one: the next run goes on where it ended, and what was counted until
then is kept for the ledger with it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from conversations.errors import ThreadHeld
from conversations.ids import user_uuid
from conversations.lanes import Database, from_moment
from conversations.models import AccessToken, Throttle
from conversations.store import ledger
from conversations.store.attachments import ATTACHMENT, take_of_owner, take_of_session
from conversations.store.damage import count_of, text_of
from conversations.store.holds import IS_HELD, is_user_held
from conversations.store.log import EVENTS, FEEDBACK, MESSAGE, READS, SESSION, TURN
from conversations.store.threads import owner_key
from conversations.store.weights import weigh

ROWS_AT_ONCE: Final = 300
"""About so many rows go in one transaction: others wait for it a few milliseconds."""
_TOKEN: Final = AccessToken._meta.db_table
_THROTTLE: Final = Throttle._meta.db_table
_IS_KNOWN: Final = "status IN ('pending', 'ready')"
_LIKE: Final = "agent_session_id LIKE %s ESCAPE '!'"


def refuse_held(db: Database, *, user_id: Any) -> None:
    """Raises ThreadHeld, which says what is on hold."""
    if is_user_held(db, user_id=user_id):
        raise ThreadHeld("All that this person has is on hold.")
    whose, params = _whose(db, user_id)
    row = db.one(f"SELECT id FROM {SESSION} WHERE {whose} AND {IS_HELD} LIMIT 1", params)
    if row is not None:
        raise ThreadHeld(f"Conversation {_uuid(row[0])} is on hold.")


def erase_some(db: Database, *, user_id: Any, rows: int = ROWS_AT_ONCE) -> Counter[str] | None:
    """Erase the next rows of a person's conversations; how many of which kind, None at the end.

    Also of sessions that only code used, under the name of a conversation of theirs. Raises
    ThreadHeld where what would be next is on hold by now.
    """
    if is_user_held(db, user_id=user_id):
        raise ThreadHeld("All that this person has is on hold.")
    whose, params = _whose(db, user_id)
    lock = "" if db.is_sqlite else " FOR UPDATE"
    gone: Counter[str] = Counter()
    while (left := rows - gone["messages"] - gone["turns"] - gone["sessions"]) > 0:
        row = db.one(
            f"SELECT id, {IS_HELD} FROM {SESSION} WHERE {whose} ORDER BY id LIMIT 1{lock}", params
        )
        if row is None:
            return gone or None
        if row[1]:
            raise ThreadHeld(f"Conversation {_uuid(row[0])} is on hold.")
        gone += _erase_part(db, row[0], left)
    return gone


def erase_rest(db: Database, *, user_id: Any, now: datetime) -> Counter[str]:
    """What belongs to no conversation of theirs: files never sent, what they think of others'."""
    key = owner_key(user_id, db)
    gone = Counter(_files(db, "owner_id = %s", key))
    take_of_owner(db, owner_id=user_id)
    gone["feedback"] = db.run(f"DELETE FROM {FEEDBACK} WHERE user_id = %s", (key,))
    moment = from_moment(now, is_sqlite=db.is_sqlite)
    db.run(f"DELETE FROM {_THROTTLE} WHERE window_ends_at <= %s", (moment,))
    return +gone


def forget_tokens(db: Database, *, user_id: Any) -> int:
    """No token of theirs opens anything any more; how many there were."""
    return db.run(f"DELETE FROM {_TOKEN} WHERE user_id = %s", (owner_key(user_id, db),))


def count(db: Database, *, user_id: Any) -> Counter[str]:
    """What `erase_some` would erase until its end, and `erase_rest` then."""
    whose, params = _whose(db, user_id)
    sessions = f"SELECT id FROM {SESSION} WHERE {whose}"
    messages = f"SELECT id FROM {MESSAGE} WHERE session_id IN ({sessions})"
    key = owner_key(user_id, db)

    def rows(table: str, where: str, *values: Any) -> int:
        return int(db.one(f"SELECT COUNT(*) FROM {table} WHERE {where}", values)[0])

    files = _files(db, f"session_id IN ({sessions}) OR owner_id = %s", *params, key)
    files["bytes"] += weigh(db, f"session_id IN ({sessions})", params)[1]
    return +Counter(
        {
            "sessions": rows(SESSION, whose, *params),
            "messages": rows(MESSAGE, f"session_id IN ({sessions})", *params),
            "turns": rows(TURN, f"session_id IN ({sessions})", *params),
            "feedback": rows(FEEDBACK, f"message_id IN ({messages}) OR user_id = %s", *params, key),
            **files,
        }
    )


def find_live(db: Database, *, user_id: Any) -> list[UUID]:
    """Their conversations in which something runs or waits."""
    whose, params = _whose(db, user_id)
    rows = db.all(
        f"SELECT DISTINCT session_id FROM {TURN} WHERE status IN ('queued', 'running')"
        f" AND session_id IN (SELECT id FROM {SESSION} WHERE {whose})",
        params,
    )
    return [_uuid(key) for (key,) in rows]


def has_sessions(db: Database, *, user_id: Any) -> bool:
    """Whether `erase_some` would find something."""
    whose, params = _whose(db, user_id)
    return db.one(f"SELECT 1 FROM {SESSION} WHERE {whose} LIMIT 1", params) is not None


def note(db: Database, *, user_id: Any, counts: Mapping[str, int]) -> dict[str, int]:
    """Keep for the ledger what this transaction erases; what is kept by now."""
    if counts:
        ledger.note(db, action=ledger.ERASE, actor=ledger.of_user(user_id), counts=counts)
    row = db.one(f"SELECT counts FROM {ledger.OPEN} WHERE id = %s", (_open_key(user_id),))
    noted: dict[str, int] = json.loads(text_of(row[0])) if row else {}
    return noted


def tell(
    db: Database, *, user_id: Any, actor: str, policy: str, milliseconds: int, now: datetime
) -> tuple[int | None, dict[str, int]]:
    """Write one row for all that was noted, also by runs that were killed; its number, and what.

    Where nothing was, there is no row. Call it last in the transaction that erases last.
    """
    counts = note(db, user_id=user_id, counts={})
    if not any(counts.values()):
        return None, counts
    db.run(f"DELETE FROM {ledger.OPEN} WHERE id = %s", (_open_key(user_id),))
    entry = ledger.Entry(
        action=ledger.ERASE,
        actor=actor,
        at=now,
        subject=ledger.of_user(user_id),
        policy=policy,
        counts={name: number for name, number in counts.items() if name != "bytes"},
        byte_count=counts.get("bytes", 0),
        milliseconds=milliseconds,
    )
    return ledger.append(db, entry), counts


def _open_key(user_id: Any) -> str:
    return f"{ledger.ERASE}:{ledger.of_user(user_id)}"


def _whose(db: Database, user_id: Any) -> tuple[str, list[Any]]:
    """The condition that a session is theirs: by its owner, or by its name where it has none."""
    prefix = f"user_{user_uuid(user_id)}_conv"
    named = "agent_session_id >= %s AND agent_session_id < %s" if db.is_sqlite else _LIKE
    names = [f"{prefix}_", f"{prefix}`"] if db.is_sqlite else [prefix.replace("_", "!_") + "!_%"]
    whose = f"(owner_id = %s OR (owner_id IS NULL AND {named}))"
    return whose, [owner_key(user_id, db), *names]


def _erase_part(db: Database, key: Any, most: int) -> Counter[str]:
    """Up to so many rows of a session; the session itself when nothing else is left of it."""
    gone: Counter[str] = Counter()
    some = f"SELECT id FROM {MESSAGE} WHERE session_id = %s ORDER BY position LIMIT %s"
    gone["bytes"] = weigh(db, f"id IN ({some})", (key, most))[1]
    gone["feedback"] = db.run(f"DELETE FROM {FEEDBACK} WHERE message_id IN ({some})", (key, most))
    gone["messages"] = db.run(f"DELETE FROM {MESSAGE} WHERE id IN ({some})", (key, most))
    most -= gone["messages"]
    if most <= 0:
        return +gone
    some = f"SELECT id FROM {TURN} WHERE session_id = %s ORDER BY number LIMIT %s"
    db.run(f"DELETE FROM {EVENTS} WHERE turn_id IN ({some})", (key, most))
    gone["turns"] = db.run(f"DELETE FROM {TURN} WHERE id IN ({some})", (key, most))
    if gone["turns"] >= most:
        return +gone
    gone.update(_files(db, "session_id = %s", key))
    take_of_session(db, session_key=key)
    db.run(f"DELETE FROM {READS} WHERE session_id = %s", (key,))
    gone["sessions"] = db.run(f"DELETE FROM {SESSION} WHERE id = %s", (key,))
    return +gone


def _files(db: Database, where: str, *params: Any) -> dict[str, int]:
    files, size = db.one(
        f"SELECT COUNT(*), SUM(stored_size) FROM {ATTACHMENT} WHERE {_IS_KNOWN} AND ({where})",
        params,
    )
    return {"attachments": int(files), "bytes": count_of(size)}


def _uuid(key: Any) -> UUID:
    return key if isinstance(key, UUID) else UUID(text_of(key))
