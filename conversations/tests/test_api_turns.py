"""One turn over HTTP: its status, its stream once more, its stop, its question once more."""

from __future__ import annotations

import asyncio
import re
from typing import Any
from uuid import uuid4

import httpx
import pytest

from conversations import lanes, turns
from conversations.errors import StoreError
from conversations.models import ChatSession, ChatTurn
from conversations.tests.conftest import answer, frames
from conversations.tests.scripted import SCRIPT, Say
from conversations.tests.turns_helpers import say, shown, told, until, until_said
from conversations.turns.desk import desk

THREADS = "/chatkit/threads"


@pytest.fixture
def gate() -> asyncio.Event:
    return asyncio.Event()


def numbers(body: str) -> list[int]:
    return [int(found) for found in re.findall(r"^id: (\d+)$", body, re.MULTILINE)]


async def post(client: httpx.AsyncClient, session: Any, text: str = "Hello") -> httpx.Response:
    return await client.post(f"{THREADS}/{session.id}/messages", json={"text": text})


def url(session: Any, turn_id: Any, what: str = "") -> str:
    return f"{THREADS}/{session.id}/turns/{turn_id}{what}"


async def test_a_stream_is_picked_up_after_the_last_frame_that_arrived(client, session, script):
    script(Say("Once upon a time"))
    whole = await post(client, session)
    turn_id = whole.headers["X-Turn-Id"]
    await turns.settled(session.id)
    for last in range(numbers(whole.text)[-2] + 1):
        rest = await client.get(
            url(session, turn_id, "/events"), headers={"Last-Event-ID": str(last)}
        )
        assert rest.status_code == 200
        assert rest.headers["X-Turn-Id"] == turn_id
        assert rest.headers["Content-Type"] == "text/event-stream; charset=utf-8"
        assert numbers(rest.text) == list(range(last + 1, numbers(whole.text)[-1] + 1))
        assert whole.text.endswith(rest.text)
    assert answer(whole.text) == "Once upon a time"


@pytest.mark.parametrize("heard", ["closing", "done"])
async def test_who_has_heard_it_all_is_told_that_it_is_over(client, session, heard):
    whole = await post(client, session)
    await turns.settled(session.id)
    last = numbers(whole.text)[-1] - (heard == "closing")
    rest = await client.get(
        url(session, whole.headers["X-Turn-Id"], "/events"), headers={"Last-Event-ID": str(last)}
    )
    assert rest.text == f"id: {numbers(whole.text)[-1]}\ndata: [DONE]\n\n"


async def test_events_that_are_kept_no_more_are_a_conflict(client, session):
    whole = await post(client, session)
    await turns.settled(session.id)
    await lanes.write(lambda db: db.run("DELETE FROM conversations_recordedevents"))
    address = url(session, whole.headers["X-Turn-Id"], "/events")
    middle = await client.get(address, headers={"Last-Event-ID": "2"})
    assert (middle.status_code, middle.json()["error"]["code"]) == (409, "events_gone")
    assert answer((await client.get(address)).text) == answer(whole.text)


async def test_a_running_answer_is_stopped_once_and_stays_stopped(client, session, script, gate):
    script(Say("Once upon a time", gate=gate))
    turn = await say(session)
    await until_said(turn, "Once ")
    stop = await client.post(url(session, turn.id, "/stop"))
    assert (stop.status_code, stop.json()["turn_id"]) == (202, str(turn.id))
    await told(turn)
    await turns.settled(session.id)
    again = await client.post(url(session, turn.id, "/stop"))
    assert (again.status_code, again.json()["status"]) == (200, "cancelled")
    assert await shown(session) == [("user", "Hello"), ("assistant", "Once …")]
    found = (await client.get(url(session, turn.id))).json()
    assert (found["status"], found["message_id"] is not None) == ("cancelled", True)


async def test_a_waiting_message_is_taken_back(client, session, script, gate):
    script(Say("a b", gate=gate))
    first, second = await say(session, "1"), await say(session, "2")
    await until_said(first, "a ")
    stop = await client.post(url(session, second.id, "/stop"))
    assert (stop.status_code, stop.json()["status"]) == (202, "queued")
    assert (await told(second))[-1].status == "cancelled"
    gate.set()
    await told(first)
    assert sorted(await shown(session)) == [("assistant", "a b"), ("user", "1"), ("user", "2")]


async def test_a_stream_is_not_told_to_a_stranger_nor_stopped_by_one(
    client, strangers_client, session, script, gate
):
    script(Say("a b", gate=gate))
    turn = await say(session)
    await until_said(turn, "a ")
    for response in (
        await strangers_client.get(url(session, turn.id, "/events")),
        await strangers_client.post(url(session, turn.id, "/stop")),
    ):
        assert (response.status_code, response.json()["error"]["code"]) == (404, "thread_not_found")
    for unknown in (uuid4(), "x", "1"):
        for response in (
            await client.get(url(session, unknown, "/events")),
            await client.post(url(session, unknown, "/stop")),
        ):
            assert response.status_code == 404
            assert response.json()["error"]["code"] == "turn_not_found"
    gate.set()
    assert (await told(turn))[-1].status == "completed"


@pytest.mark.parametrize("number", ["-1", "+1", "1.0", "abc", "1e3", "0x1", "9" * 20, "7 7"])
async def test_a_last_event_id_that_is_no_number_is_422(client, session, number):
    whole = await post(client, session)
    await turns.settled(session.id)
    response = await client.get(
        url(session, whole.headers["X-Turn-Id"], "/events"), headers={"Last-Event-ID": number}
    )
    assert response.status_code == 422
    assert response.json()["error"]["fields"][0]["field"] == "Last-Event-ID"


# --- Its question once more -----------------------------------------------------------------------


async def transcript(client: httpx.AsyncClient, session: Any) -> list[tuple[str, str, str]]:
    page = (await client.get(f"{THREADS}/{session.id}")).json()
    return [(m["message_id"], m["role"], m["content"]) for m in page["messages"]]


async def ended(client: httpx.AsyncClient, session: Any, text: str = "Hello") -> str:
    """The id of a turn that was answered."""
    turn_id: str = (await post(client, session, text)).headers["X-Turn-Id"]
    await turns.settled(session.id)
    return turn_id


@pytest.mark.parametrize("request_body", [{}, {"json": {}}, {"json": {"text": None}}])
async def test_a_retry_answers_the_same_question_in_its_place(
    client, session, script, request_body
):
    script(Say("No idea."))
    turn_id = await ended(client, session)
    await ended(client, session, "What?")
    (question, *_), *_ = await transcript(client, session)
    response = await client.post(url(session, turn_id, "/retry"), **request_body)
    assert response.status_code == 200
    assert response.headers["Content-Type"] == "text/event-stream; charset=utf-8"
    assert answer(response.text) == "I remember: Hello"
    *_, closing, done = frames(response.text)
    assert (closing["status"], closing["user_message_id"], done) == (
        "completed",
        question,
        "[DONE]",
    )
    assert closing["turn_id"] == response.headers["X-Turn-Id"] != turn_id
    assert await transcript(client, session) == [
        (question, "user", "Hello"),
        (closing["message_id"], "assistant", "I remember: Hello"),
    ]
    old = (await client.get(url(session, turn_id))).json()
    assert (old["status"], old["user_message_id"], old["message_id"]) == ("completed", None, None)
    assert old["usage"]["input_tokens"] == 10


async def test_a_retry_with_other_words_is_another_message(client, session):
    turn_id = await ended(client, session)
    (question, *_), *_ = await transcript(client, session)
    response = await client.post(url(session, turn_id, "/retry"), json={"text": "Good morning"})
    assert answer(response.text) == "I remember: Good morning"
    assert frames(response.text)[-2]["user_message_id"] != question
    assert [text for *_, text in await transcript(client, session)] == [
        "Good morning",
        "I remember: Good morning",
    ]


async def test_a_retry_with_the_same_key_is_told_once_more(client, session):
    turn_id = await ended(client, session)
    address, headers = url(session, turn_id, "/retry"), {"Idempotency-Key": "k"}
    first = await client.post(address, headers=headers)
    await turns.settled(session.id)
    await ended(client, session, "And then?")
    before = await transcript(client, session)
    again = await client.post(address, headers=headers)
    assert again.text == first.text
    assert await transcript(client, session) == before
    other = await client.post(address, headers=headers, json={"text": "Other"})
    assert (other.status_code, other.json()["error"]["code"]) == (409, "idempotency_conflict")


async def test_a_running_answer_is_ended_by_its_retry(client, session, script, gate):
    script(Say("Once upon a time", gate=gate))
    turn = await say(session)
    await until_said(turn, "Once ")
    response = await client.post(url(session, turn.id, "/retry"))
    assert answer(response.text) == "I remember: Hello"
    assert (await told(turn))[-1].status == "cancelled"
    assert await shown(session) == [("user", "Hello"), ("assistant", "I remember: Hello")]


async def test_a_retry_is_refused_to_strangers_and_for_what_is_not_there(
    client, strangers_client, anonymous, session
):
    turn_id = await ended(client, session)
    before = await transcript(client, session)
    for who, which, refused in (
        (strangers_client, turn_id, (404, "thread_not_found")),
        (anonymous, turn_id, (401, "unauthenticated")),
        (client, uuid4(), (404, "turn_not_found")),
        (client, "x", (404, "turn_not_found")),
    ):
        response = await who.post(url(session, which, "/retry"))
        assert (response.status_code, response.json()["error"]["code"]) == refused
    assert await transcript(client, session) == before
    await client.post(url(session, turn_id, "/retry"))
    again = await client.post(url(session, turn_id, "/retry"))
    assert (again.status_code, again.json()["error"]["code"]) == (404, "turn_not_found")


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"hold": True}, "held"),
        ({"status": "closed"}, "thread_closed"),
        ({"status": "locked"}, "thread_closed"),
    ],
)
async def test_a_conversation_that_cannot_be_changed_is_not_retried(client, session, changes, code):
    turn_id = await ended(client, session)
    before = await transcript(client, session)
    await lanes.call(ChatSession.objects.filter(id=session.id).update, **changes)
    response = await client.post(url(session, turn_id, "/retry"))
    assert (response.status_code, response.json()["error"]["code"]) == (409, code)
    assert await transcript(client, session) == before


@pytest.mark.parametrize(
    "request_body",
    [
        {"json": {"text": " "}},
        {"json": {"text": "a" * 2001}},
        {"json": {"text": "a\x00"}},
        {"json": {"text": ["a"]}},
        {"json": {"texts": "a"}},
        {"json": ["a"]},
        {"headers": {"Idempotency-Key": "k" * 256}},
    ],
)
async def test_a_retry_that_is_not_valid_takes_nothing_back(client, session, request_body):
    turn_id = await ended(client, session)
    before = await transcript(client, session)
    response = await client.post(url(session, turn_id, "/retry"), **request_body)
    assert (response.status_code, response.json()["error"]["code"]) == (422, "invalid")
    assert await transcript(client, session) == before


# --- While the store is away ------------------------------------------------------------------


@pytest.fixture
def store_away(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*_: Any, **__: Any) -> None:
        raise StoreError

    for name in ("read", "write", "call"):
        monkeypatch.setattr(lanes, name, fail)


async def test_a_signed_token_is_enough_for_an_answer_without_context(
    client, session, store_away, monkeypatch
):
    response = await post(client, session)
    monkeypatch.undo()
    assert response.status_code == 200
    assert answer(response.text) == "I remember: Hello"
    *_, closing, done = frames(response.text)
    assert (closing["status"], closing["message_id"], done) == ("completed", None, "[DONE]")
    warnings = [frame["warning"] for frame in frames(response.text)[:-1] if "warning" in frame]
    assert warnings == [
        "Context unavailable - conversation history may be incomplete",
        "This answer could not be saved",
    ]
    assert not await lanes.call(ChatTurn.objects.exists)


@pytest.mark.parametrize("header", ["Bearer cst_forged", "Bearer ", "Basic eDp5", None])
async def test_a_token_that_is_not_ours_is_401_also_then(
    anonymous, session, store_away, header, monkeypatch
):
    headers = {"Authorization": header} if header else {}
    response = await anonymous.post(
        f"{THREADS}/{session.id}/messages", json={"text": "Hello"}, headers=headers
    )
    monkeypatch.undo()
    assert response.status_code == 401
    assert SCRIPT.inputs == []


async def test_a_browsers_session_cannot_be_looked_up_then(anonymous, session, store_away):
    anonymous.headers["Cookie"] = "sessionid=x; csrftoken=y"
    response = await post(anonymous, session)
    assert (response.status_code, response.json()["error"]["code"]) == (503, "store_unavailable")


async def test_nothing_is_retried_then(client, session, monkeypatch):
    turn_id = await ended(client, session)
    before = await transcript(client, session)

    async def fail(*_: Any, **__: Any) -> None:
        raise StoreError

    for names in (("write",), ("read", "write"), ("read", "write", "call")):
        for name in names:
            monkeypatch.setattr(lanes, name, fail)
        response = await client.post(url(session, turn_id, "/retry"))
        monkeypatch.undo()
        assert (response.status_code, response.json()["error"]["code"]) == (
            503,
            "store_unavailable",
        )
    assert await transcript(client, session) == before


async def test_what_the_store_did_not_take_is_stopped_and_picked_up_without_it(
    client, session, script, gate, store_away, monkeypatch
):
    script(Say("a b", gate=gate))
    asking = asyncio.create_task(post(client, session))

    async def taken() -> Any:
        return list(desk()._turns.values())

    (turn,) = await until(taken)
    await until_said(turn, "a ")
    other = url(session, uuid4(), "/stop")
    assert (await client.post(other)).status_code == 503
    assert (await client.post(url(session, turn.id, "/stop"))).status_code == 202
    body = (await asking).text
    monkeypatch.undo()
    assert frames(body)[-2]["status"] == "cancelled"
