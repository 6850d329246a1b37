"""The SDK's encryption around `AgentSession`, alone and around its compaction."""

from __future__ import annotations

import json
import time
from functools import partial
from typing import Any

import pytest
from agents import Runner, Usage
from agents.extensions.memory import EncryptedSession
from agents.testing import ModelStep
from django.utils import timezone

from conversations import lanes
from conversations.agents_session import AgentSession
from conversations.store import pruning
from conversations.tests.agents_session_helpers import answer, counted, said, transcript
from conversations.tests.compaction_helpers import Client, around, talk
from conversations.tests.session_contract_runs import agent_of, calls, quiet, says, short

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def client() -> Client:
    return Client()


def sealed(inner: Any, *, ttl: int = 600) -> EncryptedSession:
    return EncryptedSession("s", inner, encryption_key="k" * 32, ttl=ttl)


async def test_what_is_said_is_remembered_and_nobody_can_read_it():
    session = sealed(AgentSession("s"))
    agent = agent_of([calls("look_up", word="secret")], [says("A secret")], [says("Yes")])
    for text in ("My secret", "Do you know it?"):
        await Runner.run(agent, text, session=session, run_config=quiet())
    assert short(agent.model.calls[2].input) == "user call output assistant user"
    assert "secret" not in json.dumps(await AgentSession("s").get_items())
    assert await transcript("s") == []
    row = await counted("s")
    assert (row.remembered_count, row.message_count) == (6, 0)


async def test_tokens_are_counted_all_the_same():
    usage = Usage(requests=1, input_tokens=10, output_tokens=5, total_tokens=15)
    agent = agent_of(ModelStep(output=[says("Hello")], usage=usage))
    await Runner.run(agent, "Hi", session=sealed(AgentSession("s")), run_config=quiet())
    row = await counted("s")
    assert (row.input_tokens, row.output_tokens) == (10, 5)


async def test_another_key_reads_nothing():
    await sealed(AgentSession("s")).add_items([said("My secret")])
    other = EncryptedSession("s", AgentSession("s"), encryption_key="o" * 32)
    assert await other.get_items() == []
    assert len(await AgentSession("s").get_items()) == 1


async def test_what_is_sealed_is_never_pruned(settings):
    """It does not tell what belongs together: a cut might be between a call and its output."""
    settings.AGENT_SESSION_MAX_MESSAGES = 4
    session = sealed(AgentSession("s"))
    for number in range(4):
        agent = agent_of([calls("look_up")], [says("Done")])
        await Runner.run(agent, f"Word {number}", session=session, run_config=quiet())
    prune = partial(pruning.prune_named, agent_session_id="s", now=timezone.now())
    assert await lanes.write(prune) == 0
    assert short(await session.get_items()) == " ".join(["user call output assistant"] * 4)
    row = await counted("s")
    assert (row.remembered_count, row.pruned_count) == (16, 0)


# Around its compaction


async def test_around_compaction_it_works_too(client):
    session = sealed(around(AgentSession("s"), client))
    await talk(session, *"1234")
    assert short(await session.get_items()) == "user user user user compaction"
    assert {tuple(item) for item in await AgentSession("s").get_items()} == {
        ("__enc__", "v", "kid", "payload")
    }
    await session.run_compaction({"force": True})
    assert len(client.asked) == 2
    assert short(await session.get_items()) == "user user user user compaction"
    await counted("s")


async def test_sealed_items_that_others_add_meanwhile_are_kept(client):
    session = sealed(around(AgentSession("s"), client))
    await talk(session, *"123")
    client.meanwhile = lambda: sealed(AgentSession("s")).add_items([said("Me, too")])
    await talk(session, "4")
    assert short(await session.get_items()) == " ".join(["user assistant"] * 4 + ["user"])


async def test_when_one_asks_for_it_all_is_replaced_also_what_others_added_meanwhile(client):
    """The wrapper does not ask the store for what it sums up; it is so with any store."""
    session = sealed(around(AgentSession("s"), client))
    await talk(session, "1")
    client.meanwhile = lambda: sealed(AgentSession("s")).add_items([said("Me, too")])
    await session.run_compaction({"force": True})
    assert short(await session.get_items()) == "user compaction"


async def test_what_expired_before_goes_with_what_is_summed_up(client, monkeypatch):
    session = sealed(around(AgentSession("s"), client), ttl=600)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now - 3600)
    await sealed(AgentSession("s")).add_items([said("Long ago"), answer("Yes?")])
    monkeypatch.undo()
    await talk(session, *"1234")
    assert short(await session.get_items()) == "user user user user compaction"
    assert len(await AgentSession("s").get_items()) == 5
    row = await counted("s")
    assert (row.item_count, row.pruned_count) == (5, 10)
