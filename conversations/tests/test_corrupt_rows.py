"""Rows that a fault or a foreign writer damaged: they cost themselves, once, and nobody else."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from django.db import connection

from conversations import lanes, sqlite, turns
from conversations.agents_session import AgentSession
from conversations.errors import StoreDamaged
from conversations.events import (
    CONTEXT_UNAVAILABLE,
    NOT_SAVED,
    SESSION_CORRUPTED,
    TurnCompleted,
)
from conversations.ids import new_id
from conversations.items import encode_item
from conversations.models import ChatMessage, ChatSession
from conversations.store.log import MESSAGE, SESSION, TURN
from conversations.store.recall import load_window
from conversations.tests.conftest import answer, frames
from conversations.tests.factories import ChatSessionFactory
from conversations.tests.scripted import Call, Say
from conversations.tests.turns_helpers import (
    ask,
    rows,
    say,
    shown,
    stored,
    told,
    until_said,
    warnings,
    words,
)

THREADS = "/chatkit/threads"

on_sqlite = pytest.mark.skipif(
    "connection.vendor != 'sqlite'", reason="another engine refuses what is not of its type"
)
on_postgresql = pytest.mark.skipif(
    "connection.vendor != 'postgresql'", reason="a time that only PostgreSQL knows"
)


@dataclass(frozen=True)
class Damage:
    """A column set to an SQL expression of one parameter."""

    column: str
    value: Any
    expression: str = "%s"
    table: str = MESSAGE

    async def strike(self, where: str, *params: Any) -> None:
        sql = f"UPDATE {self.table} SET {self.column} = {self.expression} WHERE {where}"

        def write() -> int:
            with connection.cursor() as cursor:
                if connection.vendor == "sqlite":
                    cursor.execute("PRAGMA ignore_check_constraints = ON")
                cursor.execute(sql, [self.value, *params])
                changed = cursor.rowcount
                if connection.vendor == "sqlite":
                    cursor.execute("PRAGMA ignore_check_constraints = OFF")
                return changed

        assert await lanes.call(write) == 1


def kinds(**damages: Damage) -> Any:
    """As parameters: what is written as bytes only SQLite takes."""
    return [
        pytest.param(
            damage,
            id=name.replace("_", " "),
            marks=[on_sqlite] if isinstance(damage.value, bytes) or "only" in name else [],
        )
        for name, damage in damages.items()
    ]


BLOB, TEXT = "CAST(%s AS BLOB)", "CAST(%s AS TEXT)"
ITEM = "agent_item"

NO_ITEM = kinds(
    cut_short=Damage(ITEM, '{"role": "user", "cont'),
    empty=Damage(ITEM, ""),
    a_number=Damage(ITEM, "123"),
    null=Damage(ITEM, "null"),
    a_string=Damage(ITEM, '"x"'),
    a_list=Damage(ITEM, '[{"role": "user"}]'),
    two_items=Damage(ITEM, '{"role": "user"},{"role": "user"}'),
    nested_beyond_reading=Damage(ITEM, "[" * 50_000),
    nested_beyond_copying=Damage(ITEM, '{"role":"user","more":' + "[" * 600 + "]" * 600 + "}"),
    a_blob=Damage(ITEM, b"\x00\xff\xfe", BLOB),
    not_utf8=Damage(ITEM, b'{"role": "user", "content": "\xff"}', TEXT),
    a_position_that_is_text_only_sqlite=Damage("position", "third"),
    a_position_that_is_a_blob=Damage("position", b"\xff", BLOB),
    a_position_that_is_not_utf8=Damage("position", b"\xff3", TEXT),
)
ORPHANS = {
    "an output": {"type": "function_call_output", "call_id": "gone", "output": "x"},
    "an output of a search": {"type": "tool_search_output", "tools": []},
    "an approval": {
        "type": "mcp_approval_response",
        "approval_request_id": "gone",
        "approve": True,
    },
    "a program's call": {
        "type": "function_call",
        "call_id": "c",
        "name": "f",
        "arguments": "{}",
        "caller": {"type": "program", "caller_id": "gone"},
    },
}
LOSES_ITS_MEMORY = [
    *NO_ITEM,
    *[
        pytest.param(Damage(ITEM, encode_item(item)), id=f"{name} alone")
        for name, item in ORPHANS.items()
    ],
]


async def post(client: httpx.AsyncClient, session: Any, text: str) -> tuple[str, list[str]]:
    """The answer, and the warnings beside it."""
    response = await client.post(f"{THREADS}/{session.id}/messages", json={"text": text})
    assert response.status_code == 200, response.text
    found = frames(response.text)
    assert found[-2]["status"] == "completed", found[-2]
    return answer(response.text), [
        frame["warning"] for frame in found[:-1] if "warning" in frame and "content" in frame
    ]


async def get(client: httpx.AsyncClient, path: str = "", **params: Any) -> dict[str, Any]:
    response = await client.get(THREADS + path, params=params)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


async def transcript(client: httpx.AsyncClient, session: Any) -> list[str]:
    page = await get(client, f"/{session.id}")
    return [message["content"] for message in page["messages"]]


def key(session: Any) -> Any:
    return session.id.hex if connection.vendor == "sqlite" else session.id


@pytest.fixture
async def talked(client: httpx.AsyncClient, user: Any) -> Any:
    """A conversation of three turns; the rows at 1, 3 and 5 are what was said."""
    session = await lanes.call(ChatSessionFactory, owner=user)
    for text in ("one", "two", "three"):
        await post(client, session, text)
    return session


@pytest.fixture
async def other(client: httpx.AsyncClient, user: Any) -> Any:
    session = await lanes.call(ChatSessionFactory, owner=user)
    await post(client, session, "other")
    return session


# What the model remembers


@pytest.mark.parametrize("damage", LOSES_ITS_MEMORY)
async def test_the_next_turn_answers_from_the_rest_and_says_so_once(damage, client, talked, other):
    await damage.strike("session_id = %s AND position = 3", key(talked))

    assert await post(client, talked, "four") == (
        "I remember: one | three | four",
        [SESSION_CORRUPTED],
    )
    assert await post(client, other, "more") == ("I remember: other | more", [])
    assert await post(client, talked, "five") == ("I remember: one | three | four | five", [])

    row = await lanes.call(ChatSession.objects.get, id=talked.id)
    assert (row.remembered_count, row.message_count) == (9, 10)
    for condition in ("IS NOT NULL", "IS NULL"):
        stored = await lanes.read(
            lambda db, condition=condition: db.one(
                f"SELECT COUNT(*) FROM {MESSAGE} WHERE session_id = %s"
                f" AND quarantined_at {condition} AND agent_item IS NOT NULL",
                (key(talked),),
            )
        )
        assert stored == ((1,) if condition == "IS NOT NULL" else (9,))

    said = await transcript(client, talked)
    assert len(said) == 10
    assert {"one", "two", "three", "four", "five"} <= set(said)
    assert len((await get(client))["data"]) == 2


@pytest.mark.parametrize("damage", LOSES_ITS_MEMORY)
async def test_a_damaged_conversation_can_be_changed_cleared_and_deleted(
    damage, client, talked, other
):
    await damage.strike("session_id = %s AND position = 3", key(talked))
    url = f"{THREADS}/{talked.id}"
    assert (await client.patch(url, json={"title": "Renamed"})).json()["title"] == "Renamed"
    assert (await client.post(f"{url}/clear")).json() == {"cleared": 6}
    assert await post(client, talked, "again") == ("I remember: again", [])
    assert (await client.delete(url)).status_code == 204
    assert (await client.get(url)).status_code == 404
    assert await transcript(client, other) == ["other", "I remember: other"]


async def test_a_conversation_of_nothing_but_damage_starts_fresh(client, talked):
    await lanes.write(lambda db: db.run(f"UPDATE {MESSAGE} SET agent_item = 'x'"))
    assert await post(client, talked, "four") == ("I remember: four", [SESSION_CORRUPTED])
    assert await post(client, talked, "five") == ("I remember: four | five", [])
    assert len(await transcript(client, talked)) == 10
    row = await lanes.call(ChatSession.objects.get, id=talked.id)
    assert row.remembered_count == 4


@pytest.mark.parametrize("lost", ["function_call", "function_call_output"])
async def test_half_of_a_tools_use_is_not_sent_without_the_other(lost, client, session, script):
    played = script(Call("look_up", say="Let me look. "), Say("Found it."))
    await post(client, session, "one")
    (position,) = await lanes.read(
        lambda db: db.one(f"SELECT position FROM {MESSAGE} WHERE kind = %s", (lost,))
    )
    await Damage(ITEM, "{").strike("position = %s", position)
    assert await post(client, session, "two") == ("I remember: one | two", [SESSION_CORRUPTED])
    assert [item.get("type", "user") for item in played.inputs[-1]] == [
        "user",
        "message",
        "message",
        "user",
    ]
    assert await post(client, session, "three") == ("I remember: one | two | three", [])


async def test_reasoning_that_led_to_nothing_is_not_sent(client, talked):
    item = {"type": "reasoning", "id": "rs_gone", "summary": []}
    await Damage(ITEM, encode_item(item)).strike("session_id = %s AND position = 4", key(talked))
    answers = [await post(client, talked, text) for text in ("four", "five")]
    assert answers == [
        ("I remember: one | two | three | four", [SESSION_CORRUPTED]),
        ("I remember: one | two | three | four | five", []),
    ]


@pytest.mark.django_db(transaction=True)
async def test_an_item_whose_reasoning_is_damaged_goes_with_it():
    session = AgentSession("s")
    items: list[Any] = [
        {"role": "user", "content": "one"},
        {"type": "reasoning", "id": "rs_1", "summary": []},
        {"type": "message", "role": "assistant", "id": "msg_1", "content": "hm"},
        {"role": "user", "content": "two"},
    ]
    await session.add_items(items)
    await Damage(ITEM, "{").strike("kind = 'reasoning'")
    assert await session.get_items() == [items[0], items[3]]
    assert await lanes.call(ChatMessage.objects.filter(quarantined_at=None).count) == 2
    assert await lanes.call(ChatMessage.objects.filter(shown=True).count) == 3  # people read it


async def test_rows_a_foreign_writer_did_not_count_can_be_set_aside(client, session):
    await lanes.call(
        lambda: ChatMessage.objects.bulk_create(
            [
                ChatMessage(session=session, position=-number, kind="odd", agent_item="7")
                for number in range(1, 4)
            ]
        )
    )
    assert await post(client, session, "one") == ("I remember: one", [SESSION_CORRUPTED])
    assert await post(client, session, "two") == ("I remember: one | two", [])
    row = await lanes.call(ChatSession.objects.get, id=session.id)
    assert row.remembered_count == 4


# What people read

SHOWN = kinds(
    a_blob=Damage("text", b"t\xffwo", BLOB),
    not_utf8=Damage("text", b"t\xffwo", TEXT),
)


@pytest.mark.parametrize("damage", SHOWN)
async def test_a_text_that_is_none_is_shown_as_far_as_it_is(damage, client, talked, other):
    await damage.strike("session_id = %s AND position = 3", key(talked))
    said = await transcript(client, talked)
    assert said[0::2] == ["one", "t\ufffdwo", "three"]
    assert await post(client, talked, "four") == ("I remember: one | two | three | four", [])
    assert await transcript(client, other) == ["other", "I remember: other"]


UNTIMELY = [
    *kinds(
        words_only_sqlite=Damage("created_at", "yesterday"),
        empty_only_sqlite=Damage("created_at", ""),
        a_number_only_sqlite=Damage("created_at", 17),
        no_such_day_only_sqlite=Damage("created_at", "2026-02-31 12:00:00"),
        not_utf8=Damage("created_at", b"2026-\xff", TEXT),
    ),
    pytest.param(Damage("created_at", "infinity"), id="infinity", marks=[on_postgresql]),
    pytest.param(Damage("created_at", "0044-03-15 BC"), id="long ago", marks=[on_postgresql]),
]


@pytest.mark.parametrize("damage", UNTIMELY)
async def test_a_message_without_a_time_has_its_neighbours(damage, client, talked):
    before = await get(client, f"/{talked.id}")
    for position in (1, 3):
        await damage.strike("session_id = %s AND position = %s", key(talked), position)
    after = await get(client, f"/{talked.id}")
    times = [message["created_at"] for message in after["messages"]]
    assert times[0] == after["created_at"]
    assert times[2] == times[1]
    for message, earlier in zip(after["messages"], before["messages"], strict=True):
        assert message | {"created_at": 0} == earlier | {"created_at": 0}
    assert await post(client, talked, "four") == ("I remember: one | two | three | four", [])


@on_sqlite
@pytest.mark.parametrize("column", ["id", "role"])
async def test_only_what_has_no_id_or_speaker_is_left_out(column, client, talked):
    await Damage(column, b"\xff", TEXT).strike("session_id = %s AND position = 3", key(talked))
    assert (await transcript(client, talked))[0::2] != ["one", "two", "three"]
    page = await get(client, f"/{talked.id}", limit=4)
    assert len(page["messages"]) == 4
    assert page["has_more"]
    page = await get(client, f"/{talked.id}", limit=5)
    assert (len(page["messages"]), page["has_more"]) == (5, False)


SESSION_DAMAGES = [
    *kinds(
        a_title_that_is_a_blob=Damage("title", b"o\xffne", BLOB, SESSION),
        a_title_that_is_not_utf8=Damage("title", b"o\xffne", TEXT, SESSION),
        a_creation_without_a_time_only_sqlite=Damage("created_at", "then", table=SESSION),
        an_update_without_a_time_only_sqlite=Damage("updated_at", "", table=SESSION),
        an_activity_without_a_time_only_sqlite=Damage("last_active_at", "now", table=SESSION),
        an_activity_that_is_a_number_only_sqlite=Damage("last_active_at", 5, table=SESSION),
        an_activity_that_is_not_utf8=Damage("last_active_at", b"\xff", TEXT, SESSION),
        an_activity_after_all_time_only_sqlite=Damage(
            "last_active_at", "9999-12-31 23:59:59", table=SESSION
        ),
        metadata_that_is_none_only_sqlite=Damage("metadata", "{not json", table=SESSION),
        metadata_that_is_not_utf8=Damage("metadata", b"\xff", TEXT, SESSION),
        counts_that_are_words_only_sqlite=Damage("remembered_count", "many", table=SESSION),
    ),
    pytest.param(
        Damage("last_active_at", "infinity", table=SESSION), id="infinity", marks=[on_postgresql]
    ),
    pytest.param(
        Damage("created_at", "-infinity", table=SESSION), id="never", marks=[on_postgresql]
    ),
]


@pytest.mark.parametrize("damage", SESSION_DAMAGES)
async def test_a_damaged_conversation_is_listed_read_answered_and_deleted(
    damage, client, talked, other
):
    await damage.strike("id = %s", key(talked))
    data = (await get(client))["data"]
    assert {thread["thread_id"] for thread in data} == {str(talked.id), str(other.id)}
    assert all(thread["message_count"] >= 0 for thread in data)
    assert (await transcript(client, talked))[0::2] == ["one", "two", "three"]
    url = f"{THREADS}/{talked.id}"
    changes = {"title": "Renamed", "metadata": {"a": 1}}
    assert (await client.patch(url, json=changes)).status_code == 200
    assert await post(client, talked, "four") == ("I remember: one | two | three | four", [])
    assert (await client.delete(url)).status_code == 204
    assert [thread["thread_id"] for thread in (await get(client))["data"]] == [str(other.id)]


LAST_ACTIVE = [
    parameter for parameter in SESSION_DAMAGES if parameter.values[0].column == "last_active_at"
]


@pytest.mark.parametrize("order", ["desc", "asc"])
@pytest.mark.parametrize("damage", LAST_ACTIVE)
async def test_pages_are_exact_among_conversations_without_a_time(damage, order, client, user):
    sessions = await lanes.call(lambda: [ChatSessionFactory(owner=user) for _ in range(7)])
    for session in sessions[2:5]:
        await damage.strike("id = %s", key(session))
    found: list[str] = []
    after = ""
    for _ in range(10):
        page = await get(client, limit=1, order=order, after=after)
        found += [thread["thread_id"] for thread in page["data"]]
        if not page["has_more"]:
            break
        after = page["after"]
    assert len(found) == 7
    assert set(found) == {str(session.id) for session in sessions}


@on_sqlite
async def test_a_conversation_without_an_id_hides_no_other(client, user):
    sessions = await lanes.call(lambda: [ChatSessionFactory(owner=user) for _ in range(4)])
    await Damage("id", b"\xff", TEXT, SESSION).strike("id = %s", key(sessions[2]))
    page = await get(client, limit=2)
    assert (len(page["data"]), page["has_more"]) == (2, True)
    assert len((await get(client, limit=3))["data"]) == 3


TURN_DAMAGES = kinds(
    a_status_that_is_no_word=Damage("status", b"\xff", TEXT, TURN),
    a_model_that_is_a_blob=Damage("model", b"m\xff", BLOB, TURN),
    a_warning_that_is_not_utf8=Damage("warning", b"\xff", TEXT, TURN),
    counts_that_are_words_only_sqlite=Damage("input_tokens", "many", table=TURN),
    times_that_are_none_only_sqlite=Damage("queued_at", "then", table=TURN),
    a_message_that_is_none=Damage("answer_message_id", b"\xff", TEXT, TURN),
)


@pytest.mark.parametrize("damage", TURN_DAMAGES)
async def test_a_damaged_turn_is_told_as_far_as_it_is_known(damage, client, talked):
    messages = (await get(client, f"/{talked.id}"))["messages"]
    await damage.strike("session_id = %s AND number = 2", key(talked))
    turn = await get(client, f"/{talked.id}/turns/{messages[2]['turn_id']}")
    assert turn["turn_id"] == messages[2]["turn_id"]
    assert turn["status"] in {"completed", "interrupted"}
    assert turn["queued_at"]
    assert turn["usage"]["output_tokens"] == 5
    assert (await transcript(client, talked))[0::2] == ["one", "two", "three"]


# A damaged page


@pytest.fixture
def file(
    user: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[tuple[Path, Any, Any]]:
    """A file of its own with two long conversations, one after the other."""
    sessions = [ChatSessionFactory(owner=user) for _ in range(2)]
    for name, session in zip(("struck", "spared"), sessions, strict=True):
        rows = [
            ChatMessage(
                session=session,
                position=number,
                kind="message",
                role="user",
                agent_item=encode_item({"role": "user", "content": f"{name} {number}" + "x" * 500}),
            )
            for number in range(1, 61)
        ]
        ChatMessage.objects.bulk_create(rows)
        ChatSession.objects.filter(id=session.id).update(
            last_position=60, remembered_count=60, title=name
        )
    path = tmp_path / "copy.db"
    with connection.cursor() as cursor:
        cursor.execute("VACUUM INTO %s", [str(path)])
    lanes.close()
    with closing(sqlite.driver().connect(path)) as raw:
        raw.execute("PRAGMA journal_mode=delete")
    monkeypatch.setitem(connection.settings_dict, "NAME", str(path))
    yield path, *sessions
    lanes.close()


def damage_a_page(path: Path) -> None:
    """Overwrite a page in the middle of one conversation's rows."""
    content = path.read_bytes()
    size = int.from_bytes(content[16:18], "big")
    pages = [content[start : start + size] for start in range(0, len(content), size)]
    table_leaf = 13
    struck = [
        number
        for number, page in enumerate(pages)
        if page[0] == table_leaf and b"struck 3" in page and b"spared" not in page
    ]
    with path.open("r+b") as stream:
        stream.seek(struck[0] * size)
        stream.write(b"\xff" * size)


@on_sqlite
async def test_a_damaged_page_leaves_other_conversations_as_they_are(file, script):
    path, struck, spared = file
    gate = asyncio.Event()
    script(Say("It goes on.", gate=gate))
    running = await say(spared, "one")
    await until_said(running, "It ")
    damage_a_page(path)
    lanes.close()  # nothing of the file is remembered
    gate.set()
    assert words(await told(running)) == "It goes on."

    with pytest.raises(StoreDamaged):
        await AgentSession(struck.agent_session_id).get_items()
    asked = await asyncio.gather(*[say(spared, str(number)) for number in range(5)])
    events = [await told(turn) for turn in asked]
    assert words(events[0]).startswith("I remember: spared 1")
    assert words(events[4]).endswith("| one | 0 | 1 | 2 | 3 | 4")
    assert not any(map(warnings, events))


@on_sqlite
async def test_what_is_written_beside_a_look_at_a_damaged_page_is_stored(file):
    path, struck, spared = file
    damage_a_page(path)
    lanes.close()

    def look(db: lanes.Database) -> None:
        with suppress(Exception):
            load_window(db, session_id=struck.id)

    session = AgentSession(spared.agent_session_id)
    writes: list[Any] = [
        session.add_items([{"role": "user", "content": f"beside {number}"}]) for number in range(8)
    ]
    writes.insert(4, lanes.write(look))
    results = await asyncio.gather(*writes, return_exceptions=True)
    assert results == [None] * 4 + [results[4]] + [None] * 4
    assert isinstance(results[4], StoreDamaged)
    stored = {item["content"] for item in (await session.get_items())[-8:]}
    assert stored == {f"beside {number}" for number in range(8)}


# Reading with a limit, and taking back


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("damage", NO_ITEM)
async def test_a_limit_is_exact_also_before_the_bad_are_set_aside(damage):
    name = f"session {new_id()}"
    session = AgentSession(name)
    items: list[Any] = [{"role": "user", "content": str(number)} for number in range(8)]
    await session.add_items(items)
    for position in (6, 7):
        if damage.column != "position":
            await damage.strike("position = %s", position)
    await damage.strike("position = 8")
    left = items[:5] if damage.column != "position" else items[:7]
    for limit in (1, 3, len(left), 100):
        assert await AgentSession(name).get_items(limit=limit) == left[-limit:]
    assert await session.pop_item() == left[-1]
    assert await session.get_items() == left[:-1]
    row = await lanes.call(ChatSession.objects.get)
    assert row.remembered_count == len(left) - 1


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("damage", NO_ITEM)
async def test_pop_passes_over_the_bad_ones(damage):
    session = AgentSession("s")
    items: list[Any] = [{"role": "user", "content": str(number)} for number in range(3)]
    await session.add_items(items)
    await damage.strike("position = 3")
    assert [await session.pop_item() for _ in range(3)] == [items[1], items[0], None]
    row = await lanes.call(ChatSession.objects.get)
    assert (row.remembered_count, row.message_count) == (0, 1)


# --- The conversation's own row ------------------------------------------------------------------


@pytest.mark.parametrize(
    "damage",
    [
        "last_position = 0",
        "last_turn_number = 0",
        "message_count = -3" if connection.vendor == "sqlite" else "message_count = 0",
        "last_position = 'x'",
        "last_turn_number = x'00ff'",
        "fence = 'x'",
        "fence = 0",
        "message_count = 'x'",
    ],
)
async def test_counters_that_do_not_fit_the_rows_are_mended(session, damage):
    if connection.vendor != "sqlite" and "'" in damage:
        pytest.skip("the column refuses it")
    await ask(session, "1")
    await turns.settled(session.id)
    column, _, value = damage.partition(" = ")
    await Damage(column, None, f"COALESCE(%s, {value})", SESSION).strike("TRUE")
    for text in ("2", "3"):
        assert isinstance((await ask(session, text))[-1], TurnCompleted)
    assert [text for role, text in await shown(session) if role == "user"] == ["1", "2", "3"]
    assert [turn.number for turn in await rows(session)] == [1, 2, 3]


@on_sqlite
@pytest.mark.parametrize("column", ["status", "agent_session_id"])
async def test_a_session_that_cannot_be_read_is_answered_without_it(session, column):
    await Damage(column, b"\xff", "CAST(%s AS TEXT)", SESSION).strike("TRUE")
    events = await ask(session, "1")
    assert isinstance(events[-1], TurnCompleted)
    assert warnings(events) == [CONTEXT_UNAVAILABLE, NOT_SAVED]


@on_sqlite
async def test_a_first_message_that_is_no_text_gives_a_title_all_the_same(session, script):
    script(Say("a b", gate=(gate := asyncio.Event())))
    turn = await say(session, "1")
    await until_said(turn, "a ")
    await Damage("text", b"A\xff", "CAST(%s AS TEXT)").strike("TRUE")
    gate.set()
    assert isinstance((await told(turn))[-1], TurnCompleted)
    assert (await stored(session)).title == "A\ufffd"
