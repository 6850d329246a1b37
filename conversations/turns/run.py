"""One run of the agent: the SDK's events become ours, its errors our words."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, cast

import openai
from agents import RunContextWrapper, Runner, exceptions
from asgiref.sync import SyncToAsync, ThreadSensitiveContext
from django.db import connections

from conversations.agents_session import TurnSession, usage_of
from conversations.assistant import TurnContext, get_agent, model_name, run_config
from conversations.errors import (
    ConversationsError,
    GuardrailTripped,
    LeaseLost,
    ModelRefused,
    ModelThrottled,
    ModelUnavailable,
    TooManySteps,
    TurnError,
    TurnTimeout,
)
from conversations.events import ContentDelta, ToolCalled, Usage
from conversations.items import Row
from conversations.store.tickets import Result, Started, partial_row
from conversations.turns.live import LiveTurn

if TYPE_CHECKING:
    from agents.result import RunResultStreaming
    from agents.stream_events import StreamEvent

logger = logging.getLogger(__name__)

_TEXT_DELTAS = {"response.output_text.delta", "response.refusal.delta"}
_GUARDRAILS = (
    exceptions.InputGuardrailTripwireTriggered,
    exceptions.OutputGuardrailTripwireTriggered,
    exceptions.ToolInputGuardrailTripwireTriggered,
    exceptions.ToolOutputGuardrailTripwireTriggered,
)
TOO_MANY_REQUESTS = 429
SERVER_ERROR = 500


class AgentRun:
    """The run of one started turn; `result` says afterwards what is left to store."""

    def __init__(self, turn: LiveTurn, started: Started) -> None:
        self.turn = turn
        self.session = TurnSession(
            started.agent_session_id,
            lease=started.lease,
            window=started.window,
            user_message_id=started.user_message_id,
        )
        self.user_message_id = started.user_message_id
        self._model = ""
        self._streaming: RunResultStreaming | None = None
        self._open_tools: dict[str, str] = {}
        self._warned = ""

    async def perform(self) -> None:
        """Run the agent to its end, telling the turn's listeners as it goes.

        Raises what the SDK raises; a cancelled run is stopped, not left behind.
        """
        agent = get_agent()
        self._model = model_name(agent)
        context = TurnContext(self.turn.owner_id, self.turn.session_id, self.turn.id)
        self._streaming = Runner.run_streamed(
            agent,
            self.turn.text,
            session=self.session,
            context=context,
            run_config=run_config(),
        )
        try:
            async for event in self._streaming.stream_events():
                self._tell(event)
        except BaseException:
            self._streaming.cancel()
            for call_id, name in self._open_tools.items():
                self.turn.emit(ToolCalled(name, call_id, "failed"))
            raise
        if not self.turn.said:
            self._say(_final_text(self._streaming))
        await self.session.flush()
        self._say("")

    def result(self, status: str, error: ConversationsError | None = None) -> Result:
        """How the turn ended, for its row and what remains of its answer."""
        said = self.turn.said
        answer_id = self.session.answer_id
        remaining: Row | None = None
        corrected: str | None = None
        if status == "completed":
            if said and answer_id is None:
                remaining = Row(kind="message", role="assistant", text=said, shown=True)
            elif said != self.session.answer_text:
                corrected = said
        elif said and said != self.session.answer_text and not isinstance(error, GuardrailTripped):
            if answer_id is None:
                remaining = partial_row(said)
            else:
                corrected = said
        return Result(
            status=status,
            error_code=error.code if error else "",
            warning=self.session.warning,
            model=self._model,
            usage=self._usage(),
            answer_id=answer_id,
            answer_text=corrected,
            partial_row=remaining,
            first_token_at=self.turn.first_token_at,
        )

    def _usage(self) -> Usage:
        if self._streaming is None:
            return Usage()
        wrapper: RunContextWrapper[Any] = self._streaming.context_wrapper
        return usage_of(wrapper)

    def _tell(self, event: StreamEvent) -> None:
        if event.type == "raw_response_event":
            if event.data.type in _TEXT_DELTAS:
                self._say(cast("str", getattr(event.data, "delta", "")))
        elif event.type == "run_item_stream_event":
            if event.name == "tool_called":
                self._tell_tool(event.item, "called")
            elif event.name == "tool_output":
                self._tell_tool(event.item, "done")

    def _say(self, text: str) -> None:
        """A piece of the answer; a warning the person has not had yet rides on it."""
        warning = self.session.warning
        if warning == self._warned:
            warning = ""
        if text or warning:
            self._warned = self.session.warning
            self.turn.emit(ContentDelta(text, warning))

    def _tell_tool(self, item: Any, status: Any) -> None:
        raw = item.raw_item
        call_id = _attribute(raw, "call_id") or _attribute(raw, "id")
        if status == "called":
            name = _attribute(raw, "name") or _attribute(raw, "type")
            self._open_tools[call_id] = name
        else:
            name = self._open_tools.pop(call_id, "") or "tool"
        self.turn.emit(ToolCalled(name, call_id, status))


class OwnThreads(ThreadSensitiveContext):
    """A thread of its own for sync code a tool calls, gone with its connections at the end."""

    async def __aexit__(self, exc: Any, value: Any, tb: Any) -> None:
        executor = SyncToAsync.context_to_thread_executor.get(self)
        if executor is not None:
            executor.submit(connections.close_all)
        await super().__aexit__(exc, value, tb)  # type: ignore[no-untyped-call]


def turn_error(error: BaseException) -> ConversationsError:
    """What the person is told. Only our own sentences: an exception's text may hold content."""
    if isinstance(error, TurnError | LeaseLost):
        return error
    if isinstance(error, TimeoutError):
        return TurnTimeout()
    if isinstance(error, exceptions.MaxTurnsExceeded):
        return TooManySteps()
    if isinstance(error, _GUARDRAILS):
        return GuardrailTripped()
    if isinstance(error, exceptions.ModelTimeoutError | openai.APIConnectionError):
        return ModelUnavailable()
    if isinstance(error, openai.APIStatusError):
        if error.status_code == TOO_MANY_REQUESTS:
            return ModelThrottled()
        return ModelUnavailable() if error.status_code >= SERVER_ERROR else ModelRefused()
    if isinstance(error, exceptions.ModelRefusalError):
        return ModelRefused()
    if isinstance(error, exceptions.ModelBehaviorError | openai.OpenAIError):
        return ModelUnavailable()
    return TurnError()


def _final_text(streaming: RunResultStreaming) -> str:
    """The answer of a run that streamed no text, such as one that ends with a tool."""
    output = streaming.final_output
    return "" if output is None else str(output)


def _attribute(raw: Any, name: str) -> str:
    value = raw.get(name) if isinstance(raw, dict) else getattr(raw, name, None)
    return str(value) if value is not None else ""
