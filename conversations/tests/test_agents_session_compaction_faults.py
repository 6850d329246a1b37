"""What a compaction that fails, or finds no hooks, leaves of the memory: all of it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from conversations import lanes
from conversations.agents_session import AgentSession, compaction
from conversations.errors import StoreReadOnly
from conversations.models import ChatMessage
from conversations.tests.agents_session_helpers import counted
from conversations.tests.compaction_helpers import Client, around, talk
from conversations.tests.session_contract_runs import failing, short

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def client() -> Client:
    return Client()


async def broken(_job: Any) -> None:
    raise StoreReadOnly


# Failures


async def test_a_store_that_fails_after_a_run_keeps_the_memory_and_the_answer(
    client, monkeypatch, caplog
):
    session = around(AgentSession("s"), client)
    await talk(session, "1", "2", "3")

    async def fail() -> None:
        monkeypatch.setattr(lanes, "write", broken)

    client.meanwhile = fail
    await talk(session, "4")
    monkeypatch.undo()
    assert "session s: StoreReadOnly" in caplog.text
    assert len(await AgentSession("s").get_items()) == 8


async def test_a_store_that_fails_when_asked_tells_so_and_keeps_the_memory(client, monkeypatch):
    session = around(AgentSession("s"), client)
    await talk(session, "1")

    async def fail() -> None:
        monkeypatch.setattr(lanes, "write", broken)

    client.meanwhile = fail
    with pytest.raises(StoreReadOnly):
        await session.run_compaction({"force": True})
    monkeypatch.undo()
    assert len(await AgentSession("s").get_items()) == 2


async def test_a_store_that_cannot_be_read_sums_up_nothing(client, monkeypatch):
    session = around(AgentSession("s"), client)
    await talk(session, "1", "2", "3")
    monkeypatch.setattr(lanes, "read", broken)
    assert await AgentSession("s")._get_compaction_snapshot(10) is None


async def test_a_row_that_is_damaged_after_a_run_costs_only_itself(client):
    session = around(AgentSession("s"), client)
    await talk(session, "1", "2", "3")
    damaged = ChatMessage.objects.filter(position=2)
    await lanes.call(lambda: damaged.update(agent_item="{"))
    await talk(session, "4", "5")
    assert short(await AgentSession("s").get_items()) == "user user user user user compaction"


@pytest.mark.parametrize("by_hand", [True, False])
async def test_a_caller_that_leaves_loses_nothing(client, by_hand):
    """At whatever step: the memory is as it was, or summed up; never between."""
    for steps in range(12):
        name = f"left after {steps}"
        session = around(AgentSession(name), client)
        await talk(session, "1", "2", "3")
        asked = asyncio.Event()

        async def tell(asked: asyncio.Event = asked) -> None:
            asked.set()

        client.meanwhile = tell
        work = session.run_compaction({"force": True}) if by_hand else talk(session, "4")
        leaving = asyncio.ensure_future(work)
        await asked.wait()
        for _ in range(steps):
            await asyncio.sleep(0)
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        client.meanwhile = None
        turns = 3 if by_hand else 4
        whole = " ".join(["user assistant"] * turns)
        summed_up = " ".join(["user"] * turns + ["compaction"])
        assert short(await AgentSession(name).get_items()) in (whole, summed_up)
        await counted(name)


# Where the SDK does not look for the hooks as they are here


@pytest.fixture
def without_hooks(monkeypatch: pytest.MonkeyPatch) -> None:
    for hook in compaction.HOOKS:
        monkeypatch.delattr(compaction.Compactable, hook)


@pytest.mark.usefixtures("without_hooks")
@pytest.mark.parametrize("by_hand", [True, False])
async def test_without_the_hooks_it_clears_and_adds(client, by_hand):
    session = around(AgentSession("s"), client)
    await talk(session, *("1" if by_hand else "1234"))
    if by_hand:
        await session.run_compaction({"force": True})
    items = await AgentSession("s").get_items()
    assert short(items) == ("user compaction" if by_hand else "user user user user compaction")
    await counted("s")


@pytest.mark.usefixtures("without_hooks")
async def test_without_the_hooks_a_failed_replacement_is_undone(client):
    inner = AgentSession("s")
    session = around(inner, client)
    await talk(session, "1")
    before = await inner.get_items()
    failing(inner, stores=False)
    with pytest.raises(ConnectionError):
        await session.run_compaction({"force": True})
    assert await inner.get_items() == before


@pytest.mark.parametrize(
    ("version", "known"), [("0.24.0", True), ("0.24.9", True), ("0.25.0", False), ("1.0", False)]
)
def test_the_hooks_are_offered_to_the_versions_they_were_read_in(monkeypatch, version, known):
    monkeypatch.setattr(compaction, "version", lambda _: version)
    assert compaction.has_known_hooks() is known


def test_the_hooks_are_not_offered_where_their_answer_is_gone(monkeypatch):
    monkeypatch.delattr(compaction.sdk, "_CompactionSnapshot")
    assert not compaction.has_known_hooks()


def test_the_installed_sdk_finds_them():
    assert compaction.has_known_hooks()
    assert all(hasattr(AgentSession, hook) for hook in compaction.HOOKS)
