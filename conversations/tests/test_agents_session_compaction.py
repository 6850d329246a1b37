"""The SDK's compaction around `AgentSession`: a memory replaced at once, and nothing else lost."""

from __future__ import annotations

from typing import Any

import pytest
from agents import Runner, SQLiteSession, Usage
from agents.testing import ModelStep

from conversations import lanes
from conversations.agents_session import AgentSession
from conversations.models import ChatMessage, ChatSession
from conversations.tests.agents_session_helpers import (
    RESULT,
    answer,
    counted,
    log_of,
    said,
    transcript,
)
from conversations.tests.compaction_helpers import Client, around, spoken, talk
from conversations.tests.session_contract_runs import (
    agent_of,
    calls,
    quiet,
    says,
    short,
)

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def client() -> Client:
    return Client()


# After a run


async def test_a_long_memory_is_summed_up_after_the_run(client):
    session = around(AgentSession("s"), client)
    await talk(session, "1", "2", "3")
    assert client.asked == []
    await talk(session, "4")
    (asked,) = client.asked
    assert short(asked["input"]) == " ".join(["user assistant"] * 4)
    items = await AgentSession("s").get_items()
    assert short(items) == "user user user user compaction"
    row = await counted("s")
    assert (row.remembered_count, row.pruned_count, row.message_count) == (5, 8, 8)


async def test_people_go_on_reading_what_they_read_and_nothing_new(client):
    session = around(AgentSession("s"), client)
    await talk(session, "1", "2", "3", "4")
    assert await transcript("s") == spoken("1", "2", "3", "4")


async def test_the_next_run_goes_on_from_the_summary(client):
    session = around(AgentSession("s"), client)
    await talk(session, "1", "2", "3", "4")
    agent = await talk(session, "5")
    assert short(agent.model.calls[0].input) == "user user user user compaction user"
    assert await transcript("s") == spoken("1", "2", "3", "4", "5")


async def test_only_the_newest_part_that_the_model_saw_is_summed_up(client):
    await AgentSession("s").add_items([said("old"), answer("Old.")] * 5)
    session = around(AgentSession("s"), client)
    # The limit hides what is older; the last of it begins within a turn.
    limited = quiet(session_settings={"limit": 3})
    agent = agent_of([calls("look_up"), calls("look_up")], [says("Done")])
    await Runner.run(agent, "Two words", session=session, run_config=limited)
    (asked,) = client.asked
    assert short(asked["input"]) == "user assistant user call call output output assistant"
    items = await AgentSession("s").get_items()
    assert short(items) == " ".join(["user assistant"] * 4 + ["user user compaction"])
    row = await counted("s")
    assert (row.remembered_count, row.pruned_count, row.message_count) == (11, 8, 12)


async def test_after_a_tool_it_waits_for_the_answer_that_follows(client):
    session = around(AgentSession("s"), client)
    steps = [[calls("look_up"), calls("look_up")], [says("Done")]]
    await Runner.run(agent_of(*steps), "Two words", session=session, run_config=quiet())
    (asked,) = client.asked
    assert short(asked["input"]) == "user call call output output assistant"
    assert short(await AgentSession("s").get_items()) == "user compaction"
    row = await counted("s")
    assert (row.item_count, row.message_count) == (4, 2)  # calls and outputs are deleted


async def test_a_run_that_ends_with_a_tool_is_summed_up_after_the_next(client):
    session = around(AgentSession("s"), client)
    agent = agent_of(
        [calls("look_up"), calls("look_up")], [says("Yes")], tool_use_behavior="stop_on_first_tool"
    )
    await Runner.run(agent, "Two words", session=session, run_config=quiet())
    assert client.asked == []
    await Runner.run(agent, "Well?", session=session, run_config=quiet())
    assert len(client.asked) == 1
    assert short(await AgentSession("s").get_items()) == "user user compaction"


async def test_what_waits_for_approval_is_not_summed_up(client):
    session = around(AgentSession("s"), client)
    agent = agent_of([calls("pay", amount=7)], [says("As you like")])
    await Runner.run(agent, "Pay", session=session, run_config=quiet())
    before = await AgentSession("s").get_items()
    await talk(session, "1", "2", "3", "4", "5")
    assert (await AgentSession("s").get_items())[:2] == before
    assert "call" in short(await AgentSession("s").get_items())


async def test_a_summary_is_summed_up_with_what_followed(client):
    session = around(AgentSession("s"), client)
    await talk(session, *"12345678")
    assert len(client.asked) == 2
    assert short(client.asked[1]["input"]) == (
        "user user user user compaction " + " ".join(["user assistant"] * 4)
    )
    items = await AgentSession("s").get_items()
    assert [item["id"] for item in items if item["type"] == "compaction"] == ["cmp_2"]
    assert await transcript("s") == spoken(*"12345678")
    await counted("s")


async def test_the_wrapper_does_not_tell_of_the_run_so_no_tokens_are_counted(client):
    usage = Usage(requests=1, input_tokens=10, output_tokens=5, total_tokens=15)
    for session in (around(AgentSession("wrapped"), client), AgentSession("bare")):
        agent = agent_of(ModelStep(output=[says("Hello")], usage=usage))
        await Runner.run(agent, "Hi", session=session, run_config=quiet())
    rows = [await counted(name) for name in ("wrapped", "bare")]
    assert [(row.input_tokens, row.output_tokens) for row in rows] == [(0, 0), (10, 5)]


# Somebody else, meanwhile


@pytest.fixture(params=["ours", "the SDK's own"])
def open_inner(request: pytest.FixtureRequest, tmp_path: Any) -> Any:
    opened: list[Any] = []

    def build() -> Any:
        of_sdk = request.param != "ours"
        opened.append(SQLiteSession("s", tmp_path / "sdk.db") if of_sdk else AgentSession("s"))
        return opened[-1]

    yield build
    for session in opened:
        if isinstance(session, SQLiteSession):
            session.close()


async def test_what_others_add_meanwhile_is_kept_and_the_memory_as_it_was(client, open_inner):
    session = around(open_inner(), client)
    await talk(session, "1", "2", "3")
    client.meanwhile = lambda: open_inner().add_items([said("Me, too")])
    await talk(session, "4")
    assert len(client.asked) == 1
    items = await open_inner().get_items()
    assert short(items) == " ".join(["user assistant"] * 4 + ["user"])
    client.meanwhile = None
    await talk(session, "5")
    assert short(await open_inner().get_items()) == "user user user user user user compaction"


async def test_what_others_add_while_one_asks_for_it_is_kept_too(client, caplog):
    session = around(AgentSession("s"), client)
    await talk(session, "1")
    client.meanwhile = lambda: AgentSession("s").add_items([said("Me, too")])
    await session.run_compaction({"force": True})
    assert short(await AgentSession("s").get_items()) == "user assistant user"
    assert "session s not compacted: it went on meanwhile" in caplog.text
    client.meanwhile = None
    await session.run_compaction({"force": True})
    assert short(await AgentSession("s").get_items()) == "user user compaction"
    await counted("s")


@pytest.mark.parametrize("change", ["pop_item", "clear_session"])
@pytest.mark.parametrize("by_hand", [True, False])
async def test_what_others_take_away_meanwhile_does_not_come_back(client, change, by_hand):
    session = around(AgentSession("s"), client)
    await talk(session, "1", "2", "3")
    client.meanwhile = getattr(AgentSession("s"), change)
    if by_hand:
        await session.run_compaction({"force": True})
    else:
        await talk(session, "4")
    expected = (3 if by_hand else 4) * 2 - 1 if change == "pop_item" else 0
    assert len(await AgentSession("s").get_items()) == expected
    await counted("s")


async def test_what_others_add_while_the_memory_is_read_is_kept(client, monkeypatch):
    session = around(AgentSession("s"), client)
    await talk(session, "1")
    read = AgentSession._read

    async def late(self: AgentSession, limit: int) -> Any:
        monkeypatch.undo()
        await AgentSession("s").add_items([said("Me, too")])
        return await read(self, limit)

    monkeypatch.setattr(AgentSession, "_read", late)
    await session.run_compaction({"force": True})
    assert short(await AgentSession("s").get_items()) == "user assistant user"


# When one asks for it


async def test_a_limit_of_the_session_limits_what_is_sent_and_all_is_replaced(client):
    """As the SDK has it."""
    session = around(AgentSession("s", session_settings={"limit": 2}), client)
    await talk(session, "1", "2")
    await session.run_compaction({"force": True})
    assert short(client.asked[0]["input"]) == "user assistant"
    assert short(await AgentSession("s").get_items()) == "user compaction"


async def test_what_json_can_just_hold_is_summed_up_too(client):
    odd = answer("a\x00b") | {"score": float("nan"), "size": 1e22}
    await AgentSession("s").add_items([said("1"), odd])
    await around(AgentSession("s"), client).run_compaction({"force": True})
    assert short(await AgentSession("s").get_items()) == "user compaction"


async def test_one_may_ask_for_it_at_any_time(client):
    session = around(AgentSession("s"), client)
    await talk(session, "1", "2")
    await session.run_compaction({"force": True})
    assert short(await AgentSession("s").get_items()) == "user user compaction"
    assert await transcript("s") == spoken("1", "2")
    row = await counted("s")
    assert (row.remembered_count, row.pruned_count, row.message_count) == (3, 4, 4)
    assert [position for position, _ in await log_of("s")] == [5, 6, 7]


async def test_an_empty_session_has_nothing_to_sum_up(client):
    await around(AgentSession("s"), client).run_compaction({"force": True})
    assert await AgentSession("s").get_items() == []
    assert not await lanes.call(ChatMessage.objects.exists)


async def test_what_was_set_aside_does_not_stop_it(client):
    session = around(AgentSession("s"), client)
    await AgentSession("s").add_items([said("one"), RESULT, answer("One.")])
    await session.run_compaction({"force": True})
    assert short(await AgentSession("s").get_items()) == "user compaction"
    row = await counted("s")
    assert row.quarantined_count == 1


async def test_a_damaged_row_does_not_stop_it(client):
    session = around(AgentSession("s"), client)
    await talk(session, "1", "2")
    damaged = ChatMessage.objects.filter(position=2)
    await lanes.call(lambda: damaged.update(agent_item="{"))
    await session.run_compaction({"force": True})
    assert short(await AgentSession("s").get_items()) == "user user compaction"


# What else belongs to it


async def test_on_hold_the_rows_stay_and_leave_the_memory(client):
    session = around(AgentSession("s"), client)
    await talk(session, "1", "2")
    await lanes.call(lambda: ChatSession.objects.update(hold=True))
    await session.run_compaction({"force": True})
    assert short(await AgentSession("s").get_items()) == "user user compaction"
    forgotten = ChatMessage.objects.filter(forgotten_at__isnull=False, agent_item__isnull=False)
    assert await lanes.call(forgotten.count) == 4
    assert await transcript("s") == spoken("1", "2")
    row = await counted("s")
    assert (row.remembered_count, row.pruned_count, row.item_count) == (3, 4, 7)


async def test_a_summary_outlives_what_is_pruned_later(client, settings):
    await talk(around(AgentSession("s"), client), *"1234")
    settings.AGENT_SESSION_MAX_MESSAGES = 6
    await talk(AgentSession("s"), *"567")
    items = await AgentSession("s").get_items()
    assert short(items) == "compaction user assistant user assistant"
    assert await transcript("s") == spoken(*"1234567")
    await counted("s")


async def test_the_response_of_the_provider_may_stand_for_the_items(client):
    session = around(AgentSession("s"), client, mode="previous_response_id")
    agent = agent_of(
        *[ModelStep(output=[says(text)], response_id=f"resp_{text}") for text in "1234"]
    )
    for text in "1234":
        await Runner.run(agent, text, session=session, run_config=quiet())
    assert client.asked == [{"model": "gpt-4.1", "previous_response_id": "resp_4"}]
    assert short(await AgentSession("s").get_items()) == "compaction"
