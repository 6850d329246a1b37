"""Conversations over HTTP: list, read, rename, close, clear, delete."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import httpx
import pytest
from django.test import override_settings
from django.utils import timezone

from conversations import lanes
from conversations.models import ChatMessage, ChatSession, ChatTurn
from conversations.tests import scripted
from conversations.tests.conftest import answer, frames
from conversations.tests.factories import ChatSessionFactory
from conversations.tests.scripted import Say

THREADS = "/chatkit/threads"
THEN = datetime(2020, 1, 1, 12, 0, tzinfo=UTC)


async def create(client: httpx.AsyncClient, **body: Any) -> str:
    response = await client.post(THREADS, json=body)
    assert response.status_code == 201, response.text
    return str(response.json()["thread_id"])


async def model_is_asked() -> None:
    while True:
        if scripted.SCRIPT.inputs:
            return
        await asyncio.sleep(0.001)


async def say(client: httpx.AsyncClient, thread_id: Any, text: str = "Hello") -> str:
    response = await client.post(f"{THREADS}/{thread_id}/messages", json={"text": text})
    assert response.status_code == 200, response.text
    return answer(response.text)


async def get(client: httpx.AsyncClient, thread_id: Any, **params: Any) -> dict[str, Any]:
    response = await client.get(f"{THREADS}/{thread_id}", params=params)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


async def listed(client: httpx.AsyncClient, **params: Any) -> dict[str, Any]:
    response = await client.get(THREADS, params=params)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


async def titles(client: httpx.AsyncClient, **params: Any) -> list[str]:
    return [thread["title"] for thread in (await listed(client, **params))["data"]]


async def pages(
    client: httpx.AsyncClient, between: Callable[[], Any] | None = None, **params: Any
) -> list[list[str]]:
    """The ids of all pages; `between` is awaited after each."""
    found, after = [], ""
    while True:
        page = await listed(client, after=after, **params)
        found.append([thread["thread_id"] for thread in page["data"]])
        if not page["has_more"]:
            return found
        after = page["after"]
        if between is not None:
            await between()


def make_threads(owner: Any, count: int, **fields: Any) -> list[str]:
    """Their ids, as the list orders those of one moment."""
    return sorted(str(ChatSessionFactory(owner=owner, **fields).id) for _ in range(count))


# --- Begin ---------------------------------------------------------------------------------


async def test_a_conversation_is_begun_with_or_without_a_body(client):
    for request in ({}, {"content": b""}, {"json": {}}, {"json": {"title": None}}):
        response = await client.post(THREADS, **request)
        assert response.status_code == 201
        body = response.json()
        assert set(body) == {"thread_id", "title", "created_at"}
        assert body["title"] == ""
        assert datetime.fromisoformat(body["created_at"]).utcoffset() == timedelta(0)


async def test_title_and_metadata_are_kept_as_given(client):
    title = "  Ключи & <b>\"'\n\u2028 🙂 "
    metadata = {"a": [1, -1.5, True, None, {"b": "\u2028"}], "": {}, "n": 2**63 - 1}
    thread_id = await create(client, title=title, metadata=metadata)
    assert (await get(client, thread_id))["title"] == title
    stored = await lanes.call(ChatSession.objects.get, id=thread_id)
    assert (stored.title, stored.metadata) == (title, metadata)


async def test_the_longest_title_and_the_deepest_metadata(client):
    deep: dict[str, Any] = {}
    for _ in range(19):
        deep = {"a": deep}
    await create(client, title="t" * 200, metadata={"deep": deep})
    await create(client, metadata={"many": list(range(990))})


# --- List ----------------------------------------------------------------------------------


async def test_nobody_begins_with_conversations(client):
    assert await listed(client) == {"data": [], "has_more": False, "after": None}


async def test_the_list_tells_of_each_conversation(client, script):
    thread_id = await create(client, title="Plans")
    await say(client, thread_id)
    (thread,) = (await listed(client))["data"]
    assert set(thread) == {
        "thread_id",
        "title",
        "created_at",
        "updated_at",
        "message_count",
        "status",
    }
    assert (thread["thread_id"], thread["title"]) == (thread_id, "Plans")
    assert (thread["message_count"], thread["status"]) == (2, "active")
    assert datetime.fromisoformat(thread["updated_at"]) > datetime.fromisoformat(
        thread["created_at"]
    )


async def test_the_newest_activity_comes_first(client):
    first, second, third = [await create(client, title=title) for title in "abc"]
    assert await titles(client) == ["c", "b", "a"]
    await say(client, first)
    assert await titles(client) == ["a", "c", "b"]
    assert await titles(client, order="asc") == ["b", "c", "a"]
    await client.patch(f"{THREADS}/{second}", json={"title": "B"})  # no activity
    assert await titles(client) == ["a", "c", "B"]
    await client.post(f"{THREADS}/{third}/clear")
    assert await titles(client) == ["c", "a", "B"]


@pytest.mark.parametrize("order", ["desc", "asc"])
async def test_pages_are_exact_among_equal_times(order, client, user):
    """Seven at the same moment, then three each a microsecond and a whole second later."""
    made: list[str] = []

    def make() -> None:
        made.extend(make_threads(user, 7, last_active_at=THEN))
        for step in (timedelta(microseconds=1), timedelta(seconds=1)):
            made.extend(make_threads(user, 3, last_active_at=THEN + step))

    await lanes.call(make)
    expected = made if order == "asc" else made[::-1]
    for limit in (1, 2, 3, 13, 100):
        found = await pages(client, limit=limit, order=order)
        assert [thread_id for page in found for thread_id in page] == expected
        assert all(len(page) == limit for page in found[:-1])
    default = await listed(client, order=order)
    assert (len(default["data"]), default["has_more"]) == (13, False)


@pytest.mark.parametrize("order", ["desc", "asc"])
async def test_while_others_are_written_no_conversation_comes_twice_or_is_lost(order, client, user):
    quiet = await lanes.call(lambda: make_threads(user, 12, last_active_at=THEN))
    earlier = THEN - timedelta(days=1)
    busy = await lanes.call(lambda: make_threads(user, 3, last_active_at=earlier))
    writes = iter(range(6))  # upwards, what is written meanwhile is at the end of the list

    async def write() -> None:
        if next(writes, None) is not None:
            await create(client, title="new")
            await say(client, busy[0])
            gone = await create(client)
            await client.delete(f"{THREADS}/{gone}")

    found = [
        thread_id for page in await pages(client, write, limit=2, order=order) for thread_id in page
    ]
    seen = [thread_id for thread_id in found if thread_id in quiet]
    assert seen == (quiet if order == "asc" else quiet[::-1])
    written = [thread_id for thread_id in found if thread_id not in quiet]
    if order == "desc":
        assert set(written) == set(busy[1:])  # what came up meanwhile is on a page already left
    assert len(set(written)) == len(written) - written.count(busy[0]) + (busy[0] in written)


async def test_a_list_that_ends_on_a_full_page_says_so(client, user):
    await lanes.call(lambda: make_threads(user, 4))
    page = await listed(client, limit=4)
    assert (len(page["data"]), page["has_more"]) == (4, False)
    assert await listed(client, limit=4, after=page["after"]) == {
        "data": [],
        "has_more": False,
        "after": None,
    }


async def test_the_search_takes_every_character_literally(client):
    for title in ("100% sure", "100 sure", "snake_case", "snakeXcase", "C:\\temp", "Grüße 🙂"):
        await create(client, title=title)
    found = {
        q: sorted(await titles(client, q=q))
        for q in (
            "100%",
            "%",
            "_",
            "snake_",
            "\\",
            "\\t",
            "GRÜßE".replace("Ü", "ü"),
            "🙂",
            "'",
            "%s",
        )
    }
    assert found == {
        "100%": ["100% sure"],
        "%": ["100% sure"],
        "_": ["snake_case"],
        "snake_": ["snake_case"],
        "\\": ["C:\\temp"],
        "\\t": ["C:\\temp"],
        "GRüßE": ["Grüße 🙂"],
        "🙂": ["Grüße 🙂"],
        "'": [],
        "%s": [],
    }


async def test_the_search_ignores_case_and_surrounding_spaces_and_pages_like_the_list(client):
    for number in range(5):
        await create(client, title=f"Shopping {number}")
        await create(client, title=f"other {number}")
    assert await titles(client, q="  SHOPPING ") == [f"Shopping {n}" for n in (4, 3, 2, 1, 0)]
    assert [len(page) for page in await pages(client, q="shopping", limit=2)] == [2, 2, 1]
    assert await titles(client, q="shopping", order="asc", limit=2) == ["Shopping 0", "Shopping 1"]
    assert len((await listed(client, q=" "))["data"]) == 10


# --- Read ----------------------------------------------------------------------------------


def fill(session: Any, count: int) -> list[str]:
    """Messages 0..count-1, with hidden rows between them and all at one moment."""
    rows = [
        ChatMessage(
            session=session,
            position=position,
            kind="message",
            role="assistant" if position % 4 else "user",
            text=f"message {position // 2}" if position % 2 == 0 else "hidden",
            shown=position % 2 == 0,
            created_at=THEN,
        )
        for position in range(2 * count)
    ]
    ChatMessage.objects.bulk_create(rows)
    return [str(row.id) for row in rows if row.shown]


async def test_an_empty_conversation(client, session):
    thread = await get(client, session.id)
    assert thread["messages"] == []
    assert thread["has_more"] is False
    assert thread["status"] == "active"


async def test_the_newest_messages_come_oldest_first(client, session):
    ids = await lanes.call(fill, session, 60)
    thread = await get(client, session.id)
    assert [message["message_id"] for message in thread["messages"]] == ids[10:]
    assert thread["has_more"] is True
    assert "hidden" not in str(thread)
    few = await get(client, session.id, limit=3)
    assert [message["content"] for message in few["messages"]] == [
        "message 57",
        "message 58",
        "message 59",
    ]


async def test_pages_backwards_are_exact(client, session):
    ids = await lanes.call(fill, session, 23)
    for limit in (1, 5, 23, 50):
        found: list[str] = []
        before = ""
        while True:
            page = await get(client, session.id, limit=limit, before=before)
            found[:0] = [message["message_id"] for message in page["messages"]]
            if not page["has_more"]:
                break
            before = found[0]
        assert found == ids
    assert (await get(client, session.id, before=ids[0]))["messages"] == []


async def test_a_page_before_a_message_stays_while_others_are_written(client, session):
    ids = await lanes.call(fill, session, 6)
    before = await get(client, session.id, limit=2, before=ids[4])
    await lanes.call(ChatSession.objects.update, last_position=11, message_count=6)
    await say(client, session.id)
    assert (await get(client, session.id, limit=2, before=ids[4]))["messages"] == before["messages"]


async def test_before_a_message_of_nowhere_is_nothing(client, session, user):
    await lanes.call(fill, session, 2)
    other = await lanes.call(ChatSessionFactory, owner=user)
    *_, elsewhere = await lanes.call(fill, other, 5)
    for before in (str(uuid4()), elsewhere):
        page = await get(client, session.id, before=before)
        assert (page["messages"], page["has_more"]) == ([], False)


async def test_messages_tell_what_they_are(client, session, script):
    script(Say("Hi there!"))
    await say(client, session.id, "  Hello\r\n\u2028 🙂 ")
    said, answered = (await get(client, session.id))["messages"]
    assert set(said) >= {"message_id", "role", "content", "created_at"}
    assert (said["role"], said["content"]) == ("user", "  Hello\r\n\u2028 🙂 ")
    assert (answered["role"], answered["content"]) == ("assistant", "Hi there!")
    assert said["turn_id"] == answered["turn_id"]
    assert not said["incomplete"]
    assert datetime.fromisoformat(said["created_at"]).utcoffset() == timedelta(0)


async def test_the_session_block_counts_and_dates(client, session, script):
    script(scripted.Call("look_up", '{"word": "a"}'), Say("Done."))
    await say(client, session.id)
    long_ago = timezone.now() - timedelta(days=3)
    await lanes.call(ChatSession.objects.update, created_at=long_ago)
    block = (await get(client, session.id))["session"]
    assert (block["message_count"], block["remembered_count"]) == (2, 4)
    assert 0 <= block["age_seconds"] - 3 * 86_400 < 60
    last_active_at = datetime.fromisoformat(block["last_active_at"])
    assert timezone.now() - last_active_at < timedelta(minutes=1)
    assert datetime.fromisoformat(block["expires_at"]) - last_active_at == timedelta(days=7)
    with override_settings(AGENT_SESSION_RETENTION_DAYS=30):
        block = (await get(client, session.id))["session"]
    assert datetime.fromisoformat(block["expires_at"]) - last_active_at == timedelta(days=30)


# --- Titles --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("Hello", "Hello"),
        ("x" * 50, "x" * 50),
        ("x" * 51, "x" * 50 + "..."),
        ("🙂" * 60, "🙂" * 50 + "..."),
        ("  two\n\nlines\tand more ", "two lines and more"),
    ],
)
async def test_an_untitled_conversation_takes_its_title_from_its_first_message(
    text, title, client, session
):
    await say(client, session.id, text)
    assert (await get(client, session.id))["title"] == title
    await say(client, session.id, "something else")
    assert (await get(client, session.id))["title"] == title


async def test_a_title_given_by_a_person_is_never_overwritten(client, session, script):
    given = await create(client, title="Mine")
    await say(client, given)
    assert (await get(client, given))["title"] == "Mine"

    await client.patch(f"{THREADS}/{session.id}", json={"title": "Renamed"})
    await say(client, session.id)
    assert (await get(client, session.id))["title"] == "Renamed"

    scripted.SCRIPT.clear()
    gate = asyncio.Event()
    script(Say("One two", gate=gate))
    during = await create(client)
    saying = asyncio.create_task(say(client, during))
    await model_is_asked()
    await client.patch(f"{THREADS}/{during}", json={"title": "While it answers"})
    gate.set()
    await saying
    assert (await get(client, during))["title"] == "While it answers"


# --- Change --------------------------------------------------------------------------------


async def test_a_patch_changes_what_it_names_and_nothing_else(client, session):
    url = f"{THREADS}/{session.id}"
    await client.patch(url, json={"title": "Plans", "metadata": {"a": 1}})
    changed = (await client.patch(url, json={"status": "locked"})).json()
    assert (changed["title"], changed["status"]) == ("Plans", "locked")
    unchanged = await client.patch(url, json={})
    assert (unchanged.status_code, unchanged.json()["title"]) == (200, "Plans")
    nothing = {"title": None, "metadata": None, "status": None}
    assert (await client.patch(url, json=nothing)).json()["status"] == "locked"
    stored = await lanes.call(ChatSession.objects.get, id=session.id)
    assert (stored.title, stored.metadata, stored.status) == ("Plans", {"a": 1}, "locked")
    assert not stored.hold


@pytest.mark.parametrize("status", ["locked", "closed"])
async def test_a_conversation_that_is_not_open_takes_no_messages(status, client, session):
    url = f"{THREADS}/{session.id}"
    await client.patch(url, json={"status": status})
    refused = await client.post(f"{url}/messages", json={"text": "Hello"})
    assert refused.status_code == 409
    assert refused.json()["error"]["code"] == "thread_closed"
    assert scripted.SCRIPT.inputs == []
    assert not await lanes.call(ChatTurn.objects.exists)
    assert (await get(client, session.id))["messages"] == []
    await client.patch(url, json={"status": "active"})
    assert await say(client, session.id) == "I remember: Hello"


# --- Clear and delete ----------------------------------------------------------------------


async def test_clearing_forgets_and_keeps_the_conversation(client, session):
    await say(client, session.id, "My name is Ann")
    await say(client, session.id, "What is it?")
    response = await client.post(f"{THREADS}/{session.id}/clear")
    assert (response.status_code, response.json()) == (200, {"cleared": 4})
    thread = await get(client, session.id)
    assert (thread["messages"], thread["title"]) == ([], "My name is Ann")
    assert thread["session"]["remembered_count"] == thread["session"]["message_count"] == 0
    assert await say(client, session.id, "And now?") == "I remember: And now?"
    assert (await client.post(f"{THREADS}/{session.id}/clear")).json() == {"cleared": 2}
    assert (await client.post(f"{THREADS}/{session.id}/clear")).json() == {"cleared": 0}


async def test_a_deleted_conversation_is_unknown(client, session):
    await say(client, session.id)
    url = f"{THREADS}/{session.id}"
    response = await client.delete(url)
    assert (response.status_code, response.content) == (204, b"")
    for again in (client.delete(url), client.get(url), client.post(f"{url}/clear")):
        assert (await again).status_code == 404
    assert (await listed(client))["data"] == []
    assert not await lanes.call(ChatMessage.objects.exists)


async def test_what_is_on_hold_is_neither_cleared_nor_deleted(client, session):
    await say(client, session.id)
    await lanes.call(ChatSession.objects.update, hold=True)
    url = f"{THREADS}/{session.id}"
    for refused in (await client.delete(url), await client.post(f"{url}/clear")):
        assert refused.status_code == 409
        assert refused.json()["error"]["code"] == "held"
        assert refused.json()["error"]["retryable"] is False
    assert len((await get(client, session.id))["messages"]) == 2


@pytest.mark.parametrize("door", ["clear", "delete"])
async def test_an_answer_under_way_is_stopped_first(door, client, session, script):
    script(Say("One two three", gate=asyncio.Event()))
    url = f"{THREADS}/{session.id}"
    saying = asyncio.create_task(client.post(f"{url}/messages", json={"text": "Hello"}))
    await model_is_asked()
    response = await (client.delete(url) if door == "delete" else client.post(f"{url}/clear"))
    assert response.is_success
    closing, done = frames((await saying).text)[-2:]
    assert done == "[DONE]"
    assert closing["status"] in {"cancelled", "failed"}
    assert not await lanes.call(ChatMessage.objects.exists)
    if door == "clear":
        assert await say(client, session.id) == "I remember: Hello"
