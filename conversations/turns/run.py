"""One run of the agent: the SDK's events become ours, its errors our words."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, cast

from agents import RunContextWrapper, Runner

from conversations.agents_session import usage_of
from conversations.assistant import TurnContext, get_agent, model_name, run_config
from conversations.errors import (
    ConversationsError,
    GuardrailTripped,
    TurnError,
)
from conversations.events import NOT_SAVED, ContentDelta, ToolCalled, Usage
from conversations.ids import storable
from conversations.items import Row
from conversations.store import log
from conversations.store.closing import CUT_SHORT, STOPPED, Cut, cut_answer
from conversations.store.finishing import Result
from conversations.turns.attachments import with_files
from conversations.turns.hooks import TurnHooks
from conversations.turns.live import LiveTurn
from conversations.turns.session import TurnSession
from conversations.turns.showing import Showing
from conversations.turns.unsaved import UnsavedSession

if TYPE_CHECKING:
    from agents.items import TResponseInputItem
    from agents.result import RunResultStreaming
    from agents.stream_events import StreamEvent

logger = logging.getLogger(__name__)

_TEXT_DELTAS = {"response.output_text.delta", "response.refusal.delta"}
SETTLE_SECONDS: Final = 2.0


class AgentRun:
    """The run of one started turn; `result` says afterwards what is left to store."""

    def __init__(self, turn: LiveTurn, session: TurnSession | UnsavedSession) -> None:
        self.turn = turn
        self.session = session
        self._model = ""
        self._streaming: RunResultStreaming | None = None
        self._open_tools: dict[str, str] = {}
        self._last_call_id = ""
        self._has_settled = True
        self._warned: set[str] = set()

    async def perform(self) -> None:
        """Run the agent to its end, telling the turn's listeners as it goes.

        Raises what the SDK raises; a cancelled run is stopped, not left behind.
        """
        agent = get_agent()
        self._model = model_name(agent)
        turn = self.turn
        pruned_count = turn.started.pruned_count if turn.started is not None else 0
        showing = Showing(turn, self.session)
        self._streaming = Runner.run_streamed(
            agent,
            input_of(turn),
            session=self.session,
            context=TurnContext(
                turn.owner_id, turn.session_id, turn.id, pruned_count, showing.context
            ),
            run_config=replace(run_config(), call_model_input_filter=with_files),
            hooks=TurnHooks(turn, showing),
        )
        try:
            async for event in self._streaming.stream_events():
                self._tell(event)
            _raise_what_the_stream_did_not(self._streaming)
            await showing.finish(self._last_call_id)
        except BaseException:
            self._streaming.cancel()
            for call_id, name in self._open_tools.items():
                self.turn.emit(ToolCalled(name, call_id, "failed"))
            raise
        if not self.turn.said and showing.context.client_tool_call is None:
            self._say(_final_text(self._streaming))

    async def settle(self) -> None:
        """Wait for what the SDK still does after a stop: a batch on its way must not be missed.

        A tool that does not end is left behind; the fence keeps it from writing later.
        """
        task = self._streaming.run_loop_task if self._streaming is not None else None
        if task is not None and not task.done():
            await asyncio.wait({task}, timeout=SETTLE_SECONDS)
            self._has_settled = task.done()

    def unsaved(self) -> log.Batch | None:
        """What the log does not hold yet of this turn."""
        return self.session.unsaved() if self._has_settled else None

    async def save(self) -> None:
        """Store that by itself. Raises LeaseLost."""
        if self._has_settled:
            await self.session.flush()

    def not_saved(self) -> None:
        """The person is to be told that the answer could not be saved."""
        if NOT_SAVED not in self.session.warnings:
            self.session.warnings.append(NOT_SAVED)

    def warn(self, *, besides: str = "") -> None:
        """Tell the person the warnings they have not had yet, but for one that may prove untrue."""
        for warning in self._unheard():
            if warning != besides:
                self._warned.add(warning)
                self.turn.emit(ContentDelta("", warning))

    def result(
        self, status: str, error: ConversationsError | None = None, batch: log.Batch | None = None
    ) -> Result:
        """How the turn ended, for its row, and what remains of its answer beside `batch`."""
        cut = self._cut(status, error, batch or self.session)
        kept = [w for w in self.session.warnings if w != NOT_SAVED or batch is None]
        return Result(
            status=status,
            error_code=error.code if error else "",
            warning=kept[0] if kept else "",
            model=self._model,
            usage=self.usage,
            answer_id=cut.answer_id,
            incomplete=status != "completed" and not isinstance(error, GuardrailTripped),
            corrected=cut.corrected,
            rows=cut.rows,
            last_events=self.turn.unrecorded(),
            event_count=self.turn.event_count,
            first_token_at=self.turn.first_token_at,
        )

    def _cut(
        self,
        status: str,
        error: ConversationsError | None,
        stored: log.Batch | TurnSession | UnsavedSession,
    ) -> Cut:
        """What the log lacks of what was said."""
        said = self.turn.said
        if isinstance(error, GuardrailTripped):
            return Cut(answer_id=stored.answer_id)  # what was streamed is not kept
        if status != "completed":
            note = STOPPED if status == "cancelled" else CUT_SHORT if said else ""
            return cut_answer(
                said=said,
                stored_id=stored.answer_id,
                stored_text=stored.answer_text,
                note=note,
                new_id=self.turn.answer_id,
                began_at=self.turn.first_token_at,
            )
        if said and stored.answer_id is None:  # an answer that is a tool's output
            row = Row(
                "message",
                "assistant",
                text=said,
                shown=True,
                id=self.turn.answer_id,
                created_at=self.turn.first_token_at,
            )
            return Cut([row], row.id)
        is_other = bool(said) and said != stored.answer_text
        return Cut(answer_id=stored.answer_id, corrected=said if is_other else None)

    @property
    def usage(self) -> Usage:
        """What the run has used so far, also one that failed."""
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
        if not text:
            return
        unheard = self._unheard()
        self._warned.update(unheard[:1])
        self.turn.emit(ContentDelta(storable(text), unheard[0] if unheard else ""))

    def _unheard(self) -> list[str]:
        return [warning for warning in self.session.warnings if warning not in self._warned]

    def _tell_tool(self, item: Any, status: Any) -> None:
        raw = item.raw_item
        call_id = _attribute(raw, "call_id") or _attribute(raw, "id")
        if status == "called":
            name = _attribute(raw, "name") or _attribute(raw, "type")
            self._open_tools[call_id] = name
            self._last_call_id = call_id
        else:
            name = self._open_tools.pop(call_id, "") or "tool"
        self.turn.emit(ToolCalled(name, call_id, status))


def input_of(turn: LiveTurn) -> str | list[TResponseInputItem]:
    """What the model is given of what was said."""
    if turn.given is None or turn.given.agent_items is None:
        return turn.text
    return cast("list[TResponseInputItem]", list(turn.given.agent_items))


def _raise_what_the_stream_did_not(streaming: RunResultStreaming) -> None:
    """A run that died before its first event, or cancelled itself, ends its stream in silence."""
    if streaming.run_loop_exception is not None:
        raise streaming.run_loop_exception
    if streaming.run_loop_task is not None and streaming.run_loop_task.cancelled():
        raise TurnError


def _final_text(streaming: RunResultStreaming) -> str:
    """The answer of a run that streamed no text, such as one that ends with a tool."""
    output = streaming.final_output
    return "" if output is None else str(output)


def _attribute(raw: Any, name: str) -> str:
    value = raw.get(name) if isinstance(raw, dict) else getattr(raw, name, None)
    return str(value) if value is not None else ""
