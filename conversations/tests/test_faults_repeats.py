"""The same message sent again, at once and later, to any process: one run, one answer.

Fault 22 of the table of faults: real processes, real HTTP, the same idempotency key.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
from django.db import connection

from conversations.tests.faults.client import Refused
from conversations.tests.faults.hearing import (
    Hearing,
    Visitor,
    has_content,
    is_status,
    transcript,
)
from conversations.tests.faults.servers import Server, Site

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

ENGINE = "postgresql" if connection.vendor == "postgresql" else "wal"
ROUNDS = 20
CROWD = 12


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with Site(ENGINE, lease_seconds=3, grace_seconds=1) as site:
        site.start_servers(2)
        yield site
        assert site.stop_servers() == []


@pytest.fixture
def servers(site: Site) -> list[Server]:
    return site.servers


async def say(
    visitor: Visitor, server: Server, thread_id: str, text: str, key: str
) -> tuple[str, Hearing]:
    """Say it and hear the answer to its end: the turn it became, and all frames."""
    stream, hearing = await visitor.open(server.port, thread_id, text, key=key), Hearing()
    await hearing.take(stream)
    return stream.turn_id, hearing


async def refusal(
    visitor: Visitor, server: Server, thread_id: str, text: str, key: str
) -> tuple[int, dict[str, Any]]:
    with pytest.raises(Refused) as refused:
        await visitor.open(server.port, thread_id, text, key=key)
    return refused.value.status, json.loads(refused.value.body)["error"]


def runs_of(site: Site, text: str) -> int:
    """How often the model was asked."""
    return sum(fact["fact"] == "begin" and fact["text"] == text for fact in site.journal())


async def test_the_same_key_in_two_processes_at_once_is_one_run_with_the_same_frames(
    site, servers, visitor, tag
):
    thread_id = await visitor.new_thread(servers[0].port)
    said: list[tuple[str, str]] = []
    for number in range(ROUNDS):
        text = f"slow 4 10 {tag}.{number}"
        both = [say(visitor, server, thread_id, text, f"{tag}.{number}") for server in servers]
        (turn_id, one), (other_turn_id, other) = await asyncio.gather(*both)
        assert turn_id == other_turn_id
        assert one.told == other.told
        assert one.closing["status"] == "completed"
        assert runs_of(site, text) == 1
        said += [("user", text), ("assistant", one.said)]
    assert await transcript(visitor, servers[0].port, thread_id) == said


async def test_a_crowd_that_sends_the_same_key_to_both_processes_is_one_run(
    site, servers, visitor, tag
):
    thread_id = await visitor.new_thread(servers[0].port)
    text = f"tool {tag}"
    crowd = [say(visitor, servers[n % 2], thread_id, text, tag) for n in range(CROWD)]
    heard = await asyncio.gather(*crowd)
    assert len({turn_id for turn_id, _ in heard}) == 1
    assert len({str(hearing.told) for _, hearing in heard}) == 1
    assert heard[0][1].closing["status"] == "completed"
    assert runs_of(site, text) == 2  # before and after the tool
    assert sum(f["fact"] == "tool" and f["text"] == text for f in site.journal()) == 1
    assert await transcript(visitor, servers[1].port, thread_id) == [
        ("user", text),
        ("assistant", f"{tag} done"),
    ]


async def test_the_same_key_while_the_message_waits_or_runs_joins_it_from_any_process(
    site, servers, visitor, tag
):
    first, other = servers
    thread_id = await visitor.new_thread(first.port)
    ahead = await visitor.open(first.port, thread_id, f"gate {tag} 1{tag}", key=f"1{tag}")
    running = Hearing()
    await running.take(ahead, until=has_content)
    text = f"say 2{tag}"
    waits = await visitor.open(first.port, thread_id, text, key=f"2{tag}")
    again = await visitor.open(other.port, thread_id, text, key=f"2{tag}")
    assert waits.turn_id == again.turn_id
    joined = [Hearing(), Hearing()]
    for hearing, stream in zip(joined, (waits, again), strict=True):
        await hearing.take(stream, until=is_status("queued"))
    repeated = await visitor.open(other.port, thread_id, f"gate {tag} 1{tag}", key=f"1{tag}")
    assert repeated.turn_id == ahead.turn_id
    site.open_gate(tag)
    rejoined = Hearing()
    await asyncio.gather(running.take(ahead), rejoined.take(repeated))
    await asyncio.gather(joined[0].take(waits), joined[1].take(again))
    assert running.told == rejoined.told
    assert joined[0].told == joined[1].told
    assert (runs_of(site, f"gate {tag} 1{tag}"), runs_of(site, text)) == (1, 1)


async def test_another_text_with_the_same_key_is_refused_by_every_process(
    site, servers, visitor, tag
):
    first, _ = servers
    thread_id = await visitor.new_thread(first.port)
    running = await visitor.open(first.port, thread_id, f"gate {tag} {tag}", key=tag)
    hearing = Hearing()
    await hearing.take(running, until=has_content)
    for server in servers:  # while it runs
        status, error = await refusal(visitor, server, thread_id, f"say other.{tag}", tag)
        assert (status, error["code"], error["retryable"]) == (409, "idempotency_conflict", False)
    site.open_gate(tag)
    await hearing.take(running)
    for server in servers:  # and afterwards
        status, error = await refusal(visitor, server, thread_id, f"say other.{tag}", tag)
        assert (status, error["code"]) == (409, "idempotency_conflict")
    assert runs_of(site, f"say other.{tag}") == 0
    assert await transcript(visitor, first.port, thread_id) == [
        ("user", f"gate {tag} {tag}"),
        ("assistant", hearing.said),
    ]


async def test_two_texts_with_one_key_at_once_in_two_processes_are_one_answer_and_one_refusal(
    site, servers, visitor, tag
):
    for number in range(ROUNDS):
        thread_id = await visitor.new_thread(servers[0].port)
        texts = [f"say 1{tag}.{number}", f"say 2{tag}.{number}"]
        both = [
            say(visitor, server, thread_id, text, tag)
            for server, text in zip(servers, texts, strict=True)
        ]
        outcomes = await asyncio.gather(*both, return_exceptions=True)
        refused = [outcome for outcome in outcomes if isinstance(outcome, Refused)]
        assert [error.status for error in refused] == [409]
        assert sum(runs_of(site, text) for text in texts) == 1


async def test_a_key_of_three_hundred_characters_is_refused_and_nothing_is_said(
    site, servers, visitor, tag
):
    thread_id = await visitor.new_thread(servers[0].port)
    for server in servers:
        status, error = await refusal(visitor, server, thread_id, f"say {tag}", "k" * 300)
        assert (status, error["code"]) == (422, "invalid")
        assert "Idempotency-Key" in json.dumps(error["fields"])
        assert "k" * 300 not in json.dumps(error)
    assert runs_of(site, f"say {tag}") == 0
    assert await transcript(visitor, servers[0].port, thread_id) == []
    _, hearing = await say(visitor, servers[0], thread_id, f"say {tag}", "k" * 255)
    assert hearing.closing["status"] == "completed"


async def test_a_key_sent_again_after_the_end_is_told_the_same_once_more_by_any_process(
    site, servers, visitor, tag
):
    first, other = servers
    thread_id = await visitor.new_thread(first.port)
    text = f"slow 30 5 {tag}"
    turn_id, heard = await say(visitor, first, thread_id, text, tag)
    for server in (first, other):
        again_id, again = await say(visitor, server, thread_id, text, tag)
        assert (again_id, again.told) == (turn_id, heard.told)
    await asyncio.to_thread(other.kill)
    other.start()
    await asyncio.to_thread(other.wait_until_it_answers)
    again_id, again = await say(visitor, other, thread_id, text, tag)
    assert (again_id, again.told) == (turn_id, heard.told)
    assert runs_of(site, text) == 1


@pytest.mark.parametrize("ends", ["failed", "cancelled", "interrupted"])
async def test_a_key_of_a_turn_that_did_not_end_well_is_told_how_it_ended(
    site, servers, visitor, tag, ends
):
    """Trying again after an error is a new message, with a new key."""
    first, other = servers
    thread_id = await visitor.new_thread(first.port)
    text = f"fail {tag}" if ends == "failed" else f"hold {tag}"
    stream = await visitor.open(first.port, thread_id, text, key=tag)
    hearing = Hearing()
    await hearing.take(stream, until=has_content)
    if ends == "cancelled":
        assert (await visitor.stop(first.port, thread_id, stream.turn_id))[0] == 202
    if ends == "interrupted":
        await asyncio.to_thread(first.kill)
        first.start()
        await asyncio.to_thread(first.wait_until_it_answers)
        stream = await visitor.events(other.port, thread_id, stream.turn_id, after=hearing.last)
    await hearing.take(stream)
    for server in servers:
        turn_id, again = await say(visitor, server, thread_id, text, tag)
        assert turn_id == stream.turn_id
        assert again.closing == hearing.closing
    assert runs_of(site, text) == 1


async def test_the_key_of_another_conversation_or_person_is_another_message(
    site, servers, visitor, tag
):
    text = f"say {tag}"
    async with Visitor(site.tokens[1]) as stranger:
        turn_ids = set()
        for number, who in enumerate([visitor, visitor, stranger, stranger]):
            thread_id = await who.new_thread(servers[0].port)
            turn_id, hearing = await say(who, servers[number % 2], thread_id, text, tag)
            assert hearing.closing["status"] == "completed"
            turn_ids.add(turn_id)
    assert len(turn_ids) == runs_of(site, text) == 4
