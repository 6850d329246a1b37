"""ChatKit's store on our log: exact, of one owner, never a lost update, never a revival."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest
from chatkit import types
from chatkit.store import NotFoundError

from conversations import lanes, threads
from conversations.agents_session import AgentSession
from conversations.chatkit_store import (
    ChatKitContext,
    ConversationStore,
    Prepared,
    UnknownItem,
    UnknownThread,
)
from conversations.errors import Invalid, ThreadHeld
from conversations.ids import new_id
from conversations.items import encode_item
from conversations.models import ChatMessage, ChatSession, ChatTurn
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


@pytest.mark.parametrize("limit", [1, 7, 100])
@pytest.mark.parametrize("order", ["asc", "desc"])
async def test_pages_lose_and_repeat_nothing_while_others_append(order, limit, session, mine):
    def fill() -> list[str]:
        rows = [
            ChatMessage(
                session=session, position=place, kind="message", role="user", text=str(place),
                shown=bool(place % 3), created_at=NOW, agent_item="{}",
                thread_item=None if place % 3 else '{"type":"hidden_context_item","content":1}',
            )
            for place in range(1, 1_001)
        ]  # fmt: skip
        rows += [
            ChatMessage(session=session, position=1_000 + place, kind="reasoning", agent_item="{}")
            for place in range(1, 6)
        ]
        ChatMessage.objects.bulk_create(rows)
        ChatSession.objects.filter(id=session.id).update(last_position=1_005, item_count=1_005)
        return [str(row.id) for row in rows[:1_000]]

    expected = await lanes.call(fill)
    read: list[str] = []
    after, is_more, pages = None, True, 0
    while is_more:
        page = await items(session, mine, after=after, limit=limit, order=order)
        read += [item.id for item in page.data]
        after, is_more = page.after, page.has_more
        if (pages := pages + 1) % 50 == 1:
            await STORE.add_thread_item(str(session.id), said(session, "new"), mine)
    if order == "desc":
        expected.reverse()
    assert [item_id for item_id in read if item_id in set(expected)] == expected
    assert len(read) == len(set(read))
    if order == "asc":
        last = (await items(session, mine, limit=1, order="desc")).data[0]
        assert read[-1] == last.id


async def test_threads_are_listed_by_activity_in_pages(user, mine):
    def fill() -> list[str]:
        sessions = ChatSessionFactory.create_batch(7, owner=user)
        ChatSession.objects.update(last_active_at=NOW)
        return sorted(str(session.id) for session in sessions)

    expected = await lanes.call(fill)
    for order in ("asc", "desc"):
        read: list[str] = []
        after, is_more = None, True
        while is_more:
            page = await STORE.load_threads(3, after, order, mine)
            read += [thread.id for thread in page.data]
            is_more = page.has_more
            # Either is where a page ended: the cursor, and the id of its last thread.
            after = page.after if len(read) == 3 else page.data[-1].id
        assert read == (expected if order == "asc" else expected[::-1])


async def test_a_cursor_of_threads_that_is_none_is_refused(mine, session):
    with pytest.raises(Invalid):
        await STORE.load_threads(3, "x", "asc", mine)
    with pytest.raises(UnknownThread):
        await STORE.load_threads(3, str(uuid4()), "asc", mine)


@pytest.mark.parametrize("remembers", [True, False])
async def test_deleting_an_item_leaves_the_memory_valid(remembers, session, mine):
    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}", "id": "f1"}
    output = {"type": "function_call_output", "call_id": "c", "output": "1"}
    memory = AgentSession(session.agent_session_id)
    await memory.add_items([{"role": "user", "content": "Hi"}, call, output])
    await memory.add_items([{"type": "reasoning", "id": "r", "summary": []}])
    answer = answered(session, "Yes")
    await STORE.add_thread_item(str(session.id), answer, mine)
    shown_call = await lanes.call(lambda: ChatMessage.objects.get(kind="function_call"))
    pending = types.ClientToolCallItem(
        **names(session, str(shown_call.id)), call_id="c", name="f", arguments={}
    )
    await STORE.save_item(str(session.id), pending, mine)
    assert await STORE.load_item(str(session.id), pending.id, mine) == pending.model_copy(
        update={"created_at": shown_call.created_at}
    )
    if not remembers:
        await lanes.call(ChatMessage.objects.filter(id=answer.id).update, agent_item=None)
        await lanes.write(lambda db: mend_counters(db, session_id=session.id))
    await STORE.delete_thread_item(str(session.id), pending.id, mine)
    await STORE.delete_thread_item(str(session.id), answer.id, mine)
    kept = [item.get("type", "message") for item in await memory.get_items()]
    assert kept == ["message", "function_call", "function_call_output"]
    page = await items(session, mine)
    assert [item.type for item in page.data] == ["user_message"]
    stored = await lanes.call(
        lambda: list(ChatMessage.objects.order_by("position").values_list("kind", flat=True))
    )
    left = ["message", "function_call", "function_call_output"]
    # The reasoning goes with the answer it led to, and only with that.
    assert stored == (left if remembers else [*left, "reasoning"])
    assert await is_counted_right(session)


async def test_what_a_running_turn_said_is_only_hidden_by_a_deletion(session, mine):
    def run() -> ChatMessage:
        turn = ChatTurn.objects.create(
            session=session, number=1, status="running", lease_until=2**50
        )
        return ChatMessage.objects.create(
            session=session, position=1, turn=turn, kind="message", role="user", text="Hi",
            shown=True,
        )  # fmt: skip

    message = await lanes.call(run)
    await lanes.write(lambda db: mend_counters(db, session_id=session.id))
    await STORE.delete_thread_item(str(session.id), str(message.id), mine)
    await lanes.call(message.refresh_from_db)
    assert (message.text, message.shown) == ("", False)
    await STORE.add_thread_item(str(session.id), answered(session, "pong"), mine)
    assert await lanes.call(lambda: ChatMessage.objects.get(role="assistant").agent_item is None), (
        "its memory is the turn's own"
    )
    assert await is_counted_right(session)


async def test_deleting_what_is_not_there_is_no_error_and_a_hold_is(session, mine):
    item = task(session)
    await STORE.add_thread_item(str(session.id), item, mine)
    for missing in (str(uuid4()), "msg_1"):
        await STORE.delete_thread_item(str(session.id), missing, mine)
    await lanes.call(ChatSession.objects.update, hold=True)
    with pytest.raises(ThreadHeld):
        await STORE.delete_thread_item(str(session.id), item.id, mine)
    assert (await items(session, mine)).data == [item]


async def test_nothing_is_written_to_a_thread_that_is_gone(session, mine, user):
    thread = await STORE.load_thread(str(session.id), mine)
    await STORE.delete_thread(str(session.id), mine)
    with pytest.raises(NotFoundError):
        await STORE.add_thread_item(str(session.id), task(session), mine)
    with pytest.raises(NotFoundError):
        await STORE.delete_thread_item(str(session.id), str(uuid4()), mine)
    with pytest.raises(NotFoundError):
        await STORE.delete_thread(str(session.id), mine)
    thread.title = "Back"
    await STORE.save_thread(thread, mine)
    await STORE.save_thread(thread, ChatKitContext(user.pk))
    assert await lanes.call(ChatSession.objects.count) == 0
    assert await lanes.call(ChatMessage.objects.count) == 0


async def test_another_users_thread_is_as_unknown_as_none(session, theirs, mine):
    item = said(session)
    await STORE.add_thread_item(str(session.id), item, mine)
    thread_id = str(session.id)
    for thread in (thread_id, str(uuid4()), "thr_1"):
        for attempt in (
            STORE.load_thread(thread, theirs),
            STORE.load_item(thread, item.id, theirs),
            STORE.load_thread_items(thread, None, 20, "asc", theirs),
            STORE.add_thread_item(thread, answered(session), theirs),
            STORE.save_item(thread, item, theirs),
            STORE.delete_thread_item(thread, item.id, theirs),
            STORE.delete_thread(thread, theirs),
        ):
            with pytest.raises(UnknownThread):
                await attempt
    assert (await STORE.load_threads(20, None, "asc", theirs)).data == []
    assert (await items(session, mine)).data == [item]
    with pytest.raises(UnknownItem):
        await STORE.load_item(thread_id, "msg_1", mine)


# --- Threads -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "status",
    [
        types.ActiveStatus(),
        types.LockedStatus(reason="a\x00b"),
        types.LockedStatus(),
        types.ClosedStatus(reason=""),
    ],
    ids=["active", "locked", "locked without a reason", "closed"],
)
async def test_all_of_a_thread_comes_back(status, session, mine):
    thread = await STORE.load_thread(str(session.id), mine)
    thread.title, thread.status = "Plans \u2014 \U0001f642", status
    thread.allowed_image_domains = ["a.example", "b.example"]
    thread.metadata = {"a": [1, None, {"b": 0.5}], "c": "text"}
    await STORE.save_thread(thread, mine)
    assert await STORE.load_thread(str(session.id), ChatKitContext(mine.owner_id)) == thread
    (listed,) = (await STORE.load_threads(20, None, "asc", mine)).data
    assert listed == thread
    thread.allowed_image_domains, thread.title = None, None
    await STORE.save_thread(thread, mine)
    assert await STORE.load_thread(str(session.id), ChatKitContext(mine.owner_id)) == thread


async def test_a_reason_is_that_of_its_own_status(session, mine):
    thread = await STORE.load_thread(str(session.id), mine)
    thread.status = types.LockedStatus(reason="Paid until May")
    await STORE.save_thread(thread, mine)
    await threads.update_thread(session_id=session.id, owner_id=mine.owner_id, status="closed")
    again = await STORE.load_thread(str(session.id), mine)
    assert again.status == types.ClosedStatus()


async def test_only_what_has_changed_is_written(session, mine):
    thread = await STORE.load_thread(str(session.id), mine)
    other = ChatKitContext(mine.owner_id)
    theirs = await STORE.load_thread(str(session.id), other)
    theirs.title, theirs.metadata = "Renamed", {"theirs": 1, "both": 1}
    await STORE.save_thread(theirs, other)
    thread.metadata = {"mine": 2}
    await STORE.save_thread(thread, mine)
    await STORE.save_thread(thread, mine)
    found = await STORE.load_thread(str(session.id), mine)
    assert found.title == "Renamed"
    assert found.metadata == {"theirs": 1, "both": 1, "mine": 2}
    del theirs.metadata["both"]
    await STORE.save_thread(theirs, other)
    found = await STORE.load_thread(str(session.id), mine)
    assert found.metadata == {"theirs": 1, "mine": 2}


async def test_what_no_engine_stores_is_replaced_and_what_is_too_long_is_cut(session, mine):
    thread = await STORE.load_thread(str(session.id), mine)
    thread.title = "\x00" + "x" * 300
    thread.metadata = {"a\x00": ["\x00", {"\ud800": "\ud800"}]}
    await STORE.save_thread(thread, mine)
    found = await STORE.load_thread(str(session.id), mine)
    assert found.title == "\ufffd" + "x" * 199
    assert found.metadata == {"a\ufffd": ["\ufffd", {"\ufffd": "\ufffd"}]}
    thread.metadata = {"a": float("nan")}
    with pytest.raises(ValueError, match="JSON"):
        await STORE.save_thread(thread, mine)


async def test_a_thread_that_is_begun_here_is_made_by_saving_it_and_no_other(user, mine):
    thread = types.ThreadMetadata(id=STORE.generate_thread_id(mine), created_at=NOW, title="New")
    await STORE.save_thread(thread, mine)
    assert (await STORE.load_thread(thread.id, mine)).title == "New"
    await STORE.save_thread(types.ThreadMetadata(id=str(uuid4()), created_at=NOW), mine)
    assert await lanes.call(ChatSession.objects.count) == 1
    with pytest.raises(UnknownThread):
        await STORE.save_thread(types.ThreadMetadata(id="thr_1", created_at=NOW), mine)


# --- What was prepared ---------------------------------------------------------------------


@pytest.fixture
def prepared(session: Any, mine: ChatKitContext) -> Prepared:
    thread = types.ThreadMetadata(id=str(session.id), created_at=NOW, title="Prepared")
    turn: Any = None
    mine.prepared = Prepared(thread, turn, said(session))
    return mine.prepared


async def test_what_was_prepared_is_not_read_and_not_written_again(prepared, session, mine):
    item = prepared.item
    assert item is not None
    thread = await STORE.load_thread(str(session.id), mine)
    assert thread == prepared.thread
    assert thread is not prepared.thread
    assert (await items(session, mine, limit=1)).data == [item]
    assert await STORE.load_item(str(session.id), item.id, mine) == item
    mine.settled.add("of the turn")
    await STORE.add_thread_item(str(session.id), item, mine)
    await STORE.save_item(str(session.id), task(session, item_id="of the turn"), mine)
    await STORE.delete_thread_item(str(session.id), item.id, mine)
    assert await lanes.call(ChatMessage.objects.count) == 0
    mine.is_under_way = True
    assert (await items(session, mine)).data == []


async def test_ids_that_were_prepared_are_given_out_once(prepared, session, mine):
    assert STORE.generate_thread_id(mine) == str(session.id)
    assert STORE.generate_item_id("task", prepared.thread, mine) != prepared.item.id
    assert STORE.generate_item_id("message", prepared.thread, mine) == prepared.item.id
    assert STORE.generate_item_id("message", prepared.thread, mine) != prepared.item.id


async def test_a_message_that_is_answered_again_gives_its_id_to_nothing_else(
    prepared, session, mine
):
    await items(session, mine)
    assert STORE.generate_item_id("message", prepared.thread, mine) != prepared.item.id


async def test_what_an_answer_changes_of_a_prepared_thread_is_written(prepared, session, mine):
    thread = await STORE.load_thread(str(session.id), mine)
    await lanes.call(ChatSession.objects.update, title="Renamed meanwhile")
    thread.metadata = {"a": 1}
    await STORE.save_thread(thread, mine)
    stored = await lanes.call(ChatSession.objects.get)
    assert (stored.title, stored.metadata) == ("Renamed meanwhile", {"a": 1})


async def test_a_new_thread_that_was_prepared_is_saved_without_a_word(prepared, session, mine):
    await lanes.call(ChatSession.objects.update, title="From its first message")
    fresh = types.ThreadMetadata(id=STORE.generate_thread_id(mine), created_at=NOW)
    await STORE.save_thread(fresh, mine)
    assert await lanes.call(lambda: ChatSession.objects.get().title) == "From its first message"
    fresh.status = types.LockedStatus(reason="done")
    await STORE.save_thread(fresh, mine)
    stored = await lanes.call(ChatSession.objects.get)
    assert (stored.title, stored.status) == ("From its first message", "locked")
