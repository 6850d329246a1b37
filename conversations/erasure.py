"""All that is kept of one person is erased, on every surface, with a receipt.

Sync, in short transactions. Whoever runs or waits in their conversations is stopped by the caller
as far as it is in its own process; elsewhere, what is gone cannot be written to any more. Killed
anywhere, it is begun again and goes on, and the ledger tells all of it once.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any, Final, Literal
from uuid import UUID

from django.contrib.auth import get_user_model
from django.db import IntegrityError

from conversations import attachments, lanes, traces
from conversations.errors import StoreBusy
from conversations.lanes import Database
from conversations.reclaim import SECONDS, reclaim_space
from conversations.signals import erasing_user
from conversations.store import erasing, ledger

Scope = Literal["conversations", "sign_ins", "account"]
"""What goes: what was said; also how the person signs in and what staff noted; also the account."""
ATTEMPTS: Final = 5
"""So often the end is tried where the person goes on talking."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """What is erased so far, also by earlier runs that were killed; in numbers only."""

    subject: str
    """The pseudonym that stands for the person in the ledger."""
    counts: Mapping[str, int] = field(default_factory=dict)
    ledger_number: int | None = None
    finished: bool = False


def refuse_held(user_id: Any) -> None:
    """Raises ThreadHeld where something of theirs is on hold: then nothing is erased."""
    lanes.look_up(partial(erasing.refuse_held, user_id=user_id))


def find_live(user_id: Any) -> list[UUID]:
    """Their conversations in which something runs or waits, for the caller to stop."""
    return lanes.look_up(partial(erasing.find_live, user_id=user_id))


def erase(
    *, user_id: Any, actor: str, now: datetime, scope: Scope = "conversations"
) -> Iterator[Receipt]:
    """Erase step by step; the last receipt is the one, and is in the ledger.

    Each step is a transaction of its own. What is on hold is found before the first, and in each.
    Raises ThreadHeld, StoreError: what was erased until then stays erased, and is in the ledger
    when it is done.
    """
    begun = time.monotonic()
    signed_in = [] if scope == "conversations" else traces.find_browser_sessions(user_id)
    begin = partial(_begin, user_id=user_id, scope=scope, signed_in=signed_in)
    lanes.perform(begin)
    while (gone := lanes.perform(partial(_erase_some, user_id=user_id))) is not None:
        yield Receipt(subject=ledger.of_user(user_id), counts=gone)
        _let_others_write()
    end = partial(_end, user_id=user_id, scope=scope, actor=actor, now=now)
    for attempt in range(ATTEMPTS):
        spent = round((time.monotonic() - begun) * 1000)
        try:
            receipt = lanes.perform(partial(end, milliseconds=spent))
        except IntegrityError:  # something refers to the person since
            if attempt == ATTEMPTS - 1:
                raise
        else:
            if receipt is not None:
                yield receipt
                return
        lanes.perform(partial(_erase_some, user_id=user_id))  # somebody went on talking
    raise StoreBusy("This person goes on talking; nothing new was erased.")


def preview(*, user_id: Any, now: datetime, scope: Scope) -> Receipt:
    """What `erase` would erase now. Raises ThreadHeld."""
    refuse_held(user_id)
    counts = lanes.look_up(partial(erasing.count, user_id=user_id))

    signed_in = [] if scope == "conversations" else traces.find_browser_sessions(user_id)
    rest = partial(_erase_beside, user_id=user_id, scope=scope, signed_in=signed_in)
    counts += lanes.perform(rest, dry_run=True)
    if scope == "account":
        counts["accounts"] = 1
    return Receipt(subject=ledger.of_user(user_id), counts=dict(counts))


def tidy(*, seconds: float = SECONDS) -> bool:
    """The bytes of files, and what is left in pages and logs; whether nothing is.

    Best effort: what cannot be done now is done by the sweep.
    """
    attachments.erase_removed()
    return reclaim_space(seconds=seconds).is_clean


def erase_user(
    *,
    user_id: Any,
    actor: str,
    now: datetime,
    scope: Scope,
    told: Callable[[Receipt], object] = lambda so_far: None,
) -> tuple[Receipt, bool]:
    """All of it at once: the receipt, and whether it is gone from the disk already."""
    receipt = Receipt(subject=ledger.of_user(user_id))
    for receipt in erase(user_id=user_id, actor=actor, now=now, scope=scope):
        told(receipt)
    return receipt, tidy()


def _begin(db: Database, *, user_id: Any, scope: Scope, signed_in: Sequence[str]) -> None:
    """What must be found while all rows are there."""
    erasing.refuse_held(db, user_id=user_id)
    gone = _erase_beside(db, user_id=user_id, scope=scope, signed_in=signed_in)
    users = get_user_model()
    if scope == "account" and any(field.name == "is_active" for field in users._meta.fields):
        users._default_manager.filter(pk=user_id).update(is_active=False)  # nobody goes on talking
    erasing.note(db, user_id=user_id, counts=gone)


def _erase_some(db: Database, *, user_id: Any) -> dict[str, int] | None:
    gone = erasing.erase_some(db, user_id=user_id)
    return None if gone is None else erasing.note(db, user_id=user_id, counts=gone)


def _end(
    db: Database,
    *,
    user_id: Any,
    scope: Scope,
    actor: str,
    now: datetime,
    milliseconds: int,
) -> Receipt | None:
    """The last transaction; None where there is something to erase again."""
    users = get_user_model()._default_manager
    # Of two that erase the same person at once, one ends after the other: one receipt.
    users.select_for_update(no_key=True).filter(pk=user_id).first()
    erasing.refuse_held(db, user_id=user_id)
    if erasing.has_sessions(db, user_id=user_id):
        return None
    gone = erasing.erase_rest(db, user_id=user_id, now=now)
    gone += _erase_beside(db, user_id=user_id, scope=scope)
    if scope == "account":
        gone["accounts"] = int(users.filter(pk=user_id).delete()[0] > 0)
    erasing.note(db, user_id=user_id, counts=+gone)
    number, counts = erasing.tell(
        db, user_id=user_id, actor=actor, policy=scope, milliseconds=milliseconds, now=now
    )
    return Receipt(
        subject=ledger.of_user(user_id), counts=counts, ledger_number=number, finished=True
    )


def _erase_beside(
    db: Database, *, user_id: Any, scope: Scope, signed_in: Sequence[str] = ()
) -> Counter[str]:
    """What other apps keep of the person, and by scope how they sign in and what staff noted."""
    gone: Counter[str] = Counter()
    for _, counts in erasing_user.send(sender=None, user_id=user_id):
        gone.update(counts or {})
    if scope != "conversations":
        gone["log_entries"] += traces.clear_admin_log(user_id)
        gone["browser_sessions"] += traces.end_browser_sessions(signed_in)
        gone["access_tokens"] += erasing.forget_tokens(db, user_id=user_id)
    return +gone


def _let_others_write() -> None:
    """Irregularly: against a steady rhythm, a writer that retries may starve."""
    time.sleep(random.uniform(0.002, 0.008))  # noqa: S311 - no secret
