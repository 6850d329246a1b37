"""ChatKit's store on our log: exact, of one owner, never a lost update, never a revival."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from chatkit import types

from conversations import lanes
from conversations.chatkit_store import (
    ChatKitContext,
    ConversationStore,
    UnknownItem,
)
from conversations.ids import new_id
from conversations.items import encode_item
from conversations.models import ChatMessage, ChatSession
from conversations.store.mending import mend_counters
from conversations.tests.factories import ChatSessionFactory
from conversations.thread_items import HIDDEN_CONTEXT

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
STORE = ConversationStore()


@pytest.fixture
def mine(user: Any) -> ChatKitContext:
    return ChatKitContext(user.pk)


@pytest.fixture
def theirs(stranger: Any) -> ChatKitContext:
    return ChatKitContext(stranger.pk)


def names(session: Any, item_id: str | None = None) -> dict[str, Any]:
    return {"id": item_id or str(new_id()), "thread_id": str(session.id), "created_at": NOW}


def said(session: Any, text: str = "Hi", item_id: str | None = None) -> types.UserMessageItem:
    return types.UserMessageItem(
        **names(session, item_id),
        content=[types.UserMessageTextContent(text=text)],
        inference_options=types.InferenceOptions(),
    )


def answered(session: Any, text: str = "Yes", item_id: str | None = None) -> Any:
    return types.AssistantMessageItem(
        **names(session, item_id), content=[types.AssistantMessageContent(text=text)]
    )


def hidden(session: Any, content: Any = "secret") -> types.HiddenContextItem:
    return types.HiddenContextItem(**names(session), content=content)


def task(session: Any, title: str = "Work", item_id: str | None = None) -> types.TaskItem:
    return types.TaskItem(**names(session, item_id), task=types.CustomTask(title=title))


async def items(session: Any, context: ChatKitContext, **changes: Any) -> types.Page[Any]:
    options: dict[str, Any] = {"after": None, "limit": 100, "order": "asc"} | changes
    return await STORE.load_thread_items(str(session.id), context=context, **options)


async def counters(session: Any) -> dict[str, int]:
    names = ("item_count", "message_count", "remembered_count", "last_position")
    return await lanes.call(lambda: ChatSession.objects.filter(id=session.id).values(*names).get())


async def is_counted_right(session: Any) -> bool:
    return not await lanes.write(lambda db: mend_counters(db, session_id=session.id))


# --- Ids -----------------------------------------------------------------------------------


def test_of_a_hundred_thousand_ids_none_comes_twice():
    context = ChatKitContext(1)
    thread = types.ThreadMetadata(id=STORE.generate_thread_id(context), created_at=NOW)
    made = {STORE.generate_item_id("message", thread, context) for _ in range(50_000)}
    made |= {STORE.generate_thread_id(ChatKitContext(1)) for _ in range(50_000)}
    assert len(made) == 100_000
    assert {UUID(made_id).version for made_id in made} == {7}


# --- Items ---------------------------------------------------------------------------------


async def test_what_is_added_is_read_again_in_its_order(session, mine):
    added = [said(session), answered(session), hidden(session, {"a": [1, None]}), task(session)]
    for item in added:
        await STORE.add_thread_item(str(session.id), item, mine)
    page = await items(session, mine)
    assert page.data == added
    assert not page.has_more
    assert page.after == added[-1].id
    assert (await items(session, mine, order="desc")).data == added[::-1]
    assert await STORE.load_item(str(session.id), added[2].id, mine) == added[2]
    assert await is_counted_right(session)
    assert (await counters(session))["message_count"] == 2


async def test_what_is_added_again_keeps_its_place(session, mine):
    first, second = task(session), task(session)
    for item in (first, second, task(session, "Done", first.id)):
        await STORE.add_thread_item(str(session.id), item, mine)
    await STORE.save_item(str(session.id), task(session, "Also", second.id), mine)
    page = await items(session, mine)
    assert [item.task.title for item in page.data] == ["Done", "Also"]
    assert await is_counted_right(session)
    assert (await counters(session))["last_position"] == 2


async def test_an_item_of_another_conversation_is_not_overwritten(session, mine, user):
    other = await lanes.call(ChatSessionFactory, owner=user)
    item = task(other)
    await STORE.add_thread_item(str(other.id), item, mine)
    with pytest.raises(UnknownItem):
        await STORE.save_item(str(session.id), task(session, "Mine", item.id), mine)
    assert (await items(other, mine)).data == [item]
    assert (await items(session, mine)).data == []


async def test_an_id_that_is_not_ours_is_refused(session, mine):
    with pytest.raises(ValueError, match="generate_item_id"):
        await STORE.add_thread_item(str(session.id), task(session, item_id="msg_1"), mine)


async def test_what_was_said_in_an_action_is_remembered(session, mine):
    for item in (answered(session, "pong"), hidden(session, {"a": 1}), task(session)):
        await STORE.add_thread_item(str(session.id), item, mine)
    remembered = await lanes.call(
        lambda: list(ChatMessage.objects.order_by("position").values_list("agent_item", flat=True))
    )
    assert remembered == [
        '{"role":"assistant","content":"pong"}',
        encode_item({"role": "system", "content": HIDDEN_CONTEXT.format('{"a":1}')}),
        None,
    ]
    assert await is_counted_right(session)
