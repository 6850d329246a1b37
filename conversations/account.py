"""What a person may do with all that is kept of them: have it erased."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Final

from django.utils import timezone

from conversations import erasure, lanes, turns
from conversations.erasure import Receipt
from conversations.errors import StoreError
from conversations.store import ledger

logger = logging.getLogger(__name__)

TIDY_SECONDS: Final = 8.0
"""So long a person waits at most until their words are cleared from the file; the sweep goes on."""

_erasures: set[asyncio.Task[Receipt]] = set()


async def erase_account_data(*, owner_id: Any) -> Receipt:
    """Erase all conversations of a person; the account stays. What runs in them is ended first.

    It goes on to its end also where the caller leaves. Raises ThreadHeld, StoreError.
    """
    await lanes.call(erasure.refuse_held, owner_id)
    task = asyncio.get_running_loop().create_task(_erase(owner_id))
    _erasures.add(task)
    task.add_done_callback(_ended)
    return await asyncio.shield(task)


async def _erase(owner_id: Any) -> Receipt:
    for session_id in await lanes.call(erasure.find_live, owner_id):
        await turns.stop_session(session_id, reason="deleted")
    steps = erasure.erase(user_id=owner_id, actor=ledger.USER, now=timezone.now())
    receipt = Receipt(subject="")
    while (step := await lanes.call_patiently(next, steps, None)) is not None:
        receipt = step
    try:
        await lanes.call_patiently(erasure.tidy, seconds=TIDY_SECONDS)
    except StoreError as error:  # it may still be at work, and the sweep does the rest
        logger.warning("erased, but not tidied up yet: %s", type(error).__name__)
    return receipt


def _ended(task: asyncio.Task[Receipt]) -> None:
    _erasures.discard(task)
    if not task.cancelled():
        task.exception()  # seen, also where the caller has left
