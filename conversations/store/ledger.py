"""What was removed, written down in the transaction that removes it, and proved by a chain.

Every row holds the hash of the one before, over all it says: a row that is changed, left out or
put in between is found by `verify`. That the latest are missing is found only by whoever knows the
hash of one of them. Nothing here was said by anybody, and nobody is named.

The chain's end is locked from `append` to the end of its transaction: append last.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

from django.utils.crypto import salted_hmac

from conversations.lanes import Database, from_moment
from conversations.models import LedgerEntry, OpenRemoval
from conversations.store.damage import moment_of, select, text_of

LEDGER: Final = LedgerEntry._meta.db_table
OPEN: Final = OpenRemoval._meta.db_table

CLEANUP: Final = "cleanup"
DELETE: Final = "delete"
CLEAR: Final = "clear"
RETRY: Final = "retry"
ITEM_DELETED: Final = "item_deleted"
PRUNE: Final = "prune"
ERASE: Final = "erase"
HOLD: Final = "hold"
LIFT: Final = "lift"
ATTACHMENT_DELETED: Final = "attachment_deleted"
ATTACHMENTS_SWEPT: Final = "attachments_swept"
VACUUM: Final = "vacuum"
ACTIONS: Final = (
    CLEANUP,
    DELETE,
    CLEAR,
    RETRY,
    ITEM_DELETED,
    PRUNE,
    ERASE,
    HOLD,
    LIFT,
    ATTACHMENT_DELETED,
    ATTACHMENTS_SWEPT,
    VACUUM,
)
SCHEDULE: Final = "schedule"
COMMAND: Final = "command"
USER: Final = "user"
CODE: Final = "code"
"""Actors: the worker, a command, the owner at a door, a program; staff are `staff(key)`."""

TRIGGERS: Final = ("conversations_ledger_update", "conversations_ledger_delete")
"""What keeps rows as they are, whoever writes SQL; migration 0010."""

_FIRST: Final = "0" * 64
_LOCK: Final = 0x1ED6E401  # any number that nobody else locks
_COLUMNS: Final = (
    "number",
    "at",
    "actor",
    "action",
    "subject",
    "reason",
    "policy",
    "cutoff",
    "counts",
    "byte_count",
    "milliseconds",
    "errors",
    "previous_hash",
    "hash",
)
_TIMES: Final = ("at", "cutoff")
_NUMBERS: Final = ("number", "byte_count", "milliseconds")
_INSERT: Final = (
    f"INSERT INTO {LEDGER} ({', '.join(_COLUMNS)}) VALUES ({', '.join(['%s'] * len(_COLUMNS))})"
)
_AT_ONCE: Final = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What is to be written down."""

    action: str
    actor: str
    at: datetime
    subject: str = ""
    """A `pseudonym`."""
    reason: str = ""
    policy: str = ""
    cutoff: datetime | None = None
    counts: Mapping[str, int] = field(default_factory=dict)
    byte_count: int = 0
    milliseconds: int = 0
    errors: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """Whether the chain is whole, and where it breaks if it is not."""

    entries: int
    """How many hold together, from the first on."""
    head: str
    """The hash of the last of these: whoever notes it can prove later that none is missing."""
    broken_at: int | None = None
    why: str = ""
    guarded: bool = True
    """The triggers are there that refuse changes."""

    @property
    def is_whole(self) -> bool:
        return self.broken_at is None


def append(db: Database, entry: Entry) -> int:
    """Write a row at the end of the chain; its number. Call it last in its transaction."""
    if not db.is_sqlite:
        db.run("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
    last = db.one(
        f"SELECT number, hash FROM {LEDGER} WHERE number = (SELECT MAX(number) FROM {LEDGER})"
    )
    number, previous = (last[0] + 1, text_of(last[1])) if last else (1, _FIRST)
    said: dict[str, Any] = {
        "number": number,
        "at": entry.at,
        "actor": entry.actor,
        "action": entry.action,
        "subject": entry.subject,
        "reason": entry.reason,
        "policy": entry.policy,
        "cutoff": entry.cutoff,
        "counts": _json(entry.counts),
        "byte_count": entry.byte_count,
        "milliseconds": entry.milliseconds,
        "errors": _json(entry.errors),
        "previous_hash": previous,
    }
    row = said | {name: from_moment(said[name], is_sqlite=db.is_sqlite) for name in _TIMES}
    db.run(_INSERT, (*row.values(), _hash(said)))
    return number


def tell_of_session(
    db: Database,
    *,
    action: str,
    session_key: Any,
    actor: str,
    counts: Mapping[str, int],
    byte_count: int,
    now: datetime,
) -> None:
    """Write down what was removed of one session; nothing where nothing was."""
    counts = {name: count for name, count in counts.items() if count}
    if counts:
        append(
            db,
            Entry(
                action=action,
                actor=actor,
                at=now,
                subject=of_session(session_key),
                counts=counts,
                byte_count=byte_count,
            ),
        )


def verify(db: Database, *, head: str = "") -> Verified:
    """Follow the chain from its first row; with `head`, that hash must be in it."""
    columns = [f"CAST({name} AS TEXT)" if name in _TIMES else name for name in _COLUMNS]
    number, previous, is_found = 0, _FIRST, head in ("", _FIRST)
    guarded, at_once = _is_guarded(db), _AT_ONCE
    while True:
        rows = select(
            db,
            columns if db.is_sqlite else _COLUMNS,
            f"FROM {LEDGER} WHERE number > %s ORDER BY number LIMIT %s",
            (number, at_once),
        )
        if at_once > 1 and rows and type(rows[0][0]) is not int:
            at_once = 1  # one of them cannot be read: which?
            continue
        for row in rows:
            why = _fault(dict(zip(_COLUMNS, row, strict=True)), number + 1, previous)
            if why:
                return Verified(
                    entries=number, head=previous, broken_at=number + 1, why=why, guarded=guarded
                )
            number, previous = number + 1, row[-1]
            is_found = is_found or previous == head
        if len(rows) < at_once:
            break
    known = Verified(entries=number, head=previous, guarded=guarded)
    if is_found:
        return known
    return Verified(
        entries=number,
        head=previous,
        broken_at=number + 1,
        why="the hash that was noted is not in it: later rows are missing",
        guarded=guarded,
    )


def note(db: Database, *, action: str, actor: str, counts: Mapping[str, int]) -> None:
    """Add what this transaction removes to what `tell` will write: for a run of many of them."""
    key, lock = f"{action}:{actor}", "" if db.is_sqlite else " FOR UPDATE"
    # Again where another told it, and so took it away, after this one met it.
    while (row := db.one(f"SELECT counts FROM {OPEN} WHERE id = %s{lock}", (key,))) is None:
        db.run(
            f"INSERT INTO {OPEN} (id, action, actor, counts) VALUES (%s, %s, %s, '{{}}')"
            " ON CONFLICT DO NOTHING",
            (key, action, actor),
        )
    total = Counter(json.loads(row[0]))
    total.update(counts)
    db.run(f"UPDATE {OPEN} SET counts = %s WHERE id = %s", (_json(total), key))


def has_noted(db: Database, *, action: str, actor: str) -> bool:
    """Whether there is something to `tell`."""
    key = f"{action}:{actor}"
    return db.one(f"SELECT 1 FROM {OPEN} WHERE id = %s", (key,)) is not None


def tell(
    db: Database, *, action: str, actor: str, policy: str = "", milliseconds: int = 0, at: datetime
) -> int | None:
    """Write one row for all that was noted, also by a run that was killed; its number.

    None where nothing was.
    """
    key, lock = f"{action}:{actor}", "" if db.is_sqlite else " FOR UPDATE"
    row = db.one(f"SELECT counts FROM {OPEN} WHERE id = %s{lock}", (key,))
    if row is None:
        return None
    db.run(f"DELETE FROM {OPEN} WHERE id = %s", (key,))
    entry = Entry(
        action=action,
        actor=actor,
        at=at,
        policy=policy,
        counts=json.loads(row[0]),
        milliseconds=milliseconds,
    )
    return append(db, entry)


def staff(key: Any) -> str:
    """A person of the staff as an actor."""
    return f"staff:{key}"


def pseudonym(kind: str, key: Any) -> str:
    """What stands for a session or a user: the same for the same one, and told by `SECRET_KEY`.

    Whoever has only the ledger cannot find out whose it is.
    """
    text = key.hex if isinstance(key, UUID) else str(key)
    digest = salted_hmac("conversations.ledger", f"{kind}:{text}", algorithm="sha256").hexdigest()
    return f"{kind}:{digest[:24]}"


def of_session(session_id: Any) -> str:
    """The pseudonym of a session by its id, also as an engine stores it."""
    return pseudonym("session", session_id if isinstance(session_id, UUID) else UUID(session_id))


def of_user(user_id: Any) -> str:
    """The pseudonym of a user by their key."""
    return pseudonym("user", user_id)


def _fault(row: dict[str, Any], number: int, previous: str) -> str:
    """What is wrong with a row that should be of this number and follow that hash."""
    if type(row["number"]) is not int:  # some value cannot be read: all come as the text they are
        return "it cannot be read"
    if row["number"] != number:
        return "it is missing"
    said = {name: row[name] for name in _COLUMNS if name != "hash"}
    for name in _TIMES:
        stored = said[name]
        said[name] = moment_of(stored) if stored is not None else None
        if isinstance(stored, str) and from_moment(said[name], is_sqlite=True) != stored:
            return "it was changed"
    if said["at"] is None or any(type(said[name]) is not int for name in _NUMBERS):
        return "it was changed"
    if said["previous_hash"] != previous:
        return "it does not follow the one before"
    if row["hash"] != _hash(said):
        return "it was changed"
    return ""


def _hash(said: Mapping[str, Any]) -> str:
    """Over all that a row says, the hash of the one before included."""
    plain = {
        name: value.astimezone(UTC).isoformat() if isinstance(value, datetime) else value
        for name, value in said.items()
    }
    return hashlib.sha256(_json(plain).encode()).hexdigest()


def _json(value: Mapping[str, Any]) -> str:
    """The one way to write it."""
    return json.dumps(dict(value), sort_keys=True, separators=(",", ":"), default=_as_text)


def _as_text(value: Any) -> str:
    """What a damaged row holds instead of text."""
    return value.decode(errors="backslashreplace") if isinstance(value, bytes) else repr(value)


def _is_guarded(db: Database) -> bool:
    if db.is_sqlite:
        (found,) = db.one(
            "SELECT COUNT(*) FROM sqlite_master WHERE type = 'trigger' AND name IN (%s, %s)",
            TRIGGERS,
        )
        return bool(found == len(TRIGGERS))
    (found,) = db.one(
        "SELECT COUNT(*) FROM pg_trigger WHERE tgrelid = %s::regclass AND tgname IN (%s, %s)"
        " AND tgenabled <> 'D'",
        (LEDGER, *TRIGGERS),
    )
    return bool(found == len(TRIGGERS))
