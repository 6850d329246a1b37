"""The memory of one turn: written under its lease, and never a reason for the run to fail."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from agents import RunContextWrapper
from django.utils import timezone

from conversations.agents_session import StoredSession, keep_signatures, usage_of
from conversations.errors import StoreError
from conversations.events import CONTEXT_UNAVAILABLE, NOT_SAVED, SESSION_CORRUPTED, Usage
from conversations.ids import new_id
from conversations.items import Memory, Row, row_from_item
from conversations.lanes import Database
from conversations.store import log, shown
from conversations.store.line import Started
from conversations.turns.taking import write_mended

if TYPE_CHECKING:
    from agents.items import TResponseInputItem

    from conversations.turns.live import LiveTurn

logger = logging.getLogger(__name__)

_SPEECH: Final = {"message", "reasoning"}


@keep_signatures
class TurnSession(StoredSession):
    """The same for one turn: it writes under the turn's lease, and never fails the run.

    The user's row, stored when the turn began, is adopted by the first batch. The answer is one
    shown row, of the id that is given: when the assistant speaks again after a tool, its text
    grows, and the new row is for the model only. What could not be read or written is told by
    `warnings`.
    """

    def __init__(
        self,
        agent_session_id: str,
        *,
        lease: log.Lease,
        window: Memory,
        user_message_id: UUID | None,
        answer_id: UUID | None = None,
        answer_at: Callable[[], datetime | None] = lambda: None,
    ) -> None:
        super().__init__(agent_session_id)
        self.lease = lease
        self.warnings: list[str] = []
        self.answer_id: UUID | None = None
        self.answer_text = ""
        self._window: Memory | None = window
        self._user_message_id: UUID | None = user_message_id
        self._next_answer_id = answer_id or new_id()
        self._answer_at = answer_at
        self._unsaved: list[Row] = []
        self._usage: Usage | None = None
        self._is_in_doubt = False
        self._flushing = asyncio.Lock()
        self._hides_input = user_message_id is None

    @classmethod
    def of(cls, started: Started, turn: LiveTurn) -> TurnSession:
        """For a turn that has just begun, and tells the id and time of its answer beforehand."""
        session = cls(
            started.agent_session_id,
            lease=started.lease,
            window=started.window or Memory([]),
            user_message_id=started.user_message_id,
            answer_id=turn.answer_id,
            answer_at=turn.began_at,
        )
        if started.window is None:
            session.warnings.append(CONTEXT_UNAVAILABLE)
        return session

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
        rows = [row_from_item(item) for item in items]
        if self._hides_input:  # nobody said it
            rows = [replace(row, shown=False, text="") if _is_said(row) else row for row in rows]
        self._unsaved += rows
        if wrapper is not None:
            self._usage = usage_of(wrapper)
        if any(row.kind not in _SPEECH for row in self._unsaved):
            await self.flush()

    async def flush(self) -> None:
        """Store what is not stored yet; where that fails, `warnings` say so.

        Whoever cancels, what was stored is known when this ends.
        """
        task = asyncio.get_running_loop().create_task(self._flush())
        cancelled = await settled(task)
        task.result()
        if cancelled is not None:
            raise cancelled

    async def show(self, row: Row) -> None:
        """Store what a tool shows to people, in place of what it showed by that id.

        Raises LeaseLost.
        """
        if await self._rewrite(row):
            return
        self._unsaved.append(row)
        await self.flush()

    async def take_back(self, message_id: UUID) -> None:
        """Take out of the log what a tool has shown. Raises LeaseLost."""
        self._unsaved = [row for row in self._unsaved if row.id != message_id]
        take_back = partial(
            shown.take_back, lease=self.lease, message_id=message_id, now=timezone.now()
        )
        await self._write_shown(take_back)

    async def _rewrite(self, row: Row) -> bool:
        """Whether something was shown by that id before."""
        for index, waiting in enumerate(self._unsaved):
            if waiting.id == row.id:
                self._unsaved[index] = row
                return True
        return bool(
            await self._write_shown(
                partial(shown.rewrite, lease=self.lease, row=row, now=timezone.now())
            )
        )

    async def _write_shown(self, write: Callable[[Database], bool]) -> bool:
        try:
            return await write_mended(write, session_id=self.lease.session_id)
        except StoreError as error:
            self.warn(NOT_SAVED, error)
            return False

    async def _flush(self) -> None:
        async with self._flushing:  # tools run side by side
            await self._flush_alone()

    async def _flush_alone(self) -> None:
        batch = self.unsaved()
        if batch is None:
            return
        append = partial(log.append_for_turn, lease=self.lease, batch=batch, now=timezone.now())
        try:
            await write_mended(append, session_id=self.lease.session_id)
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
        answer_id, answer_text, first = self.answer_id, self.answer_text, None
        for index, row in enumerate(rows):
            if not row.shown or row.role != "assistant" or row.thread_item is not None:
                continue
            answer_text += row.text
            if answer_id is None:
                answer_id, first = self._next_answer_id, index
                rows[index] = replace(row, id=answer_id, created_at=self._answer_at())
            else:
                rows[index] = replace(row, text="", shown=False)
        if first is not None:
            rows[first] = replace(rows[first], text=answer_text)
        return log.Batch(
            rows=rows,
            adopt=adopt,
            extends=self.answer_id is not None and answer_text != self.answer_text,
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


def _is_said(row: Row) -> bool:
    return row.shown and row.role == "user"


async def settled(task: asyncio.Task[Any]) -> asyncio.CancelledError | None:
    """Wait until the task is done whoever cancels; returns the cancellation that came meanwhile."""
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as error:
            cancelled = error
    return cancelled
