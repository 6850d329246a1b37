"""Streams that break off and go on: from another process, after a restart, after a kill.

Real processes and real HTTP. Whatever happens, a listener hears every number once, and all the
pieces joined are the stored answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import httpx
import pytest
from django.db import connection

from conversations.tests.faults.client import Client, Lost, Refused, Stream
from conversations.tests.faults.hearing import (
    Hearing,
    Visitor,
    has_content,
    is_status,
    transcript,
    until,
)
from conversations.tests.faults.servers import Server, Site

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

ENGINE = "postgresql" if connection.vendor == "postgresql" else "wal"
LEASE, GRACE = 3.0, 1.0
LISTENERS = 50


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with Site(ENGINE, lease_seconds=LEASE, grace_seconds=GRACE) as site:
        yield site


@pytest.fixture
def servers(site: Site) -> Iterator[list[Server]]:
    """Two that answer; at the end they stop as they should."""
    yield site.start_servers(2)
    assert site.stop_servers() == []


@pytest.fixture
async def stranger(site: Site) -> AsyncIterator[Visitor]:
    async with Visitor(site.tokens[1]) as stranger:
        yield stranger


async def restart(server: Server) -> None:
    server.start()
    await asyncio.to_thread(server.wait_until_it_answers)


async def told_by(visitor: Client, server: Server, thread_id: str, turn_id: str) -> Hearing:
    """All of a turn, heard once more from its first frame on."""
    hearing = Hearing()
    await hearing.take(await visitor.events(server.port, thread_id, turn_id))
    return hearing


async def until_another_tells(
    visitor: Client, other: Server, thread_id: str, turn_id: str
) -> Hearing:
    """Wait until the first words can be heard from another process: they are recorded then."""
    hearing = Hearing()
    stream = await visitor.events(other.port, thread_id, turn_id)
    await hearing.take(stream, until=has_content)
    stream.leave()
    return hearing


# Leaving and coming back


async def test_a_stream_left_mid_answer_goes_on_from_another_process_word_for_word(
    servers, visitor, tag
):
    first, other = servers
    thread_id = await visitor.new_thread(first.port)
    stream = await visitor.open(first.port, thread_id, f"slow 40 20 {tag}")
    hearing = Hearing()
    await hearing.take(stream, until=lambda frame: frame.number == 6)
    stream.leave()
    await hearing.take(
        await visitor.events(other.port, thread_id, stream.turn_id, after=hearing.last)
    )
    assert hearing.closing["status"] == "completed"
    assert hearing.said == "".join(f"{tag}.{index} " for index in range(40))
    assert await transcript(visitor, other.port, thread_id) == [
        ("user", f"slow 40 20 {tag}"),
        ("assistant", hearing.said),
    ]
    for server in servers:
        assert (await told_by(visitor, server, thread_id, stream.turn_id)).told == hearing.told


async def test_a_listener_that_changes_its_process_with_every_few_words_hears_each_once(
    servers, visitor, tag
):
    thread_id = await visitor.new_thread(servers[0].port)
    stream = await visitor.open(servers[0].port, thread_id, f"slow 60 20 {tag}")
    turn_id, hearing, connections = stream.turn_id, Hearing(), 1
    while True:
        stop_at = hearing.last + 4
        await hearing.take(stream, until=lambda frame, stop_at=stop_at: frame.number >= stop_at)
        stream.leave()
        if hearing.last > 55:
            break
        server = servers[connections % 2]
        stream = await visitor.events(server.port, thread_id, turn_id, after=hearing.last)
        connections += 1
    await hearing.take(
        await visitor.events(servers[1].port, thread_id, turn_id, after=hearing.last)
    )
    assert connections > 10
    assert hearing.closing["status"] == "completed"
    assert await transcript(visitor, servers[1].port, thread_id) == [
        ("user", f"slow 60 20 {tag}"),
        ("assistant", hearing.said),
    ]


async def test_fifty_listeners_of_one_turn_hear_identical_frames(site, servers, visitor, tag):
    """They come before it runs, in its middle and after its end, to both processes."""
    first, _ = servers
    thread_id = await visitor.new_thread(first.port)
    ahead = await visitor.open(first.port, thread_id, f"gate {tag} 1{tag}")
    await Hearing().take(ahead, until=has_content)
    sender = await visitor.open(first.port, thread_id, f"slow 20 30 2{tag}")
    own = Hearing()
    await own.take(sender, until=is_status("queued"))

    async def listen(server: Server) -> Hearing:
        return await told_by(visitor, server, thread_id, sender.turn_id)

    early = [asyncio.create_task(listen(servers[number % 2])) for number in range(20)]
    site.open_gate(tag)
    await own.take(sender, until=lambda frame: frame.content.startswith(f"2{tag}.9"))
    middle = [asyncio.create_task(listen(servers[number % 2])) for number in range(20)]
    await own.take(sender)
    late = [asyncio.create_task(listen(servers[number % 2])) for number in range(10)]
    heard = await asyncio.gather(*early, *middle, *late)
    assert len(heard) == LISTENERS
    assert own.closing["status"] == "completed"
    assert {str(hearing.told) for hearing in heard} == {str(own.told)}


# Restarts and kills


@pytest.mark.parametrize(
    ("text", "status", "mark"),
    [("slow 12 50 {}", "completed", ""), ("hold {}", "failed", "…")],
    ids=["finished-within-the-grace", "cut-by-the-stop"],
)
async def test_after_a_stop_and_a_restart_the_stream_is_told_to_its_end(
    servers, visitor, tag, text, status, mark
):
    first, _ = servers
    thread_id = await visitor.new_thread(first.port)
    stayed = await visitor.open(first.port, thread_id, text.format(tag))
    left = await visitor.events(first.port, thread_id, stayed.turn_id)
    hearing, to_the_end = Hearing(), Hearing()
    await hearing.take(left, until=has_content)
    left.leave()
    first.stop()
    await to_the_end.take(stayed)
    assert await asyncio.to_thread(first.wait) == 0
    await restart(first)
    await hearing.take(
        await visitor.events(first.port, thread_id, stayed.turn_id, after=hearing.last)
    )
    assert hearing.told == to_the_end.told
    assert hearing.closing["status"] == status
    if status == "failed":
        assert hearing.closing["code"] == "interrupted"
        assert hearing.closing["retryable"] is True
    assert await transcript(visitor, first.port, thread_id) == [
        ("user", text.format(tag)),
        ("assistant", hearing.said + mark),
    ]


@pytest.mark.parametrize("where", ["the restarted process", "another process"])
async def test_after_a_kill_the_stream_ends_as_interrupted_with_what_is_stored(
    servers, visitor, tag, where
):
    first, other = servers
    thread_id = await visitor.new_thread(first.port)
    stream = await visitor.open(first.port, thread_id, f"hold {tag}")
    hearing = Hearing()
    await hearing.take(stream, until=has_content)
    await until_another_tells(visitor, other, thread_id, stream.turn_id)
    await asyncio.to_thread(first.kill)
    with pytest.raises(Lost):
        await hearing.take(stream)
    if where == "the restarted process":
        await asyncio.to_thread(other.kill)
        await restart(first)
        await restart(other)
    asked = first if where == "the restarted process" else other
    await hearing.take(
        await visitor.events(asked.port, thread_id, stream.turn_id, after=hearing.last)
    )
    assert (hearing.closing["code"], hearing.closing["retryable"]) == ("interrupted", True)
    assert await transcript(visitor, asked.port, thread_id) == [
        ("user", f"hold {tag}"),
        ("assistant", hearing.said + "…"),
    ]
    again = await told_by(visitor, asked, thread_id, stream.turn_id)
    assert again.told == hearing.told


async def test_after_a_kill_in_full_flow_what_is_kept_is_the_beginning_of_what_was_heard(
    servers, visitor, tag
):
    """The last words before a kill may have been heard and not be kept: a fifth of a second."""
    first, other = servers
    thread_id = await visitor.new_thread(first.port)
    stream = await visitor.open(first.port, thread_id, f"slow 500 5 {tag}")
    hearing = Hearing()
    await hearing.take(stream, until=lambda frame: frame.number == 150)
    killing = asyncio.create_task(asyncio.to_thread(first.kill))
    with pytest.raises(Lost):
        await hearing.take(stream)
    await killing
    heard = hearing.said
    await hearing.take(
        await visitor.events(other.port, thread_id, stream.turn_id, after=hearing.last)
    )
    assert hearing.closing["code"] == "interrupted"
    fresh = await told_by(visitor, other, thread_id, stream.turn_id)
    assert fresh.closing["code"] == "interrupted"
    assert await transcript(visitor, other.port, thread_id) == [
        ("user", f"slow 500 5 {tag}"),
        ("assistant", fresh.said + "…"),
    ]
    assert fresh.said
    assert hearing.said.startswith(fresh.said)
    assert hearing.said.startswith(heard)
    await restart(first)


async def test_a_queued_message_of_a_killed_process_is_answered_by_another(
    site, servers, visitor, tag
):
    running, dying = servers
    thread_id = await visitor.new_thread(running.port)
    ahead = await visitor.open(running.port, thread_id, f"gate {tag} 1{tag}")
    await Hearing().take(ahead, until=has_content)
    waiting = await visitor.open(dying.port, thread_id, f"say 2{tag}")
    hearing = Hearing()
    await hearing.take(waiting, until=is_status("queued"))
    await asyncio.to_thread(dying.kill)
    with pytest.raises(Lost):
        await hearing.take(waiting)
    again = await visitor.events(running.port, thread_id, waiting.turn_id, after=hearing.last)
    site.open_gate(tag)
    await hearing.take(again)
    assert hearing.closing["status"] == "completed"
    assert hearing.said == f"2{tag} done"
    assert await transcript(visitor, running.port, thread_id) == [
        ("user", f"gate {tag} 1{tag}"),
        ("assistant", f"1{tag} before, after"),
        ("user", f"say 2{tag}"),
        ("assistant", f"2{tag} done"),
    ]
    await restart(dying)


async def test_what_ran_and_what_waited_in_the_only_process_is_told_after_its_restart(
    servers, visitor, tag
):
    only, other = servers
    thread_id = await visitor.new_thread(only.port)
    ran = await visitor.open(only.port, thread_id, f"hold 1{tag}")
    waited = await visitor.open(only.port, thread_id, f"say 2{tag}")
    first, second = Hearing(), Hearing()
    await first.take(ran, until=has_content)
    await second.take(waited, until=is_status("queued"))
    await until_another_tells(visitor, other, thread_id, ran.turn_id)
    for server in (other, only):  # or it would take over what waited before it dies, too
        await asyncio.to_thread(server.kill)
    for stream, hearing in ((ran, first), (waited, second)):
        with pytest.raises(Lost):
            await hearing.take(stream)
    await restart(only)
    for stream, hearing in ((ran, first), (waited, second)):
        await hearing.take(
            await visitor.events(only.port, thread_id, stream.turn_id, after=hearing.last)
        )
    assert first.closing["code"] == "interrupted"
    assert second.closing["status"] == "completed", second.closing
    assert await transcript(visitor, only.port, thread_id) == [
        ("user", f"hold 1{tag}"),
        ("assistant", first.said + "…"),
        ("user", f"say 2{tag}"),
        ("assistant", second.said),
    ]
    await restart(other)


# Stopping


async def test_a_stop_asked_of_another_process_closes_the_stream_where_it_is_heard(
    site, servers, visitor, tag
):
    running, other = servers
    thread_id = await visitor.new_thread(running.port)
    stream = await visitor.open(running.port, thread_id, f"hold {tag}")
    hearing = Hearing()
    await hearing.take(stream, until=has_content)
    status, answer = await visitor.stop(other.port, thread_id, stream.turn_id)
    assert (status, answer["status"]) == (202, "running")
    await hearing.take(stream)
    assert hearing.closing["status"] == "cancelled"
    assert hearing.said == f"{tag} before, "
    assert await transcript(visitor, other.port, thread_id) == [
        ("user", f"hold {tag}"),
        ("assistant", f"{tag} before, …"),
    ]
    for server in servers:  # a second stop finds it ended, wherever it is asked
        status, answer = await visitor.stop(server.port, thread_id, stream.turn_id)
        assert (status, answer["status"]) == (200, "cancelled")
        assert (await told_by(visitor, server, thread_id, stream.turn_id)).told == hearing.told
    rows = await asyncio.to_thread(site.call, "read", threads=[thread_id])
    hidden = [row["agent_item"] for row in rows["messages"] if not row["shown"]]
    assert any("stopped the previous answer" in item for item in hidden)


async def test_a_message_that_waits_is_taken_out_of_the_line_by_another_process(
    site, servers, visitor, tag
):
    first, other = servers
    thread_id = await visitor.new_thread(first.port)
    ahead = await visitor.open(first.port, thread_id, f"gate {tag} 1{tag}")
    before, hearing, behind = Hearing(), Hearing(), Hearing()
    await before.take(ahead, until=has_content)
    waiting = await visitor.open(first.port, thread_id, f"say 2{tag}")
    last = await visitor.open(other.port, thread_id, f"say 3{tag}")
    await hearing.take(waiting, until=is_status("queued"))
    status, answer = await visitor.stop(other.port, thread_id, waiting.turn_id)
    assert (status, answer["status"]) == (202, "cancelled")
    await hearing.take(waiting)
    assert hearing.closing["status"] == "cancelled"
    assert (await visitor.stop(first.port, thread_id, waiting.turn_id))[0] == 200
    site.open_gate(tag)
    await before.take(ahead)
    await behind.take(last)
    assert before.closing["status"] == behind.closing["status"] == "completed"
    assert behind.said == f"3{tag} done"
    texts = [text for role, text in await transcript(visitor, other.port, thread_id)]
    assert sorted(texts) == sorted(
        [f"gate {tag} 1{tag}", before.said, f"say 2{tag}", f"say 3{tag}", behind.said]
    )


async def test_a_turn_whose_process_was_killed_can_be_stopped_from_another(servers, visitor, tag):
    dying, other = servers
    thread_id = await visitor.new_thread(dying.port)
    stream = await visitor.open(dying.port, thread_id, f"hold {tag}")
    await Hearing().take(stream, until=has_content)
    await asyncio.to_thread(dying.kill)
    status, answer = await visitor.stop(other.port, thread_id, stream.turn_id)
    assert (status, answer["status"]) == (200, "interrupted")
    await restart(dying)


# Bad input


async def ask_for_events(
    server: Server, token: str, thread_id: str, turn_id: str, last: str
) -> httpx.Response:
    """The plain answer to a request for a stream."""
    url = f"http://127.0.0.1:{server.port}/chatkit/threads/{thread_id}/turns/{turn_id}/events"
    headers = {"Authorization": f"Bearer {token}", "Last-Event-ID": last}
    async with httpx.AsyncClient(headers=headers, timeout=10) as http:
        return await http.get(url)


async def ended_turn(visitor: Client, server: Server, tag: str) -> tuple[str, Stream, Hearing]:
    thread_id = await visitor.new_thread(server.port)
    stream = await visitor.open(server.port, thread_id, f"say {tag}")
    hearing = Hearing()
    await hearing.take(stream)
    return thread_id, stream, hearing


@pytest.mark.parametrize("last", ["-1", "abc", "1.5", "0x1", "1 2", "9" * 30])
async def test_a_last_event_id_that_is_no_number_of_a_frame_is_refused(
    site, servers, visitor, tag, last
):
    thread_id, stream, _ = await ended_turn(visitor, servers[0], tag)
    for server in servers:
        answer = await ask_for_events(server, site.tokens[0], thread_id, stream.turn_id, last)
        assert answer.status_code == 422
        assert answer.json()["error"]["code"] == "invalid"
        assert answer.json()["error"]["fields"][0]["field"] == "Last-Event-ID"


async def test_a_last_event_id_beyond_the_end_is_refused_by_every_process(
    site, servers, visitor, tag
):
    thread_id, stream, hearing = await ended_turn(visitor, servers[0], tag)
    for server in servers:
        for beyond in (1, 2, 1000):
            last = str(hearing.last + beyond)
            answer = await ask_for_events(server, site.tokens[0], thread_id, stream.turn_id, last)
            assert answer.status_code == 422, last
        for heard in (hearing.last - 1, hearing.last):  # the closing frame, and [DONE]
            answer = await ask_for_events(
                server, site.tokens[0], thread_id, stream.turn_id, str(heard)
            )
            assert answer.status_code == 200
            assert answer.text.endswith("data: [DONE]\n\n")
            assert "completed" not in answer.text


@pytest.mark.parametrize(
    "where",
    [
        "the process that runs it",
        "another process",
    ],
)
async def test_a_last_event_id_beyond_what_a_running_turn_told_is_refused(
    servers, visitor, tag, where
):
    running, other = servers
    thread_id = await visitor.new_thread(running.port)
    stream = await visitor.open(running.port, thread_id, f"hold {tag}")
    await Hearing().take(stream, until=has_content)
    asked = other if where == "another process" else running
    with pytest.raises(Refused) as refused:
        await visitor.events(asked.port, thread_id, stream.turn_id, after=100_000)
    assert refused.value.status == 422


async def test_anothers_turn_is_as_unknown_as_one_that_never_was(servers, visitor, stranger, tag):
    thread_id, stream, _ = await ended_turn(visitor, servers[0], tag)
    own_thread = await stranger.new_thread(servers[0].port)
    nowhere = "01a2075e-0000-7000-8000-000000000000"
    for server in servers:
        missing = []
        for thread, turn in [
            (thread_id, stream.turn_id),
            (own_thread, stream.turn_id),
            (nowhere, stream.turn_id),
            (own_thread, nowhere),
        ]:
            with pytest.raises(Refused) as refused:
                await stranger.events(server.port, thread, turn)
            assert refused.value.status == 404
            assert (await stranger.stop(server.port, thread, turn))[0] == 404
            path = f"/chatkit/threads/{thread}/turns/{turn}"
            assert (await stranger.ask(server.port, "GET", path))[0] == 404
            missing.append(refused.value.body)
        assert missing[0] == missing[2]
        assert missing[1] == missing[3]
    assert (await told_by(visitor, servers[1], thread_id, stream.turn_id)).said == f"{tag} done"


async def test_anothers_running_turn_goes_on_when_a_stranger_asks_to_stop_it(
    site, servers, visitor, stranger, tag
):
    thread_id = await visitor.new_thread(servers[0].port)
    stream = await visitor.open(servers[0].port, thread_id, f"gate {tag} {tag}")
    hearing = Hearing()
    await hearing.take(stream, until=has_content)
    for server in servers:
        assert (await stranger.stop(server.port, thread_id, stream.turn_id))[0] == 404
        with pytest.raises(Refused) as refused:
            await stranger.events(server.port, thread_id, stream.turn_id, after=hearing.last)
        assert refused.value.status == 404
    site.open_gate(tag)
    await hearing.take(stream)
    assert hearing.closing["status"] == "completed"


async def test_a_turn_can_be_watched_from_another_process_while_it_waits(
    site, servers, visitor, tag
):
    first, other = servers
    thread_id = await visitor.new_thread(first.port)
    ahead = await visitor.open(first.port, thread_id, f"gate {tag} 1{tag}")
    await Hearing().take(ahead, until=has_content)
    waiting = await visitor.open(first.port, thread_id, f"say 2{tag}")

    async def status() -> bool:
        return (await visitor.turn(other.port, thread_id, waiting.turn_id))["status"] == "queued"

    await until(status)
    elsewhere = await visitor.events(other.port, thread_id, waiting.turn_id)
    own, others = Hearing(), Hearing()
    await others.take(elsewhere, until=is_status("queued"))
    site.open_gate(tag)
    await own.take(waiting)
    await others.take(elsewhere)
    assert own.told == others.told
    ahead.leave()
