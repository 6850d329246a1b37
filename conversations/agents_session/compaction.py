"""What the SDK's compaction looks for in a store: to replace the newest part of a memory at once.

`OpenAIResponsesCompactionSession` around a store without these hooks clears it, and then adds the
summary: what somebody else adds meanwhile is lost, and so is what people could read. The hooks are
no public interface. They were read in the versions below; with any other the SDK finds none.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final, cast

from agents.memory import session as sdk
from django.utils import timezone

from conversations import lanes
from conversations.agents_session.stored import StoredSession
from conversations.errors import StoreError
from conversations.items import decode_items, encode_item, row_from_item
from conversations.store import replacing
from conversations.store.replacing import Remembered

if TYPE_CHECKING:
    from agents.items import TResponseInputItem

logger = logging.getLogger(__name__)

READ_IN: Final = ("0.24.",)
_ALL: Final = 2**31 - 1

Expired = Callable[[dict[str, Any]], bool]


def has_known_hooks() -> bool:
    """Whether the installed SDK looks for the hooks as they are here."""
    return version("openai-agents").startswith(READ_IN) and hasattr(sdk, "_CompactionSnapshot")


class Compactable(StoredSession):
    """A session whose memory can be replaced by its summary."""

    _seen: list[Remembered] | None = None
    """All rows of the memory that was given out to be summed up."""

    async def _get_compaction_snapshot(
        self, limit: int, *, prune_prefix: Expired | None = None
    ) -> Any:
        """The latest items, with the way to replace the last of them; None: not possible now."""
        try:
            rows, is_complete = await self._read(limit)
        except StoreError:  # also for a row that cannot be read: the SDK then asks for all items
            return None
        items = decode_items([text for _, text in rows])
        if items is None:
            return None

        async def replace_suffix(start: int, output: list[TResponseInputItem]) -> bool:
            try:
                return await self._replace(rows[start:], output, drops=prune_prefix)
            except StoreError as error:  # the run is over, and stored: it must not fail for this
                logger.warning("session %s: %s", self._stored_id, type(error).__name__)
                return False

        return sdk._CompactionSnapshot(
            cast("list[TResponseInputItem]", items), is_complete, replace_suffix
        )

    async def _read_compaction_items(
        self, limit: int | None
    ) -> tuple[list[TResponseInputItem], bool]:
        """What is to be summed up, and whether that is all; `_atomic_replace_items` comes next."""
        if limit is not None:
            items = await self.get_items(limit)
            return items, len(items) < limit
        items = await self.get_items()  # first: it sets aside what cannot be read
        rows, _ = await self._read(_ALL)
        is_limited = self.session_settings is not None and self.session_settings.limit is not None
        newest = rows if not is_limited else rows[len(rows) - len(items) :]
        is_same = [text for _, text in newest] == [encode_item(item) for item in items]
        self._seen = rows if is_same else []  # nothing: somebody wrote between the two
        return items, False

    async def _atomic_replace_items(self, items: list[TResponseInputItem]) -> bool:
        """Replace the whole memory, unless somebody wrote since it was read: then it stays."""
        seen, self._seen = self._seen, None
        if not await self._replace(seen, items):
            logger.warning("session %s not compacted: it went on meanwhile", self._stored_id)
        return True

    async def _read(self, limit: int) -> tuple[list[Remembered], bool]:
        return await lanes.read(
            partial(replacing.read_newest, agent_session_id=self._stored_id, limit=limit)
        )

    async def _replace(
        self,
        expected: Sequence[Remembered] | None,
        output: list[TResponseInputItem],
        *,
        drops: Expired | None = None,
    ) -> bool:
        rows = [row_from_item(item) for item in output]
        return await lanes.write(
            partial(
                replacing.replace_newest,
                agent_session_id=self._stored_id,
                expected=expected,
                rows=rows,
                drops=drops,
                now=timezone.now(),
            )
        )


HOOKS: Final = ("_get_compaction_snapshot", "_read_compaction_items", "_atomic_replace_items")

if not has_known_hooks():
    for _hook in HOOKS:
        delattr(Compactable, _hook)
