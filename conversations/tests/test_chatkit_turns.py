"""ChatKit's streaming requests as turns: refused before they begin, stored once, stopped."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from chatkit.actions import Action
from chatkit.types import StreamingReq, ThreadMetadata
from django.utils import timezone
from pydantic import TypeAdapter

from conversations import chatkit_turns, lanes, turns
from conversations.assistant import get_chatkit_server
from conversations.chatkit_context import ChatKitContext, Prepared, UnknownItem
from conversations.chatkit_server import ConversationServer
from conversations.errors import (
    Invalid,
    StoreError,
    StoreReadOnly,
    ThreadClosed,
    ThreadNotFound,
)
from conversations.events import CONTEXT_UNAVAILABLE, NOT_SAVED
from conversations.ids import new_id
from conversations.items import Row
from conversations.models import ChatMessage, ChatSession
from conversations.store import closing
from conversations.store.closing import CUT_SHORT, STOPPED
from conversations.tests import scripted
from conversations.tests.scripted import Say
from conversations.tests.turns_helpers import ask, log, rows, shown, until, until_said
from conversations.turns.desk import desk

_REQUEST: TypeAdapter[Any] = TypeAdapter(StreamingReq)
TAG = {"type": "input_tag", "id": "e1", "text": "Ann", "data": {"n": 1}}


class Pinging(ConversationServer):
    """A project's own: its one action lets the agent answer."""

    async def action(
        self, thread: ThreadMetadata, action: Action[str, Any], sender: Any, context: Any
    ) -> AsyncIterator[Any]:
        items = [{"role": "user", "content": f"pressed {action.type}"}]
        async for event in self.run_agent(thread, items, context):
            yield event


@pytest.fixture(autouse=True)
def _server(settings):
    settings.CONVERSATIONS_CHATKIT_SERVER = f"{__name__}.Pinging"


@pytest.fixture
def mine(user: Any) -> ChatKitContext:
    return ChatKitContext(user.pk)


@pytest.fixture
def gate() -> asyncio.Event:
    return asyncio.Event()


def said(*content: Any, **more: Any) -> dict[str, Any]:
    parts = [{"type": "input_text", "text": c} if isinstance(c, str) else c for c in content]
    return {"content": parts, "attachments": [], "inference_options": {}} | more


def request_of(kind: str, **params: Any) -> dict[str, Any]:
    return {"type": kind, "params": params}


def to(session: Any, *content: Any, **more: Any) -> dict[str, Any]:
    """A message to a conversation."""
    return request_of(
        "threads.add_user_message", thread_id=str(session.id), input=said(*content, **more)
    )


async def prepare(request: dict[str, Any], context: ChatKitContext, **options: Any) -> None:
    parsed = _REQUEST.validate_python(request)
    await chatkit_turns.prepare(get_chatkit_server(), parsed, context, **options)


async def stream(request: dict[str, Any], context: ChatKitContext, **options: Any) -> Any:
    """The events of a request, as they come."""
    await prepare(request, context, **options)
    result = await get_chatkit_server().process(json.dumps(request), context)
    return result.json_events


async def heard(request: dict[str, Any], context: ChatKitContext, **options: Any) -> list[Any]:
    events = await stream(request, context, **options)
    return [json.loads(event.removeprefix(b"data: ")) async for event in events]


def text_of(events: list[Any]) -> str:
    done = [e["item"] for e in events if e["type"] == "thread.item.done"]
    return "".join(
        part["text"] for item in done if item["type"] == "assistant_message"
        for part in item["content"]
    )  # fmt: skip


async def put(session: Any, *entries: Row) -> None:
    """Entries at the end of the log, of no turn."""

    def write(db: lanes.Database) -> None:
        key = lanes.from_uuid(session.id, is_sqlite=db.is_sqlite)
        closing.append_rows(db, session_id=key, turn_id=None, rows=entries, now=timezone.now())

    await lanes.write(write)


def pending(kind: str, **more: Any) -> Row:
    return Row(
        kind, "assistant", thread_item=json.dumps({"type": kind, "status": "pending"} | more)
    )


CALL = {"call_id": "c1", "name": "pick", "arguments": {}}
FORM = {"inputs": [{"type": "freeform", "id": "q", "question": "Why?"}]}


# --- What is said -------------------------------------------------------------------------------


async def test_a_message_is_one_row_whichever_door_it_came_through(session, mine):
    await ask(session, "over REST")
    events = await heard(to(session, "over ChatKit"), mine)
    assert text_of(events) == "I remember: over REST | over ChatKit"
    assert [role for role, _ in await shown(session)] == ["user", "assistant"] * 2
    *_, question, answer = await log(session)
    ids = [e["item"]["id"] for e in events if e["type"] == "thread.item.done"]
    assert ids == [str(question.id), str(answer.id)]
    assert (question.thread_item, answer.thread_item) == (None, None)
    told = [e["item"] for e in events if e["type"] == "thread.item.done"]
    page = await get_chatkit_server().store.load_thread_items(
        str(session.id), None, 2, "desc", ChatKitContext(session.owner_id)
    )
    assert told == [json.loads(item.model_dump_json(exclude_none=True)) for item in page.data[::-1]]
    for event in events:  # all times have a zone
        for part in (event.get("item"), event.get("thread")):
            assert part is None or part["created_at"].endswith("Z")


async def test_a_thread_is_begun_with_its_first_message(mine, user):
    events = await heard(request_of("threads.create", input=said("Hello")), mine)
    assert [e["type"] for e in events[:3]] == [
        "thread.created",
        "thread.item.done",
        "stream_options",
    ]
    session = await lanes.call(ChatSession.objects.get)
    assert (str(session.id), session.owner_id) == (events[0]["thread"]["id"], user.pk)
    assert session.title == "Hello"


async def test_what_is_told_is_what_is_listed(session, mine, script):
    context = ChatKitContext(session.owner_id)
    events = await heard(request_of("threads.create", input=said("one", TAG)), context)
    thread = events[0]["thread"]
    script(Say("Half a word.", pieces=["Half "], then=RuntimeError()))
    request = to(ChatSession(id=thread["id"]), "two", quoted_text="a quote")
    events += await heard(request, mine)
    told = [event["item"] for event in events if event["type"] == "thread.item.done"]
    listed = await answered("items.list", mine, thread_id=thread["id"], order="asc")
    assert listed["data"] == told
    assert len(told) == 4
    stored = await answered("threads.get_by_id", mine, thread_id=thread["id"])
    assert stored["created_at"] == thread["created_at"]


async def answered(kind: str, context: ChatKitContext, **params: Any) -> Any:
    request = json.dumps(request_of(kind, **params))
    return json.loads((await get_chatkit_server().process(request, context)).json)


async def test_what_is_more_than_text_is_kept_and_given_to_the_model(session, mine, monkeypatch):
    async def told(self: Any, tag: Any) -> Any:
        return {"type": "input_text", "text": f"{tag.text} is {tag.data['n']}"}

    monkeypatch.setattr(type(get_chatkit_server().converter), "tag_to_message_content", told)
    await heard(to(session, "Who is ", TAG, quoted_text="she"), mine)
    question, _ = await log(session)
    assert question.text == "Who is Ann"
    assert json.loads(question.thread_item)["quoted_text"] == "she"
    (given,) = [item for item in scripted.SCRIPT.inputs[-1] if item["role"] == "user"]
    texts = [part["text"] for part in given["content"]]
    assert texts[0] == "Who is @Ann"
    assert any("she" in text for text in texts)
    assert texts[-1] == "Ann is 1"
    assert json.loads(question.agent_item)["content"] == given["content"]


@pytest.mark.parametrize(
    ("content", "more"),
    [
        ((), {}),
        (("",), {}),
        (("  \n",), {}),
        (("x" * 2_001,), {}),
        (("x",), {"quoted_text": "y" * 4_001}),
        (("x",), {"attachments": [str(n) for n in range(21)]}),
    ],
    ids=["no content", "empty", "blank", "too long", "a long quote", "many attachments"],
)
async def test_what_is_no_message_is_refused_before_anything_is_stored(
    session, mine, content, more
):
    with pytest.raises(Invalid):
        await prepare(to(session, *content, **more), mine)
    with pytest.raises(Invalid):
        await prepare(request_of("threads.create", input=said(*content, **more)), mine)
    assert await rows(session) == []
    assert await lanes.call(ChatSession.objects.count) == 1


# --- What is refused ----------------------------------------------------------------------------


def all_about(thread_id: str, item_id: str) -> list[dict[str, Any]]:
    """Every streaming request that names a thread."""
    return [
        request_of("threads.add_user_message", thread_id=thread_id, input=said("Hello")),
        request_of("threads.add_client_tool_output", thread_id=thread_id, result=1),
        request_of(
            "threads.add_structured_input",
            thread_id=thread_id,
            item_id=item_id,
            input={"status": "skipped", "answers": {}},
        ),
        request_of("threads.retry_after_item", thread_id=thread_id, item_id=item_id),
        request_of(
            "threads.custom_action",
            thread_id=thread_id,
            item_id=item_id,
            action={"type": "go", "payload": {}},
        ),
    ]


@pytest.mark.parametrize("index", range(5))
@pytest.mark.parametrize("status", ["locked", "closed"])
async def test_a_conversation_that_takes_no_messages_takes_none_of_them(
    session, mine, index, status
):
    await lanes.call(lambda: ChatSession.objects.filter(id=session.id).update(status=status))
    with pytest.raises(ThreadClosed):
        await prepare(all_about(str(session.id), str(new_id()))[index], mine)
    assert await rows(session) == []


@pytest.mark.parametrize("index", range(5))
@pytest.mark.parametrize("thread_id", [str(new_id()), "thr_1"], ids=["an id", "no id"])
async def test_a_conversation_that_is_not_there_takes_none_of_them(mine, index, thread_id):
    with pytest.raises(ThreadNotFound):
        await prepare(all_about(thread_id, str(new_id()))[index], mine)


@pytest.mark.parametrize("index", [2, 3])
async def test_an_item_that_is_not_there_is_refused(session, mine, index):
    with pytest.raises(UnknownItem):
        await prepare(all_about(str(session.id), str(new_id()))[index], mine)


@pytest.mark.parametrize("index", [1, 2, 3])
async def test_an_item_of_another_kind_is_refused(session, mine, index):
    await ask(session, "Hello")
    _, answer = await log(session)
    with pytest.raises(Invalid):
        await prepare(all_about(str(session.id), str(answer.id))[index], mine)
    assert len(await rows(session)) == 1


async def test_a_message_of_no_turn_cannot_be_retried(session, mine):
    row = Row("message", "user", text="imported", shown=True)
    await put(session, row)
    with pytest.raises(Invalid):
        await prepare(all_about(str(session.id), str(row.id))[3], mine)


async def test_nothing_is_told_of_a_request_that_was_not_prepared(mine):
    with pytest.raises(RuntimeError):
        await anext(chatkit_turns.respond(mine))


# --- What a person does instead of saying -------------------------------------------------------


async def test_the_output_of_a_clients_tool_is_stored_and_goes_on(session, mine, script):
    output = {"type": "function_call_output", "call_id": "c1", "output": "None"}
    call = {"type": "function_call", "call_id": "c1", "name": "pick", "arguments": "{}"}
    item = pending("client_tool_call", **CALL)
    await put(
        session,
        Row("function_call", call_id="c1", agent_item=json.dumps(call)),
        Row("function_call_output", call_id="c1", agent_item=json.dumps(output)),
        item,
    )
    script(Say("Thanks."))
    request = request_of(
        "threads.add_client_tool_output", thread_id=str(session.id), result={"a": 1}
    )
    events = await heard(request, mine)
    assert text_of(events) == "Thanks."
    assert scripted.SCRIPT.inputs[-1][-1]["output"] == '{"a": 1}'
    stored = await lanes.call(lambda: ChatMessage.objects.get(id=item.id))
    assert json.loads(stored.thread_item)["status"] == "completed"
    with pytest.raises(Invalid):
        await prepare(request, ChatKitContext(session.owner_id))


async def test_a_forms_answers_are_stored_and_told_to_the_model_only(session, mine, script):
    form = pending("structured_input", **FORM)
    await put(session, form)
    script(Say("I see."))
    answers = {"status": "answered", "answers": {"q": {"values": ["because"]}}}
    request = request_of(
        "threads.add_structured_input",
        thread_id=str(session.id),
        item_id=str(form.id),
        input=answers,
    )
    events = await heard(request, mine)
    assert [e["type"] for e in events[:2]] == ["stream_options", "thread.item.replaced"]
    assert "because" in json.dumps(scripted.SCRIPT.inputs[-1])
    assert await shown(session) == [("assistant", "I see.")]
    with pytest.raises(Invalid):
        await prepare(request, ChatKitContext(session.owner_id))
    assert len(await rows(session)) == 1


async def test_names_of_questions_that_a_client_made_up_are_not_logged(session, mine, caplog):
    form = pending("structured_input", **FORM)
    await put(session, form)
    answers = {"status": "answered", "answers": {"a secret": {"values": ["because"]}}}
    where = {"thread_id": str(session.id), "item_id": str(form.id)}
    await heard(request_of("threads.add_structured_input", **where, input=answers), mine)
    assert "warns" in caplog.text
    assert "secret" not in caplog.text


async def test_of_two_answers_to_one_form_one_counts(session, mine):
    form = pending("structured_input", **FORM)
    await put(session, form)
    request = request_of(
        "threads.add_structured_input",
        thread_id=str(session.id),
        item_id=str(form.id),
        input={"status": "skipped", "answers": {}},
    )
    others = [ChatKitContext(session.owner_id) for _ in range(2)]
    outcomes = await asyncio.gather(
        *(prepare(request, context) for context in others), return_exceptions=True
    )
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["Invalid", "NoneType"]
    assert len(await rows(session)) == 1


async def test_an_action_may_let_the_agent_answer(session, mine, script):
    script(Say("You did."))
    request = all_about(str(session.id), "")[4]
    del request["params"]["item_id"]
    events = await heard(request, mine)
    assert text_of(events) == "You did."
    assert scripted.SCRIPT.inputs[-1][-1]["content"] == "pressed go"
    assert await shown(session) == [("assistant", "You did.")]


async def test_a_retry_keeps_the_message_and_takes_back_what_followed(session, mine, script):
    await heard(to(session, "one", quoted_text="a quote"), mine)
    await ask(session, "two")
    question = (await log(session))[0]
    script(Say("Once more."))
    context = ChatKitContext(session.owner_id)
    request = all_about(str(session.id), str(question.id))[3]
    events = await heard(request, context)
    assert [e["type"] for e in events[:2]] == ["stream_options", "thread.item.added"]
    assert await shown(session) == [("user", "one"), ("assistant", "Once more.")]
    again = (await log(session))[0]
    assert (again.id, again.thread_item) == (question.id, question.thread_item)
    assert json.loads(again.agent_item) == json.loads(question.agent_item)


async def test_a_retry_gives_the_model_what_it_no_longer_remembers(session, mine, script):
    await heard(to(session, "one", quoted_text="a quote"), mine)
    question = (await log(session))[0]
    forget = ChatMessage.objects.filter(id=question.id).update
    await lanes.call(lambda: forget(agent_item=None))  # as pruning does
    await heard(all_about(str(session.id), str(question.id))[3], ChatKitContext(session.owner_id))
    again = (await log(session))[0]
    assert json.loads(again.agent_item) == json.loads(question.agent_item)


# --- Leaving ------------------------------------------------------------------------------------


async def begin(session: Any, context: ChatKitContext, script: Any, gate: asyncio.Event) -> Any:
    """An answer of which half was heard, in a task as the door runs it."""
    script(Say("Half a word.", pieces=["Half ", "a word."], gate=gate))
    told: list[Any] = []

    async def listen() -> None:
        async for event in await stream(to(session, "Hello"), context):
            told.append(json.loads(event.removeprefix(b"data: ")))  # noqa: PERF401 - as they come

    task = asyncio.get_running_loop().create_task(listen())

    async def is_prepared() -> bool:
        return context.prepared is not None

    await until(is_prepared)
    await until_said(context.prepared.turn, "Half ")
    return task, told


async def test_leaving_stops_the_answer_and_keeps_its_part(session, mine, script, gate):
    task, _ = await begin(session, mine, script, gate)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    (turn,) = await rows(session)
    assert turn.status == "cancelled"
    assert await shown(session) == [("user", "Hello"), ("assistant", "Half …")]
    notes = [json.loads(row.agent_item) for row in await log(session) if row.role == "system"]
    assert notes == [{"role": "system", "content": STOPPED}]
    await ask(session, "And?")
    assert {"role": "system", "content": STOPPED} in scripted.SCRIPT.inputs[-1]


async def test_leaving_while_it_waits_keeps_the_message(session, script, gate):
    first, second = ChatKitContext(session.owner_id), ChatKitContext(session.owner_id)
    task, _ = await begin(session, first, script, gate)
    await prepare(to(session, "Second"), second)
    await chatkit_turns.leave(second)
    gate.set()
    await task
    assert sorted(await shown(session)) == [
        ("assistant", "Half a word."),
        ("user", "Hello"),
        ("user", "Second"),
    ]
    assert [turn.status for turn in await rows(session)] == ["completed", "cancelled"]


async def test_a_server_that_goes_is_nobody_who_stops(session, mine, script, gate):
    task, told = await begin(session, mine, script, gate)
    drained = asyncio.get_running_loop().create_task(desk().drain(0))
    await drained
    await chatkit_turns.leave(mine)
    await task
    (turn,) = await rows(session)
    assert turn.status == "interrupted"
    assert (told[-1]["type"], told[-1]["allow_retry"]) == ("error", True)
    notes = [json.loads(row.agent_item) for row in await log(session) if row.role == "system"]
    assert notes == [{"role": "system", "content": CUT_SHORT}]


async def test_who_stopped_nothing_leaves_nothing_behind(session, mine):
    await chatkit_turns.leave(mine)
    await heard(to(session, "Hello"), mine)
    await chatkit_turns.leave(mine)
    (turn,) = await rows(session)
    assert turn.status == "completed"


async def test_leaving_a_conversation_that_was_deleted_is_no_error(session, mine, script, gate):
    task, _ = await begin(session, mine, script, gate)
    await lanes.call(lambda: ChatSession.objects.filter(id=session.id).delete())
    gone = ChatKitContext(session.owner_id)
    gone.prepared = Prepared(mine.prepared.thread, mine.prepared.turn)
    gate.set()
    await task
    await chatkit_turns.leave(gone)


# --- Without the store --------------------------------------------------------------------------


async def test_a_message_is_answered_with_a_notice_while_nothing_can_be_stored(
    session, mine, monkeypatch
):
    await ask(session, "one")

    async def refuse(*_: Any, **__: Any) -> Any:
        raise StoreReadOnly

    with monkeypatch.context() as away:
        away.setattr(lanes, "write", refuse)
        events = await heard(to(session, "two"), mine)
    assert text_of(events) == "I remember: one | two"
    assert [e["message"] for e in events if e["type"] == "notice"] == [NOT_SAVED]
    told = [e["item"] for e in events if e["type"] == "thread.item.done"]

    async def is_saved() -> bool:
        return len(await shown(session)) == 4

    await until(is_saved)
    listed = await answered("items.list", ChatKitContext(session.owner_id),
                            thread_id=str(session.id), order="asc")  # fmt: skip
    assert listed["data"][2:] == told


async def test_a_message_is_answered_with_notices_while_nothing_can_be_read(
    session, mine, monkeypatch
):
    async def refuse(*_: Any, **__: Any) -> Any:
        raise StoreReadOnly

    async def somebody() -> None:
        """They are who they say."""

    with monkeypatch.context() as away:
        away.setattr(lanes, "write", refuse)
        away.setattr(lanes, "read", refuse)
        events = await heard(to(session, "two"), mine, verify=somebody)
        again = await heard(to(session, "three"), ChatKitContext(session.owner_id))
    assert text_of(events) == "I remember: two"
    notices = [e["message"] for e in events if e["type"] == "notice"]
    assert notices == [CONTEXT_UNAVAILABLE, NOT_SAVED]
    assert text_of(again) == "I remember: three"


async def test_what_a_person_answered_is_refused_while_it_cannot_be_stored(
    session, mine, monkeypatch
):
    form = pending("structured_input", **FORM)
    await put(session, form)

    async def refuse(*_: Any, **__: Any) -> Any:
        raise StoreReadOnly

    request = all_about(str(session.id), str(form.id))[2]
    with monkeypatch.context() as away:
        away.setattr(lanes, "write", refuse)
        with pytest.raises(StoreError):
            await prepare(request, mine)
    stored = await lanes.call(lambda: ChatMessage.objects.get(id=form.id))
    assert json.loads(stored.thread_item)["status"] == "pending"


async def test_a_turn_that_goes_on_finds_the_line_as_anyone(session):
    other = new_id()
    with pytest.raises(ThreadNotFound):
        await turns.proceed(session_id=other, owner_id=session.owner_id)
