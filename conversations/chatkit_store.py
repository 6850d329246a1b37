"""ChatKit's store on our log: it reads what the turns wrote, and writes what is nobody's turn.

A turn writes its own rows. What it has written, or is about to, is known here by the request's
context, and never written again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Literal
from uuid import UUID

from chatkit.store import Store, StoreItemType
from chatkit.types import Attachment, Page, ThreadItem, ThreadMetadata, UserMessageItem
from django.utils import timezone

from conversations import attachments, lanes, threads
from conversations.chatkit_attachments import attachment_of, with_addresses
from conversations.chatkit_context import (
    ChatKitContext,
    Prepared,
    UnknownAttachment,
    UnknownItem,
    UnknownThread,
)
from conversations.errors import (
    AttachmentNotFound,
    Invalid,
    ItemNotFound,
    NotFound,
    ThreadNotFound,
)
from conversations.ids import new_id, parse_uuid
from conversations.store import thread_details, thread_items
from conversations.store.places import read_place, write_place
from conversations.store.thread_details import Details
from conversations.store.threads import Place, find_thread
from conversations.thread_items import aware, item_from_row, memory_of, row_from_item
from conversations.thread_metadata import changes_between, thread_of

__all__ = [
    "ChatKitContext",
    "ConversationStore",
    "Prepared",
    "UnknownAttachment",
    "UnknownItem",
    "UnknownThread",
]

MAX_PAGE: Final = 100


class ConversationStore(Store[ChatKitContext]):
    """Every method of ChatKit's store, for one owner's own conversations.

    What another owns is as unknown as what never was: UnknownThread, UnknownItem and
    UnknownAttachment are the library's NotFoundError.
    """

    def generate_thread_id(self, context: ChatKitContext) -> str:
        prepared = context.prepared
        thread_id = prepared.thread.id if prepared else str(new_id())
        context.begun.add(thread_id)
        return thread_id

    def generate_item_id(
        self, item_type: StoreItemType, thread: ThreadMetadata, context: ChatKitContext
    ) -> str:
        item = context.prepared and context.prepared.item
        is_its = item_type == "message" and isinstance(item, UserMessageItem)
        if item and is_its and not context.has_named and not context.is_under_way:
            context.has_named = True  # asked for first; whatever follows is another's
            return item.id
        return str(new_id())

    # Threads

    async def load_thread(self, thread_id: str, context: ChatKitContext) -> ThreadMetadata:
        prepared = context.prepared
        if prepared and prepared.thread.id == thread_id:
            thread = context.known.get(thread_id, prepared.thread)
        else:
            thread = thread_of(await self._read_details(thread_id, context))
        context.known[thread_id] = thread.model_copy(deep=True)
        return thread.model_copy(deep=True)

    async def save_thread(self, thread: ThreadMetadata, context: ChatKitContext) -> None:
        """Write what has changed since the thread was read; nothing where it is gone."""
        session_id, now = _uuid(thread.id, UnknownThread), timezone.now()
        known = context.known.get(thread.id)
        try:
            if known is None and thread.id in context.begun:
                if not (context.prepared and context.prepared.thread.id == thread.id):
                    await threads.create_thread(owner_id=context.owner_id, session_id=session_id)
                known = ThreadMetadata(id=thread.id, created_at=thread.created_at)
            elif known is None:
                known = await self.load_thread(thread.id, context)
            changes = changes_between(known, thread)
            if changes:
                await lanes.write(
                    lambda db: thread_details.change_details(
                        db,
                        session_id=session_id,
                        owner_id=context.owner_id,
                        changes=changes,
                        now=now,
                    )
                )
        except ThreadNotFound:
            return
        context.known[thread.id] = ThreadMetadata(**_fields(thread.model_copy(deep=True)))

    async def load_threads(
        self, limit: int, after: str | None, order: str, context: ChatKitContext
    ) -> Page[ThreadMetadata]:
        """A page by last activity. `after` is the end of the page before, or a thread's id."""
        count, owner_id = clamped(limit), context.owner_id
        place, thread_id = None, parse_uuid(after) if after else None
        if after and thread_id is None:
            place = read_place(after)
            if place is None:
                raise Invalid(fields=[{"field": "after", "message": "is not the end of a page"}])

        def read(db: lanes.Database) -> list[Details]:
            begin = place
            if thread_id is not None:
                last = find_thread(db, session_id=thread_id, owner_id=owner_id)
                begin = Place(last.last_active_at, last.id)
            return thread_details.list_details(
                db, owner_id=owner_id, limit=count + 1, order=_order(order), after=begin
            )

        found = await _read(read)
        page = found[:count]
        return Page(
            data=[thread_of(details) for details in page],
            has_more=len(found) > count,
            after=write_place(page[-1].thread) if page else None,
        )

    async def delete_thread(self, thread_id: str, context: ChatKitContext) -> None:
        """Raises UnknownThread, and ThreadHeld for one on hold; what runs in it is stopped."""
        try:
            await threads.delete_thread(
                session_id=_uuid(thread_id, UnknownThread), owner_id=context.owner_id
            )
        except ThreadNotFound:
            raise UnknownThread from None

    # Items

    async def load_thread_items(
        self, thread_id: str, after: str | None, limit: int, order: str, context: ChatKitContext
    ) -> Page[ThreadItem]:
        prepared = context.prepared
        if (
            prepared
            and prepared.item
            and prepared.thread.id == thread_id
            and not context.is_under_way
        ):
            context.has_named = True
            # The library looks here for nothing but that one item, which it changes as it settles.
            return Page(data=[prepared.item])
        session_id = _uuid(thread_id, UnknownThread)
        place = _uuid(after, UnknownItem) if after else None
        page = await _read(
            lambda db: thread_items.list_items(
                db,
                session_id=session_id,
                owner_id=context.owner_id,
                limit=clamped(limit),
                order=_order(order),
                after=place,
            )
        )
        items = [
            with_addresses(item, context)
            for row in page.rows
            if (item := item_from_row(row)) is not None
        ]
        last = str(page.rows[-1].id) if page.rows else None
        return Page(data=items, has_more=page.has_more, after=last)

    async def load_item(self, thread_id: str, item_id: str, context: ChatKitContext) -> ThreadItem:
        item = context.prepared and context.prepared.item
        if item and (item.thread_id, item.id) == (thread_id, item_id):
            return item.model_copy(deep=True)
        session_id = _uuid(thread_id, UnknownThread)
        message_id = parse_uuid(item_id)

        def read(db: lanes.Database) -> thread_items.ItemRow:
            if message_id is None:
                find_thread(db, session_id=session_id, owner_id=context.owner_id)
                raise UnknownItem
            return thread_items.find_item(
                db, session_id=session_id, owner_id=context.owner_id, item_id=message_id
            )

        found = item_from_row(await _read(read))
        if found is None:
            raise UnknownItem
        return with_addresses(found, context)

    async def add_thread_item(
        self, thread_id: str, item: ThreadItem, context: ChatKitContext
    ) -> None:
        """Store an item at the end of the thread, or once more in its place.

        What it says to people is remembered by the model, too, unless a turn runs.
        """
        if not self._is_settled(item.id, context):
            await self._put(thread_id, item, context)

    async def save_item(self, thread_id: str, item: ThreadItem, context: ChatKitContext) -> None:
        if not self._is_settled(item.id, context):
            await self._put(thread_id, item, context)

    async def delete_thread_item(
        self, thread_id: str, item_id: str, context: ChatKitContext
    ) -> None:
        """Delete an item; one that was never stored is no error."""
        session_id, message_id = _uuid(thread_id, UnknownThread), parse_uuid(item_id)
        if message_id is None or self._is_settled(item_id, context):
            return
        now = timezone.now()
        await _write(
            lambda db: thread_items.delete_item(
                db,
                session_id=session_id,
                owner_id=context.owner_id,
                item_id=message_id,
                now=now,
            )
        )
        await attachments.erase_soon()

    # Attachments

    async def save_attachment(self, attachment: Attachment, context: ChatKitContext) -> None:
        """Nothing: announcing a file stores it, and the turn of its message attaches it."""

    async def load_attachment(self, attachment_id: str, context: ChatKitContext) -> Attachment:
        item = context.prepared and context.prepared.item
        if isinstance(item, UserMessageItem):
            for attachment in item.attachments:
                if attachment.id == attachment_id:
                    return attachment.model_copy(deep=True)
        try:
            (row,) = await attachments.get_attachments(
                owner_id=context.owner_id, ids=[_uuid(attachment_id, UnknownAttachment)]
            )
        except AttachmentNotFound:
            raise UnknownAttachment from None
        return attachment_of(row, context)

    async def delete_attachment(self, attachment_id: str, context: ChatKitContext) -> None:
        """Nothing: the attachment store has removed all there is of it."""

    async def _read_details(self, thread_id: str, context: ChatKitContext) -> Details:
        session_id = _uuid(thread_id, UnknownThread)
        found: Details = await _read(
            lambda db: thread_details.find_details(
                db, session_id=session_id, owner_id=context.owner_id
            )
        )
        return found

    async def _put(self, thread_id: str, item: ThreadItem, context: ChatKitContext) -> None:
        session_id, message_id = _uuid(thread_id, UnknownThread), parse_uuid(item.id)
        if message_id is None:
            raise ValueError("An item's id must be one that generate_item_id has made.")
        now = timezone.now()
        row = row_from_item(item, message_id=message_id, agent_item=memory_of(item))
        await _write(
            lambda db: thread_items.put_item(
                db,
                session_id=session_id,
                owner_id=context.owner_id,
                row=row,
                created_at=aware(item.created_at),
                now=now,
            )
        )

    def _is_settled(self, item_id: str, context: ChatKitContext) -> bool:
        item = context.prepared and context.prepared.item
        return item_id in context.settled or bool(item and item.id == item_id)


def clamped(limit: int) -> int:
    """How many entries a page holds at most."""
    return max(1, min(limit, MAX_PAGE))


def _fields(thread: ThreadMetadata) -> dict[str, Any]:
    return {name: getattr(thread, name) for name in ThreadMetadata.model_fields}


def _order(order: str) -> Literal["asc", "desc"]:
    return "asc" if order == "asc" else "desc"


def _uuid(text: str, error: type[NotFound]) -> UUID:
    """The id; what cannot be one is as unknown as any other."""
    found = parse_uuid(text)
    if found is None:
        raise error
    return found


async def _read(job: Callable[[lanes.Database], Any]) -> Any:
    """A reading job, whose refusals are the library's, too."""
    try:
        return await lanes.read(job)
    except ThreadNotFound:
        raise UnknownThread from None
    except ItemNotFound:
        raise UnknownItem from None


async def _write(job: Callable[[lanes.Database], Any]) -> Any:
    try:
        return await lanes.write(job)
    except ThreadNotFound:
        raise UnknownThread from None
    except ItemNotFound:
        raise UnknownItem from None
