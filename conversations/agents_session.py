"""The SDK's `Session` on our log: `AgentSession("any-id")` where `SQLiteSession` stood.

    session = AgentSession("any-id")
    result = await Runner.run(agent, "Hello", session=session)

Works with `Runner.run`, `run_streamed` and, outside `transaction.atomic()`, `run_sync`. Protocol:
https://openai.github.io/openai-agents-python/sessions/
"""

from __future__ import annotations

import inspect
import logging
import weakref
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID

from agents import RunContextWrapper
from agents.memory import SessionSettings
from django.utils import timezone

from conversations import lanes
from conversations.errors import StoreError
from conversations.events import CONTEXT_UNAVAILABLE, NOT_SAVED, SESSION_CORRUPTED, Usage
from conversations.ids import stored_session_id
from conversations.items import Memory, Row, row_from_item
from conversations.store import log, recall

if TYPE_CHECKING:
    from agents.items import TResponseInputItem

logger = logging.getLogger(__name__)

_SPEECH = {"message", "reasoning"}


class AgentSession:
    """A conversation's memory in the database, in order, byte-exact, shared by all processes.

    Any non-empty `str` names a session; one never seen before is empty. A batch is stored whole or
    not at all, also when the caller is cancelled. Raises StoreError when the engine fails, and
    TransactionOpen inside `transaction.atomic()`.

    The methods take the run's `wrapper`, so that the tokens of a run are counted as it goes.
    """

    def __init__(
        self, session_id: str, *, session_settings: SessionSettings | dict[str, Any] | None = None
    ) -> None:
        self._stored_id = stored_session_id(session_id)
        self.session_id = session_id
        if isinstance(session_settings, dict):
            session_settings = SessionSettings(**session_settings)
        self.session_settings: SessionSettings | None = session_settings or SessionSettings()
        self._counted: dict[int, Usage] = {}  # by the identity of a run's usage

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.session_id!r})"

    async def get_items(
        self, limit: int | None = None, *, wrapper: RunContextWrapper[Any] | None = None
    ) -> list[TResponseInputItem]:
        """The latest `limit` items (all without one), oldest first; exactly as they were added.

        Rows that hold no item are left out and set aside for staff; without a limit also what no
        provider would take, such as an output whose call is lost (`history`).
        """
        if limit is None and self.session_settings is not None:
            limit = self.session_settings.limit
        memory = await lanes.read(
            lambda db: recall.load(db, agent_session_id=self._stored_id, limit=limit)
        )
        return await self._items_of(memory)

    async def add_items(
        self, items: list[TResponseInputItem], *, wrapper: RunContextWrapper[Any] | None = None
    ) -> None:
        """Add one batch at the end. Raises TypeError for an item that JSON cannot hold."""
        if not items:
            return
        rows = [row_from_item(item) for item in items]
        usage = self._newly_used(wrapper)
        now = timezone.now()
        await lanes.write(
            lambda db: log.append(
                db, agent_session_id=self._stored_id, rows=rows, usage=usage, now=now
            )
        )
        if wrapper is not None:
            self._count(wrapper.usage, usage_of(wrapper))

    async def pop_item(
        self, *, wrapper: RunContextWrapper[Any] | None = None
    ) -> TResponseInputItem | None:
        """Remove and return the newest item; None when there is none."""
        now = timezone.now()
        item = await lanes.write(
            lambda db: recall.pop(db, agent_session_id=self._stored_id, now=now)
        )
        return cast("TResponseInputItem | None", item)

    async def clear_session(self, *, wrapper: RunContextWrapper[Any] | None = None) -> None:
        """Forget everything said in this session."""
        now = timezone.now()
        await lanes.write(lambda db: log.clear(db, agent_session_id=self._stored_id, now=now))

    def _newly_used(self, wrapper: RunContextWrapper[Any] | None) -> Usage:
        """Tokens since the last batch of the same run: its usage counts from the run's start.

        Runs may share this object, and an agent that runs as a tool shares its caller's usage.
        """
        if wrapper is None:
            return Usage()
        return usage_of(wrapper) - self._counted.get(id(wrapper.usage), Usage())

    def _count(self, run: Any, total: Usage) -> None:
        if id(run) not in self._counted:  # forgotten with its run: identities are used again
            weakref.finalize(run, self._counted.pop, id(run), None).atexit = False
        self._counted[id(run)] = total

    async def _items_of(self, memory: Memory) -> list[TResponseInputItem]:
        """What could be read; the rest is set aside."""
        if memory.unreadable:
            logger.warning(
                "session %s: %d unreadable rows set aside", self._stored_id, len(memory.unreadable)
            )
            now = timezone.now()
            try:
                await lanes.write(
                    lambda db: recall.quarantine(
                        db, agent_session_id=self._stored_id, memory=memory, now=now
                    )
                )
            except StoreError as error:  # what could be read is no worse for it
                logger.warning("session %s: %s", self._stored_id, type(error).__name__)
        return cast("list[TResponseInputItem]", memory.items)


class TurnSession(AgentSession):
    """The same for one turn: it writes under the turn's lease, and never fails the run.

    The user's row, stored when the turn began, is adopted by the first batch. The answer is one
    shown row: when the assistant speaks again after a tool, the new row holds all of it and the
    earlier one stays for the model only. What could not be read or written is told by `warnings`.
    """

    def __init__(
        self,
        agent_session_id: str,
        *,
        lease: log.Lease,
        window: Memory,
        user_message_id: UUID,
    ) -> None:
        super().__init__(agent_session_id)
        self.lease = lease
        self.warnings: list[str] = []
        self.answer_id: UUID | None = None
        self.answer_text = ""
        self._window: Memory | None = window
        self._user_message_id: UUID | None = user_message_id
        self._unsaved: list[Row] = []
        self._usage: Usage | None = None
        self._is_in_doubt = False

    async def get_items(
        self, limit: int | None = None, *, wrapper: RunContextWrapper[Any] | None = None
    ) -> list[TResponseInputItem]:
        window, self._window = self._window, None
        if window is not None and limit is None:
            return await self._items_of(window)
        await self.flush()
        try:
            return await super().get_items(limit, wrapper=wrapper)
        except StoreError as error:
            self.warn(CONTEXT_UNAVAILABLE, error)
            return []

    async def add_items(
        self, items: list[TResponseInputItem], *, wrapper: RunContextWrapper[Any] | None = None
    ) -> None:
        """Raises LeaseLost when another process has taken over: the run must end.

        What tools did is stored at once; what was only said, together with what follows it, at
        the latest with the turn's end (docs/decisions/0005). What the store does not take is
        tried again then.
        """
        self._unsaved += [row_from_item(item) for item in items]
        if wrapper is not None:
            self._usage = usage_of(wrapper)
        if any(row.kind not in _SPEECH for row in self._unsaved):
            await self.flush()

    async def flush(self) -> None:
        """Store what is not stored yet; where that fails, `warnings` say so."""
        batch = self.unsaved()
        if batch is None:
            return
        now = timezone.now()
        try:
            await lanes.write(
                lambda db: log.append_for_turn(db, lease=self.lease, batch=batch, now=now)
            )
        except StoreError as error:
            self._is_in_doubt = True  # it may have been stored although we did not hear of it
            self.warn(NOT_SAVED, error)
        else:
            self.saved(batch)

    def unsaved(self) -> log.Batch | None:
        """What is not stored yet, for whoever stores it together with something else."""
        rows = list(self._unsaved)
        if not rows:
            return None
        adopt = None
        if self._user_message_id is not None and rows[0].role == "user":
            adopt = (self._user_message_id, rows.pop(0))
        answer_id, answer_text = self.answer_id, self.answer_text
        for index, row in enumerate(rows):
            if row.shown and row.role == "assistant":
                answer_text += row.text
                rows[index] = replace(row, text=answer_text)
                for earlier in range(index):
                    if rows[earlier].id == answer_id:
                        rows[earlier] = replace(rows[earlier], shown=False)
                answer_id = row.id
        return log.Batch(
            rows=rows,
            adopt=adopt,
            replaces=self.answer_id if answer_id != self.answer_id else None,
            usage=self._usage if rows else None,
            is_in_doubt=self._is_in_doubt,
            answer_id=answer_id,
            answer_text=answer_text,
        )

    def saved(self, batch: log.Batch) -> None:
        """The batch is stored."""
        del self._unsaved[: len(batch.rows) + (batch.adopt is not None)]
        self._is_in_doubt = False
        if NOT_SAVED in self.warnings:
            self.warnings.remove(NOT_SAVED)
        if batch.adopt is not None:
            self._user_message_id = None
        self.answer_id, self.answer_text = batch.answer_id, batch.answer_text

    def warn(self, warning: str, error: Exception) -> None:
        """Remember the sentence the person is told; the log gets ids and the error's kind."""
        logger.warning("turn %s: %s (%s)", self.lease.turn_id, warning, type(error).__name__)
        if warning not in self.warnings:
            self.warnings.append(warning)

    async def _items_of(self, memory: Memory) -> list[TResponseInputItem]:
        if memory.unreadable and SESSION_CORRUPTED not in self.warnings:
            self.warnings.append(SESSION_CORRUPTED)
        return await super()._items_of(memory)


for _kind in (AgentSession, TurnSession):
    for _name in ("get_items", "add_items", "pop_item", "clear_session"):
        # The SDK inspects these signatures some twenty times a run; kept here, that costs nothing.
        _method = getattr(_kind, _name)
        _method.__signature__ = inspect.signature(_method)


def usage_of(wrapper: RunContextWrapper[Any]) -> Usage:
    """What the run has used so far."""
    used = wrapper.usage
    return Usage(used.requests, used.input_tokens, used.output_tokens)
