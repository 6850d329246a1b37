"""The agent for tests of the ChatKit door, run by the SDK alone, with the library's context."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from agents import RunConfig, Runner
from chatkit.agents import AgentContext, ThreadItemConverter
from chatkit.errors import CustomStreamError
from chatkit.types import StructuredInputAnswer, ThreadMetadata
from django.conf import settings

from conversations.tests.chatkit_agent import build_agent
from conversations.tests.chatkit_model import pieces_of
from conversations.tests.test_layers import SOURCES

OURS = "conversations.chatkit_server."


@dataclass
class Played:
    """What came of one message."""

    answer: str
    items: list[Any]
    memory: list[Any]
    chatkit: AgentContext[None]


async def play(said: str | None, *, memory: list[Any] = []) -> Played:  # noqa: B006 - not changed
    numbers = itertools.count()
    chatkit: AgentContext[None] = AgentContext(
        thread=ThreadMetadata(id="thread", created_at=datetime.now(UTC), metadata={"mine": 1}),
        store=SimpleNamespace(generate_item_id=lambda *_: f"item-{next(numbers)}"),  # type: ignore[arg-type]
        request_context=None,
    )
    spoken = [*memory, *([{"role": "user", "content": said}] if said is not None else [])]
    streaming = Runner.run_streamed(
        build_agent(),
        spoken,
        context=SimpleNamespace(chatkit=chatkit),
        run_config=RunConfig(tracing_disabled=True),
    )
    answer = ""
    async for event in streaming.stream_events():
        if event.type == "raw_response_event" and event.data.type == "response.output_text.delta":
            answer += event.data.delta
    shown = []
    while not chatkit._events.empty():
        shown.append(chatkit._events.get_nowait().item)  # type: ignore[union-attr]
    return Played(answer, shown, streaming.to_input_list(), chatkit)


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        ("Hello", "You said: Hello"),
        ("conf:unheard of", "You said: conf:unheard of"),
        ("conf:echo  two  spaces ", " two  spaces "),
        ("conf:echo one\ntwo", "one\ntwo"),
        ("conf:slow 3 tag", "tag 1 2 "),
        ("conf:slow many", "How many?"),
        ("conf:servertool Ring", "served: Ring"),
        ("conf:history", "history users=1 assistants=0 calls=0 outputs=0"),
    ],
)
async def test_it_says_what_it_is_told(said, answer):
    played = await play(said)
    assert (played.answer, played.items) == (answer, [])


async def test_it_counts_all_that_it_remembers():
    first = await play("conf:servertool x")
    second = await play("conf:history", memory=first.memory)
    assert second.answer == "history users=2 assistants=1 calls=1 outputs=1"


async def test_a_burst_is_many_messages_of_one_moment():
    played = await play("conf:burst 3")
    assert [item.content[0].text for item in played.items] == ["burst-0", "burst-1", "burst-2"]
    assert len({item.created_at for item in played.items}) == 1
    assert len({item.id for item in played.items}) == 3
    assert played.answer == ""


async def test_what_is_hidden_is_an_item_of_its_own():
    played = await play("conf:hidden deep down")
    (item,) = played.items
    assert (item.type, item.content) == ("hidden_context_item", "deep down")
    assert played.answer == "ok"


async def test_title_status_and_metadata_of_the_thread_are_changed():
    titled = await play("conf:title A good name")
    locked = await play("conf:lock enough")
    noted = await play("conf:slowmeta 2")
    assert (titled.answer, titled.chatkit.thread.title) == ("ok", "A good name")
    assert locked.chatkit.thread.status.type == "locked"
    assert locked.chatkit.thread.status.reason == "enough"
    assert locked.answer == "ok"
    assert noted.chatkit.thread.metadata == {"mine": 1, "conformance": 2}
    assert noted.answer == "slowmeta 1 "


@pytest.mark.parametrize(
    ("said", "error"),
    [("conf:fail ouch", RuntimeError), ("conf:failcustom ouch", CustomStreamError)],
)
async def test_it_fails_as_it_is_told(said, error):
    with pytest.raises(error) as raised:
        await play(said)
    assert getattr(raised.value, "message", str(raised.value)) == "ouch"


async def test_a_tool_of_the_page_ends_the_run_and_its_answer_goes_on_with_it():
    played = await play("conf:clienttool get_color")
    call = played.chatkit.client_tool_call
    assert call is not None
    assert (call.name, call.arguments) == ("get_color", {"q": "conformance"})
    assert played.answer == ""
    played.memory[-1]["output"] = '{"color":"red"}'
    assert (await play(None, memory=played.memory)).answer == '{"color": "red"}'
    played.memory[-1]["output"] = "no JSON"
    assert (await play(None, memory=played.memory)).answer == "no JSON"


async def test_a_form_ends_the_run_and_its_answers_go_on_with_it():
    played = await play("conf:form")
    (item,) = played.items
    color, notes = item.inputs
    assert (item.status, color.id, notes.id) == ("pending", "color", "notes")
    assert [option.value for option in color.options] == ["red", "green"]
    color.answer = StructuredInputAnswer(values=["green"])
    notes.answer = StructuredInputAnswer(values=["as soon as\nyou can"])
    answered = await ThreadItemConverter().structured_input_to_input(item)
    again = await play(None, memory=[*played.memory, answered])
    assert again.answer == "- color: green\n- notes: as soon as\nyou can"


async def test_a_card_is_shown_with_its_buttons():
    played = await play("conf:widget")
    (item,) = played.items
    shown = item.model_dump(exclude_none=True)["widget"]
    actions = [part["onClickAction"]["type"] for part in shown["children"][1:]]
    assert actions == ["conformance.ping", "conformance.sync"]
    assert (played.answer, item.copy_text) == ("", "Not pressed.")


@pytest.mark.parametrize("text", ["", " ", "a", " a  b ", "a\n\n b"])
def test_pieces_join_to_the_text(text):
    assert "".join(pieces_of(text)) == text


def test_the_agent_and_the_server_of_the_documentation_can_be_built():
    page = Path(__file__).resolve().parents[2] / "docs" / "chatkit-agents.md"
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL):
        exec(block, names)
    agent = names["build_agent"]()
    stops = agent.tool_use_behavior["stop_at_tool_names"]
    assert set(stops) < {tool.name for tool in agent.tools}
    assert issubclass(names["ShopServer"], names["ConversationServer"])
    widget = names["build_card"]("7", "On its way.").model_dump()
    assert widget["children"][1]["onClickAction"]["payload"] == {"order": "7"}


def test_no_site_knows_of_it():
    for name, source in SOURCES.items():
        assert "conversations.tests" not in source.read_text(), name
    for name in ("CONVERSATIONS_AGENT", "CONVERSATIONS_CHATKIT_SERVER"):
        assert "chatkit" not in getattr(settings, name, "").removeprefix(OURS), name
