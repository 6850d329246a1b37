"""`AgentSession` where `SQLiteSession` stood: what ours promises beyond the contract."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from functools import partial
from typing import Any
from uuid import uuid4

import pytest
from agents import Runner
from django.db import connection, transaction
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from conversations import lanes, sqlite
from conversations.agents_session import AgentSession
from conversations.errors import TransactionOpen
from conversations.ids import agent_session_id
from conversations.models import ChatMessage, ChatSession
from conversations.store import threads
from conversations.tests.agents_session_helpers import (
    QUIET,
    log_of,
    numbered,
    row_of,
    said,
)
from conversations.tests.scripted import build_agent
from conversations.tests.session_contract_runs import close_loop


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
