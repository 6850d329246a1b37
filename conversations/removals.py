"""Conversations that Django itself deletes, such as those of a user who is deleted in the admin.

Nobody else hears of these but by signals: what is on hold is refused, and the ledger is told.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from django.db.models import ProtectedError
from django.db.models.signals import post_delete, pre_delete
from django.utils import timezone

from conversations import lanes
from conversations.models import ChatSession
from conversations.store import holds, ledger


def listen() -> None:
    """Once, when the app is ready."""
    pre_delete.connect(_refuse_held, sender=ChatSession, dispatch_uid="conversations.removals")
    post_delete.connect(_tell, sender=ChatSession, dispatch_uid="conversations.removals")


def _refuse_held(sender: Any, instance: ChatSession, **_: Any) -> None:
    def is_held(db: lanes.Database) -> bool:
        return holds.is_held(db, lanes.from_uuid(instance.pk, is_sqlite=db.is_sqlite))

    if lanes.look_up(is_held):
        raise ProtectedError("This conversation is on hold.", {instance})


def _tell(sender: Any, instance: ChatSession, **_: Any) -> None:
    tell = partial(
        ledger.tell_of_session,
        action=ledger.DELETE,
        session_key=instance.pk,
        actor=ledger.CODE,
        counts={"sessions": 1, "messages": instance.item_count},
        byte_count=0,
        now=timezone.now(),
    )
    lanes.perform(tell)
