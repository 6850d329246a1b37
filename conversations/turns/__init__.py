"""What happens when someone speaks: every door sends through here, and nothing else runs an agent.

    turn = await turns.send(session_id=..., owner_id=..., text="Hello")
    async for batch in turn.listen(): ...

The message is acknowledged when `send` returns: it is in the database and will be answered in its
order, whether anybody listens or not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import UUID

from conversations.attachments import erase_soon

if TYPE_CHECKING:
    from collections.abc import Sequence

    from conversations.store.inputs import Settlement, TurnInput
    from conversations.store.stops import Stop
    from conversations.turns.follow import FollowedTurn
    from conversations.turns.live import LiveTurn, Verify


async def send(
    *,
    session_id: UUID,
    owner_id: Any,
    text: str,
    idempotency_key: str | None = None,
    verify: Verify | None = None,
    given: TurnInput | None = None,
) -> LiveTurn | FollowedTurn:
    """Say something in a conversation: a text, and what is `given` with it.

    The same `idempotency_key` with the same text within 24 hours is the same turn, told once more.
    Where the store takes nothing, the answer comes without it and says so, and is saved when it is
    back; with an owner that could not be verified there, also without what was said before, and
    only once `verify` does not raise. Raises ThreadNotFound, ThreadClosed,
    QueueFull, IdempotencyConflict, ShuttingDown: nothing is stored.
    """
    from conversations.turns.admission import Said  # noqa: PLC0415 - imports the SDK
    from conversations.turns.desk import desk  # noqa: PLC0415

    return await desk().send(Said(session_id, owner_id, text, idempotency_key, verify, given=given))


async def proceed(
    *,
    session_id: UUID,
    owner_id: Any,
    agent_items: Sequence[dict[str, Any]] = (),
    settlement: Settlement | None = None,
) -> LiveTurn | FollowedTurn:
    """Let the assistant go on although nobody said anything: a person did something.

    The model is given `agent_items`, which people do not see. What the person answered, the
    `settlement`, is stored with the turn's ticket: both or neither. Never answered without the
    store. Raises ThreadNotFound, ThreadClosed, QueueFull, StoreError, ShuttingDown; Invalid where
    the item to settle does not wait for an answer.
    """
    from conversations.store.inputs import TurnInput  # noqa: PLC0415
    from conversations.turns.admission import Said  # noqa: PLC0415 - imports the SDK
    from conversations.turns.desk import desk  # noqa: PLC0415

    given = TurnInput(agent_items=list(agent_items), is_said=False)
    return await desk().send(Said(session_id, owner_id, "", given=given, settlement=settlement))


async def retry(
    *,
    session_id: UUID,
    owner_id: Any,
    turn_id: UUID,
    text: str | None = None,
    idempotency_key: str | None = None,
    beside: TurnInput | None = None,
) -> LiveTurn | FollowedTurn:
    """Say once more what was said in a turn, or `text`, in its place: all from there on goes.

    `beside` is what the model is given of it where it no longer remembers that itself.

    What runs or waits in the conversation is ended, wherever it does. Taking back and saying are
    one: after a crash the conversation is the old one, or has the new message. The same
    `idempotency_key` again is the same turn, and takes nothing back. Never answered without the
    store. Raises ThreadNotFound, TurnNotFound, ThreadClosed, ThreadHeld, IdempotencyConflict,
    StoreError, ShuttingDown: nothing is taken back.
    """
    from conversations.turns.desk import desk  # noqa: PLC0415

    turn = await desk().retry(
        session_id=session_id,
        owner_id=owner_id,
        turn_id=turn_id,
        text=text,
        idempotency_key=idempotency_key,
        beside=beside,
    )
    await erase_soon()
    return turn


async def pick_up(
    *, session_id: UUID, owner_id: Any, turn_id: UUID, after: int, is_verified: bool = True
) -> tuple[LiveTurn | FollowedTurn, int]:
    """A turn to listen to once more, wherever it runs, and the number after which to begin.

    Raises ThreadNotFound, TurnNotFound; EventsGone when it ended too long ago to go on in the
    middle; Invalid when it never told so many events.
    """
    from conversations.turns.desk import desk  # noqa: PLC0415

    return await desk().pick_up(
        session_id=session_id,
        owner_id=owner_id,
        turn_id=turn_id,
        after=after,
        is_verified=is_verified,
    )


async def stop(*, session_id: UUID, owner_id: Any, turn_id: UUID, is_verified: bool = True) -> Stop:
    """Ask a turn to stop, wherever it runs; what was said so far stays, marked.

    Raises ThreadNotFound, TurnNotFound.
    """
    from conversations.turns.desk import desk  # noqa: PLC0415

    return await desk().stop(
        session_id=session_id, owner_id=owner_id, turn_id=turn_id, is_verified=is_verified
    )


async def stop_session(session_id: UUID, *, reason: str = "stopped") -> None:
    """End what runs or waits in this process for a conversation, and wait until it has settled."""
    from conversations.turns.desk import desk  # noqa: PLC0415

    await desk().stop_session(session_id, reason=reason)


async def settled(session_id: UUID) -> None:
    """Wait until nothing runs or waits in this process for a conversation."""
    from conversations.turns.desk import desk  # noqa: PLC0415

    await desk().settled(session_id)


async def drain(grace_seconds: float) -> None:
    """Refuse new turns, let running ones finish within the grace, then keep their parts."""
    from conversations.turns.desk import desk  # noqa: PLC0415

    await desk().drain(grace_seconds)


async def look_after_abandoned() -> None:
    """For a process that serves: close what others left open when they died, answer what waited."""
    from conversations.turns.desk import desk  # noqa: PLC0415

    desk().look_after_abandoned()
