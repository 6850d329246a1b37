"""Rows of a session that went bad: each costs only itself, and is set aside."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from django.db import connection  # noqa: F401 - the marks below ask it

from conversations import lanes
from conversations.agents_session import AgentSession
from conversations.errors import StoreReadOnly
from conversations.models import ChatMessage
from conversations.store import log
from conversations.tests.agents_session_helpers import (
    CALL,
    RESULT,
    log_of,
    numbered,
    row_of,
    said,
)


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
        assert await self.quarantined() == [1, 2]
        assert [position for position, _ in await log_of("s")] == [3]

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
