"""What ChatKit's streaming requests mean here: each that asks the assistant is a turn.

A request is prepared before the library takes over: what it names is looked up, and its turn has
its ticket, so that every refusal comes before a stream opens, and what was said is acknowledged
once. The library's `respond` then only tells what the turn does.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from chatkit.types import (
    ClientToolCallItem,
    StreamingReq,
    StructuredInputItem,
    ThreadItem,
    ThreadMetadata,
    ThreadsAddClientToolOutputReq,
    ThreadsAddStructuredInputReq,
    ThreadsAddUserMessageReq,
    ThreadsCreateReq,
    ThreadsCustomActionReq,
    ThreadsRetryAfterItemReq,
    ThreadStreamEvent,
    UserMessageInput,
    UserMessageItem,
)

from conversations import lanes, threads, turns
from conversations.chatkit_context import ChatKitContext, Prepared
from conversations.chatkit_events import tell
from conversations.chatkit_messages import (
    Server,
    beside_text,
    invalid,
    plain_items,
    read_message,
    to_id,
)
from conversations.errors import (
    ConversationsError,
    StoreError,
    ThreadClosed,
    ThreadNotFound,
)
from conversations.ids import new_id, storable
from conversations.store.inputs import Settlement
from conversations.store.rewinding import find_turn_of
from conversations.thread_items import encode_thread_item, item_text

if TYPE_CHECKING:
    from conversations.turns.live import Verify

logger = logging.getLogger(__name__)


async def prepare(
    server: Server,
    request: StreamingReq,
    context: ChatKitContext,
    *,
    verify: Verify | None = None,
) -> None:
    """Look up what the request names, and take its turn's ticket; `context.prepared` has both.

    With `verify`, who speaks could not be verified, because the store is away. Raises
    ThreadNotFound, ItemNotFound, AttachmentNotFound, ThreadClosed, Invalid, QueueFull, StoreError.
    """
    match request:
        case ThreadsCreateReq():
            await _create(server, request.params.input, context)
        case ThreadsAddUserMessageReq():
            await _add_message(server, request, context, verify)
        case ThreadsAddClientToolOutputReq():
            await _add_tool_output(server, request, context)
        case ThreadsAddStructuredInputReq():
            await _add_structured_input(server, request, context)
        case ThreadsRetryAfterItemReq():
            await _retry(server, request, context)
        case ThreadsCustomActionReq():
            await server.check_action(request, context)


async def respond(context: ChatKitContext) -> AsyncIterator[ThreadStreamEvent]:
    """Tell what the prepared turn does."""
    if context.prepared is None:
        raise RuntimeError("a request is answered that was not prepared")
    context.is_under_way = True
    async for event in tell(context.prepared.turn, context):
        yield event


async def run_agent(
    thread: ThreadMetadata, agent_items: Sequence[dict[str, Any]], context: ChatKitContext
) -> AsyncIterator[ThreadStreamEvent]:
    """Let the agent answer to what people do not see, in a turn of its own, and tell it."""
    turn = await turns.proceed(
        session_id=to_id(thread.id), owner_id=context.owner_id, agent_items=agent_items
    )
    context.prepared = Prepared(thread, turn)
    context.is_under_way = True
    async for event in tell(turn, context):
        yield event


async def leave(context: ChatKitContext) -> None:
    """Whoever listened has gone, which means stop: what was said so far is kept.

    Not so when it is this server that goes. Returns when it is stored.
    """
    from conversations.turns.desk import desk  # noqa: PLC0415 - imports the SDK

    if context.prepared is None or desk().draining:
        return
    turn, session_id = context.prepared.turn, to_id(context.prepared.thread.id)
    try:
        await turns.stop(session_id=session_id, owner_id=context.owner_id, turn_id=turn.id)
    except (StoreError, ThreadNotFound) as error:
        logger.warning("turn %s is not stopped: %s", turn.id, type(error).__name__)
    task = getattr(turn, "task", None)
    if task is not None and not task.done():
        await asyncio.wait({task})


async def _create(server: Server, said: UserMessageInput, context: ChatKitContext) -> None:
    thread_id = new_id()
    item = await read_message(server, said, thread_id, context)
    given = await beside_text(server, item)
    row = await threads.create_thread(owner_id=context.owner_id, session_id=thread_id)
    thread = ThreadMetadata(id=str(row.id), created_at=row.created_at)
    try:
        turn = await turns.send(
            session_id=thread_id,
            owner_id=context.owner_id,
            text=storable(item_text(item)),
            given=given,
        )
    except ConversationsError:  # such as a file that another message was faster to send
        with suppress(ConversationsError):
            await threads.delete_thread(session_id=thread_id, owner_id=context.owner_id)
        raise
    context.prepared = Prepared(thread, turn, item)


async def _add_message(
    server: Server,
    request: ThreadsAddUserMessageReq,
    context: ChatKitContext,
    verify: Verify | None,
) -> None:
    said, session_id = request.params.input, to_id(request.params.thread_id)
    item = await read_message(server, said, session_id, context)
    given = await beside_text(server, item)
    sending = turns.send(
        session_id=session_id,
        owner_id=context.owner_id,
        text=storable(item_text(item)),
        verify=verify,
        given=given,
    )
    # Side by side: the thread is needed with the first event only.
    turn, thread = await asyncio.gather(
        sending, _look_at_thread(server, session_id, context, is_away=verify is not None)
    )
    context.prepared = Prepared(thread, turn, item)


async def _look_at_thread(
    server: Server, session_id: UUID, context: ChatKitContext, *, is_away: bool
) -> ThreadMetadata:
    """The thread; only its id where the store shows nothing: the turn answers all the same."""
    thread = ThreadMetadata(id=str(session_id), created_at=datetime.now(UTC))
    if is_away:
        return thread
    try:
        return await server.store.load_thread(thread.id, context)
    except StoreError as error:
        logger.warning("the store shows no thread: %s", type(error).__name__)
        return thread


async def _add_tool_output(
    server: Server, request: ThreadsAddClientToolOutputReq, context: ChatKitContext
) -> None:
    thread = await _load_open_thread(server, request.params.thread_id, context)
    page = await server.store.load_thread_items(thread.id, None, 1, "desc", context)
    call = page.data[0] if page.data else None
    if not isinstance(call, ClientToolCallItem) or call.status != "pending":
        raise invalid("thread_id", "waits for no output of a client tool", "not_pending")
    output = request.params.result
    done = call.model_copy(update={"output": output, "status": "completed"})
    settlement = Settlement(
        item_id=to_id(call.id),
        thread_item=encode_thread_item(done),
        call_id=call.call_id,
        output=json.dumps(output),
    )
    await _proceed(thread, call, settlement, context)


async def _add_structured_input(
    server: Server, request: ThreadsAddStructuredInputReq, context: ChatKitContext
) -> None:
    thread = await _load_open_thread(server, request.params.thread_id, context)
    item = await server.store.load_item(thread.id, request.params.item_id, context)
    if not isinstance(item, StructuredInputItem):
        raise invalid("item_id", "is no structured input", "wrong_item")
    if item.status != "pending":
        raise invalid("item_id", "does not wait for an answer", "not_pending")
    answered = await server.answered(item, request.params.input)
    settlement = Settlement(item_id=to_id(item.id), thread_item=encode_thread_item(answered))
    items = plain_items(await server.converter.structured_input_to_input(answered))
    await _proceed(thread, item, settlement, context, items)


async def _proceed(
    thread: ThreadMetadata,
    item: ThreadItem,
    settlement: Settlement,
    context: ChatKitContext,
    agent_items: Sequence[dict[str, Any]] = (),
) -> None:
    turn = await turns.proceed(
        session_id=to_id(thread.id),
        owner_id=context.owner_id,
        agent_items=agent_items,
        settlement=settlement,
    )
    context.prepared = Prepared(thread, turn, item)


async def _retry(
    server: Server, request: ThreadsRetryAfterItemReq, context: ChatKitContext
) -> None:
    thread = await _load_open_thread(server, request.params.thread_id, context)
    item = await server.store.load_item(thread.id, request.params.item_id, context)
    if not isinstance(item, UserMessageItem):
        raise invalid("item_id", "is not a user message", "wrong_item")
    session_id, message_id = to_id(thread.id), to_id(item.id)
    turn_id = await lanes.read(
        lambda db: find_turn_of(db, session_id=session_id, message_id=message_id)
    )
    if turn_id is None:
        raise invalid("item_id", "was not said in a turn, and cannot be retried", "wrong_item")
    turn = await turns.retry(
        session_id=session_id,
        owner_id=context.owner_id,
        turn_id=turn_id,
        beside=await beside_text(server, item),
    )
    context.prepared = Prepared(thread, turn, item)


async def _load_open_thread(
    server: Server, thread_id: str, context: ChatKitContext
) -> ThreadMetadata:
    thread = await server.store.load_thread(thread_id, context)
    if thread.status.type != "active":
        raise ThreadClosed
    return thread
