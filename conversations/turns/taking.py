"""How a turn gets its ticket, its start and its end where rows of the conversation are damaged."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar
from uuid import UUID

from django.db import IntegrityError

from conversations import lanes
from conversations.errors import StoreBusy, StoreDamaged, StoreError, StoreReadOnly
from conversations.store.mending import mend_counters

logger = logging.getLogger(__name__)

T = TypeVar("T")


async def take(
    job: Callable[..., Any], *, session_id: UUID, again: Callable[..., Any] | None = None
) -> Any:
    """What `tickets.submit` or `tickets.start` gives.

    Where something of the conversation is damaged, its counters are mended and the job is done once
    `again`; if need be without the memory. Raises StoreError when it cannot be done now. Then
    nobody knows for sure that it was not: whoever tries later takes that into account.
    """
    again = again or job
    try:
        return await lanes.write(job)
    except (StoreBusy, StoreReadOnly):
        raise
    except (StoreError, IntegrityError) as error:
        logger.warning("session %s is damaged: %s", session_id, type(error).__name__)
    try:
        if await lanes.write(partial(mend_counters, session_id=session_id)):
            return await lanes.write(again)
    except (StoreError, IntegrityError) as error:
        logger.warning("session %s is still damaged: %s", session_id, type(error).__name__)
    try:
        return await lanes.write(partial(again, with_memory=False))
    except IntegrityError as error:
        raise StoreDamaged from error


async def write_mended(job: Callable[..., T], *, session_id: UUID) -> T:
    """Write; where rows of another program are in the way, mend the counters and write once more.

    Raises StoreError, and StoreDamaged where that does not help.
    """
    try:
        return await lanes.write(job)
    except IntegrityError as error:
        logger.warning("session %s does not fit its rows: %s", session_id, type(error).__name__)
    try:
        await lanes.write(partial(mend_counters, session_id=session_id))
        return await lanes.write(job)
    except IntegrityError as error:
        raise StoreDamaged from error
