"""The owner of a conversation learns who of the staff has read it, and nobody else does."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

from conversations import lanes
from conversations.tests.test_store_reads import record


def url(session: Any) -> str:
    return f"/chatkit/threads/{session.id}/reads"


async def test_the_owner_sees_who_read_when_and_how(client, session, stranger):
    assert (await client.get(url(session))).json() == {"data": [], "has_more": False, "after": None}
    await lanes.call(record, session.id, stranger)
    await lanes.call(record, session.id, stranger, "model")
    found = (await client.get(url(session))).json()
    assert {read["how"] for read in found["data"]} == {"model", "page"}
    for read in found["data"]:
        assert set(read) == {"read_id", "read_at", "how", "reader"}
        assert read["reader"] == stranger.username
        assert read["read_at"].endswith("Z")


async def test_pages_follow_each_other(client, session, stranger):
    for _ in range(3):
        await lanes.call(record, session.id, stranger)
    first = (await client.get(url(session), params={"limit": 2})).json()
    assert (len(first["data"]), first["has_more"]) == (2, True)
    params = {"limit": 2, "after": first["after"]}
    second = (await client.get(url(session), params=params)).json()
    assert (len(second["data"]), second["has_more"]) == (1, False)
    assert len({read["read_id"] for read in first["data"] + second["data"]}) == 3


async def test_the_name_of_an_account_that_is_gone_is_null(client, session, stranger):
    await lanes.call(record, session.id, stranger)
    await lanes.call(stranger.delete)
    (read,) = (await client.get(url(session))).json()["data"]
    assert read["reader"] is None


async def test_neither_a_stranger_nor_the_reader_sees_it(strangers_client, session, stranger):
    await lanes.call(record, session.id, stranger)
    response = await strangers_client.get(url(session))
    assert (response.status_code, response.json()["error"]["code"]) == (404, "thread_not_found")
    missing = await strangers_client.get(f"/chatkit/threads/{uuid4()}/reads")
    assert missing.content == response.content


async def test_who_is_not_signed_in_sees_nothing(anonymous, session):
    assert (await anonymous.get(url(session))).status_code == 401
