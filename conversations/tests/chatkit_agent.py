"""An assistant that shows every kind of item at the ChatKit door: what it does is what it is told.

`CONVERSATIONS_AGENT = "conversations.tests.chatkit_agent.build_agent"`, in the environment of a
test server only. A message is `conf:<cap> <argument>`:

    echo TEXT          says exactly this
    slow COUNT TAG     so many pieces, with a pause before each
    slowmeta COUNT     the same, and changes the thread's metadata then
    burst COUNT        so many messages, all of one moment
    hidden TEXT        stores it where only the server reads it
    title TEXT         gives the thread this title
    lock REASON        lets no further message into the thread
    fail TEXT          an error nobody expected
    failcustom TEXT    an error whose words are for the person
    clienttool NAME    waits for what a tool of the page answers, and says that
    form               waits for the answers to two questions, and says those
    widget             shows a card; what its buttons do is in `chatkit_test_server`
    servertool TEXT    calls a tool here, and says what came of it
    history            says what the model was given
    notes              says how many notes of the server were among it

Everything else is answered in one sentence. The model is scripted; all above it is real.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

from agents import Agent, RunContextWrapper, StopAtTools, Tool, function_tool
from chatkit.agents import ClientToolCall
from chatkit.types import (
    AssistantMessageContent,
    AssistantMessageItem,
    HiddenContextItem,
    LockedStatus,
    StructuredInputFreeform,
    StructuredInputItem,
    StructuredInputMultipleChoice,
    StructuredInputMultipleChoiceOption,
    ThreadItem,
    ThreadItemDoneEvent,
)
from chatkit.widgets import DynamicWidgetRoot

from conversations.assistant import TurnContext
from conversations.tests.chatkit_model import ConformanceModel

CLIENT_TOOL_ARGUMENTS: Final = {"q": "conformance"}
PING: Final = "conformance.ping"
SYNC: Final = "conformance.sync"

Wrapper = RunContextWrapper[TurnContext]


@function_tool
async def burst(wrapper: Wrapper, count: int) -> str:
    """Say several things at once."""
    moment = datetime.now(UTC)
    for number in range(count):
        await _show(wrapper, AssistantMessageItem(
            **_place(wrapper, moment),
            content=[AssistantMessageContent(text=f"burst-{number}")],
        ))  # fmt: skip
    return ""


@function_tool
async def hidden(wrapper: Wrapper, text: str) -> str:
    """Note something that never leaves the server."""
    await _show(wrapper, HiddenContextItem(**_place(wrapper), content=text))
    return "noted"


@function_tool
async def title(wrapper: Wrapper, text: str) -> str:
    """Give the conversation a title."""
    _chatkit(wrapper).thread.title = text
    return "named"


@function_tool
async def lock(wrapper: Wrapper, reason: str) -> str:
    """Let no further message into the conversation."""
    _chatkit(wrapper).thread.status = LockedStatus(reason=reason)
    return "locked"


@function_tool
async def slowmeta(wrapper: Wrapper, count: int) -> str:
    """Note something about the conversation on the server."""
    thread = _chatkit(wrapper).thread
    thread.metadata = {**thread.metadata, "conformance": count}
    return ""


@function_tool
async def clienttool(wrapper: Wrapper, name: str) -> str:
    """Let the page run one of its own tools; the run ends here, and goes on with its answer."""
    _chatkit(wrapper).client_tool_call = ClientToolCall(
        name=name, arguments=dict(CLIENT_TOOL_ARGUMENTS)
    )
    return ""


@function_tool
async def form(wrapper: Wrapper) -> str:
    """Ask two questions; the run ends here, and goes on with the answers."""
    colors = [StructuredInputMultipleChoiceOption(value=value) for value in ("red", "green")]
    await _show(wrapper, StructuredInputItem(
        **_place(wrapper),
        inputs=[
            StructuredInputMultipleChoice(id="color", question="color", options=colors),
            StructuredInputFreeform(id="notes", question="notes"),
        ],
    ))  # fmt: skip
    return ""


@function_tool
async def widget(wrapper: Wrapper) -> str:
    """Show a card with two buttons."""
    await _chatkit(wrapper).stream_widget(build_card("Not pressed."), copy_text="Not pressed.")
    return ""


@function_tool
async def servertool(wrapper: Wrapper, text: str) -> str:
    """Work on the server."""
    return f"served: {text}"


TOOLS: Final[list[Tool]] = [
    burst,
    hidden,
    title,
    lock,
    slowmeta,
    clienttool,
    form,
    widget,
    servertool,
]
LAST_WORDS: Final = ["burst", "slowmeta", "clienttool", "form", "widget"]
"""After these the model is not asked again; what they return would be the answer."""


def build_agent() -> Agent[TurnContext]:
    return Agent(
        name="conformance",
        model=ConformanceModel(),
        tools=TOOLS,
        tool_use_behavior=StopAtTools(stop_at_tool_names=LAST_WORDS),
    )


def build_card(text: str) -> DynamicWidgetRoot:
    """The widget, with a line that tells what became of it."""
    buttons = [
        {
            "type": "Button",
            "label": label,
            "onClickAction": {"type": action, "payload": {"token": label.lower()}},
        }
        for label, action in (("Ping", PING), ("Sync", SYNC))
    ]
    return DynamicWidgetRoot.model_validate(
        {"type": "Card", "children": [{"type": "Text", "id": "line", "value": text}, *buttons]}
    )


def _chatkit(wrapper: Wrapper) -> Any:
    """The library's `AgentContext` of the turn."""
    return wrapper.context.chatkit


def _place(wrapper: Wrapper, moment: datetime | None = None) -> dict[str, Any]:
    """What every new item of this thread has."""
    chatkit = _chatkit(wrapper)
    return {
        "id": chatkit.generate_id("message"),
        "thread_id": chatkit.thread.id,
        "created_at": moment or datetime.now(UTC),
    }


async def _show(wrapper: Wrapper, item: ThreadItem) -> None:
    await _chatkit(wrapper).stream(ThreadItemDoneEvent(item=item))
