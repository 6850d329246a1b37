"""PostgreSQL is restarted, stopped, paused and crowded under a running site.

Fault 20 of the table of faults, on a server of the tests' own: answers come with a warning or are
refused with 503, both in time, and when the server is back so is the site, without a restart.
"""

from __future__ import annotations

import asyncio
import http.client
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.db import connection

from conversations.events import CONTEXT_UNAVAILABLE, NOT_SAVED
from conversations.tests.faults.client import Client, Refused
from conversations.tests.faults.clusters import Crowd, private_postgresql, site_on
from conversations.tests.faults.hearing import (
    Hearing,
    Visitor,
    has_content,
    is_status,
    transcript,
    until,
)
from conversations.tests.faults.servers import SECRET_KEY, Server, Site
from conversations.tests.private_postgresql import PrivatePostgresql, needs_programs

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(180),
    pytest.mark.postgresql,
    pytest.mark.skipif(connection.vendor != "postgresql", reason="it is PostgreSQL that breaks"),
    needs_programs,
]

MAX_CONNECTIONS = 40
SAID_WITHIN = 6.0
"""The first words of an answer without a store: its budget is spent at most twice."""
REFUSED_WITHIN = 4.0
CLOSED_WITHIN = 15.0
"""The closing frame of a turn that loses its store as it ends."""
BACK_WITHIN = 15.0
PAGE_WITHIN = 10.0
STREAMS = 12


@pytest.fixture(scope="module")
def cluster() -> Iterator[PrivatePostgresql]:
    with private_postgresql(max_connections=MAX_CONNECTIONS) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def site(cluster: PrivatePostgresql) -> Iterator[Site]:
    with site_on(cluster, grace_seconds=2) as site:
        yield site


@pytest.fixture
def servers(site: Site, cluster: PrivatePostgresql) -> Iterator[list[Server]]:
    """Two that answer, never restarted within a test; the database is well before and after."""
    yield site.start_servers(2)
    if cluster.is_running:
        cluster.resume()
    else:
        cluster.start()
    assert site.stop_servers() == []


@contextmanager
def within(seconds: float) -> Iterator[None]:
    begun = time.monotonic()
    yield
    took = time.monotonic() - begun
    assert took < seconds, f"{took:.1f} s of {seconds:g}"


async def until_back(visitor: Visitor, server: Server, thread_id: str) -> None:
    """Wait until an answer comes without a warning; nobody restarts the site."""

    async def is_back() -> bool:
        try:
            hearing = await say(visitor, server, thread_id, f"say back.{secrets.token_hex(4)}")
        except Refused as refused:
            if refused.status != 503:
                raise
            return False
        return not hearing.warnings and hearing.closing["message_id"] is not None

    await until(is_back, within=BACK_WITHIN)


async def say(visitor: Visitor, server: Server, thread_id: str, text: str) -> Hearing:
    stream, hearing = await visitor.open(server.port, thread_id, text), Hearing()
    await hearing.take(stream)
    assert hearing.closing
    return hearing


async def is_answered_without_the_store(
    visitor: Visitor, server: Server, thread_id: str, tag: str
) -> None:
    """An answer in time, which says that it knows nothing and will not be known."""
    with within(SAID_WITHIN):
        hearing = await say(visitor, server, thread_id, f"memory {tag}")
    assert hearing.closing["status"] == "completed"
    assert hearing.closing["message_id"] is None
    assert hearing.said == "I remember:"
    assert hearing.warnings == [CONTEXT_UNAVAILABLE, NOT_SAVED]


async def is_refused_elsewhere(visitor: Visitor, server: Server, thread_id: str) -> None:
    """Whatever needs the store says so in time, in the contract's words."""
    asked = [
        ("GET", "/chatkit/threads", None),
        ("POST", "/chatkit/threads", {}),
        ("GET", f"/chatkit/threads/{thread_id}", None),
        ("DELETE", f"/chatkit/threads/{thread_id}", None),
        ("POST", f"/chatkit/threads/{thread_id}/clear", None),
        ("GET", f"/chatkit/threads/{thread_id}/turns/{thread_id}", None),
        ("GET", f"/chatkit/threads/{thread_id}/turns/{thread_id}/events", None),
        ("POST", f"/chatkit/threads/{thread_id}/turns/{thread_id}/stop", None),
        ("GET", "/api/auth/me", None),
        ("POST", "/api/auth/login", {"email": "user0@example.com", "password": "wrong"}),
    ]
    with within(REFUSED_WITHIN):
        answers = await asyncio.gather(*(visitor.ask(server.port, *request) for request in asked))
    for request, (status, answer) in zip(asked, answers, strict=True):
        assert (status, answer["error"]["code"]) == (503, "store_unavailable"), request
        assert answer["error"]["retryable"] is True


async def nobody_else_is_let_in(site: Site, server: Server, thread_id: str) -> None:
    """A token we did not sign, or whose expiry was changed, opens nothing."""
    good = site.tokens[0]
    head, _, signature = good.rpartition(":")
    for forged in (
        forge(good),
        f"{head}:{signature[::-1]}",
        good[:-1],
        good.removeprefix("cst_"),
        "",
    ):
        async with Visitor(forged) as stranger:
            with within(REFUSED_WITHIN), pytest.raises(Refused) as refused:
                await stranger.open(server.port, thread_id, "say no")
            assert refused.value.status == 401


def forge(token: str) -> str:
    """The same claims, signed with another key."""
    from django.core import signing

    salt = "conversations.access-token"
    claims = signing.loads(token.removeprefix("cst_"), key=SECRET_KEY, salt=salt)
    return "cst_" + signing.dumps(claims, key="another" * 10, salt=salt)


async def readiness(visitor: Client, server: Server) -> int:
    with within(REFUSED_WITHIN):
        status, _ = await visitor.ask(server.port, "GET", "/readyz")
    assert (await visitor.ask(server.port, "GET", "/healthz"))[0] == 200
    return status


# Away


async def test_a_stopped_server_leaves_answers_with_a_warning_and_comes_back_without_a_restart(
    site, servers, cluster, visitor, tag
):
    server = servers[0]
    thread_id = await visitor.new_thread(server.port)
    before = await say(visitor, server, thread_id, f"say 1{tag}")
    await asyncio.to_thread(cluster.stop)
    await is_answered_without_the_store(visitor, server, thread_id, f"2{tag}")
    await is_refused_elsewhere(visitor, server, thread_id)
    await nobody_else_is_let_in(site, server, thread_id)
    assert await readiness(visitor, server) == 503
    await asyncio.to_thread(cluster.start)
    await until_back(visitor, server, thread_id)
    assert await readiness(visitor, server) == 200
    after = await say(visitor, server, thread_id, f"memory 3{tag}")
    assert f" 1{tag} " in after.said
    assert " back." in after.said
    assert (await transcript(visitor, server.port, thread_id))[:2] == [
        ("user", f"say 1{tag}"),
        ("assistant", before.said),
    ]


async def test_a_server_that_hangs_leaves_answers_with_a_warning_and_comes_back_without_a_restart(
    site, servers, cluster, visitor, tag
):
    server = servers[0]
    thread_id = await visitor.new_thread(server.port)
    await say(visitor, server, thread_id, f"say 1{tag}")
    cluster.pause()
    await is_answered_without_the_store(visitor, server, thread_id, f"2{tag}")
    await is_refused_elsewhere(visitor, server, thread_id)
    await nobody_else_is_let_in(site, server, thread_id)
    assert await readiness(visitor, server) == 503
    cluster.resume()
    await until_back(visitor, server, thread_id)
    after = await say(visitor, server, thread_id, f"memory 3{tag}")
    assert f" 1{tag} " in after.said
    assert " back." in after.said


async def test_a_restart_between_two_messages_is_noticed_by_nobody(servers, cluster, visitor, tag):
    thread_id = await visitor.new_thread(servers[0].port)
    for number, server in enumerate([*servers, *servers]):
        hearing = await say(visitor, server, thread_id, f"say {number}{tag}")
        assert hearing.warnings == []
        assert hearing.closing["message_id"] is not None
        await asyncio.to_thread(cluster.stop)
        await asyncio.to_thread(cluster.start)
    said = [f"{number}{tag} done" for number in range(4)]
    found = await transcript(visitor, servers[0].port, thread_id)
    assert [text for role, text in found if role == "assistant"] == said


# Away in the middle of an answer


async def stop(cluster: PrivatePostgresql) -> None:
    await asyncio.to_thread(cluster.stop)


async def pause(cluster: PrivatePostgresql) -> None:
    cluster.pause()


async def bring_back(cluster: PrivatePostgresql) -> None:
    if cluster.is_running:
        cluster.resume()
    else:
        await asyncio.to_thread(cluster.start)


@pytest.mark.parametrize("take_away", [stop, pause])
async def test_a_turn_that_loses_its_server_closes_once_and_is_stored_when_it_is_back(
    site, servers, cluster, visitor, tag, take_away
):
    running, other = servers
    thread_id = await visitor.new_thread(running.port)
    stream, hearing = await visitor.open(running.port, thread_id, f"gate {tag} 1{tag}"), Hearing()
    await hearing.take(stream, until=has_content)
    await take_away(cluster)
    site.open_gate(tag)
    with within(CLOSED_WITHIN):
        await hearing.take(stream)
    assert hearing.closing["status"] == "completed"
    assert hearing.said == f"1{tag} before, after"
    assert hearing.warnings == [NOT_SAVED]
    await bring_back(cluster)
    await until_back(visitor, running, thread_id)
    found = await transcript(visitor, other.port, thread_id)
    assert found[:2] == [("user", f"gate {tag} 1{tag}"), ("assistant", hearing.said)]
    assert found.count(("assistant", hearing.said)) == 1
    turn = await visitor.turn(other.port, thread_id, stream.turn_id)
    assert turn["status"] == "completed"
    memory = await say(visitor, other, thread_id, f"memory 2{tag}")
    assert memory.said.startswith(f"I remember: 1{tag}")


@pytest.mark.parametrize("take_away", [stop, pause])
async def test_a_turn_that_only_slept_through_an_outage_ends_as_if_nothing_had_been(
    site, servers, cluster, visitor, tag, take_away
):
    running, other = servers
    thread_id = await visitor.new_thread(running.port)
    stream, hearing = await visitor.open(running.port, thread_id, f"gate {tag} 1{tag}"), Hearing()
    await hearing.take(stream, until=has_content)
    await take_away(cluster)
    await is_answered_without_the_store(visitor, other, thread_id, f"2{tag}")
    await bring_back(cluster)
    await until_back(visitor, other, await client_thread(visitor, other))
    site.open_gate(tag)
    await hearing.take(stream)
    assert hearing.closing["status"] == "completed"
    assert hearing.closing["message_id"] is not None
    assert hearing.warnings == []
    # What was answered meanwhile without the store comes behind it, perhaps already.
    assert (await transcript(visitor, other.port, thread_id))[:2] == [
        ("user", f"gate {tag} 1{tag}"),
        ("assistant", f"1{tag} before, after"),
    ]


async def client_thread(visitor: Visitor, server: Server) -> str:
    """A new conversation, as soon as one can be had."""

    async def begin() -> str:
        status, made = await visitor.ask(server.port, "POST", "/chatkit/threads", {})
        assert status in {201, 503}, made
        return str(made.get("thread_id", ""))

    return str(await until(begin, within=BACK_WITHIN))


async def test_many_answers_at_once_through_a_restart_are_told_once_and_stored_once(
    servers, cluster, visitor, tag
):
    """Each of them in a conversation of its own, in the middle of its words."""
    streams, texts = [], []
    for number in range(STREAMS):
        server = servers[number % 2]
        thread_id = await visitor.new_thread(server.port)
        text = f"slow 60 50 {number}{tag}"
        streams.append((thread_id, await visitor.open(server.port, thread_id, text)))
        texts.append(text)
    heard = [Hearing() for _ in streams]
    for hearing, (_, stream) in zip(heard, streams, strict=True):
        await hearing.take(stream, until=has_content)
    listening = [
        asyncio.create_task(hearing.take(stream))
        for hearing, (_, stream) in zip(heard, streams, strict=True)
    ]
    await asyncio.to_thread(cluster.stop)
    await asyncio.to_thread(cluster.start)
    await asyncio.gather(*listening)
    for number, (hearing, (thread_id, stream)) in enumerate(zip(heard, streams, strict=True)):
        assert hearing.closing["status"] == "completed"
        assert hearing.said == "".join(f"{number}{tag}.{index} " for index in range(60))
        turn = await visitor.turn(servers[0].port, thread_id, stream.turn_id)
        assert turn["status"] == "completed"
        assert await transcript(visitor, servers[1].port, thread_id) == [
            ("user", texts[number]),
            ("assistant", hearing.said),
        ]


@pytest.mark.parametrize("take_away", [stop, pause])
async def test_who_listens_from_another_process_is_sent_away_and_comes_back(
    site, servers, cluster, visitor, tag, take_away
):
    running, other = servers
    thread_id = await visitor.new_thread(running.port)
    stream, own = await visitor.open(running.port, thread_id, f"gate {tag} {tag}"), Hearing()
    await own.take(stream, until=has_content)
    elsewhere = Hearing()
    followed = await visitor.events(other.port, thread_id, stream.turn_id)
    await elsewhere.take(followed, until=has_content)

    async def come_back(last: int) -> Any:
        try:
            return await visitor.events(other.port, thread_id, stream.turn_id, after=last)
        except Refused as refused:
            if refused.status != 503:
                raise
            return None

    listening = asyncio.create_task(elsewhere.insist(followed, come_back))
    await take_away(cluster)
    await is_answered_without_the_store(visitor, other, thread_id, f"2{tag}")
    await bring_back(cluster)
    site.open_gate(tag)
    await own.take(stream)
    await listening
    assert own.closing["status"] == "completed"
    assert elsewhere.closing["status"] == "completed"
    assert elsewhere.said == own.said


async def test_a_message_that_waits_through_an_outage_is_answered_in_its_order(
    site, servers, cluster, visitor, tag
):
    first, other = servers
    thread_id = await visitor.new_thread(first.port)
    streams = [await visitor.open(first.port, thread_id, f"gate {tag} 1{tag}")]
    heard = [Hearing(), Hearing(), Hearing()]
    await heard[0].take(streams[0], until=has_content)
    streams.append(await visitor.open(other.port, thread_id, f"say 2{tag}"))
    streams.append(await visitor.open(first.port, thread_id, f"say 3{tag}"))
    elsewhere = await visitor.new_thread(other.port)
    await asyncio.to_thread(cluster.stop)
    await is_answered_without_the_store(visitor, other, elsewhere, f"no{tag}")
    await asyncio.to_thread(cluster.start)
    site.open_gate(tag)
    for hearing, stream in zip(heard, streams, strict=True):
        await hearing.take(stream)
        assert hearing.closing["status"] == "completed"
    assert await transcript(visitor, other.port, thread_id) == [
        ("user", f"gate {tag} 1{tag}"),
        ("assistant", f"1{tag} before, after"),
        ("user", f"say 2{tag}"),
        ("assistant", f"2{tag} done"),
        ("user", f"say 3{tag}"),
        ("assistant", f"3{tag} done"),
    ]


async def test_a_message_behind_one_that_waits_for_the_store_is_answered_in_time(
    site, servers, cluster, visitor, tag
):
    first, other = servers
    thread_id = await visitor.new_thread(first.port)
    running = await visitor.open(first.port, thread_id, f"gate {tag} 1{tag}")
    await Hearing().take(running, until=has_content)
    waiting, waited = await visitor.open(other.port, thread_id, f"say 2{tag}"), Hearing()
    await waited.take(waiting, until=is_status("queued"))
    await asyncio.to_thread(cluster.stop)
    try:
        await is_answered_without_the_store(visitor, other, thread_id, f"3{tag}")
    finally:
        site.open_gate(tag)


@pytest.fixture
def hasty_servers(cluster: PrivatePostgresql) -> Iterator[tuple[Site, list[Server]]]:
    """Of a site whose leases are shorter than the outage."""
    with site_on(cluster, lease_seconds=2, grace_seconds=2) as site:
        yield site, site.start_servers(2)
        if not cluster.is_running:
            cluster.start()
        assert site.stop_servers() == []


async def test_an_outage_longer_than_a_lease_closes_every_turn_once_and_loses_no_message(
    hasty_servers, cluster, tag
):
    site, (first, other) = hasty_servers
    async with Visitor(site.tokens[0]) as visitor:
        thread_id = await visitor.new_thread(first.port)
        running = await visitor.open(first.port, thread_id, f"gate {tag} 1{tag}")
        ran, waited = Hearing(), Hearing()
        await ran.take(running, until=has_content)
        waiting = await visitor.open(other.port, thread_id, f"say 2{tag}")
        recorded = await visitor.events(other.port, thread_id, running.turn_id)
        await Hearing().take(recorded, until=has_content)  # an outage finds it kept
        await asyncio.to_thread(cluster.stop)
        with within(CLOSED_WITHIN):
            await waited.take(waiting)
        assert waited.closing["code"] == "interrupted"
        assert waited.closing["retryable"] is True
        site.open_gate(tag)
        with within(CLOSED_WITHIN):
            await ran.take(running)
        assert ran.closing["status"] == "completed"
        assert ran.warnings == [NOT_SAVED]
        await asyncio.to_thread(cluster.start)
        await until_back(visitor, other, thread_id)
        found = await transcript(visitor, first.port, thread_id)
        texts = [text for role, text in found if role == "user"]
        assert texts[:2] == [f"gate {tag} 1{tag}", f"say 2{tag}"]
        assert len(texts) == len(set(texts)) == 3
        # Whoever comes first when the server is back closes the turn: its own process, or another.
        assert found[1][1] in {f"1{tag} before, after", f"1{tag} before, …"}
        for stream in (running, waiting):
            turn = await visitor.turn(first.port, thread_id, stream.turn_id)
            assert turn["status"] in {"completed", "interrupted"}
            assert turn["finished_at"] is not None


# No connection left


@pytest.fixture
def crowd(cluster: PrivatePostgresql) -> Iterator[Crowd]:
    crowd = Crowd(cluster)
    yield crowd
    crowd.go()


async def test_a_site_that_gets_no_connection_answers_with_a_warning_until_there_are_some(
    site, servers, cluster, visitor, crowd, tag
):
    thread_id = await visitor.new_thread(servers[0].port)
    await say(visitor, servers[0], thread_id, f"say 1{tag}")
    fresh = servers[1]  # it has no connection yet, and will get none
    await asyncio.to_thread(fresh.kill)
    await asyncio.to_thread(crowd.come)
    fresh.start()
    await asyncio.to_thread(fresh.wait_until_it_answers)
    await asyncio.to_thread(crowd.come)
    await is_answered_without_the_store(visitor, fresh, thread_id, f"2{tag}")
    await is_refused_elsewhere(visitor, fresh, thread_id)
    await nobody_else_is_let_in(site, fresh, thread_id)
    assert await readiness(visitor, fresh) == 503
    # Who has a connection goes on: nothing is asked of a server that is only full.
    ok = await say(visitor, servers[0], thread_id, f"say 3{tag}")
    assert ok.warnings == []
    crowd.go()
    await until_back(visitor, fresh, thread_id)
    after = await say(visitor, fresh, thread_id, f"memory 4{tag}")
    assert after.said.startswith(f"I remember: 1{tag} 3{tag} back.")


async def test_many_at_once_on_few_connections_are_answered_with_a_warning_at_worst(
    servers, cluster, visitor, crowd, tag
):
    """Two connections are left for both processes and all their threads."""
    threads = [await visitor.new_thread(servers[n % 2].port) for n in range(STREAMS)]
    await asyncio.to_thread(cluster.stop)  # nobody has one now
    await asyncio.to_thread(cluster.start)
    await asyncio.to_thread(crowd.come)
    for _ in range(2):
        crowd.leave_one()
    begun = [
        say(visitor, servers[n % 2], thread_id, f"slow 4 100 {n}{tag}")
        for n, thread_id in enumerate(threads)
    ]
    with within(CLOSED_WITHIN):
        heard = await asyncio.gather(*begun)
    for n, hearing in enumerate(heard):
        assert hearing.closing["status"] == "completed"
        assert hearing.said == "".join(f"{n}{tag}.{index} " for index in range(4))
        assert hearing.warnings == [] or NOT_SAVED in hearing.warnings
    crowd.go()
    for n, (hearing, thread_id) in enumerate(zip(heard, threads, strict=True)):
        await until_back(visitor, servers[n % 2], thread_id)
        found = await transcript(visitor, servers[0].port, thread_id)
        stored = found.count(("assistant", hearing.said))
        assert stored <= 1
        assert stored == 1 or hearing.warnings, (n, found)


def get_page(port: int, path: str) -> int:
    page = http.client.HTTPConnection("127.0.0.1", port, timeout=PAGE_WITHIN)
    try:
        page.request("GET", path, headers={"Cookie": "sessionid=" + "s" * 32})
        return page.getresponse().status
    finally:
        page.close()


async def test_pages_of_the_site_fail_in_time_and_come_back_without_a_restart(servers, cluster):
    await asyncio.to_thread(cluster.stop)
    with within(PAGE_WITHIN):
        assert await asyncio.to_thread(get_page, servers[0].port, "/admin/") >= 500
    await asyncio.to_thread(cluster.start)

    async def is_back() -> bool:
        return await asyncio.to_thread(get_page, servers[0].port, "/admin/") == 302

    await until(is_back)
