"""What any session of the SDK promises, as a class of tests that one can be held against.

    @pytest.mark.django_db(transaction=True)
    class TestMySession(SessionContract):
        @pytest.fixture
        def open_session(self):
            return MySession

`open_session("id", session_settings=...)` gives a handle; all handles of one id are one session.
It is taken from the SDK's documentation and from what its `Runner` does in the versions we use, and
knows nothing of ours. `session_contract_runs` is its second half.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any, ClassVar
from uuid import uuid4

import pytest
from agents.memory import Session, SessionSettings

from conversations.tests.session_contract_runs import RunContract

OpenSession = Callable[..., Any]

HOSTILE: dict[str, dict[str, Any]] = {
    "nul": {"content": "a\x00b"},
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

LONE_SURROGATES: dict[str, Any] = {"content": "\ud800 \udfff", "\udc00": 1}


def said(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def numbered(*numbers: int) -> list[dict[str, Any]]:
    return [{"n": number} for number in numbers]


class SessionContract(RunContract):
    """The four methods, from one task and from many; then, inherited, whole runs."""

    CANNOT: ClassVar[dict[str, str]] = {}
    """Tests that the session is known to fail, by name, with the reason.

    They run all the same, and must fail: a promise kept after all is news.
    """

    @pytest.fixture
    def open_session(self) -> OpenSession:
        """How the session under test is opened."""
        raise NotImplementedError

    @pytest.fixture(autouse=True)
    def _expect_what_it_cannot(self, request: pytest.FixtureRequest) -> None:
        for name in (request.node.name, request.node.originalname):
            if name in self.CANNOT:
                reason = self.CANNOT[name]
                request.applymarker(pytest.mark.xfail(reason=reason, strict=True))
                return

    def test_what_it_cannot_is_said_of_tests_that_there_are(self):
        for name in self.CANNOT:
            assert hasattr(self, name.partition("[")[0]), name

    # The four methods

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

    # What it is called, and what it may be told

    async def test_it_is_a_session_with_its_id(self, open_session):
        session = open_session("my-id")
        assert isinstance(session, Session)
        assert session.session_id == "my-id"

    async def test_sessions_with_similar_ids_are_apart(self, open_session):
        await open_session("s").add_items(numbered(1))
        for other in ("S", "s ", "s%", "_", "ß", "s\u0301"):
            assert await open_session(other).get_items() == []

    async def test_it_has_settings_that_ask_for_nothing(self, open_session):
        assert open_session("s").session_settings == SessionSettings()

    async def test_settings_may_be_a_dict(self, open_session):
        session = open_session("s", session_settings={"limit": 1})
        await session.add_items(numbered(1, 2))
        assert session.session_settings == SessionSettings(limit=1)
        assert await session.get_items() == numbered(2)

    # What an item may be

    async def check_exact(self, session: Any, item: dict[str, Any]) -> None:
        await session.add_items([item, said("after")])
        assert json.dumps(await session.get_items()) == json.dumps([item, said("after")])
        assert await session.pop_item() == said("after")
        assert json.dumps(await session.pop_item()) == json.dumps(item)

    async def test_any_json_comes_back_exactly(self, open_session):
        for name, item in HOSTILE.items():
            await self.check_exact(open_session(name), item)

    async def test_all_of_it_together_comes_back_exactly(self, open_session):
        session, items = open_session("s"), list(HOSTILE.values())
        await session.add_items(items)
        assert json.dumps(await session.get_items()) == json.dumps(items)

    async def test_what_json_can_say_and_text_cannot_comes_back_exactly(self, open_session):
        await self.check_exact(open_session("s"), LONE_SURROGATES)

    async def test_an_item_json_cannot_hold_stores_nothing(self, open_session):
        session = open_session("s")
        await session.add_items(numbered(1))
        for bad in (object(), b"bytes", {1, 2}, uuid4()):
            with pytest.raises(TypeError):
                await session.add_items([{"n": 2}, {"content": bad}, {"n": 3}])
        assert await session.get_items() == numbered(1)

    # Many at once

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

    @pytest.mark.parametrize("handles", [1, 4])
    async def test_batches_written_at_once_stay_whole(self, open_session, handles):
        sessions = [open_session("s") for _ in range(handles)]
        batches = [[{"batch": batch, "step": step} for step in range(5)] for batch in range(20)]
        writes = [
            sessions[number % handles].add_items(batch) for number, batch in enumerate(batches)
        ]
        await asyncio.gather(*writes)
        found = await sessions[0].get_items()
        whole = [found[start : start + 5] for start in range(0, 100, 5)]
        assert sorted(whole, key=lambda batch: batch[0]["batch"]) == batches

    async def test_a_reader_sees_it_grow_at_the_end_only(self, open_session):
        async def write(name: str) -> None:
            for number in range(10):
                await open_session("s").add_items([{"by": name, "n": number}] * 3)

        reader, seen = open_session("s"), []
        writers = asyncio.gather(write("a"), write("b"))
        while not writers.done():
            found = await reader.get_items()
            assert found[: len(seen)] == seen
            assert len(found) % 3 == 0
            seen = found
            await asyncio.sleep(0)
        await writers
        assert (await reader.get_items())[: len(seen)] == seen

    async def test_two_that_pop_at_once_never_get_the_same(self, open_session):
        await open_session("s").add_items(numbered(*range(20)))
        popped = await asyncio.gather(*[open_session("s").pop_item() for _ in range(20)])
        assert sorted(item["n"] for item in popped) == list(range(20))
