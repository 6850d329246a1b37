"""The SDK's `Session` on our log: `AgentSession("any-id")` where `SQLiteSession` stood.

    session = AgentSession("any-id")
    result = await Runner.run(agent, "Hello", session=session)

Works with `Runner.run`, `run_streamed` and, outside `transaction.atomic()`, `run_sync`. Protocol:
https://openai.github.io/openai-agents-python/sessions/
"""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Any

from agents import RunContextWrapper
from django.utils import timezone

from conversations import lanes
from conversations.agents_session.compaction import Compactable
from conversations.agents_session.stored import StoredSession, keep_signatures, usage_of
from conversations.conf import get_conf
from conversations.errors import StoreError
from conversations.store import pruning

if TYPE_CHECKING:
    from agents.items import TResponseInputItem

__all__ = ["AgentSession", "StoredSession", "keep_signatures", "usage_of"]

logger = logging.getLogger(__name__)


@keep_signatures
class AgentSession(Compactable):
    """A conversation's memory in the database, in order, byte-exact, shared by all processes.

    Any non-empty `str` names a session; one never seen before is empty. A batch is stored whole or
    not at all, also when the caller is cancelled. After every batch of a run, the memory is kept
    within `AGENT_SESSION_MAX_MESSAGES`, however the run ends. Raises StoreError when the engine
    fails, and TransactionOpen inside `transaction.atomic()`.
    """

    async def add_items(
        self, items: list[TResponseInputItem], *, wrapper: RunContextWrapper[Any] | None = None
    ) -> None:
        """Add one batch at the end. Raises TypeError for an item that JSON cannot hold.

        Without a run, nothing is forgotten: a session may be filled in pieces.
        """
        await super().add_items(items, wrapper=wrapper)
        if wrapper is not None:
            await self._forget_surplus()

    async def _forget_surplus(self) -> None:
        """Forget what is more than the memory holds; all of the newest turn stays.

        Never fails the run: what cannot be forgotten now is forgotten after the next batch, or by
        the schedule.
        """
        if self._remembered_count <= get_conf().agent_session_max_messages:
            return
        prune = partial(pruning.prune_named, agent_session_id=self._stored_id, now=timezone.now())
        try:
            await lanes.write(prune)
        except StoreError as error:
            logger.warning("session %s not pruned: %s", self._stored_id, type(error).__name__)
