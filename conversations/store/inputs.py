"""What begins a turn beside its text: how ChatKit shows it, and what the model is given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from conversations.errors import Invalid, ThreadNotFound
from conversations.ids import new_id, parse_uuid
from conversations.items import Row, decode_item, encode_item
from conversations.lanes import Database, from_uuid
from conversations.store.attachments import attach
from conversations.store.damage import text_of
from conversations.store.log import MESSAGE


@dataclass(frozen=True, slots=True)
class TurnInput:
    """What a turn begins with where that is more than a text.

    `thread_item` is ChatKit's JSON of the message (docs/decisions/0012), `agent_items` what the
    model is given in place of the text. Not `is_said`, nobody said anything: the turn goes on with
    what a person did, and only the model sees its input.
    """

    message_id: UUID = field(default_factory=new_id)
    thread_item: str | None = None
    agent_items: Sequence[dict[str, Any]] | None = None
    attachment_ids: Sequence[UUID] = ()
    is_said: bool = True
    created_at: datetime | None = None
    """When it was said, if that was told already."""

    @property
    def is_more_for_the_model(self) -> bool:
        """Whether the model is given what no row of the log says until the run remembers it."""
        return self.agent_items is not None

    def encode(self) -> str:
        """As it is kept with the turn's ticket."""
        return encode_item(
            {
                "message_id": str(self.message_id),
                "thread_item": self.thread_item,
                "agent_items": None if self.agent_items is None else list(self.agent_items),
                "attachment_ids": [str(each) for each in self.attachment_ids],
                "is_said": self.is_said,
                "created_at": self.created_at.isoformat() if self.created_at else None,
            }
        )


@dataclass(frozen=True, slots=True)
class Settlement:
    """A person's answer to an item that waited for one: the item as it is shown from now on.

    With a `call_id`, `output` is what the model is told that call gave (JSON text).
    """

    item_id: UUID
    thread_item: str
    call_id: str = ""
    output: str = ""


def decode_input(stored: Any) -> TurnInput | None:
    """What `TurnInput.encode` wrote; None where there is none, or none that can be read."""
    if stored is None:
        return None
    found = decode_item(text_of(stored))
    message_id = parse_uuid(str(found.get("message_id"))) if found else None
    if found is None or message_id is None:
        return None
    thread_item, items = found.get("thread_item"), found.get("agent_items")
    ids = [parse_uuid(str(each)) for each in found.get("attachment_ids") or []]
    return TurnInput(
        message_id=message_id,
        thread_item=thread_item if isinstance(thread_item, str) else None,
        agent_items=items if isinstance(items, list) else None,
        attachment_ids=tuple(each for each in ids if each is not None),
        is_said=found.get("is_said") is not False,
        created_at=_moment(found.get("created_at")),
    )


def _moment(text: Any) -> datetime | None:
    try:
        return datetime.fromisoformat(text)
    except (TypeError, ValueError):
        return None


def row_of(text: str, given: TurnInput | None = None) -> Row | None:
    """What a person said, for people to read; the model's memory of it comes with the run.

    None where nobody said anything.
    """
    if given is None:
        return Row(kind="message", role="user", text=text, shown=True)
    if not given.is_said:
        return None
    return Row(
        kind="message",
        role="user",
        text=text,
        shown=True,
        thread_item=given.thread_item,
        id=given.message_id,
        created_at=given.created_at,
    )


def unseen_rows(given: TurnInput | None) -> list[Row]:
    """What the model was to be told by a turn that did not come to it, for the next one."""
    if given is None or given.is_said:
        return []
    return [
        Row("message", str(item.get("role") or ""), agent_item=encode_item(item))
        for item in given.agent_items or ()
    ]


def take_beside(
    db: Database,
    *,
    session_id: UUID,
    owner_id: Any,
    given: TurnInput | None,
    settlement: Settlement | None,
    now: datetime,
) -> None:
    """Store what comes with a message, under the session's row lock: files, and an answer.

    Raises AttachmentNotFound; ThreadNotFound where there is no such item to answer; Invalid where
    it does not wait for an answer, or a file cannot be sent.
    """
    if settlement is not None:
        _settle(db, from_uuid(session_id, is_sqlite=db.is_sqlite), settlement)
    if given is not None and given.attachment_ids:
        attach(
            db,
            session_id=session_id,
            message_id=given.message_id,
            owner_id=owner_id,
            ids=given.attachment_ids,
            now=now,
        )


def _settle(db: Database, session_key: Any, settlement: Settlement) -> None:
    key = from_uuid(settlement.item_id, is_sqlite=db.is_sqlite)
    row = db.one(
        f"SELECT thread_item FROM {MESSAGE} WHERE id = %s AND session_id = %s", (key, session_key)
    )
    if row is None:
        raise ThreadNotFound
    if (decode_item(row[0]) or {}).get("status") != "pending":
        message = "does not wait for an answer"
        raise Invalid(fields=[{"field": "item_id", "message": message, "code": "not_pending"}])
    db.run(f"UPDATE {MESSAGE} SET thread_item = %s WHERE id = %s", (settlement.thread_item, key))
    if settlement.call_id:
        _tell_the_model(db, session_key, settlement)


def _tell_the_model(db: Database, session_key: Any, settlement: Settlement) -> None:
    """Put the real output in place of what the run noted while it had none."""
    row = db.one(
        f"SELECT id, agent_item FROM {MESSAGE} WHERE session_id = %s AND call_id = %s"
        " AND kind = 'function_call_output' ORDER BY position DESC LIMIT 1",
        (session_key, settlement.call_id),
    )
    item = decode_item(row[1]) if row else None
    if row is None or item is None:
        return  # forgotten or set aside since: the item tells people what it was
    item["output"] = settlement.output
    db.run(f"UPDATE {MESSAGE} SET agent_item = %s WHERE id = %s", (encode_item(item), row[0]))
