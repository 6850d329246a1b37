"""The ChatKit door from outside: a real server, spoken to over HTTP, read by the library's types.

Every event and every answer is parsed as `chatkit.types` says. Which test shows which request is
the table that `shows` fills.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import httpx
import pytest

from conversations.tests.chatkit_agent import PING, SYNC
from conversations.tests.chatkit_client import (
    ALL_TYPES,
    STREAMING_TYPES,
    Person,
    message,
    refusal,
    texts,
    until,
)
from conversations.tests.chatkit_model import PAUSE_SECONDS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

ROOT: Final = Path(__file__).resolve().parents[2]
PATIENCE_SECONDS: Final = 30.0
PNG: Final = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
SHOWN: dict[str, list[str]] = {}
"""The request types, and the tests that show what each does."""


def shows(*types: str) -> Callable[[Any], Any]:
    def note(test: Any) -> Any:
        for type_ in types:
            SHOWN.setdefault(type_, []).append(test.__name__)
        test.shows = set(types)
        return test

    return note


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """What the server says when it answers; afterwards it ends well and leaves nothing."""
    folder = tmp_path_factory.mktemp("chatkit")
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    url = os.environ.get("TEST_DATABASE_URL", "")
    process = subprocess.Popen(
        [sys.executable, "-m", "conversations.tests.chatkit_server", "--port", "0"]
        + (["--database-url", url] if url else []),
        cwd=ROOT,
        env={**kept, "TMPDIR": str(folder)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    too_late = threading.Timer(PATIENCE_SECONDS, process.kill)
    too_late.start()
    try:
        line = process.stdout.readline()
        too_late.cancel()
        assert line, "the server did not start: see above"
        yield json.loads(line)
        process.send_signal(signal.SIGTERM)
        rest, _ = process.communicate(timeout=PATIENCE_SECONDS)
        assert (process.returncode, rest) == (0, "")
        assert list(folder.iterdir()) == []
    finally:
        too_late.cancel()
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.fixture
async def ann(place: dict[str, Any], request: pytest.FixtureRequest) -> AsyncIterator[Person]:
    person = Person(place["url"], place["headers_a"])
    failed_before = request.session.testsfailed
    yield person
    await person.close()
    if request.session.testsfailed == failed_before:
        assert getattr(request.function, "shows", set()) <= person.sent


@pytest.fixture
async def bob(place: dict[str, Any]) -> AsyncIterator[Person]:
    person = Person(place["url"], place["headers_b"])
    yield person
    await person.close()


def test_every_request_of_the_installed_version_is_shown():
    assert set(SHOWN) == ALL_TYPES


def test_the_server_says_where_it_answers_and_as_whom(place):
    assert set(place) == {"url", "headers_a", "headers_b"}
    assert place["url"].endswith("/chatkit")
    assert set(place["headers_a"]) == set(place["headers_b"]) == {"Authorization"}
    assert place["headers_a"] != place["headers_b"]


# --- Saying something -----------------------------------------------------------------------


@shows("threads.create", "threads.add_user_message", "threads.get_by_id", "items.list")
async def test_a_message_is_answered_and_both_are_there_afterwards(ann):
    heard = await ann.say("conf:echo Hello there, reader!")
    kinds = [event.type for event in heard.events]
    assert kinds[:3] == ["thread.created", "thread.item.done", "stream_options"]
    assert heard.answer == "Hello there, reader!"
    assert heard.deltas
    more = await ann.say("And now?", in_=heard.thread_id)
    assert [event.type for event in more.events][:2] == ["thread.item.done", "stream_options"]
    assert more.answer == "You said: And now?"

    told = [*heard.events, *more.events]
    items = [event.item for event in told if event.type == "thread.item.done"]
    stored = await ann.read_items(heard.thread_id)
    assert texts(stored) == [
        ("user", "conf:echo Hello there, reader!"),
        ("assistant", "Hello there, reader!"),
        ("user", "And now?"),
        ("assistant", "You said: And now?"),
    ]
    assert [item.id for item in stored] == [item.id for item in items]
    assert all(UUID(item.id) for item in stored)
    thread = await ann.ask("threads.get_by_id", thread_id=heard.thread_id)
    assert [item.id for item in thread.items.data] == [item.id for item in stored]
    assert thread.title == "conf:echo Hello there, reader!"
    assert await ann.transcript(heard.thread_id) == texts(stored)


async def test_all_that_was_sent_is_kept_and_its_words_reach_the_model(ann):
    said = message("conf:echo Read ")
    tag = {"id": "e1", "text": "Moby Dick", "data": {"isbn": None, "pages": 635}, "group": "book"}
    said["content"].append({"type": "input_tag", **tag, "interactive": True})
    said["content"].append({"type": "input_text", "text": " now"})
    said["quoted_text"] = "Call me Ishmael."
    said["inference_options"] = {"model": "m", "tool_choice": {"id": "search"}}
    heard = await ann.stream("threads.create", input=said)
    (question, _) = await ann.read_items(heard.thread_id)
    for item in (heard.question, question):
        sent = item.model_dump(include=set(said) - {"attachments"}, exclude_none=False)
        assert sent["content"][1] == {"type": "input_tag", **tag, "interactive": True}
        assert sent["quoted_text"] == said["quoted_text"]
        assert sent["inference_options"] == said["inference_options"]
    assert "Read " in heard.answer


async def test_an_answer_arrives_while_it_is_written(ann):
    heard = await ann.say("conf:slow 4 tortoise")
    assert len(heard.deltas) == 4
    assert "tortoise" in heard.answer
    arrived = [
        moment
        for moment, event in zip(heard.times, heard.events, strict=True)
        if event.type == "thread.item.updated" and hasattr(event.update, "delta")
    ]
    assert arrived[-1] - arrived[0] >= 2 * PAUSE_SECONDS


@shows("threads.list", "threads.update", "threads.delete")
async def test_threads_are_listed_renamed_and_deleted(ann):
    threads = [(await ann.say(f"conf:echo {number}")).thread_id for number in range(3)]
    first = await ann.ask("threads.list", limit=2, order="desc")
    assert [thread.id for thread in first.data] == [threads[2], threads[1]]
    assert first.has_more
    second = await ann.ask("threads.list", limit=1, order="desc", after=first.after)
    assert [thread.id for thread in second.data] == [threads[0]]

    renamed = await ann.ask("threads.update", thread_id=threads[0], title="A new name")
    assert renamed.title == "A new name"
    await ann.say("conf:echo again", in_=threads[0])
    thread = await ann.ask("threads.get_by_id", thread_id=threads[0])
    assert thread.title == "A new name"

    await ann.ask("threads.delete", thread_id=threads[0])
    for type_ in ("threads.get_by_id", "items.list"):
        assert (await ann.refused(type_, thread_id=threads[0])).code == "thread_not_found"
    assert (await ann.rest("GET", f"/{threads[0]}")).status_code == 404


async def test_a_thread_continues_at_either_door_with_all_it_remembers(ann):
    created = await ann.rest("POST", "", json={"title": "Two doors"})
    thread_id = created.json()["thread_id"]
    await ann.say_over_rest("conf:servertool ring", in_=thread_id)
    heard = await ann.say("conf:history", in_=thread_id)
    assert heard.answer == "history users=2 assistants=1 calls=1 outputs=1"
    await ann.say("conf:servertool ring", in_=thread_id)
    told = await ann.say_over_rest("conf:history", in_=thread_id)
    assert '"status":"completed"' in told.replace(" ", "")
    stored = texts(await ann.read_items(thread_id))
    assert stored[-1] == ("assistant", "history users=4 assistants=3 calls=2 outputs=2")
    assert await ann.transcript(thread_id) == stored
    assert (await ann.ask("threads.get_by_id", thread_id=thread_id)).title == "Two doors"


async def test_what_an_agent_shows_over_rest_is_there_in_chatkit(ann):
    created = await ann.rest("POST", "", json={})
    thread_id = created.json()["thread_id"]
    for said in ("conf:burst 2", "conf:hidden deep down", "conf:widget", "conf:clienttool look"):
        body = await ann.say_over_rest(said, in_=thread_id)
        assert body.endswith("data: [DONE]\n\n")
        assert '"error"' not in body
    stored = await ann.read_items(thread_id)
    assert [item.type for item in stored] == [
        *("user_message", "assistant_message", "assistant_message"),
        *("user_message", "assistant_message"),
        *("user_message", "widget"),
        *("user_message", "client_tool_call"),
    ]
    after = await ann.stream("threads.add_client_tool_output", thread_id=thread_id, result="seen")
    assert after.answer == '"seen"'
    assert (await ann.transcript(thread_id))[-1] == ("assistant", '"seen"')


async def test_two_messages_at_once_are_both_answered_one_after_the_other(ann):
    thread_id = (await ann.say("conf:echo first")).thread_id
    async with ann.saying("conf:slow 6 tortoise", in_=thread_id) as (slow, events):
        await anext(events)
        hasty, _ = await asyncio.gather(ann.say("conf:history", in_=thread_id), _hear(events))
    assert hasty.answer == "history users=3 assistants=2 calls=0 outputs=0"
    assert hasty.times[hasty.events.index(hasty.of("thread.item.updated")[0])] >= slow.times[-1]
    assert texts(await ann.read_items(thread_id))[2:] == [
        ("user", "conf:slow 6 tortoise"),
        ("assistant", slow.answer),
        ("user", "conf:history"),
        ("assistant", hasty.answer),
    ]


# --- What an answer shows besides its text ----------------------------------------------------


async def test_a_burst_of_one_moment_is_read_page_by_page(ann):
    heard = await ann.say("conf:burst 7")
    said = [f"burst-{number}" for number in range(7)]
    assert [item.content[0].text for item in heard.done("assistant_message")] == said
    for limit, order in ((2, "asc"), (3, "desc"), (1, "desc")):
        stored = await ann.read_items(heard.thread_id, limit=limit, order=order)
        found = [text for role, text in texts(stored) if role == "assistant"]
        assert found == (said if order == "asc" else said[::-1])
        assert len({item.id for item in stored}) == 8
    assert len({item.created_at for item in stored if item.type == "assistant_message"}) == 1


async def test_pages_repeat_and_lose_nothing_while_others_write(ann):
    thread_id = (await ann.say("conf:burst 20")).thread_id
    found, after = [], None
    for number in range(6):
        page = await ann.ask("items.list", thread_id=thread_id, limit=4, order="desc", after=after)
        found += page.data
        after = page.after
        await ann.say(f"conf:echo {number}", in_=thread_id)
    assert [text for _, text in texts(found)][::-1] == [
        "conf:burst 20",
        *(f"burst-{number}" for number in range(20)),
    ]
    stored = await ann.read_items(thread_id, limit=3)
    assert len({item.id for item in stored}) == len(stored) == 21 + 12


async def test_what_is_hidden_never_leaves_the_server(ann):
    heard = await ann.say("conf:hidden under the stone")
    assert heard.answer == "ok"
    for order in ("asc", "desc"):  # the hidden item is in the middle of the pages
        stored = await ann.read_items(heard.thread_id, limit=1, order=order)
        assert sorted(texts(stored)) == [
            ("assistant", "ok"),
            ("user", "conf:hidden under the stone"),
        ]
    assert len(await ann.transcript(heard.thread_id)) == 2
    export = await ann.rest("GET", f"/{heard.thread_id}")
    assert export.text.count("under the stone") <= 2  # the question, and the title made of it


async def test_an_agent_gives_a_thread_its_title(ann):
    heard = await ann.say("conf:title Stones and rivers")
    assert heard.answer == "ok"
    assert heard.of("thread.updated")[-1].thread.title == "Stones and rivers"
    thread = await ann.ask("threads.get_by_id", thread_id=heard.thread_id)
    assert thread.title == "Stones and rivers"
    assert (await ann.rest("GET", f"/{heard.thread_id}")).json()["title"] == "Stones and rivers"


async def test_a_locked_thread_takes_no_message_at_either_door(ann):
    heard = await ann.say("conf:lock enough for today")
    assert heard.answer == "ok"
    status = heard.of("thread.updated")[-1].thread.status
    assert (status.type, status.reason) == ("locked", "enough for today")
    thread = await ann.ask("threads.get_by_id", thread_id=heard.thread_id)
    assert (thread.status.type, thread.status.reason) == ("locked", "enough for today")
    for type_, params in (
        ("threads.add_user_message", {"input": message("Hello?")}),
        ("threads.retry_after_item", {"item_id": heard.question.id}),
    ):
        refused = await ann.refused(type_, thread_id=heard.thread_id, **params)
        assert (refused.status, refused.code) == (409, "thread_closed")
    answer = await ann.rest("POST", f"/{heard.thread_id}/messages", json={"text": "Hello?"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "thread_closed")
    assert len(await ann.read_items(heard.thread_id)) == 2


async def test_an_error_nobody_expected_says_nothing_of_itself(ann):
    heard = await ann.say("conf:fail the password is swordfish")
    error = heard.error
    assert (error.code, error.allow_retry) == ("stream.error", True)
    assert "swordfish" not in (error.message or "")
    after = await ann.say("conf:echo still here", in_=heard.thread_id)
    assert after.answer == "still here"


async def test_an_error_for_the_person_keeps_its_words(ann):
    heard = await ann.say("conf:failcustom Out of stones.")
    error = heard.error
    assert (error.code, error.message, error.allow_retry) == ("custom", "Out of stones.", False)
    after = await ann.say("conf:echo still here", in_=heard.thread_id)
    assert after.answer == "still here"


@shows("threads.add_client_tool_output")
async def test_a_tool_of_the_page_is_called_and_its_result_reaches_the_model(ann):
    heard = await ann.say("conf:clienttool get_color")
    (call,) = heard.done("client_tool_call")
    assert heard.of("thread.item.done")[-1].item is call
    assert (call.name, call.status, call.arguments) == (
        "get_color",
        "pending",
        {"q": "conformance"},
    )
    assert heard.done("assistant_message") == []
    assert (await ann.read_items(heard.thread_id))[-1].id == call.id

    result = {"color": "red", "shades": [1, None, {"deep": True}]}
    params = {"thread_id": heard.thread_id, "result": result}
    after = await ann.stream("threads.add_client_tool_output", **params)
    assert json.loads(after.answer) == result
    (stored,) = [i for i in await ann.read_items(heard.thread_id) if i.id == call.id]
    assert (stored.status, stored.output, stored.call_id) == ("completed", result, call.call_id)
    refused = await ann.refused("threads.add_client_tool_output", **params)
    assert (refused.status, refused.code) == (422, "invalid")
    remembered = await ann.say("conf:history", in_=heard.thread_id)
    assert remembered.answer == "history users=2 assistants=1 calls=1 outputs=1"


@shows("threads.add_structured_input")
async def test_a_form_is_answered_and_the_answers_reach_the_model(ann):
    heard = await ann.say("conf:form")
    (form,) = heard.done("structured_input")
    assert form.status == "pending"
    assert [question.id for question in form.inputs] == ["color", "notes"]
    params = {
        "thread_id": heard.thread_id,
        "item_id": form.id,
        "input": {
            "status": "answered",
            "answers": {
                "color": {"values": ["green"], "skipped": False},
                "notes": {"values": ["by the river"], "skipped": False},
            },
        },
    }
    after = await ann.stream("threads.add_structured_input", **params)
    assert after.of("thread.item.replaced")[0].item.status == "answered"
    assert "green" in after.answer
    assert "by the river" in after.answer
    (stored,) = [i for i in await ann.read_items(heard.thread_id) if i.id == form.id]
    assert stored.status == "answered"
    assert [question.answer.values for question in stored.inputs] == [["green"], ["by the river"]]
    refused = await ann.refused("threads.add_structured_input", **params)
    assert (refused.status, refused.code) == (422, "invalid")
    other = params | {"item_id": heard.question.id}
    assert (await ann.refused("threads.add_structured_input", **other)).status == 422


@shows("threads.custom_action", "threads.sync_custom_action")
async def test_the_buttons_of_a_widget_do_what_the_server_class_says(ann):
    heard = await ann.say("conf:widget")
    (card,) = heard.done("widget")
    where = {"thread_id": heard.thread_id, "item_id": card.id}

    action = {"type": PING, "payload": {"token": "t0ken"}}
    ping = await ann.stream("threads.custom_action", **where, action=action)
    assert "t0ken" in ping.answer
    action = {"type": SYNC, "payload": {"token": "t1ken"}}
    sync = await ann.ask("threads.sync_custom_action", **where, action=action)
    assert sync.updated_item.id == card.id
    assert "t1ken" in sync.updated_item.model_dump_json()

    stored = await ann.read_items(heard.thread_id)
    assert [item.type for item in stored] == ["user_message", "widget", "assistant_message"]
    assert (
        stored[1].model_dump(mode="json")["widget"]
        == (sync.updated_item.model_dump(mode="json")["widget"])
    )
    assert stored[2].id == ping.done("assistant_message")[0].id
    assert ("assistant", ping.answer) in await ann.transcript(heard.thread_id)

    unknown = await ann.stream("threads.custom_action", **where, action={"type": "other"})
    assert unknown.error.code == "custom"
    refused = await ann.refused("threads.sync_custom_action", **where, action={"type": "other"})
    assert (refused.status, refused.code) == (422, "invalid")
    where["item_id"] = heard.question.id
    refused = await ann.refused("threads.sync_custom_action", **where, action=action)
    assert (refused.status, refused.code) == (422, "invalid")


@shows("items.feedback")
async def test_feedback_is_taken_for_items_of_ones_own(ann, bob):
    heard = await ann.say("conf:echo good")
    params = {
        "thread_id": heard.thread_id,
        "item_ids": [heard.done("assistant_message")[0].id],
        "kind": "positive",
    }
    assert await ann.ask("items.feedback", **params) == {}
    assert await ann.ask("items.feedback", **params | {"kind": "negative"}) == {}
    assert (await bob.refused("items.feedback", **params)).code == "thread_not_found"


@shows("attachments.create", "attachments.delete")
async def test_a_file_is_announced_uploaded_sent_and_removed(ann, bob):
    announced = {"name": "dot.png", "size": len(PNG), "mime_type": "image/png"}
    dot, spare = [await ann.ask("attachments.create", **announced) for _ in range(2)]
    upload = dot.upload_descriptor
    answer = await ann.http.request(
        upload.method, str(upload.url), content=PNG, headers=upload.headers
    )
    assert answer.status_code < 300, answer.text
    heard = await ann.say("conf:echo a dot", attachments=[dot.id])
    assert [attachment.id for attachment in heard.question.attachments] == [dot.id]
    assert heard.answer == "a dot"
    (stored, _) = await ann.read_items(heard.thread_id)
    assert [attachment.name for attachment in stored.attachments] == ["dot.png"]

    refused = await bob.refused("attachments.delete", attachment_id=dot.id)
    assert refused.status == 404
    assert await ann.ask("attachments.delete", attachment_id=spare.id) == {}
    assert (await ann.refused("attachments.delete", attachment_id=spare.id)).status == 404


@shows("input.transcribe")
async def test_without_a_transcriber_speech_is_refused_clearly(ann):
    refused = await ann.refused(
        "input.transcribe", audio_base64="AAAA", mime_type="audio/webm;codecs=opus"
    )
    assert (refused.status, refused.code) == (501, "not_configured")


# --- Stopping, renaming, deleting, retrying ---------------------------------------------------


async def test_who_leaves_stops_the_answer_and_its_part_is_kept(ann):
    async with ann.saying("conf:slow 200 tortoise") as (heard, events):
        async for _ in events:
            if len(heard.deltas) == 3:
                break

    async def is_settled() -> bool:
        return (await ann.transcript(heard.thread_id))[-1][1].endswith("…")

    await until(is_settled)
    stored = texts(await ann.read_items(heard.thread_id))
    assert len(stored) == 2
    role, part = stored[1]
    assert role == "assistant"
    assert part.startswith("tortoise 1 2 ")
    assert not part.endswith(" 199 ")
    assert await ann.transcript(heard.thread_id) == [stored[0], (role, f"{part}…")]
    after = await ann.say("conf:history", in_=heard.thread_id)
    assert after.answer == "history users=2 assistants=1 calls=0 outputs=0"
    noted = await ann.say("conf:notes", in_=heard.thread_id)
    assert noted.answer == "notes=1"


async def test_who_leaves_the_line_is_not_answered(ann):
    thread_id = (await ann.say("conf:echo first")).thread_id
    async with ann.saying("conf:slow 14 tortoise", in_=thread_id) as (slow, events):
        await anext(events)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.15):
                await ann.say("conf:echo hare", in_=thread_id)
        await _hear(events)
    last = await ann.say("conf:history", in_=thread_id)
    assert "tortoise" in slow.answer
    assert ("assistant", "hare") not in texts(await ann.read_items(thread_id))
    assert last.answer.startswith("history users=")


async def test_a_name_given_while_an_answer_streams_is_kept(ann):
    async with ann.saying("conf:slowmeta 10") as (heard, events):
        async for _ in events:
            if len(heard.deltas) == 1:
                await ann.ask("threads.update", thread_id=heard.thread_id, title="My own name")
                break
        await _hear(events)
    assert heard.answer.startswith("slowmeta 1 ")
    assert heard.events[-1].type != "error"
    thread = await ann.ask("threads.get_by_id", thread_id=heard.thread_id)
    assert thread.title == "My own name"
    titles = [event.thread.title for event in heard.of("thread.updated")]
    assert set(titles[-1:]) <= {"My own name"}


async def test_a_thread_deleted_while_an_answer_streams_stays_deleted(ann):
    async with ann.saying("conf:slow 100 tortoise") as (heard, events):
        async for _ in events:
            if len(heard.deltas) == 1:
                await ann.ask("threads.delete", thread_id=heard.thread_id)
                break
        await _hear(events)
    assert len(heard.deltas) < 100
    assert (await ann.refused("threads.get_by_id", thread_id=heard.thread_id)).status == 404
    assert (await ann.rest("GET", f"/{heard.thread_id}")).status_code == 404
    page = await ann.ask("threads.list")
    assert heard.thread_id not in {thread.id for thread in page.data}


@shows("threads.retry_after_item")
async def test_a_retry_takes_back_what_followed_also_from_memory(ann):
    first = await ann.say("conf:servertool ring")
    second = await ann.say("conf:history", in_=first.thread_id)
    third = await ann.say("conf:clienttool get_color", in_=first.thread_id)
    assert third.done("client_tool_call")
    where = {"thread_id": first.thread_id}
    again = await ann.stream("threads.retry_after_item", **where, item_id=second.question.id)
    assert again.of("thread.created") == []
    assert again.answer == second.answer == "history users=2 assistants=1 calls=1 outputs=1"
    stored = await ann.read_items(first.thread_id)
    assert texts(stored) == [
        ("user", "conf:servertool ring"),
        ("assistant", "served: ring"),
        ("user", "conf:history"),
        ("assistant", again.answer),
    ]
    assert stored[2].id == second.question.id
    assert stored[3].id == again.done("assistant_message")[0].id
    assert await ann.transcript(first.thread_id) == texts(stored)

    refused = await ann.refused("threads.retry_after_item", **where, item_id=stored[3].id)
    assert (refused.status, refused.code) == (422, "invalid")
    refused = await ann.refused("threads.retry_after_item", **where, item_id=third.question.id)
    assert refused.status == 404


# --- Refusals ------------------------------------------------------------------------------


async def test_a_stranger_finds_nothing_and_changes_nothing(ann, bob):
    heard = await ann.say("conf:widget")
    (card,) = heard.done("widget")
    before = await ann.read_items(heard.thread_id)
    params: dict[str, dict[str, Any]] = {
        "threads.add_user_message": {"input": message("Hello")},
        "threads.add_client_tool_output": {"result": 1},
        "threads.add_structured_input": {"item_id": card.id, "input": {}},
        "threads.retry_after_item": {"item_id": heard.question.id},
        "threads.custom_action": {"item_id": card.id, "action": {"type": PING}},
        "threads.sync_custom_action": {"item_id": card.id, "action": {"type": SYNC}},
        "threads.get_by_id": {},
        "threads.update": {"title": "Mine"},
        "threads.delete": {},
        "items.list": {},
        "items.feedback": {"item_ids": [card.id], "kind": "positive"},
    }
    unknown = "01990000-0000-7000-8000-000000000000"
    for type_, others in params.items():
        foreign = await bob.refused(type_, thread_id=heard.thread_id, **others)
        missing = await bob.refused(type_, thread_id=unknown, **others)
        assert (foreign.status, foreign.code) == (404, "thread_not_found"), type_
        assert foreign == missing, type_
    listed = await bob.ask("threads.list", limit=100)
    assert heard.thread_id not in {thread.id for thread in listed.data}
    assert await ann.read_items(heard.thread_id) == before
    thread = await ann.ask("threads.get_by_id", thread_id=heard.thread_id)
    assert thread.title == "conf:widget"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'"text"',
        b"{}",
        b'{"type": "threads.unheard_of", "params": {}}',
        b'{"type": "threads.get_by_id"}',
        b'{"type": "threads.create", "params": {"input": {"content": "no list"}}}',
        b'{"type": "items.feedback", "params": {"thread_id": "x", "item_ids": [], "kind": "meh"}}',
        b'\xff\xfe{"type": "threads.list", "params": {}}',
    ],
    ids=[
        "nothing",
        "half",
        "list",
        "text",
        "no-type",
        "unknown-type",
        "no-params",
        "wrong-shape",
        "wrong-word",
        "no-utf8",
    ],
)
async def test_what_is_no_request_is_refused_in_the_usual_shape(ann, body):
    headers = {"Content-Type": "application/json"}
    refused = refusal(await ann.http.post(ann.url, content=body, headers=headers))
    assert (refused.status, refused.code) == (422, "invalid")


async def test_who_is_not_signed_in_is_told_so(place):
    async with httpx.AsyncClient() as nobody:
        for headers in ({}, {"Authorization": "Bearer none"}):
            answer = await nobody.post(
                place["url"], json={"type": "threads.list", "params": {}}, headers=headers
            )
            refused = refusal(answer)
            assert (refused.status, refused.code) == (401, "unauthenticated")


@pytest.mark.parametrize("type_", sorted(STREAMING_TYPES - {"threads.create"}))
async def test_a_streaming_request_is_refused_before_its_stream(ann, type_):
    params = {
        "input": message("Hello") if type_ == "threads.add_user_message" else {},
        "result": None,
        "item_id": "msg_none",
        "action": {"type": PING},
    }
    refused = await ann.refused(type_, thread_id="thr_none", **params)
    assert (refused.status, refused.code) == (404, "thread_not_found")


async def _hear(events: AsyncIterator[Any]) -> None:
    async for _ in events:
        pass
