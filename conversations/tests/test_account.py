"""Erasing all of one's own over HTTP: with a receipt, to its end, and never what is held."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from conversations import account, erasure, lanes
from conversations.errors import StoreBusy, StoreError
from conversations.models import ChatSession, UserHold
from conversations.tests import scripted
from conversations.tests.erasure_helpers import Person, count
from conversations.tests.ledger_helpers import entries
from conversations.tests.scripted import Say
from conversations.tests.sweeps_helpers import tables

DATA = "/chatkit/account-data"


async def speak(client: httpx.AsyncClient, text: str = "Hello") -> str:
    thread_id = (await client.post("/chatkit/threads")).json()["thread_id"]
    await client.post(f"/chatkit/threads/{thread_id}/messages", json={"text": text})
    return str(thread_id)


async def stored(client: httpx.AsyncClient) -> list[Any]:
    found: list[Any] = (await client.get("/chatkit/threads")).json()["data"]
    return found


async def model_is_asked() -> None:
    while True:
        if scripted.SCRIPT.inputs:
            return
        await asyncio.sleep(0.001)


async def test_all_of_ones_own_is_erased_and_the_account_stays(
    client, strangers_client, user, stranger
):
    for each in (client, client, strangers_client):
        await speak(each)
    response = await client.delete(DATA)
    assert response.status_code == 200
    body = response.json()
    assert set(body) == {"erased_at", "receipt", "subject", "counts"}
    assert {name: body["counts"][name] for name in ("sessions", "messages", "turns")} == {
        "sessions": 2,
        "messages": 4,
        "turns": 2,
    }
    assert await stored(client) == []
    assert len(await stored(strangers_client)) == 1
    (entry,) = await lanes.call(entries)
    assert (entry["action"], entry["actor"]) == ("erase", "user")
    assert entry["subject"] == body["subject"]
    assert user.email not in response.text


async def test_once_more_there_is_nothing(client):
    for _ in range(2):
        response = await client.delete(DATA)
        assert response.status_code == 200
        assert (response.json()["receipt"], response.json()["counts"]) == (None, {})


async def test_nothing_of_it_is_left_in_the_file(client, user):
    word = "canary-of-this-test"
    thread_id = await speak(client, word)
    await client.patch(f"/chatkit/threads/{thread_id}", json={"title": word})
    assert await lanes.call(count, word) > 0
    assert (await client.delete(DATA)).status_code == 200
    assert await lanes.call(count, word) == 0


async def test_where_one_is_on_hold_nothing_is_erased(client):
    await speak(client)
    held = await speak(client)
    await lanes.call(ChatSession.objects.filter(id=held).update, hold=True)
    before = await lanes.call(tables)
    response = await client.delete(DATA)
    assert (response.status_code, response.json()["error"]["code"]) == (409, "held")
    assert held in response.json()["error"]["message"]
    assert await lanes.call(tables) == before


async def test_who_is_on_hold_is_told_so(client, user):
    await speak(client)
    await lanes.call(
        lambda: UserHold.objects.create(user=user, reason="a secret", placed_by="command")
    )
    response = await client.delete(DATA)
    assert (response.status_code, response.json()["error"]["code"]) == (409, "held")
    assert "secret" not in response.text
    assert len(await stored(client)) == 1


async def test_a_running_answer_is_stopped_first(client, script):
    script(Say("word " * 50, pause=0.01))
    thread_id = (await client.post("/chatkit/threads")).json()["thread_id"]
    answering = asyncio.create_task(
        client.post(f"/chatkit/threads/{thread_id}/messages", json={"text": "Hello"})
    )
    await model_is_asked()
    response = await client.delete(DATA)
    assert response.status_code == 200
    assert response.json()["counts"]["sessions"] == 1
    assert (await answering).status_code == 200
    assert await stored(client) == []


async def test_it_goes_on_where_the_caller_leaves(client, user, monkeypatch):
    await speak(client)
    begun, go_on = asyncio.Event(), asyncio.Event()
    find = erasure.find_live

    async def wait(function: Any, *args: Any) -> Any:
        if function is find:
            begun.set()
            await go_on.wait()
        return await call(function, *args)

    call = lanes.call
    monkeypatch.setattr(lanes, "call", wait)
    leaving = asyncio.create_task(account.erase_account_data(owner_id=user.pk))
    await begun.wait()
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    go_on.set()
    (task,) = account._erasures
    assert (await task).counts["sessions"] == 1
    assert account._erasures == set()


async def test_what_cannot_be_tidied_up_now_is_left_to_the_sweep(client, monkeypatch):
    await speak(client)

    def fail(**_: Any) -> bool:
        raise StoreBusy

    monkeypatch.setattr(erasure, "tidy", fail)
    assert (await client.delete(DATA)).status_code == 200
    assert await stored(client) == []


async def test_a_store_that_fails_says_so_and_it_may_be_asked_again(client, monkeypatch):
    await speak(client)
    with monkeypatch.context() as broken:
        broken.setattr(erasure, "erase", lambda **options: (_ for _ in ()).throw(StoreError()))
        response = await client.delete(DATA)
    assert (response.status_code, response.json()["error"]["code"]) == (503, "store_unavailable")
    assert (await client.delete(DATA)).json()["counts"]["sessions"] == 1


async def test_what_other_apps_keep_of_a_person_goes_too(client, user):
    person = await lanes.call(Person)
    await lanes.call(ChatSession.objects.filter(owner=person.user).update, owner=user)
    counts = (await client.delete(DATA)).json()["counts"]
    assert counts["attachments"] == 1
    assert "access_tokens" not in counts
