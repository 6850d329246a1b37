"""Nobody ever reads a word of anybody else, and a conversation remembers only itself."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import httpx
import pytest

from conversations import lanes
from conversations.models import ChatSession
from conversations.tests import scripted
from conversations.tests.conftest import answer, frames
from conversations.tests.scripted import Call, Say

THREADS = "/chatkit/threads"


@dataclass
class Talk:
    """One conversation of one person, and the words said in it."""

    person: str
    client: httpx.AsyncClient
    thread_id: str = ""
    words: list[str] = field(default_factory=list)
    read: list[str] = field(default_factory=list)
    """Every byte the server answered."""

    async def request(self, method: str, url: str, **request: Any) -> httpx.Response:
        response = await self.client.request(method, url, **request)
        self.read.append(f"{response.headers}{response.text}")
        return response

    async def begin(self) -> None:
        response = await self.request("POST", THREADS, json={"title": self.word("title")})
        self.thread_id = response.json()["thread_id"]

    def word(self, kind: str) -> str:
        self.words.append(f"{kind}-{self.person}-{uuid4().hex}")
        return self.words[-1]

    async def say(self) -> str:
        """What the assistant remembers, which is all that was said here."""
        text = self.word("said")
        url = f"{THREADS}/{self.thread_id}/messages"
        response = await self.request("POST", url, json={"text": text})
        assert response.status_code == 200
        turn_id = response.headers["X-Turn-Id"]
        await self.request("GET", f"{THREADS}/{self.thread_id}/turns/{turn_id}")
        return answer(response.text)

    @property
    def url(self) -> str:
        return f"{THREADS}/{self.thread_id}"


@pytest.fixture
async def talks(client: httpx.AsyncClient, strangers_client: httpx.AsyncClient) -> list[Talk]:
    """Two people, two conversations each."""
    found = [
        Talk(person, caller)
        for person, caller in (("ann", client), ("bob", strangers_client))
        for _ in range(2)
    ]
    for talk in found:
        await talk.begin()
    return found


def foreign_words(talk: Talk, talks: list[Talk]) -> Iterator[str]:
    for other in talks:
        if other.person != talk.person:
            yield from other.words
            yield other.thread_id


def assert_nothing_foreign_was_read(talks: list[Talk]) -> None:
    for talk in talks:
        everything = "\n".join(talk.read)
        for word in foreign_words(talk, talks):
            assert word not in everything


def remembered(talk: Talk) -> str:
    said = [word for word in talk.words if word.startswith("said")]
    return "I remember: " + " | ".join(said)


async def test_interleaved_conversations_hold_only_their_own_words(talks):
    order = talks * 6
    random.Random(7).shuffle(order)
    for talk in order:
        assert await talk.say() == remembered(talk)
        await talk.request("GET", talk.url)
        await talk.request("GET", THREADS)
    for talk in talks:
        messages = (await talk.request("GET", talk.url)).json()["messages"]
        said = [message["content"] for message in messages if message["role"] == "user"]
        assert said == [word for word in talk.words if word.startswith("said")]
        listed = (await talk.request("GET", THREADS)).json()["data"]
        mine = {other.thread_id for other in talks if other.person == talk.person}
        assert {thread["thread_id"] for thread in listed} == mine
        for other in talks:
            if other is not talk:
                assert not any(word in str(messages) for word in other.words)
    assert_nothing_foreign_was_read(talks)
    for items in scripted.SCRIPT.inputs:  # what the model was given
        assert sum(f"-{person}-" in str(items) for person in ("ann", "bob")) == 1


async def test_conversations_at_the_same_time_do_not_mix(talks):
    async def talk_much(talk: Talk) -> None:
        for _ in range(5):
            assert await talk.say() == remembered(talk)

    await asyncio.gather(*(talk_much(talk) for talk in talks))
    assert_nothing_foreign_was_read(talks)


async def test_tools_work_for_whoever_asked(talks, user, stranger, script):
    for talk, person in ((talks[0], user), (talks[2], stranger)):
        script(Call("look_up", '{"word": "home"}'), Say("Done."))
        await talk.say()
        (output,) = (
            item["output"]
            for item in scripted.SCRIPT.inputs[-1]
            if item.get("type") == "function_call_output"
        )
        assert output == f"home of {person.pk}"


async def test_anothers_ids_open_nothing_anywhere(talks):
    ann, bob = talks[0], talks[2]
    await ann.say()
    await bob.say()
    message_id = (await ann.request("GET", ann.url)).json()["messages"][0]["message_id"]
    turn_id = frames((await ann.request("POST", f"{ann.url}/messages", json={"text": "a"})).text)[
        0
    ]["turn_id"]
    rows = await lanes.call(lambda: list(ChatSession.objects.order_by("pk").values()))

    turn = await bob.request("GET", f"{bob.url}/turns/{turn_id}")
    assert (turn.status_code, turn.json()["error"]["code"]) == (404, "turn_not_found")
    page = await bob.request("GET", bob.url, params={"before": message_id})
    assert page.json()["messages"] == []
    place = (await ann.request("GET", THREADS, params={"limit": 1})).json()["after"]
    listed = await bob.request("GET", THREADS, params={"after": place, "order": "asc"})
    assert ann.thread_id not in listed.text
    for word in ann.words:
        found = await bob.request("GET", THREADS, params={"q": word})
        assert found.json()["data"] == []
    key = {"Idempotency-Key": "the same"}
    for talk in (ann, bob):  # a key belongs to its conversation
        said = await talk.request("POST", f"{talk.url}/messages", json={"text": "b"}, headers=key)
        assert said.status_code == 200
    assert ann.words[1] not in "".join(bob.read)
    assert_nothing_foreign_was_read([ann, bob])
    after = await lanes.call(lambda: list(ChatSession.objects.order_by("pk").values()))
    untouched = {talks[1].thread_id, talks[3].thread_id}
    assert [row for row in rows if str(row["id"]) in untouched] == [
        row for row in after if str(row["id"]) in untouched
    ]


async def test_deleting_and_clearing_reach_one_conversation_only(talks):
    for talk in talks:
        await talk.say()
    await talks[0].request("DELETE", talks[0].url)
    await talks[2].request("POST", f"{talks[2].url}/clear")
    for talk in (talks[1], talks[3]):
        assert await talk.say() == remembered(talk)
    talks[2].words = [word for word in talks[2].words if word.startswith("title")]
    assert await talks[2].say() == remembered(talks[2])


async def test_twenty_messages_build_on_each_other(talks):
    talk = talks[0]
    for _ in range(20):
        assert await talk.say() == remembered(talk)
    page = (await talk.request("GET", talk.url)).json()
    assert len(page["messages"]) == 40
    assert page["session"]["remembered_count"] == page["session"]["message_count"] == 40
    assert [message["role"] for message in page["messages"]] == ["user", "assistant"] * 20
    assert page["messages"][-1]["content"] == remembered(talk)
    assert len(scripted.SCRIPT.inputs[-1]) == 39
