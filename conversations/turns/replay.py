"""A turn told once more, to a client that repeats a message it is not sure was taken."""

from __future__ import annotations

import asyncio
import logging
import random
from functools import partial
from typing import Final

from django.utils import timezone

from conversations import lanes
from conversations.errors import ConversationsError, ThreadNotFound, TurnError
from conversations.events import ContentDelta, TurnCompleted, TurnRunning
from conversations.store import tickets
from conversations.store.repeats import Ending, find_ending
from conversations.turns.live import LiveTurn, failed

logger = logging.getLogger(__name__)

FIRST_PAUSE_SECONDS: Final = 0.05
LONGEST_PAUSE_SECONDS: Final = 0.5


async def tell_again(turn: LiveTurn) -> None:
    """Wait until the turn has ended, wherever it runs, then tell what its rows say."""
    try:
        _tell(turn, await _ending(turn))
    except ConversationsError as error:
        turn.emit(failed(turn, error))
    except Exception as error:
        logger.warning("turn %s not told again: %s", turn.id, type(error).__name__)
        turn.emit(failed(turn, TurnError()))


async def _ending(turn: LiveTurn) -> Ending:
    """How it ended. Raises ThreadNotFound when it is gone with its conversation, StoreError."""
    pause = FIRST_PAUSE_SECONDS
    while True:
        now = timezone.now()
        ending = await lanes.read(partial(find_ending, turn_id=turn.id, now=now))
        if ending is None:
            raise ThreadNotFound
        if not ending.is_live:
            return ending
        if ending.is_abandoned:  # nobody will end it but us
            await lanes.write(
                partial(tickets.recover, session_id=turn.session_id, expired_before=now, now=now)
            )
            continue
        await asyncio.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311 - no secret
        pause = min(pause * 1.6, LONGEST_PAUSE_SECONDS)


def _tell(turn: LiveTurn, ending: Ending) -> None:
    if ending.has_started:
        turn.emit(TurnRunning(turn.id))
    if ending.answer_text or ending.warning:
        turn.emit(ContentDelta(ending.answer_text, ending.warning))
    if ending.status in {"completed", "cancelled"}:
        turn.emit(
            TurnCompleted(
                turn_id=turn.id,
                status="completed" if ending.status == "completed" else "cancelled",
                message_id=ending.answer_message_id,
                user_message_id=ending.user_message_id,
                usage=ending.usage,
                warning=ending.warning,
            )
        )
    else:
        turn.emit(failed(turn, _error_of(ending.error_code)))


def _error_of(code: str) -> ConversationsError:
    """The error a turn's row remembers by its code."""
    kinds: list[type[TurnError]] = [TurnError, *TurnError.__subclasses__()]
    return next((kind() for kind in kinds if kind.code == code), TurnError())
