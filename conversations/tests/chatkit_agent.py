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

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final
from uuid import uuid4

from agents import (
    Agent,
    Model,
    ModelResponse,
    RunContextWrapper,
    StopAtTools,
    Tool,
    Usage,
    function_tool,
)
from chatkit.agents import ClientToolCall
from chatkit.errors import CustomStreamError
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
from openai.types.responses import (
    ResponseCompletedEvent,
    ResponseFunctionToolCall,
    ResponseTextDeltaEvent,
)

from conversations.assistant import TurnContext
from conversations.tests import scripted

PREFIX: Final = "conf:"
PAUSE_SECONDS: Final = 0.06
CLIENT_TOOL_ARGUMENTS: Final = {"q": "conformance"}
PING: Final = "conformance.ping"
SYNC: Final = "conformance.sync"

Wrapper = RunContextWrapper[TurnContext]


# --- The tools: what an answer shows besides its text -----------------------------------------


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
ARGUMENT_NAMES: Final = {"lock": "reason", "clienttool": "name"}


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


# --- The model ------------------------------------------------------------------------------


@dataclass
class Step:
    """What the model does when it is asked: it says something, calls a tool, or both."""

    says: Sequence[str] = ()
    pause: float = 0.0
    calls: str = ""
    arguments: dict[str, Any] = field(default_factory=dict)


class ConformanceModel(Model):
    """Does what the last message says."""

    model = "conformance"

    async def get_response(self, *args: Any, **kwargs: Any) -> ModelResponse:
        async for event in self.stream_response(*args, **kwargs):
            if isinstance(event, ResponseCompletedEvent):
                return ModelResponse(event.response.output, Usage(requests=1), response_id=None)
        raise AssertionError("the stream ends with response.completed")

    async def stream_response(
        self, system_instructions: Any, input: Any, *args: Any, **kwargs: Any
    ) -> AsyncIterator[Any]:
        items = [{"role": "user", "content": input}] if isinstance(input, str) else list(input)
        step = next_step(items)
        name = uuid4().hex
        for number, piece in enumerate(step.says):
            if step.pause:
                await asyncio.sleep(step.pause)
            yield ResponseTextDeltaEvent(
                content_index=0,
                delta=piece,
                item_id=f"msg_{name}",
                logprobs=[],
                output_index=0,
                sequence_number=number,
                type="response.output_text.delta",
            )
        output: list[Any] = []
        if step.says:
            message = scripted.message("".join(step.says))
            output.append(message.model_copy(update={"id": f"msg_{name}"}))
        if step.calls:
            output.append(
                ResponseFunctionToolCall(
                    arguments=json.dumps(step.arguments),
                    call_id=f"call_{name}",
                    name=step.calls,
                    type="function_call",
                    id=f"fc_{name}",
                )
            )
        yield ResponseCompletedEvent(
            response=scripted.response(output),
            sequence_number=len(step.says),
            type="response.completed",
        )


def next_step(items: list[Any]) -> Step:
    """What follows on what the model is given. Raises what it was told to fail with."""
    said = [index for index, item in enumerate(items) if item.get("role") == "user"]
    if not said:
        return Step(["Nobody has said anything."])
    text = text_of(items[said[-1]])
    for item in reversed(items[said[-1] :]):
        if item.get("type") == "function_call_output":
            return _after_tool(text, item)
    return _first_step(text, items)


def _first_step(text: str, items: list[Any]) -> Step:
    if "<StructuredInput>" in text:
        answers = text.partition("<StructuredInput>\n")[2].rpartition("\n</StructuredInput>")[0]
        return Step(pieces_of(answers))
    cap, _, argument = text.removeprefix(PREFIX).partition(" ")
    match cap if text.startswith(PREFIX) else "":
        case "echo":
            return Step(pieces_of(argument))
        case "slow" | "slowmeta" | "burst":
            count, _, tag = argument.strip().partition(" ")
            return _counted_step(cap, int(count), tag) if is_count(count) else Step(["How many?"])
        case "form" | "widget":
            return Step(calls=cap)
        case "fail":
            raise RuntimeError(argument)
        case "failcustom":
            raise CustomStreamError(argument, allow_retry=False)
        case "history":
            return Step(pieces_of(count_items(items)))
        case "notes":
            notes = [item for item in items if item.get("role") in {"system", "developer"}]
            return Step([f"notes={len(notes)}"])
        case "hidden" | "title" | "lock" | "clienttool" | "servertool":
            return Step(calls=cap, arguments={ARGUMENT_NAMES.get(cap, "text"): argument})
    return Step(pieces_of(f"You said: {text}"))


def _counted_step(cap: str, count: int, tag: str) -> Step:
    if cap == "burst":
        return Step(calls=cap, arguments={"count": count})
    says = [f"{tag or cap} ", *(f"{number} " for number in range(1, count))][:count]
    if cap == "slow":
        return Step(says, pause=PAUSE_SECONDS)
    return Step(says, pause=PAUSE_SECONDS, calls=cap, arguments={"count": count})


def is_count(text: str) -> bool:
    return text.isdecimal() and len(text) <= 4


def _after_tool(text: str, output: dict[str, Any]) -> Step:
    """What is said once the tool has done its part."""
    result = str(output["output"])
    if text.startswith(f"{PREFIX}clienttool"):
        try:
            return Step(pieces_of(json.dumps(json.loads(result))))
        except ValueError:
            return Step(pieces_of(result))
    return Step(pieces_of(result if text.startswith(f"{PREFIX}servertool") else "ok"))


def count_items(items: list[Any]) -> str:
    """The model's input in figures."""
    roles = [item.get("role") for item in items]
    kinds = [item.get("type") for item in items]
    return (
        f"history users={roles.count('user')} assistants={roles.count('assistant')} "
        f"calls={kinds.count('function_call')} outputs={kinds.count('function_call_output')}"
    )


def text_of(item: dict[str, Any]) -> str:
    """The words of a message, whatever it is made of."""
    content = item.get("content")
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content or [])


def pieces_of(text: str) -> list[str]:
    """The text word by word; all joined are exactly the text."""
    words = text.split(" ")
    return [piece for piece in (*(word + " " for word in words[:-1]), words[-1]) if piece]
