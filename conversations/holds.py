"""What must be kept: holds on a session, or on all that a person has.

Sync, for commands and the admin. Whoever places or lifts one says why; the ledger keeps that.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import Any, Final
from uuid import UUID

from conversations import lanes
from conversations.errors import Invalid
from conversations.ids import is_storable
from conversations.store import holds

MAX_REASON_CHARS: Final = 500


def hold_session(
    *, session_id: UUID, reason: str, actor: str, now: datetime, dry_run: bool = False
) -> None:
    """Keep a session as it is until the hold is lifted; what people say in it goes on.

    Raises Invalid without a reason, ThreadNotFound.
    """
    place = partial(holds.hold_session, session_id=session_id)
    _perform(place, reason=reason, actor=actor, now=now, dry_run=dry_run)


def lift_session(
    *, session_id: UUID, reason: str, actor: str, now: datetime, dry_run: bool = False
) -> None:
    """Let a session go as others do. Raises Invalid without a reason, ThreadNotFound, NotHeld."""
    lift = partial(holds.lift_session, session_id=session_id)
    _perform(lift, reason=reason, actor=actor, now=now, dry_run=dry_run)


def hold_user(
    *, user_id: Any, reason: str, actor: str, now: datetime, dry_run: bool = False
) -> None:
    """Keep all that a person has, and will have. Raises Invalid without a reason."""
    place = partial(holds.hold_user, user_id=user_id)
    _perform(place, reason=reason, actor=actor, now=now, dry_run=dry_run)


def lift_user(
    *, user_id: Any, reason: str, actor: str, now: datetime, dry_run: bool = False
) -> None:
    """Let go what a person has, but not sessions with a hold of their own. Raises NotHeld."""
    lift = partial(holds.lift_user, user_id=user_id)
    _perform(lift, reason=reason, actor=actor, now=now, dry_run=dry_run)


def _perform(
    change: Callable[..., None], *, reason: str, actor: str, now: datetime, dry_run: bool
) -> None:
    said = reason.strip()
    if not said or len(said) > MAX_REASON_CHARS or not is_storable(said):
        raise Invalid(
            f"reason: write in 1 to {MAX_REASON_CHARS} characters why, and no names: the ledger"
            " keeps it for good.",
            fields=[{"field": "reason", "message": "is required"}],
        )
    lanes.perform(partial(change, reason=said, actor=actor, now=now), dry_run=dry_run)
