"""The schema is changed under a running site, as a migration of other code does, and changed back.

Fault 23 of the table of faults: errors or answers with a warning, never wrong data, and all is well
again without a restart.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
from django.db import connection

from conversations.tests.faults.client import Refused
from conversations.tests.faults.hearing import (
    Hearing,
    Visitor,
    has_content,
    transcript,
    until,
)
from conversations.tests.faults.servers import Server, Site

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

ON_POSTGRESQL = connection.vendor == "postgresql"
ENGINE = "postgresql" if ON_POSTGRESQL else "wal"
MESSAGE, TURN = "conversations_chatmessage", "conversations_chatturn"
SESSION, TOKEN = "conversations_chatsession", "conversations_accesstoken"
EVENTS = "conversations_recordedevents"
PATIENCE = 20.0


@dataclass(frozen=True)
class Change:
    """A migration and its way back."""

    do: tuple[str, dict[str, Any]]
    undo: tuple[str, dict[str, Any]]


def renamed(table: str, column: str) -> Change:
    away = f"{column}_of_tomorrow"
    return Change(
        ("rename_column", {"table": table, "old": column, "new": away}),
        ("rename_column", {"table": table, "old": away, "new": column}),
    )


def moved(table: str) -> Change:
    away = f"{table}_of_tomorrow"
    return Change(
        ("rename_table", {"old": table, "new": away}),
        ("rename_table", {"old": away, "new": table}),
    )


def required(table: str) -> Change:
    return Change(
        ("require_column", {"table": table, "name": "tomorrow"}),
        ("drop_column", {"table": table, "name": "tomorrow"}),
    )


CHANGES = [
    pytest.param(renamed(MESSAGE, "text"), id="message-text"),
    pytest.param(renamed(MESSAGE, "position"), id="message-position"),
    pytest.param(renamed(MESSAGE, "agent_item"), id="message-agent_item"),
    pytest.param(renamed(TURN, "status"), id="turn-status"),
    pytest.param(renamed(TURN, "fence"), id="turn-fence"),
    pytest.param(renamed(TURN, "answer_message_id"), id="turn-answer"),
    pytest.param(renamed(SESSION, "fence"), id="session-fence"),
    pytest.param(renamed(SESSION, "owner_id"), id="session-owner"),
    pytest.param(renamed(TOKEN, "revoked_at"), id="token-revoked_at"),
    pytest.param(renamed(EVENTS, "events"), id="events"),
    pytest.param(moved(MESSAGE), id="messages-moved"),
    pytest.param(moved(SESSION), id="sessions-moved"),
]
if ON_POSTGRESQL:
    CHANGES += [
        pytest.param(required(MESSAGE), id="message-requires-more"),
        pytest.param(required(TURN), id="turn-requires-more"),
    ]


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with Site(ENGINE, lease_seconds=3, grace_seconds=1) as site:
        site.start_servers(1)
        yield site
        assert site.stop_servers() == []


@contextmanager
def changed(site: Site, change: Change) -> Iterator[None]:
    """Meanwhile the schema is another one."""
    for step in (change.do, None, change.undo):
        if step is None:
            yield
            continue
        name, arguments = step
        site.zygote.call(f"conversations.tests.faults.schema:{name}", **arguments)


async def say(visitor: Visitor, server: Server, thread_id: str, text: str) -> Hearing | None:
    """What was heard; None where it was refused for now."""
    try:
        stream = await visitor.open(server.port, thread_id, text)
    except Refused as refused:
        if refused.status != 503:
            raise
        return None
    hearing = Hearing()
    await hearing.take(stream)
    assert hearing.closing
    return hearing


async def until_well(visitor: Visitor, server: Server, thread_id: str, tag: str) -> Hearing:
    """An answer without a warning, from the memory of the conversation."""
    numbers = iter(range(10_000))

    async def look() -> Hearing | None:
        heard = await say(visitor, server, thread_id, f"memory back{next(numbers)}.{tag}")
        if heard is None or heard.warnings or heard.closing["status"] != "completed":
            return None
        return heard

    found: Hearing = await until(look, within=PATIENCE)
    return found


def told(found: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Without what was said to see whether all is well again."""
    return [
        (role, text)
        for role, text in found
        if not text.startswith("memory back") and not text.startswith("I remember:")
    ]


@pytest.mark.parametrize("change", CHANGES)
async def test_between_two_messages_it_is_an_error_or_a_warning_and_then_all_is_well(
    site, server, visitor, tag, change
):
    thread_id = await visitor.new_thread(server.port)
    before = await say(visitor, server, thread_id, f"say 1{tag}")
    assert before is not None
    known = [("user", f"say 1{tag}"), ("assistant", f"1{tag} done")]
    with changed(site, change):
        meanwhile = await say(visitor, server, thread_id, f"say 2{tag}")
        status, read = await visitor.ask(server.port, "GET", f"/chatkit/threads/{thread_id}")
        listed, page = await visitor.ask(server.port, "GET", "/chatkit/threads")
    if meanwhile is not None and meanwhile.closing["status"] == "completed":
        assert meanwhile.said == f"2{tag} done"
    assert {status, listed} <= {200, 503}, (read, page)
    if status == 200:
        shown = [(message["role"], message["content"]) for message in read["messages"]]
        assert shown[:2] == known
    if listed == 200:
        assert thread_id in {thread["thread_id"] for thread in page["data"]}
    after = await until_well(visitor, server, thread_id, tag)
    assert after.said.startswith(f"I remember: 1{tag}")
    found = told(await transcript(visitor, server.port, thread_id))
    assert found[:2] == known
    is_saved = meanwhile is not None and not meanwhile.warnings
    if is_saved and meanwhile.closing["status"] == "completed":
        assert found[2:] == [("user", f"say 2{tag}"), ("assistant", f"2{tag} done")]
    else:  # told that it failed, or that it could not be saved: at most it is there once
        assert found[2:] in [
            [],
            [("user", f"say 2{tag}")],
            [("user", f"say 2{tag}"), ("assistant", f"2{tag} done")],
            [("user", f"say 2{tag}"), ("assistant", f"2{tag} done…")],
        ]


@pytest.mark.parametrize("change", CHANGES)
async def test_in_the_middle_of_an_answer_the_turn_closes_once_and_the_log_is_whole(
    site, server, visitor, tag, change
):
    thread_id = await visitor.new_thread(server.port)
    await say(visitor, server, thread_id, f"say 1{tag}")
    text = f"gate {tag} 2{tag}"
    stream, hearing = await visitor.open(server.port, thread_id, text), Hearing()
    await hearing.take(stream, until=has_content)
    with changed(site, change):
        site.open_gate(tag)
        await hearing.take(stream)
    closing = hearing.closing
    assert hearing.said == f"2{tag} before, after"[: len(hearing.said)]
    after = await until_well(visitor, server, thread_id, tag)
    # Whether one that "could not be saved" is remembered later: test_faults_ending.
    is_saved = closing["status"] == "completed" and not hearing.warnings
    assert after.said.startswith(f"I remember: 1{tag}" + f" 2{tag}" * is_saved)

    async def has_ended() -> bool:
        turn = await visitor.turn(server.port, thread_id, stream.turn_id)
        return turn["finished_at"] is not None

    await until(has_ended)
    found = told(await transcript(visitor, server.port, thread_id))
    assert found[:3] == [("user", f"say 1{tag}"), ("assistant", f"1{tag} done"), ("user", text)]
    answers = [answer for _, answer in found[3:]]
    if is_saved:
        assert answers == [hearing.said]
    else:
        assert answers in ([], [hearing.said], [f"2{tag} before, …"], [hearing.said + "…"])


def more(facts: list[Any]) -> Callable[[], Awaitable[bool]]:
    """Whether each of four has added to them, about, since now."""
    enough = len(facts) + 4

    async def look() -> bool:
        return len(facts) > enough

    return look


async def test_changes_while_many_speak_lose_nothing_that_was_announced(site, server, visitor, tag):
    """A column goes and comes back, again and again, while conversations go on."""
    threads = [await visitor.new_thread(server.port) for _ in range(4)]
    announced: list[tuple[str, str, str]] = []
    troubles: list[str] = []
    is_over = asyncio.Event()

    async def talk(thread_id: str, name: str) -> None:
        number = 0
        while not is_over.is_set():
            number += 1
            word = f"{name}.{number}.{tag}"
            heard = await say(visitor, server, thread_id, f"slow 4 20 {word}")
            if heard is not None and heard.closing.get("message_id") and not heard.warnings:
                announced.append((thread_id, f"slow 4 20 {word}", heard.said))
            else:
                troubles.append(word)
                await asyncio.sleep(0.05)

    talking = [asyncio.create_task(talk(thread, str(n))) for n, thread in enumerate(threads)]
    for change in (renamed(MESSAGE, "text"), renamed(TURN, "status"), renamed(SESSION, "fence")):
        with changed(site, change):
            await until(more(troubles), within=PATIENCE)
        await until(more(announced), within=PATIENCE)
    is_over.set()
    await asyncio.gather(*talking)
    rows = await asyncio.to_thread(partial(site.call, "read", threads=threads))
    assert rows["integrity"] == "ok"
    shown: dict[str, list[str]] = {thread: [] for thread in threads}
    for row in sorted(rows["messages"], key=lambda row: row["position"]):
        if row["shown"]:
            shown[row["session_id"]].append(row["text"])
    assert announced
    for thread_id, text, answer in announced:
        place = shown[thread_id].index(text)
        assert shown[thread_id].count(text) == 1
        assert shown[thread_id][place + 1] == answer
