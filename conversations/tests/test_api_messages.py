"""The message stream: what a client reads, frame by frame."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx
import httpx2
import openai
import pytest
from agents import exceptions
from django.test import override_settings

from conversations import lanes
from conversations.models import ChatMessage, ChatSession, ChatTurn
from conversations.tests import scripted
from conversations.tests.conftest import answer, frames
from conversations.tests.factories import ChatSessionFactory
from conversations.tests.scripted import Call, Say

CANARY = "canary-in-an-exception"


async def post(client: httpx.AsyncClient, session: Any, text: str = "Hello", **headers: str) -> Any:
    return await client.post(
        f"/chatkit/threads/{session.id}/messages", json={"text": text}, headers=headers
    )


async def say(client: httpx.AsyncClient, session: Any, text: str = "Hello") -> str:
    response = await post(client, session, text)
    assert response.status_code == 200, response.text
    return str(response.text)


async def transcript(client: httpx.AsyncClient, session: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await client.get(f"/chatkit/threads/{session.id}")).json()[
        "messages"
    ]
    return found


async def get_turn(client: httpx.AsyncClient, session: Any, turn_id: str) -> dict[str, Any]:
    response = await client.get(f"/chatkit/threads/{session.id}/turns/{turn_id}")
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


async def until(look: Callable[[], Awaitable[Any]]) -> None:
    """Wait for a state that can be seen."""
    while True:
        if await look():
            return
        await asyncio.sleep(0.001)


async def model_is_asked() -> bool:
    return bool(scripted.SCRIPT.inputs)


def turns_are(count: int) -> Callable[[], Awaitable[bool]]:
    async def look() -> bool:
        return await lanes.call(ChatTurn.objects.count) == count

    return look


def events(body: str) -> Iterator[tuple[str, str]]:
    """(id, data) of each event, read by the letter of the standard: any of CR, LF, CRLF ends a
    line, and no line but `id`, `data` and comments is expected."""
    lines = body.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    last_id, data = "", ""
    for line in lines:
        if not line:
            if data:
                yield last_id, data.removesuffix("\n")
            data = ""
        elif not line.startswith(":"):
            name, _, value = line.partition(": ")
            assert name in {"id", "data"}, line
            if name == "id":
                last_id = value
            else:
                data += value + "\n"


# --- Frames --------------------------------------------------------------------------------


async def test_the_head_of_a_stream(client, session):
    response = await post(client, session)
    assert response.status_code == 200
    assert response.headers["Content-Type"] == "text/event-stream; charset=utf-8"
    assert response.headers["Cache-Control"] == "no-cache"
    assert response.headers["X-Accel-Buffering"] == "no"
    assert UUID(response.headers["X-Turn-Id"])
    assert "Content-Length" not in response.headers
    assert "Content-Encoding" not in response.headers


async def test_an_answer_from_its_first_frame_to_its_last(client, session, script):
    script(Say("Hello there you"))
    response = await post(client, session)
    turn_id = response.headers["X-Turn-Id"]
    messages = await transcript(client, session)
    assert frames(response.text) == [
        {"turn_id": turn_id, "status": "running"},
        {"content": "Hello "},
        {"content": "there "},
        {"content": "you"},
        {
            "turn_id": turn_id,
            "status": "completed",
            "message_id": messages[1]["message_id"],
            "user_message_id": messages[0]["message_id"],
            "usage": {"requests": 1, "input_tokens": 10, "output_tokens": 5, "total_tokens": 15},
        },
        "[DONE]",
    ]
    assert [message["content"] for message in messages] == ["Hello", "Hello there you"]


async def test_each_frame_is_an_id_from_one_on_and_a_line_of_data(client, session, script):
    script(Call("look_up", say="Let me see. "), Say("Found it."))
    body = await say(client, session)
    blocks = body.removesuffix("\n\n").split("\n\n")
    for number, block in enumerate(blocks, start=1):
        first, second = block.split("\n")
        assert first == f"id: {number}"
        assert second.startswith("data: ")
    assert body.endswith("data: [DONE]\n\n")
    assert len(blocks) == len(frames(body))


STRANGE = {
    "words": "Hello there",
    "emoji": "👩‍👩‍👧 🙂 Grüße",
    "carriage returns": "a\rb\r\nc\n\rd",
    "a frame": "x\n\nevent: y\nid: 99\ndata: [DONE]\n\ndata: {}",
    "separators": "a\u2028b\u2029c\u0085d",
    "quotes": 'a "b" \\ \\n </script> {"content": "c"}',
    "spaces": "  a  \n\n  b ",
    "a comment": ": waiting\n\n: x",
    "done": "[DONE]",
    "controls": "\x01\x1b[31m\x7f",
    "rtl": "\u202eabc\u202c",
}


@pytest.mark.parametrize("name", STRANGE)
async def test_all_pieces_joined_are_exactly_the_stored_answer(name, client, session, script):
    text = STRANGE[name]
    script(Say(text, pieces=list(text)))
    body = await say(client, session, text)
    assert answer(body) == text
    assert len(frames(body)) == len(text) + 3
    assert [json.loads(data) for _, data in list(events(body))[:-1]] == frames(body)[:-1]
    assert [number for number, _ in events(body)] == [str(n + 1) for n in range(len(text) + 3)]
    said, answered = await transcript(client, session)
    assert (said["content"], answered["content"]) == (text, text)


async def test_text_before_a_tool_belongs_to_the_answer(client, session, script):
    script(Call("look_up", say="One moment. "), Call("look_up", say="Still. "), Say("Here."))
    body = await say(client, session)
    assert answer(body) == "One moment. Still. Here."
    messages = await transcript(client, session)
    assert [message["content"] for message in messages] == ["Hello", answer(body)]
    assert frames(body)[-2]["message_id"] == messages[1]["message_id"]


async def test_a_tool_is_told_by_name_and_never_by_its_arguments(client, session, script, user):
    script(Call("look_up", f'{{"word": "{CANARY}"}}'), Say("Done."))
    body = await say(client, session)
    called, done = (frame["tool"] for frame in frames(body) if "tool" in frame)
    assert called == {"name": "look_up", "call_id": called["call_id"], "status": "called"}
    assert done == called | {"status": "done"}
    order = [next(iter(frame)) for frame in frames(body)[:-1]]
    assert order == ["turn_id", "tool", "tool", "content", "turn_id"]
    assert CANARY not in body
    assert frames(body)[-2]["usage"]["requests"] == 2
    assert f"{CANARY} of {user.pk}" in str(scripted.SCRIPT.inputs[1])


async def test_a_tool_that_breaks_is_told_as_failed(client, session, script):
    script(Call("break_down"))
    body = await say(client, session)
    assert [frame["tool"]["status"] for frame in frames(body) if "tool" in frame] == [
        "called",
        "failed",
    ]
    closing = frames(body)[-2]
    assert (closing["status"], closing["code"]) == ("failed", "assistant_failed")
    assert "secret words" not in body


async def test_who_has_to_wait_is_told_how_many_are_ahead(client, session, script):
    gate = asyncio.Event()
    script(Say("First answer", gate=gate), Say("Second answer"))
    first = asyncio.create_task(post(client, session, "first"))
    await until(model_is_asked)
    second = asyncio.create_task(post(client, session, "second"))
    await until(turns_are(2))
    waiting_id = str((await lanes.call(ChatTurn.objects.get, number=2)).id)
    waiting = await get_turn(client, session, waiting_id)
    assert (waiting["status"], waiting["ahead"], waiting["started_at"]) == ("queued", 1, None)
    gate.set()
    bodies = [(await task).text for task in (first, second)]
    assert [answer(body) for body in bodies] == ["First answer", "Second answer"]
    turn_id = waiting_id
    assert frames(bodies[1])[:2] == [
        {"turn_id": turn_id, "status": "queued", "ahead": 1},
        {"turn_id": turn_id, "status": "running"},
    ]
    contents = [message["content"] for message in await transcript(client, session)]
    assert contents == ["first", "First answer", "second", "Second answer"]


async def test_too_many_waiting_are_429_before_any_stream(client, session, script):
    gate = asyncio.Event()
    script(Say("One two", gate=gate))
    with override_settings(CHAT_MAX_QUEUED_TURNS=1):
        tasks = []
        for count in (1, 2):
            tasks.append(asyncio.create_task(post(client, session)))
            await until(turns_are(count))
        refused = await post(client, session)
    assert refused.status_code == 429
    assert refused.json()["error"]["code"] == "throttled"
    assert refused.json()["error"]["retryable"] is True
    assert int(refused.headers["Retry-After"]) > 0
    assert await lanes.call(ChatTurn.objects.count) == 2
    gate.set()
    for task in tasks:
        assert frames((await task).text)[-2]["status"] == "completed"


async def test_the_oldest_client_there_is_still_works(client, session, script):
    """It reads `content`, `error` and `warning`, until `[DONE]`, and knows nothing else."""

    def read(body: str) -> tuple[str, list[str], list[str]]:
        text, errors, warnings = "", [], []
        for line in body.splitlines():
            if not line.startswith("data: "):
                continue
            if line == "data: [DONE]":
                return text, errors, warnings
            frame = json.loads(line[6:])
            text += frame.get("content", "")
            errors += [frame["error"]] if "error" in frame else []
            warnings += [frame["warning"]] if "warning" in frame else []
        raise AssertionError("never done")

    script(
        Call("look_up", say="Well. "), Say("\u2028 Hi!"), Say("So far", then=RuntimeError(CANARY))
    )
    assert read(await say(client, session)) == ("Well. \u2028 Hi!", [], [])
    text, errors, warnings = read(await say(client, session))
    assert "So far".startswith(text)
    assert warnings == []
    assert errors == ["The assistant could not answer."]


# --- Failures ------------------------------------------------------------------------------


def _request() -> httpx2.Request:
    return httpx2.Request("POST", "https://model.test/")


def status_error(kind: type[openai.APIStatusError], status: int) -> openai.APIStatusError:
    return kind(CANARY, response=httpx2.Response(status, request=_request()), body=None)


def connection_error() -> openai.APIConnectionError:
    return openai.APIConnectionError(message=CANARY, request=_request())


ERRORS: dict[str, tuple[Any, str, bool]] = {
    "any": (lambda: RuntimeError(CANARY), "assistant_failed", True),
    "a bad answer": (lambda: exceptions.ModelBehaviorError(CANARY), "model_unavailable", True),
    "connection": (connection_error, "model_unavailable", True),
    "rate": (lambda: status_error(openai.RateLimitError, 429), "model_throttled", True),
    "key": (lambda: status_error(openai.AuthenticationError, 401), "model_refused", False),
    "provider": (lambda: status_error(openai.InternalServerError, 500), "model_unavailable", True),
    "steps": (lambda: exceptions.MaxTurnsExceeded(CANARY), "max_turns", False),
    "time": (lambda: TimeoutError(CANARY), "turn_timeout", True),
}


@pytest.mark.parametrize("name", ERRORS)
@pytest.mark.parametrize("when", ["at once", "midway"])
async def test_an_error_of_the_model_is_one_typed_frame(
    name, when, client, session, script, caplog
):
    make, code, retryable = ERRORS[name]
    script(make() if when == "at once" else Say("So far", then=make()))
    response = await post(client, session)
    turn_id = response.headers["X-Turn-Id"]
    closing = frames(response.text)[-2]
    assert closing == {
        "error": closing["error"],
        "code": code,
        "retryable": retryable,
        "turn_id": turn_id,
        "status": "failed",
    }
    assert sum("error" in frame or "usage" in frame for frame in frames(response.text)) == 1
    assert frames(response.text)[-1] == "[DONE]"
    assert CANARY not in response.text + caplog.text
    turn = await get_turn(client, session, turn_id)
    assert (turn["status"], turn["error"]) == ("failed", code)
    said, *kept = await transcript(client, session)
    assert said["content"] == "Hello"
    heard = answer(response.text)  # the SDK may drop what came just before the error
    assert [message["content"] for message in kept] == ([heard] if heard else [])
    assert all(message["incomplete"] for message in kept)
    assert heard in {"", "So ", "So far"}
    assert when == "midway" or not heard
    assert answer(await say(client, session, "Again")) == "I remember: Hello | Again"


async def test_a_turn_that_takes_too_long_ends_with_an_error(client, session, script):
    script(Say("One two", gate=asyncio.Event()))
    with override_settings(CHAT_TURN_TIMEOUT_SECONDS=0.05):
        body = await say(client, session)
    assert frames(body)[-2]["code"] == "turn_timeout"


# --- Turns ---------------------------------------------------------------------------------


async def test_how_a_turn_went_can_be_asked_afterwards(client, session, script):
    script(Call("look_up"), Say("Done."))
    response = await post(client, session)
    closing = frames(response.text)[-2]
    turn = await get_turn(client, session, closing["turn_id"])
    assert turn["turn_id"] == closing["turn_id"] == response.headers["X-Turn-Id"]
    assert turn["thread_id"] == str(session.id)
    assert (turn["status"], turn["error"], turn["warning"]) == ("completed", None, None)
    assert (turn["model"], turn["ahead"]) == ("scripted", 0)
    assert turn["message_id"] == closing["message_id"]
    assert turn["user_message_id"] == closing["user_message_id"]
    assert turn["usage"] == closing["usage"]
    assert turn["usage"] == {
        "requests": 2,
        "input_tokens": 20,
        "output_tokens": 10,
        "total_tokens": 30,
    }
    times = [turn[name] for name in ("queued_at", "started_at", "first_token_at", "finished_at")]
    moments = [datetime.fromisoformat(time) for time in times]
    assert moments == sorted(moments)
    assert all(moment.utcoffset() == timedelta(0) for moment in moments)
    assert {message["turn_id"] for message in await transcript(client, session)} == {
        turn["turn_id"]
    }


async def test_a_turn_is_found_only_in_its_own_conversation(client, session, user):
    turn_id = frames(await say(client, session))[0]["turn_id"]
    other = await lanes.call(ChatSessionFactory, owner=user)
    for thread, turn in (
        (other.id, turn_id),
        (session.id, uuid4()),
        (session.id, "1"),
        (session.id, turn_id.replace("-", "")),
    ):
        response = await client.get(f"/chatkit/threads/{thread}/turns/{turn}")
        assert response.status_code == 404
        assert response.json()["error"]["code"] == "turn_not_found"


async def test_a_turn_of_a_cleared_conversation_names_no_messages(client, session):
    turn_id = frames(await say(client, session))[0]["turn_id"]
    await client.post(f"/chatkit/threads/{session.id}/clear")
    turn = await get_turn(client, session, turn_id)
    assert (turn["message_id"], turn["user_message_id"]) == (None, None)
    assert turn["usage"]["total_tokens"] == 15


# --- Keys and sizes ------------------------------------------------------------------------


async def test_an_idempotency_key_is_taken_and_a_long_one_refused(client, session):
    key = {"Idempotency-Key": "k" * 255}
    assert (await post(client, session, **key)).status_code == 200
    assert (await lanes.call(ChatTurn.objects.get)).idempotency_key == "k" * 255
    for long in ("k" * 256, "k" * 300):
        refused = await post(client, session, **{"Idempotency-Key": long})
        assert refused.status_code == 422
        assert "Idempotency-Key" in str(refused.json()["error"]["fields"])
    assert len(scripted.SCRIPT.inputs) == 1


async def test_the_same_key_again_is_the_same_turn_told_once_more(client, session, script):
    script(Call("look_up", say="Well. "), Say("Done."))
    key = {"Idempotency-Key": "once"}
    first = await post(client, session, **key)
    again = await post(client, session, **key)
    assert again.status_code == 200
    assert again.headers["X-Turn-Id"] == first.headers["X-Turn-Id"]
    assert answer(again.text) == answer(first.text) == "Well. Done."
    assert frames(again.text)[-2:] == frames(first.text)[-2:]
    other = await post(client, session, "another text", **key)
    assert other.status_code == 409
    assert other.json()["error"]["code"] == "idempotency_conflict"
    assert len(scripted.SCRIPT.inputs) == 2
    assert len(await transcript(client, session)) == 2


async def test_messages_without_a_key_or_with_an_empty_one_are_messages_of_their_own(
    client, session
):
    for headers in ({}, {}, {"Idempotency-Key": ""}, {"Idempotency-Key": ""}):
        assert (await post(client, session, **headers)).status_code == 200
    assert await lanes.call(ChatTurn.objects.count) == 4


@pytest.mark.parametrize("text", ["x" * 2000, "🙂" * 2000, " x ", "\u200b"], ids=repr)
async def test_a_message_is_stored_as_sent(text, client, session):
    await say(client, session, text)
    assert (await transcript(client, session))[0]["content"] == text
    assert scripted.SCRIPT.inputs[0][-1]["content"] == text


async def test_the_longest_message_is_a_setting(client, session):
    with override_settings(CHAT_MAX_MESSAGE_CHARS=3):
        assert (await post(client, session, "abc")).status_code == 200
        refused = await post(client, session, "abcd")
    assert refused.status_code == 422
    (field,) = refused.json()["error"]["fields"]
    assert (field["field"], field["message"]) == ("text", "must be at most 3 characters, not 4")


async def test_the_text_may_be_1_to_2000_characters_and_nothing_is_kept_of_others(client, session):
    invalid: list[Any] = [
        {"text": ""},
        {"text": " \n\t\u2003"},
        {"text": "x" * 2001},
        {"text": None},
        {"text": 1},
        {"text": True},
        {"text": ["a"]},
        {"text": {"text": "a"}},
        {"text": "NUL \x00"},
        {},
        {"message": "a"},
        {"text": "a", "role": "system"},
        {"text": "a", "thread_id": str(session.id)},
    ]
    contents = [json.dumps(body) for body in invalid]
    contents += ['{"text": "\\ud800"}', '{"text": NaN}', '{"text": 1e999}', '"text"', "[]", "null"]
    contents += ["", "   ", "{", '{"text": "a"', "{'text': 'a'}", '{"text": ' + "9" * 5000 + "}"]
    url = f"/chatkit/threads/{session.id}/messages"
    for content in contents:
        response = await client.post(
            url, content=content, headers={"Content-Type": "application/json"}
        )
        assert response.status_code == 422, content
        assert response.json()["error"]["code"] == "invalid"
        assert response.headers["Content-Type"] == "application/json"
    assert scripted.SCRIPT.inputs == []
    assert not await lanes.call(ChatTurn.objects.exists)
    assert not await lanes.call(ChatMessage.objects.exists)
    stored = await lanes.call(ChatSession.objects.get)
    assert (stored.title, stored.last_active_at) == ("", session.last_active_at)
