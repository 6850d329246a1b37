"""What the agent's tools show in ChatKit: in the log before it is told, at whichever door."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from agents import Agent, RunContextWrapper, StopAtTools, function_tool
from chatkit.agents import ClientToolCall
from chatkit.types import (
    AssistantMessageContent,
    AssistantMessageItem,
    ClosedStatus,
    CustomTask,
    HiddenContextItem,
    ProgressUpdateEvent,
    ThreadItemAddedEvent,
    ThreadItemDoneEvent,
    ThreadItemRemovedEvent,
    ThreadItemReplacedEvent,
    Workflow,
)

from conversations import feedback, lanes
from conversations.assistant import TurnContext
from conversations.errors import LeaseLost, StoreBusy, ThreadClosed
from conversations.events import NOT_SAVED, ThreadEvent, TurnCompleted, TurnEvent
from conversations.models import ChatMessage, ChatSession, Feedback
from conversations.store import log as store_log
from conversations.tests.scripted import Call, Say, ScriptedModel
from conversations.tests.turns_helpers import (
    ask,
    counters_fit,
    log,
    say,
    shown,
    stored,
    told,
    warnings,
    words,
)

Wrapper = RunContextWrapper[TurnContext]
DEEDS: dict[str, Any] = {}
"""What the tool `do` does, by its argument."""


@function_tool
async def do(wrapper: Wrapper, deed: str) -> str:
    """Do what the test has put there."""
    await DEEDS[deed](wrapper.context.chatkit)
    return "done"


@function_tool
async def last(wrapper: Wrapper, deed: str) -> None:
    """The same; the run ends with it."""
    await DEEDS[deed](wrapper.context.chatkit)


def build_agent() -> Agent[TurnContext]:
    return Agent(
        name="shows",
        model=ScriptedModel(),
        tools=[do, last],
        tool_use_behavior=StopAtTools(stop_at_tool_names=["last"]),
    )


@pytest.fixture(autouse=True)
def _agent(settings):
    settings.CONVERSATIONS_AGENT = f"{__name__}.build_agent"
    yield
    DEEDS.clear()


def does(deed: str, tool: str = "do") -> Call:
    return Call(tool, json.dumps({"deed": deed}))


def events(heard: list[TurnEvent]) -> list[Any]:
    return [json.loads(event.json) for event in heard if isinstance(event, ThreadEvent)]


def message(chatkit: Any, text: str, item_id: str = "") -> AssistantMessageItem:
    return AssistantMessageItem(
        id=item_id or chatkit.generate_id("message"),
        thread_id=chatkit.thread.id,
        created_at=datetime.now(UTC),
        content=[AssistantMessageContent(text=text)],
    )


async def perform(session: Any, script: Any, deed: Any, *, tool: str = "do") -> list[TurnEvent]:
    """The events of a turn whose tool does `deed(chatkit)`."""
    DEEDS["it"] = deed
    script(does("it", tool), Say("ok"))
    return await ask(session)


async def test_an_item_is_stored_where_it_was_shown_and_told(session, script):
    async def deed(chatkit: Any) -> None:
        await chatkit.stream(ThreadItemDoneEvent(item=message(chatkit, "first")))
        rows = await log(session)
        assert [row.text for row in rows] == ["Hello", "first"]  # told after it is stored

    heard = await perform(session, script, deed)
    (event,) = events(heard)
    assert event["type"] == "thread.item.done"
    rows = await log(session)
    assert [(row.kind, row.text) for row in rows] == [
        ("message", "Hello"),
        ("message", "first"),
        ("function_call", ""),
        ("function_call_output", ""),
        ("message", "ok"),
    ]
    assert str(rows[1].id) == event["item"]["id"]
    assert await shown(session) == [("user", "Hello"), ("assistant", "first"), ("assistant", "ok")]
    assert words(heard) == "ok"
    await counters_fit(session)


async def test_what_is_hidden_is_remembered_and_never_told(session, script):
    async def deed(chatkit: Any) -> None:
        hidden = HiddenContextItem(
            id=chatkit.generate_id("message"),
            thread_id=chatkit.thread.id,
            created_at=datetime.now(UTC),
            content={"basket": 3},
        )
        await chatkit.stream(ThreadItemAddedEvent(item=hidden))
        await chatkit.stream(ThreadItemDoneEvent(item=hidden))

    heard = await perform(session, script, deed)
    assert events(heard) == []
    (row,) = [row for row in await log(session) if row.kind == "hidden_context_item"]
    assert not row.shown
    item = json.loads(row.agent_item)
    assert item["role"] == "system"
    assert '{"basket":3}' in item["content"]


async def test_an_item_changes_in_its_place(session, script):
    async def deed(chatkit: Any) -> None:
        item = message(chatkit, "one", "shown-1")  # an id of somebody else's making
        await chatkit.stream(ThreadItemDoneEvent(item=item))
        changed = message(chatkit, "two", "shown-1")
        await chatkit.stream(ThreadItemReplacedEvent(item=changed))

    done, replaced = events(await perform(session, script, deed))
    assert done["item"]["id"] == replaced["item"]["id"] != "shown-1"
    assert [text for _, text in await shown(session)] == ["Hello", "two", "ok"]
    await counters_fit(session)


async def test_an_item_is_taken_back(session, script):
    async def deed(chatkit: Any) -> None:
        item = message(chatkit, "one")
        await chatkit.stream(ThreadItemDoneEvent(item=item))
        await chatkit.stream(ThreadItemRemovedEvent(item_id=item.id))
        never = chatkit.generate_id("message")
        await chatkit.stream(ThreadItemRemovedEvent(item_id=never))

    heard = events(await perform(session, script, deed))
    assert [event["type"] for event in heard] == [
        "thread.item.done",
        "thread.item.removed",
        "thread.item.removed",
    ]
    assert [text for _, text in await shown(session)] == ["Hello", "ok"]
    found = await stored(session)
    assert (found.message_count, found.item_count) == (2, 4)


async def show_and_judge(session: Any, script: Any) -> str:
    """A message that a tool has shown, and that its reader liked; its id."""

    async def show(chatkit: Any) -> None:
        await chatkit.stream(ThreadItemDoneEvent(item=message(chatkit, "shown")))

    (event,) = events(await perform(session, script, show))
    await feedback.give(
        session_id=session.id,
        owner_id=session.owner_id,
        message_ids=[UUID(event["item"]["id"])],
        kind="positive",
    )
    return str(event["item"]["id"])


@pytest.mark.parametrize("is_held", [False, True])
async def test_an_item_is_taken_back_with_what_was_thought_of_it(session, script, is_held):
    item_id = await show_and_judge(session, script)
    hold = ChatSession.objects.filter(id=session.id).update
    await lanes.call(lambda: hold(hold=is_held))

    async def take_back(chatkit: Any) -> None:
        await chatkit.stream(ThreadItemRemovedEvent(item_id=item_id))

    heard = await perform(session, script, take_back)
    assert warnings(heard) == []
    assert (("assistant", "shown") in await shown(session)) is is_held
    assert await lanes.call(Feedback.objects.count) == is_held


async def test_the_words_of_people_are_not_taken_back(session, script):
    async def deed(chatkit: Any) -> None:
        (question,) = await log(session)
        await chatkit.stream(ThreadItemRemovedEvent(item_id=str(question.id)))

    await perform(session, script, deed)
    assert await shown(session) == [("user", "Hello"), ("assistant", "ok")]


@pytest.mark.parametrize("is_added", [True, False])
async def test_items_that_share_a_models_name_are_items_of_their_own(session, script, is_added):
    async def show(chatkit: Any) -> None:
        for text in ("one", "two"):
            item = message(chatkit, text, "__fake_id__")
            if is_added:
                await chatkit.stream(ThreadItemAddedEvent(item=item))
            await chatkit.stream(ThreadItemDoneEvent(item=item))

    heard = await perform(session, script, show)
    done = [e["item"] for e in events(heard) if e["type"] == "thread.item.done"]
    assert len({item["id"] for item in done}) == 2
    assert await shown(session) == [
        ("user", "Hello"), ("assistant", "one"), ("assistant", "two"), ("assistant", "ok"),
    ]  # fmt: skip


async def test_half_an_emoji_of_a_model_makes_nothing_unreadable(session, script, client):
    async def show(chatkit: Any) -> None:
        await chatkit.stream(ThreadItemDoneEvent(item=message(chatkit, "half \ud83d")))
        chatkit.thread.status = ClosedStatus(reason="half \ud83d")
        chatkit.client_tool_call = ClientToolCall(
            name="pick", arguments={"\ud83d": ["\ud83d", float("nan"), None]}
        )

    heard = await perform(session, script, show, tool="last")
    assert heard[-1].status == "completed"
    thread_id = str(session.id)
    read = await post(client, "threads.get_by_id", thread_id=thread_id)
    assert read["status"] == {"type": "closed", "reason": "half \ufffd"}
    assert (await post(client, "threads.list"))["data"][0]["status"] == read["status"]
    items = (await post(client, "items.list", thread_id=thread_id))["data"]
    call, answer, _ = items
    assert answer["content"][0]["text"] == "half \ufffd"
    assert [*call["arguments"].values()] == [["\ufffd", None, None]]
    told_items = [event["item"] for event in events(heard) if "item" in event]
    assert told_items == [answer, call]


async def post(client: Any, kind: str, **params: Any) -> Any:
    response = await client.post("/chatkit", json={"type": kind, "params": params})
    assert response.status_code == 200, response.text
    return response.json()


async def test_progress_is_told_and_not_stored(session, script):
    async def deed(chatkit: Any) -> None:
        await chatkit.stream(ProgressUpdateEvent(text="Looking"))

    heard = await perform(session, script, deed)
    assert events(heard) == [{"type": "progress_update", "text": "Looking"}]
    assert len(await log(session)) == 4


async def test_a_tool_sees_the_thread_and_changes_only_what_it_changes(session, script):
    await lanes.call(
        lambda: ChatSession.objects.filter(id=session.id).update(title="Mine", metadata={"kept": 1})
    )

    async def deed(chatkit: Any) -> None:
        assert (chatkit.thread.title, chatkit.thread.metadata) == ("Mine", {"kept": 1})
        await lanes.call(
            lambda: ChatSession.objects.filter(id=session.id).update(title="Renamed meanwhile")
        )
        chatkit.thread.metadata = {**chatkit.thread.metadata, "new": 2}

    (event,) = events(await perform(session, script, deed))
    assert event["type"] == "thread.updated"
    found = await stored(session)
    assert (found.title, found.metadata) == ("Renamed meanwhile", {"kept": 1, "new": 2})


async def test_a_tool_closes_the_conversation_for_what_comes_next(session, script):
    async def deed(chatkit: Any) -> None:
        chatkit.thread.status = ClosedStatus(reason="enough")

    heard = await perform(session, script, deed)
    assert words(heard) == "ok"
    with pytest.raises(ThreadClosed):
        await say(session)


async def test_a_call_for_the_browser_is_the_last_item(session, script):
    async def deed(chatkit: Any) -> None:
        chatkit.client_tool_call = ClientToolCall(name="pick", arguments={"a": 1})

    heard = await perform(session, script, deed, tool="last")
    (event,) = events(heard)
    *_, call, output, item = await log(session)
    assert event["item"]["status"] == "pending"
    assert event["item"]["call_id"] == call.call_id == output.call_id
    assert str(item.id) == event["item"]["id"]
    assert words(heard) == ""  # what the tool returned is not an answer


async def test_a_call_for_the_browser_is_that_of_the_tool_which_asked_for_it(session, script):
    async def ask_browser(chatkit: Any) -> None:
        chatkit.client_tool_call = ClientToolCall(name="pick", arguments={})

    async def nothing(chatkit: Any) -> None:
        await asyncio.sleep(0)

    DEEDS.update(browser=ask_browser, other=nothing)
    script(replace(does("browser", "last"), beside=does("other")))
    (event,) = events(await ask(session))
    calls = {row.call_id: row for row in await log(session) if row.kind == "function_call"}
    assert "browser" in calls[event["item"]["call_id"]].agent_item


async def test_a_workflow_left_open_is_closed_with_the_run(session, script):
    async def deed(chatkit: Any) -> None:
        await chatkit.start_workflow(Workflow(type="custom", tasks=[]))
        await chatkit.add_workflow_task(CustomTask(title="Look"))

    heard = events(await perform(session, script, deed))
    assert [event["type"] for event in heard] == ["thread.item.added", "thread.item.done"]
    (row,) = [row for row in await log(session) if row.kind == "workflow"]
    assert json.loads(row.thread_item)["workflow"]["tasks"][0]["title"] == "Look"


async def test_tools_that_run_side_by_side_store_everything_once(session, script):
    async def deed(chatkit: Any) -> None:
        items = [message(chatkit, str(number)) for number in range(10)]
        await asyncio.gather(*(chatkit.stream(ThreadItemDoneEvent(item=item)) for item in items))

    await perform(session, script, deed)
    texts = [text for _, text in await shown(session)]
    assert sorted(texts[1:-1]) == [str(number) for number in range(10)]
    await counters_fit(session)


async def test_a_tool_left_behind_by_a_stop_shows_nothing(session, script):
    begun, go_on, after = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def linger(chatkit: Any) -> None:
        await go_on.wait()
        try:
            await chatkit.stream(ThreadItemDoneEvent(item=message(chatkit, "late")))
        finally:
            after.set()

    async def deed(chatkit: Any) -> None:
        DEEDS["task"] = asyncio.get_running_loop().create_task(linger(chatkit))
        begun.set()
        await asyncio.Event().wait()

    DEEDS["it"] = deed
    script(does("it"), Say("ok"))
    turn = await say(session)
    await begun.wait()
    turn.stop("stopped")
    ended = (await told(turn))[-1]
    assert isinstance(ended, TurnCompleted)
    go_on.set()
    await after.wait()
    await DEEDS["task"]
    assert await shown(session) == [("user", "Hello")]


async def test_what_cannot_be_stored_is_shown_with_a_warning_and_stored_at_the_end(
    session, script, monkeypatch
):
    real = store_log.append_for_turn

    async def deed(chatkit: Any) -> None:
        def refuse(*_: Any, **__: Any) -> None:
            raise StoreBusy

        with pytest.MonkeyPatch.context() as broken:
            broken.setattr(store_log, "append_for_turn", refuse)
            await chatkit.stream(ThreadItemDoneEvent(item=message(chatkit, "kept")))
        assert store_log.append_for_turn is real

    heard = await perform(session, script, deed)
    assert len(events(heard)) == 1
    assert warnings(heard) in ([], [NOT_SAVED])
    assert [text for _, text in await shown(session)] == ["Hello", "kept", "ok"]


async def test_another_process_that_took_the_turn_over_lets_no_tool_write(session, script):
    taken: list[Any] = []

    async def deed(chatkit: Any) -> None:
        await lanes.call(lambda: ChatSession.objects.filter(id=session.id).update(fence=10**6))
        for event in (
            ThreadItemDoneEvent(item=message(chatkit, "late")),
            ThreadItemRemovedEvent(item_id=chatkit.generate_id("message")),
        ):
            try:
                await chatkit.stream(event)
            except LeaseLost as error:
                taken.append(error)
        raise taken[0]

    heard = await perform(session, script, deed)
    assert len(taken) == 2
    assert events(heard) == []
    assert not await lanes.call(lambda: ChatMessage.objects.filter(text="late").exists())
