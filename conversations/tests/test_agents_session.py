"""`AgentSession` where `SQLiteSession` stood: the SDK's contract, and what ours adds to it."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from functools import partial
from typing import Any
from uuid import uuid4

import pytest
from agents import (
    Agent,
    RunConfig,
    RunContextWrapper,
    Runner,
    SQLiteSession,
    Usage,
    function_tool,
)
from agents.memory import Session, SessionSettings
from agents.memory.session import _session_accepts_wrapper
from django.db import connection, transaction
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from conversations import lanes, sqlite
from conversations.agents_session import AgentSession
from conversations.assistant import TurnContext
from conversations.errors import LeaseLost, StoreReadOnly, TransactionOpen
from conversations.ids import agent_session_id, stored_session_id
from conversations.items import Memory, encode_item
from conversations.models import ChatMessage, ChatSession
from conversations.store import log, threads
from conversations.tests.other_process import SITE, finish, start_python
from conversations.tests.scripted import Call, Say, ScriptedModel, build_agent
from conversations.turns.session import TurnSession

OpenSession = Callable[..., Any]
QUIET = RunConfig(tracing_disabled=True)


def said(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def numbered(*numbers: int) -> list[dict[str, Any]]:
    return [{"n": number} for number in numbers]


@pytest.fixture
def context() -> TurnContext:
    return TurnContext(user_id=7, session_id=uuid4(), turn_id=uuid4())


def close_loop() -> None:
    """The loop that `run_sync` leaves open in its thread."""
    asyncio.get_event_loop_policy().get_event_loop().close()


def stored(session_id: str) -> ChatSession:
    return ChatSession.objects.get(agent_session_id=stored_session_id(session_id))


async def row_of(session_id: str) -> ChatSession:
    return await lanes.call(stored, session_id)


async def log_of(session_id: str) -> list[tuple[int, str]]:
    """Position and JSON of every remembered row."""
    rows = ChatMessage.objects.filter(session__agent_session_id=stored_session_id(session_id))
    values = rows.order_by("position").values_list("position", "agent_item")
    return await lanes.call(list, values)


# What every session does


@pytest.fixture(params=["AgentSession", "SQLiteSession"])
def open_session(request: pytest.FixtureRequest, tmp_path: Any) -> Iterator[OpenSession]:
    """`open_session("id")`: the contract is the SDK's own session's, so that it is fair to ours."""
    if request.param == "AgentSession":
        yield AgentSession
        return
    opened: list[SQLiteSession] = []

    def build(session_id: str, **settings: Any) -> SQLiteSession:
        opened.append(SQLiteSession(session_id, tmp_path / "sdk.db", **settings))
        return opened[-1]

    yield build
    for session in opened:
        session.close()


HOSTILE: dict[str, Any] = {
    "nul": {"content": "a\x00b"},
    "lone surrogates": {"content": "\ud800 \udfff", "\udc00": 1},
    "not numbers": {"a": float("nan"), "b": float("inf"), "c": -float("inf")},
    "floats": {"a": 1e22, "b": -0.0, "c": 1.0, "d": 0.1, "e": 5e-324, "f": 1e-7},
    "big integers": {"a": 2**63, "b": -(2**64), "c": 10**400},
    "key order": {"z": 1, "a": 2, "m": {"b": 1, "a": 2}},
    "nested": {"a": [[[{"b": [None, True, False, [], {}]}]]]},
    "empty": {},
    "empty words": {"": "", "role": "", "content": ""},
    "line ends": {"content": "a\r\nb\u2028c\u0085d\te"},
    "emoji": {"content": "👩‍👩‍👧 ﷽ \u202e"},
    "sql": {"content": "'; DROP TABLE x; -- %s ? {} \\"},
    "json in json": {"arguments": '{"a": "\\u0000"}', "type": "function_call", "call_id": "c"},
    "odd types": {"role": 7, "type": None, "call_id": [1], "content": {"text": "x"}},
    "long words": {"role": "r" * 500, "type": "t" * 500, "call_id": "c" * 500},
    "five megabytes": {"content": "ü" * 1_000_000 + "x" * 3_000_000},
}


@pytest.mark.django_db(transaction=True)
class TestTheContract:
    async def test_a_session_never_seen_is_empty(self, open_session):
        session = open_session("new")
        assert await session.get_items() == []
        assert await session.pop_item() is None
        await session.clear_session()
        assert await session.get_items() == []

    async def test_items_come_back_in_order_over_batches(self, open_session):
        session = open_session("s")
        await session.add_items(numbered(1))
        await session.add_items(numbered(2, 3, 4))
        await session.add_items(numbered(5))
        assert await session.get_items() == numbered(1, 2, 3, 4, 5)
        assert await open_session("s").get_items() == numbered(1, 2, 3, 4, 5)

    @pytest.mark.parametrize("how", ["argument", "settings", "both"])
    async def test_a_limit_gives_exactly_the_latest(self, open_session, how):
        await open_session("s").add_items(numbered(1, 2))
        await open_session("s").add_items(numbered(3, 4, 5))
        for limit in (0, 1, 3, 4, 5, 6, 1000):
            settings = SessionSettings(limit=2 if how == "both" else limit)
            session = open_session("s", session_settings=None if how == "argument" else settings)
            found = await session.get_items(**({} if how == "settings" else {"limit": limit}))
            assert found == (numbered(1, 2, 3, 4, 5)[-limit:] if limit else [])

    async def test_settings_may_be_a_dict(self, open_session):
        session = open_session("s", session_settings={"limit": 1})
        await session.add_items(numbered(1, 2))
        assert session.session_settings == SessionSettings(limit=1)
        assert await session.get_items() == numbered(2)

    async def test_pop_takes_the_newest_until_none_is_left(self, open_session):
        session = open_session("s")
        await session.add_items(numbered(1, 2))
        assert [await session.pop_item() for _ in range(3)] == [{"n": 2}, {"n": 1}, None]
        await session.add_items(numbered(3))
        assert await session.get_items() == numbered(3)

    async def test_clear_forgets_this_session_only(self, open_session):
        one, other = open_session("one"), open_session("other")
        await one.add_items(numbered(1))
        await other.add_items(numbered(2))
        await one.clear_session()
        assert await one.get_items() == []
        assert await other.get_items() == numbered(2)
        await one.add_items(numbered(3))
        assert await one.get_items() == numbered(3)

    async def test_sessions_with_similar_ids_are_apart(self, open_session):
        await open_session("s").add_items(numbered(1))
        for other in ("S", "s ", "s%", "_", "ß", "s\u0301"):
            assert await open_session(other).get_items() == []

    async def test_an_empty_batch_is_nothing(self, open_session):
        session = open_session("s")
        await session.add_items([])
        assert await session.get_items() == []

    async def test_what_is_returned_is_not_the_store(self, open_session):
        session = open_session("s")
        given = [{"role": "user", "content": [{"text": "Hello"}]}]
        await session.add_items(given)
        given[0]["content"] = "changed"
        (found,) = await session.get_items()
        found["content"][0]["text"] = "changed"
        found["more"] = 1
        assert await session.get_items() == [{"role": "user", "content": [{"text": "Hello"}]}]

    async def test_it_is_a_session_with_its_id(self, open_session):
        session = open_session("my-id")
        assert isinstance(session, Session)
        assert session.session_id == "my-id"
        assert session.session_settings == SessionSettings()

    async def test_any_json_comes_back_exactly(self, open_session):
        for name, item in HOSTILE.items():
            session = open_session(name)
            await session.add_items([item, said("after")])
            assert json.dumps(await session.get_items()) == json.dumps([item, said("after")])
            assert await session.pop_item() == said("after")
            assert json.dumps(await session.pop_item()) == json.dumps(item)

    async def test_all_of_it_together_comes_back_exactly(self, open_session):
        session, items = open_session("s"), list(HOSTILE.values())
        await session.add_items(items)
        assert json.dumps(await session.get_items()) == json.dumps(items)

    async def test_an_item_json_cannot_hold_stores_nothing(self, open_session):
        session = open_session("s")
        await session.add_items(numbered(1))
        for bad in (object(), b"bytes", {1, 2}, uuid4()):
            with pytest.raises(TypeError):
                await session.add_items([{"n": 2}, {"content": bad}, {"n": 3}])
        assert await session.get_items() == numbered(1)

    async def test_a_cancelled_caller_leaves_all_of_a_batch_or_none(self, open_session):
        for steps in range(9):
            session = open_session(f"cancelled after {steps}")
            adding = asyncio.create_task(session.add_items(numbered(*range(50))))
            for _ in range(steps):
                await asyncio.sleep(0)
            adding.cancel()
            await asyncio.gather(adding, return_exceptions=True)
            found = await session.get_items()
            assert found in ([], numbered(*range(50)))
            assert await session.get_items() == found

    async def test_many_sessions_at_once_keep_to_themselves(self, open_session):
        async def talk(number: int) -> None:
            session = open_session(f"s{number}")
            for step in range(5):
                await session.add_items([{"n": number, "step": step}])
            assert [item["n"] for item in await session.get_items()] == [number] * 5

        await asyncio.gather(*[talk(number) for number in range(32)])

    async def test_batches_written_at_once_stay_whole(self, open_session):
        session = open_session("s")
        batches = [[{"batch": batch, "step": step} for step in range(5)] for batch in range(20)]
        await asyncio.gather(*[session.add_items(batch) for batch in batches])
        found = await session.get_items()
        assert [item["step"] for item in found] == list(range(5)) * 20
        assert {item["batch"] for item in found} == set(range(20))
        assert all(len({item["batch"] for item in found[i : i + 5]}) == 1 for i in range(0, 100, 5))

    async def test_the_agent_remembers_over_runs(self, open_session, script, context):
        script(Say("Hello Ada"), Call("look_up", '{"word": "lamp"}'), Say("Looked it up"))
        session, agent = open_session("s"), build_agent()
        run = partial(Runner.run, agent, session=session, context=context, run_config=QUIET)
        await run("I am Ada")
        await run("Look up lamp")
        assert (await run("Who am I?")).final_output == (
            "I remember: I am Ada | Look up lamp | Who am I?"
        )
        kinds = [item.get("type") or item["role"] for item in await session.get_items()]
        assert kinds == [
            *("user", "message"),
            *("user", "function_call", "function_call_output", "message"),
            *("user", "message"),
        ]

    async def test_the_agent_remembers_streamed_runs(self, open_session, context):
        session, agent = open_session("s"), build_agent()
        for text in ("one", "two"):
            result = Runner.run_streamed(
                agent, text, session=session, context=context, run_config=QUIET
            )
            async for _ in result.stream_events():
                pass
        assert result.final_output == "I remember: one | two"

    def test_sync_code_remembers_too(self, open_session, context):
        session, agent = open_session("s"), build_agent()

        def talk(text: str) -> str:
            try:
                result = Runner.run_sync(
                    agent, text, session=session, context=context, run_config=QUIET
                )
            finally:
                close_loop()
            return str(result.final_output)

        answers = []
        for text in ("one", "two"):
            with ThreadPoolExecutor(1) as pool:
                answers.append(pool.submit(talk, text).result())
        assert answers == ["I remember: one", "I remember: one | two"]


# What ours promises besides


@contextmanager
def written_elsewhere(session_id: str) -> Iterator[None]:
    """Another program writes in the session (on SQLite: in the file) and has not committed yet."""
    sql = "UPDATE conversations_chatsession SET hold = hold WHERE agent_session_id = '%s'"
    if connection.vendor == "sqlite":
        name = connection.settings_dict["NAME"]
        other = sqlite.driver().connect(name, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
    else:
        import psycopg

        place = {
            key: connection.settings_dict[key.upper()]
            for key in ("host", "port", "user", "password")
        }
        other = psycopg.connect(dbname=connection.settings_dict["NAME"], **place)
        other.execute(sql % session_id)
    with closing(other):
        yield
        other.execute("ROLLBACK")


@pytest.mark.django_db(transaction=True)
class TestOurPromises:
    async def test_positions_are_one_to_n_without_a_hole(self):
        sessions = [AgentSession("s") for _ in range(4)]
        await asyncio.gather(*[sessions[n % 4].add_items([{"n": n}, {"n": n}]) for n in range(20)])
        assert [position for position, _ in await log_of("s")] == list(range(1, 41))
        row = await row_of("s")
        assert (row.last_position, row.remembered_count) == (40, 40)

    def test_threads_with_their_own_loops_write_whole_batches(self):
        def work(worker: int) -> None:
            async def write() -> None:
                for batch in range(10):
                    await AgentSession("s").add_items([{"w": worker, "b": batch}] * 3)

            asyncio.run(write())

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(work, range(8)))
        self.assert_whole("s", workers=8, batches=10, size=3)

    def test_processes_write_whole_batches(self):
        script = (
            SITE
            + """
    from conversations import lanes
    from conversations.agents_session import AgentSession
    async def write(worker):
        for batch in range(25):
            await AgentSession("s").add_items([{"w": worker, "b": batch}] * 3)
    asyncio.run(write(int(sys.argv[1])))
    lanes.close()
    """
        )
        for process in [start_python(script, str(worker)) for worker in range(4)]:
            finish(process)
        self.assert_whole("s", workers=4, batches=25, size=3)

    @staticmethod
    def assert_whole(session_id: str, *, workers: int, batches: int, size: int) -> None:
        rows = asyncio.run(log_of(session_id))
        assert [position for position, _ in rows] == list(range(1, workers * batches * size + 1))
        items = [json.loads(text) for _, text in rows]
        whole = [items[index : index + size] for index in range(0, len(items), size)]
        assert all(batch == [batch[0]] * size for batch in whole)
        for worker in range(workers):  # each writer's batches are in its own order
            mine = [batch[0]["b"] for batch in whole if batch[0]["w"] == worker]
            assert mine == list(range(batches))

    async def test_a_cancelled_caller_waits_until_it_is_settled(self):
        session = AgentSession("s")
        await session.add_items(numbered(0))
        with written_elsewhere("s"):
            adding = asyncio.create_task(session.add_items(numbered(1, 2, 3)))
            for _ in range(3):
                await asyncio.sleep(0)
            for _ in range(3):
                adding.cancel()
                await asyncio.sleep(0)
            assert not adding.done()
        with pytest.raises(asyncio.CancelledError):
            await adding
        assert await session.get_items() == numbered(0, 1, 2, 3)

    @pytest.mark.parametrize(
        "odd", ["x" * 100_000, "a\x00b", "\ud800", "🙂" * 300, " ", "ü/?&=%s", "sha256:x"]
    )
    async def test_any_text_is_a_session_id(self, odd):
        await AgentSession(odd).add_items(numbered(1))
        assert await AgentSession(odd).get_items() == numbered(1)
        assert await AgentSession(odd + "x").get_items() == []
        assert AgentSession(odd).session_id == odd

    @pytest.mark.parametrize(
        ("wrong", "error"),
        [(None, TypeError), (uuid4(), TypeError), (7, TypeError), ("", ValueError)],
    )
    def test_anything_else_is_not(self, wrong, error):
        with pytest.raises(error):
            AgentSession(wrong)

    def test_inside_a_transaction_it_refuses_at_once(self):
        session = AgentSession("s")
        calls = [
            session.get_items,
            partial(session.add_items, numbered(1)),
            session.pop_item,
            session.clear_session,
        ]
        for call in calls:
            with transaction.atomic(), pytest.raises(TransactionOpen):
                asyncio.run(call())
        assert not ChatSession.objects.exists()

    def test_a_run_inside_a_transaction_fails_and_calls_no_model(self, script, context):
        played = script()

        def run() -> None:
            try:
                with transaction.atomic(), pytest.raises(TransactionOpen):
                    Runner.run_sync(
                        build_agent(),
                        "Hi",
                        session=AgentSession("s"),
                        context=context,
                        run_config=QUIET,
                    )
            finally:
                close_loop()
                connection.close()

        with ThreadPoolExecutor(1) as pool:
            pool.submit(run).result()
        assert played.inputs == []

    def test_it_tells_its_name(self):
        assert repr(AgentSession("s")) == "AgentSession('s')"

    async def test_people_read_what_was_said_and_nothing_else(self):
        await AgentSession("s").add_items(
            [
                said("Hello"),
                {"type": "reasoning", "summary": []},
                {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
                {"type": "function_call_output", "call_id": "c1", "output": "secret"},
                {"type": "message", "role": "assistant", "content": [{"text": "Hi"}]},
            ]
        )
        shown = ChatMessage.objects.filter(shown=True).order_by("position")
        assert await lanes.call(lambda: list(shown.values_list("role", "text"))) == [
            ("user", "Hello"),
            ("assistant", "Hi"),
        ]
        row = await row_of("s")
        assert (row.message_count, row.remembered_count, row.owner_id) == (2, 5, None)


# The tokens of a run, counted as it goes


@pytest.mark.django_db(transaction=True)
class TestUsage:
    @pytest.mark.parametrize("kind", [AgentSession, TurnSession])
    def test_the_sdk_sees_that_every_method_takes_the_wrapper(self, kind):
        assert _session_accepts_wrapper(kind.__new__(kind))

    async def tokens(self, session_id: str = "s") -> tuple[int, int]:
        row = await row_of(session_id)
        return row.input_tokens, row.output_tokens

    async def test_tokens_of_runs_add_up(self, context):
        session, agent = AgentSession("s"), build_agent()
        for runs in (1, 2, 3):
            await Runner.run(agent, "Hi", session=session, context=context, run_config=QUIET)
            assert await self.tokens() == (10 * runs, 5 * runs)

    async def test_every_call_of_a_run_with_tools_counts_once(self, script, context):
        script(Call("look_up"), Call("look_up", say="Once more"), Say("Done"))
        agent, session = build_agent(), AgentSession("s")
        await Runner.run(agent, "Hi", session=session, context=context, run_config=QUIET)
        assert await self.tokens() == (30, 15)

    async def test_a_streamed_run_counts_the_same(self, script, context):
        script(Call("look_up"), Say("Done"))
        result = Runner.run_streamed(
            build_agent(), "Hi", session=AgentSession("s"), context=context, run_config=QUIET
        )
        async for _ in result.stream_events():
            pass
        assert await self.tokens() == (20, 10)

    async def test_what_a_failed_run_used_is_counted(self, script, context):
        script(Call("look_up"), RuntimeError("the model is gone"))
        with pytest.raises(RuntimeError):
            await Runner.run(
                build_agent(),
                "Hi",
                session=AgentSession("s"),
                context=context,
                run_config=QUIET,
            )
        assert await self.tokens() == (10, 5)

    async def test_runs_side_by_side_on_one_session_object_count_once_each(self, script, context):
        session, agent, waiting = AgentSession("s"), build_agent(), asyncio.Barrier(2)

        @function_tool
        async def meet() -> str:
            """Wait for the other run."""
            await waiting.wait()
            return "met"

        agent.tools.append(meet)
        script(Call("meet"), Call("meet"), Say("a"), Say("b"))
        await asyncio.gather(
            *[
                Runner.run(agent, "Hi", session=session, context=context, run_config=QUIET)
                for _ in range(2)
            ]
        )
        assert await self.tokens() == (40, 20)

    async def test_an_agent_used_as_a_tool_in_the_same_session_counts_once(self, script, context):
        session = AgentSession("s")
        helper = Agent(name="helper", model=ScriptedModel())
        agent = build_agent()
        agent.tools.append(helper.as_tool("help", "Helps.", session=session, run_config=QUIET))
        script(Call("help", '{"input": "Please"}'), Say("Helped"), Say("Done"))
        await Runner.run(agent, "Hi", session=session, context=context, run_config=QUIET)
        assert await self.tokens() == (30, 15)

    async def test_without_a_run_nothing_is_counted(self):
        await AgentSession("s").add_items(numbered(1))
        assert await self.tokens() == (0, 0)

    async def test_tokens_stay_counted_when_the_session_is_cleared(self, context):
        session = AgentSession("s")
        await Runner.run(build_agent(), "Hi", session=session, context=context, run_config=QUIET)
        await session.clear_session()
        assert await self.tokens() == (10, 5)


# Rows that went bad


def sqlite_only(value: Any, name: str) -> Any:
    mark = pytest.mark.skipif(
        "connection.vendor != 'sqlite'", reason="another engine keeps text to be text"
    )
    return pytest.param(value, id=name, marks=mark)


DAMAGES = [
    pytest.param(("%s", "{not json"), id="not JSON"),
    pytest.param(("%s", ""), id="empty"),
    pytest.param(("%s", "[1, 2]"), id="a list"),
    pytest.param(("%s", '"text"'), id="a string"),
    pytest.param(("%s", '{"n": 1},{"n": 2}'), id="two items"),
    pytest.param(("%s", "[" * 50_000), id="nested beyond reading"),
    sqlite_only(("CAST(%s AS BLOB)", b"\xff\xfe\x00"), "a blob"),
    sqlite_only(("CAST(%s AS TEXT)", b'{"n": "\xff"}'), "text that is not UTF-8"),
]


@pytest.mark.django_db(transaction=True)
class TestDamagedRows:
    async def damage(self, position: int, how: tuple[str, Any]) -> None:
        value, param = how
        await lanes.write(
            lambda db: db.run(
                f"UPDATE {log.MESSAGE} SET agent_item = {value} WHERE position = %s",
                (param, position),
            )
        )

    async def quarantined(self) -> list[int]:
        rows = ChatMessage.objects.filter(quarantined_at__isnull=False).order_by("position")
        return await lanes.call(lambda: list(rows.values_list("position", flat=True)))

    @pytest.mark.parametrize("how", DAMAGES)
    async def test_one_is_left_out_set_aside_and_never_deleted(self, how, caplog):
        session = AgentSession("s")
        await session.add_items([said("one"), said("two"), said("three")])
        await self.damage(2, how)
        with caplog.at_level(logging.WARNING):
            assert await session.get_items() == [said("one"), said("three")]
        assert "1 unreadable rows set aside" in caplog.text
        assert await self.quarantined() == [2]
        row = await row_of("s")
        assert (row.remembered_count, row.message_count, row.last_position) == (2, 3, 3)
        assert await lanes.call(ChatMessage.objects.count) == 3
        caplog.clear()
        assert await session.get_items() == [said("one"), said("three")]
        assert caplog.text == ""

    @pytest.mark.parametrize("how", DAMAGES)
    async def test_pop_skips_one_and_takes_the_newest_that_is_good(self, how):
        session = AgentSession("s")
        await session.add_items(numbered(1, 2, 3))
        await self.damage(3, how)
        assert await session.pop_item() == {"n": 2}
        assert await self.quarantined() == [3]
        assert (await row_of("s")).remembered_count == 1
        assert [await session.pop_item() for _ in range(2)] == [{"n": 1}, None]
        assert await lanes.call(ChatMessage.objects.count) == 1

    async def test_a_session_of_nothing_else_starts_fresh(self):
        session = AgentSession("s")
        await session.add_items(numbered(1, 2))
        await self.damage(1, ("%s", "bad"))
        await self.damage(2, ("%s", "bad"))
        assert await session.get_items() == []
        assert await session.pop_item() is None
        assert (await row_of("s")).remembered_count == 0
        await session.add_items(numbered(3))
        assert await session.get_items() == numbered(3)
        assert [position for position, _ in await log_of("s")] == [1, 2, 3]

    async def test_a_limit_counts_good_rows_once_the_bad_are_set_aside(self):
        session = AgentSession("s")
        await session.add_items(numbered(1, 2, 3))
        await self.damage(3, ("%s", "bad"))
        await session.get_items()
        assert await session.get_items(limit=2) == numbered(1, 2)

    async def test_two_that_find_the_same_row_count_it_once(self):
        session = AgentSession("s")
        await session.add_items(numbered(1, 2))
        await self.damage(1, ("%s", "bad"))
        found = await asyncio.gather(*[session.get_items() for _ in range(10)])
        assert found == [numbered(2)] * 10
        assert (await row_of("s")).remembered_count == 1

    async def test_where_it_cannot_be_set_aside_the_rest_is_still_read(self, monkeypatch):
        session = AgentSession("s")
        await session.add_items(numbered(1, 2))
        await self.damage(1, ("%s", "bad"))

        async def refuse(_job: Any) -> None:
            raise StoreReadOnly

        monkeypatch.setattr(lanes, "write", refuse)
        assert await session.get_items() == numbered(2)

    async def test_an_output_without_its_call_is_set_aside_and_a_limit_may_cut_between_them(self):
        session = AgentSession("s")
        orphan = RESULT | {"call_id": "gone"}
        await session.add_items([said("one"), orphan, CALL, RESULT])
        assert await session.get_items(limit=1) == [RESULT]
        assert await session.get_items(limit=3) == [orphan, CALL, RESULT]
        assert await self.quarantined() == []
        assert await session.get_items() == [said("one"), CALL, RESULT]
        assert await self.quarantined() == [2]
        assert (await row_of("s")).remembered_count == 3

    async def test_a_call_that_waits_for_approval_stays_and_takes_its_output_later(self):
        session = AgentSession("s")
        parked = [said("one"), {"type": "reasoning", "id": "rs", "summary": []}, CALL]
        await session.add_items(parked)
        assert await session.get_items() == parked
        await session.add_items([said("yes"), RESULT])
        assert await session.get_items() == [*parked, said("yes"), RESULT]
        assert await self.quarantined() == []

    async def test_clear_removes_what_was_set_aside_too(self):
        session = AgentSession("s")
        await session.add_items(numbered(1, 2))
        await self.damage(1, ("%s", "bad"))
        await session.get_items()
        await session.clear_session()
        assert await lanes.call(ChatMessage.objects.count) == 0
        assert (await row_of("s")).remembered_count == 0


# Whose rows


class TestOwners:
    async def test_a_conversations_own_id_reaches_its_rows(self, session):
        name = agent_session_id(user_id=session.owner_id, session_id=session.id)
        await AgentSession(name).add_items([said("Hello")])
        row = await row_of(name)
        assert (row.id, row.owner_id, row.message_count) == (session.id, session.owner_id, 1)

    async def test_another_owner_with_the_same_conversation_reaches_nothing(
        self, session, stranger
    ):
        mine = agent_session_id(user_id=session.owner_id, session_id=session.id)
        theirs = agent_session_id(user_id=stranger.pk, session_id=session.id)
        await AgentSession(mine).add_items([said("my secret")])
        intruder = AgentSession(theirs)
        assert await intruder.get_items() == []
        assert await intruder.pop_item() is None
        await intruder.add_items([said("hello?")])
        await intruder.clear_session()
        assert await AgentSession(mine).get_items() == [said("my secret")]
        assert (await row_of(theirs)).owner_id is None

    @pytest.mark.parametrize("change", [str.upper, lambda name: name + " ", lambda name: name[:-1]])
    async def test_an_id_that_is_nearly_the_same_reaches_nothing(self, session, change):
        await AgentSession(session.agent_session_id).add_items([said("my secret")])
        assert await AgentSession(change(session.agent_session_id)).get_items() == []

    async def test_a_session_only_code_uses_is_in_nobodys_list(self, user):
        await AgentSession("any-id").add_items([said("Hello")])
        listed = await lanes.read(lambda db: threads.list_threads(db, owner_id=user.pk, limit=10))
        assert listed == []


# Wrappers of the SDK


@pytest.mark.django_db(transaction=True)
async def test_the_sdks_encryption_works_around_it(context):
    pytest.importorskip("cryptography", reason="an extra of the SDK")
    from agents.extensions.memory import EncryptedSession

    inner = AgentSession("s")
    session = EncryptedSession("s", inner, encryption_key="k" * 32, ttl=600)
    result = await Runner.run(
        build_agent(), "My secret", session=session, context=context, run_config=QUIET
    )
    assert result.final_output == "I remember: My secret"
    assert (await session.get_items())[0] == said("My secret")
    assert len(await session.get_items(limit=1)) == 1
    assert "secret" not in json.dumps(await inner.get_items())
    assert (await session.pop_item())["role"] == "assistant"
    await session.clear_session()
    assert await inner.get_items() == []


# Counters


STEPS = st.lists(
    st.one_of(
        st.lists(st.sampled_from(["user", "assistant", "call"]), max_size=4),
        st.just("pop"),
        st.just("clear"),
    ),
    max_size=10,
)
_numbers = iter(range(10**9))


@hypothesis_settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(steps=STEPS)
def test_counters_are_right_after_whatever_happens(transactional_db, steps):
    session = AgentSession(f"session {next(_numbers)}")
    expected: list[dict[str, Any]] = []
    positions = 0

    async def perform() -> None:
        nonlocal positions
        for step in steps:
            if step == "pop":
                assert await session.pop_item() == (expected.pop() if expected else None)
            elif step == "clear":
                await session.clear_session()
                expected.clear()
            else:
                items = [
                    {"type": "function_call", "call_id": "c"}
                    if kind == "call"
                    else {"role": kind, "content": kind}
                    for kind in step
                ]
                await session.add_items(items)
                expected.extend(items)
                positions += len(items)
        assert await session.get_items() == expected

    asyncio.run(perform())
    row = ChatSession.objects.filter(agent_session_id=session.session_id).first()
    if row is None:
        assert positions == 0
        return
    rows = ChatMessage.objects.filter(session=row)
    assert row.remembered_count == len(expected) == rows.count()
    assert row.message_count == sum("role" in item for item in expected)
    assert row.message_count == rows.filter(shown=True).count()
    assert row.last_position == positions


# The session of a turn


@pytest.fixture
def turn_session(session: Any) -> Callable[..., TurnSession]:
    """The memory of a turn that has just begun: the user's row is stored and not remembered yet."""
    session.turns.create(id=(turn_id := uuid4()), number=1, status="running", lease_until=0)
    user_row = ChatMessage.objects.create(
        session=session, position=1, kind="message", role="user", text="Hi", shown=True
    )
    ChatSession.objects.filter(id=session.id).update(last_position=1, message_count=1, fence=1)

    def build(*, window: Memory | None = None, fence: int = 1) -> TurnSession:
        return TurnSession(
            session.agent_session_id,
            lease=log.Lease(session.id, turn_id, fence),
            window=window or Memory([]),
            user_message_id=user_row.id,
        )

    return build


async def test_a_turns_window_is_read_once_and_then_the_store(turn_session):
    memory = turn_session(window=Memory(numbered(1)))
    assert await memory.get_items() == numbered(1)
    assert await memory.get_items() == []


async def test_a_turn_that_asks_for_a_limit_reads_the_store(turn_session, session):
    await AgentSession(session.agent_session_id).add_items(numbered(1, 2))
    assert await turn_session(window=Memory(numbered(9))).get_items(limit=1) == numbered(2)


CALL = {"type": "function_call", "call_id": "c"}
RESULT = {"type": "function_call_output", "call_id": "c", "output": "x"}


def answer(text: str) -> dict[str, Any]:
    return {"role": "assistant", "type": "message", "content": text}


async def test_what_was_only_said_waits_for_what_follows_and_what_tools_did_does_not(
    turn_session, session
):
    memory, stored = turn_session(), AgentSession(session.agent_session_id)
    await memory.add_items([said("Hi")])
    assert await stored.get_items() == []
    await memory.add_items([answer("Let me look. "), CALL, RESULT])
    assert await stored.get_items() == [said("Hi"), answer("Let me look. "), CALL, RESULT]
    await memory.add_items([answer("Found it.")])
    assert len(await stored.get_items()) == 4
    await memory.flush()
    assert len(await stored.get_items()) == 5


async def test_a_turn_that_reads_its_memory_finds_what_it_has_said(turn_session):
    memory = turn_session()
    assert await memory.get_items() == []  # the window it began with
    await memory.add_items([said("Hi")])
    assert await memory.get_items() == [said("Hi")]


async def test_a_turn_that_has_lost_its_lease_stores_nothing(turn_session, session):
    with pytest.raises(LeaseLost):
        await turn_session(fence=0).add_items([said("Hi"), CALL])
    assert await AgentSession(session.agent_session_id).get_items() == []


async def test_the_first_batch_adopts_the_users_row(turn_session, session):
    memory = turn_session()
    await memory.add_items([said("Hi")])
    await memory.flush()
    rows = await log_of(session.agent_session_id)
    assert rows == [(1, encode_item(said("Hi")))]
    row = await row_of(session.agent_session_id)
    assert (row.remembered_count, row.message_count, row.last_position) == (1, 1, 1)


async def test_what_the_store_did_not_take_goes_with_the_next_batch(
    turn_session, session, monkeypatch
):
    memory, write = turn_session(), lanes.write

    async def refuse(_job: Any) -> None:
        raise StoreReadOnly

    monkeypatch.setattr(lanes, "write", refuse)
    await memory.add_items([said("Hi"), CALL])
    assert memory.warnings == ["This answer could not be saved"]
    monkeypatch.setattr(lanes, "write", write)
    await memory.add_items([RESULT])
    assert memory.warnings == []
    stored = AgentSession(session.agent_session_id)
    assert await stored.get_items() == [said("Hi"), CALL, RESULT]


async def test_a_turn_that_cannot_read_goes_on_without_context(turn_session, monkeypatch):
    async def refuse(_job: Any) -> None:
        raise StoreReadOnly

    memory = turn_session()
    monkeypatch.setattr(lanes, "read", refuse)
    assert await memory.get_items(limit=5) == []
    assert memory.warnings[0].startswith("Context unavailable")


@pytest.mark.parametrize("writable", [True, False])
async def test_a_turn_tells_that_rows_were_left_out(turn_session, monkeypatch, writable):
    async def refuse(_job: Any) -> None:
        raise StoreReadOnly

    memory = turn_session(window=Memory(numbered(1), unreadable={7: "unreadable"}))
    if not writable:
        monkeypatch.setattr(lanes, "write", refuse)
    assert await memory.get_items() == numbered(1)
    assert memory.warnings[0].startswith("Session data corrupted")


async def test_a_turn_that_asks_for_a_limit_tells_of_rows_left_out_too(turn_session, session):
    await AgentSession(session.agent_session_id).add_items([*numbered(1, 2), said("three")])
    await lanes.call(ChatMessage.objects.filter(position=3).update, agent_item="{")
    memory = turn_session()
    assert await memory.get_items(limit=2) == [{"n": 1}, said("three")]
    assert memory.warnings[0].startswith("Session data corrupted")


async def test_a_turn_keeps_what_its_run_has_used(turn_session, session):
    memory = turn_session()
    await memory.flush()  # nothing to store yet
    used = RunContextWrapper(None, usage=Usage(requests=2, input_tokens=20, output_tokens=10))
    await memory.add_items([said("Hi"), {"type": "function_call", "call_id": "c"}], wrapper=used)
    turn = await lanes.call(session.turns.get)
    assert (turn.requests, turn.input_tokens, turn.output_tokens) == (2, 20, 10)


async def test_an_answer_over_a_tool_is_one_shown_row(turn_session, session):
    memory = turn_session()
    items = [said("Hi"), answer("Let me look. "), CALL, RESULT, answer("Found "), answer("it.")]
    for item in items:
        await memory.add_items([item])
    await memory.flush()
    shown = ChatMessage.objects.filter(session=session, shown=True).order_by("position")
    assert await lanes.call(lambda: list(shown.values_list("role", "text"))) == [
        ("user", "Hi"),
        ("assistant", "Let me look. Found it."),
    ]
    row = await row_of(session.agent_session_id)
    assert (row.message_count, row.remembered_count) == (2, 6)
    assert await AgentSession(session.agent_session_id).get_items() == items
