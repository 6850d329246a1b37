"""The official protocol's door: what is answered, what is refused, and what leaving does."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable, Mapping
from typing import Any
from uuid import uuid4

import httpx
import pytest
from chatkit.types import NonStreamingReq, StreamingReq
from django.test import RequestFactory, override_settings

from conversations import lanes
from conversations.api.chatkit import REQUESTS, address_of
from conversations.api.feeding import WAITING_MAX
from conversations.errors import StoreError
from conversations.ids import new_id
from conversations.models import ChatMessage, ChatSession, ChatTurn, Feedback
from conversations.store.mending import mend_counters
from conversations.tests.chatkit_actions import ActingServer, Stage
from conversations.tests.chatkit_client import ANSWERS, EVENT, request_types
from conversations.tests.factories import ChatSessionFactory, token_for
from conversations.tests.test_api_asgi import Exchange, read_until

STREAMING = request_types(StreamingReq)
ACTING = "conversations.tests.chatkit_actions.ActingServer"
BROKEN = "conversations.tests.chatkit_actions.BrokenServer"
INPUT = {"content": [{"type": "input_text", "text": "Hi"}], "attachments": [],
         "inference_options": {}}  # fmt: skip


@pytest.fixture(autouse=True)
def stage() -> Any:
    ActingServer.stage = Stage()
    with override_settings(CONVERSATIONS_CHATKIT_SERVER=ACTING):
        yield ActingServer.stage


async def ask(client: httpx.AsyncClient, kind: str, /, **params: Any) -> httpx.Response:
    """One request; what is answered well parses with the library's own types."""
    response = await client.post("/chatkit", json={"type": kind, "params": params})
    if response.status_code == 200 and kind in STREAMING:
        events_of(response.text)
    elif response.status_code == 200:
        assert response.headers["Content-Type"] == "application/json"
        ANSWERS[kind].validate_json(response.content)
    return response


async def act(client: httpx.AsyncClient, session: Any, kind: str, /, **more: Any) -> list[Any]:
    action = {"type": kind, "payload": more.pop("payload", None)}
    response = await ask(
        client, "threads.custom_action", thread_id=str(session.id), action=action, **more
    )
    assert response.status_code == 200, response.text
    return events_of(response.text)


def events_of(body: str) -> list[Any]:
    found = []
    for block in body.removesuffix("\n\n").split("\n\n"):
        if not block.startswith(":"):
            assert block.startswith("data: ")
            found.append(EVENT.validate_json(block.removeprefix("data: ")))
    return found


def error_of(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["error"]["code"]


def row(session: Any, **values: Any) -> ChatMessage:
    """An entry at the end of the log."""
    session.last_position += 1
    session.item_count += 1
    session.message_count += bool(values.get("shown"))
    session.save()
    return ChatMessage.objects.create(
        session=session, position=session.last_position, **{"kind": "message", **values}
    )


def said(session: Any, text: str = "Hello", role: str = "user") -> ChatMessage:
    return row(session, role=role, text=text, shown=True)


WIDGET = json.dumps({"type": "widget", "widget": {"type": "Card", "children": []}})


def widget(session: Any) -> ChatMessage:
    return row(session, kind="widget", role="assistant", thread_item=WIDGET)


async def snapshot() -> list[Any]:
    models = (ChatSession, ChatTurn, ChatMessage, Feedback)
    return await lanes.call(lambda: [list(m.objects.order_by("pk").values()) for m in models])


# --- What is answered ----------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/chatkit", "/chatkit/"])
async def test_both_addresses_answer_without_a_redirect(path, client, session):
    response = await client.post(path, json={"type": "threads.list", "params": {}})
    assert response.status_code == 200
    (thread,) = response.json()["data"]
    assert thread["id"] == str(session.id)


async def test_a_conversation_is_read_listed_renamed_and_deleted(client, session):
    await lanes.call(lambda: (said(session), said(session, "Hi there", "assistant")))
    thread = (await ask(client, "threads.get_by_id", thread_id=str(session.id))).json()
    assert [item["type"] for item in thread["items"]["data"]] == [
        "user_message",
        "assistant_message",
    ]
    assert thread["created_at"].endswith("Z")
    renamed = await ask(client, "threads.update", thread_id=str(session.id), title="Plans")
    assert renamed.json()["title"] == "Plans"
    listed = (await ask(client, "threads.list")).json()
    assert [thread["title"] for thread in listed["data"]] == ["Plans"]
    assert (await ask(client, "threads.delete", thread_id=str(session.id))).json() == {}
    assert (await ask(client, "threads.list")).json()["data"] == []
    gone = await ask(client, "threads.get_by_id", thread_id=str(session.id))
    assert error_of(gone) == (404, "thread_not_found")


@pytest.mark.parametrize(("limit", "expected"), [(-5, 1), (0, 20), (None, 20), (10**7, 100)])
@pytest.mark.parametrize("kind", ["threads.list", "items.list"])
async def test_a_page_has_from_one_to_a_hundred_entries(kind, limit, expected, client, user):
    def fill() -> Any:
        sessions = ChatSessionFactory.create_batch(101 if kind == "threads.list" else 1, owner=user)
        if kind == "items.list":
            ChatMessage.objects.bulk_create(
                ChatMessage(session=sessions[0], position=number, role="user", shown=True)
                for number in range(1, 102)
            )
        return sessions[0]

    session = await lanes.call(fill)
    where = {"thread_id": str(session.id)} if kind == "items.list" else {}
    page = (await ask(client, kind, limit=limit, **where)).json()
    assert len(page["data"]) == expected
    assert page["has_more"]


async def test_what_is_hidden_never_leaves(client, session):
    events = await act(client, session, "hide", payload="secret")
    assert [event.type for event in events] == ["stream_options", "progress_update"]
    await act(client, session, "say", payload="shown")
    listed = await ask(client, "items.list", thread_id=str(session.id), limit=1, order="asc")
    assert listed.json()["data"] == []
    assert listed.json()["has_more"]
    rest = await ask(
        client, "items.list", thread_id=str(session.id), order="asc", after=listed.json()["after"]
    )
    assert [item["type"] for item in rest.json()["data"]] == ["assistant_message"]
    thread = await ask(client, "threads.get_by_id", thread_id=str(session.id))
    synced = await ask(
        client,
        "threads.sync_custom_action",
        thread_id=str(session.id),
        action={"type": "hide"},
    )
    assert synced.json() == {}
    assert "secret" not in listed.text + rest.text + thread.text + synced.text
    assert await lanes.call(ChatMessage.objects.count) == 2


async def test_what_an_action_shows_is_stored_replaced_and_removed(client, session):
    *_, shown = await act(client, session, "show", payload="first")
    item_id = shown.item.id
    await act(client, session, "replace", payload="second", item_id=item_id)
    listed = (await ask(client, "items.list", thread_id=str(session.id))).json()
    assert [item["copy_text"] for item in listed["data"]] == ["second"]
    synced = await ask(
        client,
        "threads.sync_custom_action",
        thread_id=str(session.id),
        item_id=item_id,
        action={"type": "touch"},
    )
    assert synced.json()["updated_item"]["copy_text"] == "touched"
    await act(client, session, "remove", payload=item_id)
    assert (await ask(client, "items.list", thread_id=str(session.id))).json()["data"] == []
    assert not await lanes.write(lambda db: mend_counters(db, session_id=session.id))


async def test_an_action_renames_the_thread_and_tells_it(client, session):
    events = await act(client, session, "rename", payload="Plans")
    assert events[-1].type == "thread.updated"
    assert events[-1].thread.title == "Plans"
    assert await lanes.call(lambda: ChatSession.objects.get().title) == "Plans"


async def test_feedback_is_stored_for_all_messages_or_for_none(client, session, user):
    first, second = await lanes.call(lambda: (said(session), said(session, "Yes", "assistant")))
    ask_it = {"thread_id": str(session.id), "kind": "negative"}
    some = await ask(client, "items.feedback", item_ids=[str(first.id), str(new_id())], **ask_it)
    assert error_of(some) == (404, "not_found")
    assert error_of(await ask(client, "items.feedback", item_ids=["msg_1"], **ask_it)) == (
        404,
        "not_found",
    )
    too_many = await ask(client, "items.feedback", item_ids=[str(first.id)] * 101, **ask_it)
    assert error_of(too_many) == (422, "invalid")
    assert await lanes.call(Feedback.objects.count) == 0
    both = await ask(client, "items.feedback", item_ids=[str(first.id), str(second.id)], **ask_it)
    assert both.json() == {}
    stored = await lanes.call(lambda: list(Feedback.objects.values_list("user_id", "kind")))
    assert stored == [(user.pk, "negative")] * 2


async def test_speech_is_text_where_somebody_makes_it_one(client, session):
    audio = base64.b64encode(b"abc").decode()
    heard = await ask(
        client, "input.transcribe", audio_base64=audio, mime_type="audio/webm;codecs=opus"
    )
    assert heard.json() == {"text": "audio/webm b'abc'"}


async def test_a_site_without_a_transcriber_says_so(client):
    with override_settings(
        CONVERSATIONS_CHATKIT_SERVER="conversations.chatkit_server.ConversationServer"
    ):
        refused = await ask(client, "input.transcribe", audio_base64="YWJj", mime_type="audio/webm")
        broken = await ask(client, "input.transcribe", audio_base64="a*", mime_type="audio/webm")
    assert error_of(refused) == (501, "not_configured")
    assert "speech" in refused.json()["detail"]
    assert error_of(broken) == (422, "invalid")


# --- What is refused -----------------------------------------------------------------------


def foreign(session: Any, item: Any, widget: Any) -> dict[str, dict[str, Any]]:
    """A good request of every type, about this conversation."""
    thread, action = {"thread_id": str(session.id)}, {"type": "say", "payload": "Hi"}
    return {
        "threads.add_user_message": {**thread, "input": INPUT},
        "threads.add_client_tool_output": {**thread, "result": 1},
        "threads.add_structured_input": {**thread, "item_id": str(item.id), "input": {}},
        "threads.retry_after_item": {**thread, "item_id": str(item.id)},
        "threads.custom_action": {**thread, "item_id": str(widget.id), "action": action},
        "threads.sync_custom_action": {
            **thread,
            "item_id": str(widget.id),
            "action": {"type": "touch"},
        },
        "threads.get_by_id": thread,
        "threads.list": {"after": str(session.id)},
        "threads.update": {**thread, "title": "Mine"},
        "threads.delete": thread,
        "items.list": thread,
        "items.feedback": {**thread, "item_ids": [str(item.id)], "kind": "positive"},
    }


OF_A_THREAD = sorted(foreign(ChatSession(), ChatMessage(), ChatMessage()))
OTHERS = {"threads.create", "attachments.create", "attachments.delete", "input.transcribe"}
"""What names no thread; `test_chatkit_attachments` tells of foreign attachments."""


def test_every_request_that_names_a_thread_is_tried_on_a_foreign_one():
    assert {*OF_A_THREAD, *OTHERS} == request_types(StreamingReq, NonStreamingReq)


@pytest.mark.parametrize("kind", OF_A_THREAD)
async def test_another_users_thread_is_unknown_and_stays_as_it_is(kind, session, strangers_client):
    item, shown = await lanes.call(lambda: (said(session), widget(session)))
    before = await snapshot()
    params = foreign(session, item, shown)[kind]
    known = await ask(strangers_client, kind, **params)
    missing = {
        name: str(uuid4()) if name in {"thread_id", "after"} else value
        for name, value in params.items()
    }
    unknown = await ask(strangers_client, kind, **missing)
    assert error_of(known) == (404, "thread_not_found")
    assert known.content == unknown.content
    assert dict(known.headers) == dict(unknown.headers)
    nonsense = {name: "thr_1" if name == "thread_id" else value for name, value in params.items()}
    if "thread_id" in params:
        assert (await ask(strangers_client, kind, **nonsense)).content == known.content
    assert await snapshot() == before


@pytest.mark.parametrize("item_id", ["foreign", "missing", "msg_1"])
@pytest.mark.parametrize(
    "kind",
    [
        "threads.add_structured_input",
        "threads.retry_after_item",
        "threads.custom_action",
        "threads.sync_custom_action",
        "items.feedback",
        "items.list",
    ],
)
async def test_an_item_that_is_not_in_the_thread_is_unknown(
    kind, item_id, client, session, stranger
):
    def elsewhere() -> str:
        other = ChatSessionFactory(owner=stranger)
        return str(widget(other).id)

    named = {"foreign": await lanes.call(elsewhere), "missing": str(uuid4())}.get(item_id, item_id)
    item, shown = await lanes.call(lambda: (said(session), widget(session)))
    before = await snapshot()
    params = foreign(session, item, shown)[kind]
    params |= {
        "items.feedback": {"item_ids": [str(item.id), named]},
        "items.list": {"after": named},
    }.get(kind, {"item_id": named})
    assert error_of(await ask(client, kind, **params)) == (404, "not_found")
    assert await snapshot() == before


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff",
        b'"threads.list"',
        b'{"type": "threads.list", "params": {"after": "\\ud800"}}',
        b'{"type": "threads.list", "metadata": ' + b"[" * 5_000,
        b'{"type": "threads.list"}',
        b'{"type": "threads.share", "params": {}}',
        b'{"type": ["threads.list"], "params": {}}',
        b'{"params": {}}',
        b'{"type": "threads.list", "params": {"limit": "many"}}',
        b'{"type": "threads.list", "params": {"order": "secret"}}',
        b'{"type": "threads.list", "params": {"after": "secret"}}',
        b'{"type": "threads.list", "params": [], "metadata": 1}',
    ],
    ids=range(16),
)
async def test_what_is_no_request_is_422_and_says_nothing_of_what_was_sent(body, client):
    response = await client.post(
        "/chatkit", content=body, headers={"Content-Type": "application/json"}
    )
    assert error_of(response) == (422, "invalid")
    assert response.json()["detail"]
    assert "secret" not in response.text
    assert "share" not in response.text


@pytest.mark.parametrize("kind", sorted(request_types(StreamingReq, NonStreamingReq)))
async def test_the_wrong_shape_of_every_type_is_422(kind, client, session):
    before = await snapshot()
    wrong: list[Any] = [None, [], "x", {"thread_id": 1, "item_ids": 1, "limit": "x", "name": 1}]
    if kind != "threads.list":
        wrong.append({})
    for params in wrong:
        response = await client.post("/chatkit", json={"type": kind, "params": params})
        assert error_of(response) == (422, "invalid"), params
        assert response.json()["error"]["fields"]
    assert await snapshot() == before


async def test_a_field_is_named_and_a_key_that_was_made_up_is_not(client, session):
    answers = {"my secret": {"values": 1}}
    response = await ask(
        client,
        "threads.add_structured_input",
        thread_id=str(session.id),
        item_id=str(uuid4()),
        input={"answers": answers},
    )
    (field,) = response.json()["error"]["fields"]
    assert field["field"] == "params.input.answers.values"


async def test_only_json_is_read(client):
    response = await client.post("/chatkit", data={"type": "threads.list"})
    assert error_of(response) == (422, "invalid")


@pytest.mark.parametrize("title", ["", " ", "x" * 201, "a\x00b"])
async def test_a_title_that_is_none_is_422(title, client, session):
    response = await ask(client, "threads.update", thread_id=str(session.id), title=title)
    assert error_of(response) == (422, "invalid")
    assert response.json()["error"]["fields"][0]["field"] == "params.title"


async def test_a_held_thread_is_not_deleted(client, session):
    await lanes.call(ChatSession.objects.update, hold=True)
    response = await ask(client, "threads.delete", thread_id=str(session.id))
    assert error_of(response) == (409, "held")
    assert await lanes.call(ChatSession.objects.count) == 1


async def test_an_action_needs_a_widget_and_somebody_who_handles_it(client, session):
    item = await lanes.call(said, session)
    where = {"thread_id": str(session.id), "action": {"type": "say"}}
    for kind in ("threads.custom_action", "threads.sync_custom_action"):
        wrong = await ask(client, kind, item_id=str(item.id), **where)
        assert error_of(wrong) == (422, "invalid")
        with override_settings(
            CONVERSATIONS_CHATKIT_SERVER="conversations.chatkit_server.ConversationServer"
        ):
            unhandled = await ask(client, kind, **where)
        assert error_of(unhandled) == (422, "invalid")
        assert "unknown action" in unhandled.json()["detail"]


@pytest.mark.parametrize("status", ["locked", "closed"])
async def test_a_thread_that_takes_no_messages_takes_no_actions(status, client, session):
    shown = await lanes.call(widget, session)
    await lanes.call(ChatSession.objects.update, status=status)
    before = await snapshot()
    where = {"thread_id": str(session.id), "item_id": str(shown.id), "action": {"type": "touch"}}
    for kind in ("threads.custom_action", "threads.sync_custom_action"):
        assert error_of(await ask(client, kind, **where)) == (409, "thread_closed")
    assert await snapshot() == before


async def test_an_action_that_finds_fault_is_told_without_its_words(client, session, caplog):
    where = {"thread_id": str(session.id)}
    sync = "threads.sync_custom_action"
    fault = await ask(client, sync, action={"type": "other"}, **where)
    assert error_of(fault) == (422, "invalid")
    store = await ask(client, sync, action={"type": "store"}, **where)
    assert error_of(store) == (503, "store_unavailable")
    lost = await ask(client, sync, action={"type": "lose"}, **where)
    assert error_of(lost) == (404, "not_found")
    bug = await ask(client, sync, action={"type": "fail"}, **where)
    assert error_of(bug) == (500, "error")
    events = await act(client, session, "other")
    assert [event.type for event in events] == ["stream_options", "error"]
    assert "secret" not in fault.text + store.text + lost.text + bug.text + caplog.text


# --- Streams -------------------------------------------------------------------------------


async def test_the_head_of_a_stream(client, session):
    response = await ask(
        client, "threads.custom_action", thread_id=str(session.id), action={"type": "say"}
    )
    assert response.headers["Content-Type"] == "text/event-stream; charset=utf-8"
    assert response.headers["Cache-Control"] == "no-cache"
    assert response.headers["X-Accel-Buffering"] == "no"
    assert "X-Turn-Id" not in response.headers


@pytest.mark.parametrize(
    ("text", "expected"),
    [("store", ("custom", StoreError().message)), ("went wrong", ("stream.error", None))],
)
async def test_a_failure_in_an_open_stream_is_an_event(text, expected, client, session, caplog):
    with override_settings(CONVERSATIONS_CHATKIT_SERVER=BROKEN):
        events = await act(client, session, "say", payload=text)
    assert (events[-1].code, events[-1].message) == expected
    assert events[-1].allow_retry
    assert "secret" not in caplog.text


class Visit(Exchange):
    """A request whose sender can leave."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.gone = asyncio.Event()
        super().__init__(*args, **kwargs)

    async def _receive(self) -> Mapping[str, Any]:
        if self.taken < len(self._body):
            return await super()._receive()
        await self.gone.wait()
        return {"type": "http.disconnect"}


class Stalled(Visit):
    """One who reads nothing after the head."""

    async def _send(self, message: Mapping[str, Any]) -> None:
        await super()._send(message)
        if message.get("body"):
            await asyncio.Event().wait()


Visiting = Callable[..., Visit]


@pytest.fixture
async def visit(user: Any, session: Any) -> Visiting:
    from chatsite.asgi import application

    bearer = f"Bearer {await lanes.call(token_for, user)}"

    def start(kind: str, payload: Any = None, *, as_: type[Visit] = Visit) -> Visit:
        params = {"thread_id": str(session.id), "action": {"type": kind, "payload": payload}}
        request = {"type": "threads.custom_action", "params": params}
        body = [json.dumps(request).encode()]
        return as_(
            application,
            "POST",
            "/chatkit",
            body=body,
            authorization=bearer,
            content_type="application/json",
        )

    return start


async def test_while_nothing_happens_comments_keep_the_stream_open(visit, stage):
    with override_settings(CHAT_HEARTBEAT_SECONDS=0.01):
        exchange = visit("wait")
        stream = aiter(exchange)
        body = await read_until(stream, ": waiting\n\n")
        body += await read_until(stream, ": waiting\n\n")
        stage.gate.set()
        body += "".join([piece async for piece in stream])
    texts = [event.text for event in events_of(body) if event.type == "progress_update"]
    assert texts == ["waiting", "went on"]
    await exchange.task


async def test_who_leaves_ends_what_was_under_way(visit, stage):
    exchange = visit("wait")
    await read_until(aiter(exchange), "waiting")
    exchange.gone.set()
    await exchange.task
    assert stage.cancelled == 1


async def test_who_leaves_a_stream_that_nobody_reads_ends_it_where_it_waits(visit, stage):
    exchange = visit("flood", 10_000, as_=Stalled)
    await stage.entered.wait()
    for _ in range(10 * WAITING_MAX):
        await asyncio.sleep(0)
    assert WAITING_MAX / 2 < stage.told < 2 * WAITING_MAX
    exchange.gone.set()
    await exchange.task
    assert stage.cancelled == 1
    assert stage.told == 10_000


async def test_after_a_hundred_have_left_no_task_is_left(visit, stage):
    await visit("rename", "warm").text()
    before = asyncio.all_tasks()
    for number in range(100):
        exchange = visit("wait", as_=Stalled if number % 4 == 0 else Visit)
        if number % 3:
            await stage.entered.wait()
            stage.entered.clear()
        if number % 2:
            await exchange.pieces.get()
        exchange.gone.set()
        await exchange.task
    assert asyncio.all_tasks() == before


async def test_who_is_gone_before_the_head_leaves_nothing_open(visit, stage):
    before = asyncio.all_tasks()
    exchange = visit("wait")
    exchange.gone.set()
    await exchange.task
    assert asyncio.all_tasks() == before


# --- What is said of the door --------------------------------------------------------------


def test_the_document_names_every_request_of_the_installed_library():
    assert set(REQUESTS) == request_types(StreamingReq, NonStreamingReq)


@pytest.mark.parametrize(
    ("site", "host", "address"),
    [
        ("https://chat.example.com", "chat.example.com", "https://chat.example.com"),
        ("https://chat.example.com", "127.0.0.1:8000", "https://chat.example.com"),
        ("http://localhost:8000", "127.0.0.1:5123", "http://127.0.0.1:5123"),
        ("http://localhost:8000", "other.example.com", "http://localhost:8000"),
        ("", "other.example.com", "http://other.example.com"),
    ],
    ids=range(5),
)
def test_addresses_begin_with_the_sites_own(site, host, address):
    with override_settings(SITE_URL=site, ALLOWED_HOSTS=["*"]):
        assert address_of(RequestFactory().post("/chatkit", headers={"host": host})) == address
