"""Which conversations staff look for, as SQL: what an index answers apart from what it does not."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from conversations.lanes import Database, from_moment, from_uuid
from conversations.store.holds import USER_HOLD
from conversations.store.log import FEEDBACK, MESSAGE, SESSION, TURN
from conversations.store.threads import owner_key

IS_HELD: Final = (
    f"(session.hold <> FALSE OR EXISTS (SELECT 1 FROM {USER_HOLD} theirs"
    " WHERE theirs.user_id = session.owner_id))"
)
IN_TROUBLE: Final = "(status = 'failed' OR status = 'interrupted' OR warning > '')"
"""As the index says it: else turns are read."""
TROUBLES: Final = {
    "any": IN_TROUBLE,
    "failed": "status = 'failed'",
    "interrupted": "status = 'interrupted'",
    "warning": "warning > ''",
}


@dataclass(frozen=True, slots=True)
class Criteria:
    """Which conversations; what is empty does not matter."""

    status: str = ""
    held: bool = False
    damaged: bool = False
    since: datetime | None = None
    """Active then or later."""
    before: datetime | None = None
    """Not active since."""
    owner_ids: tuple[Any, ...] | None = None
    any_id: UUID | str | None = None
    """Of the conversation itself, or of a message or a turn in it; a text is the SDK's name."""
    title: str = ""
    trouble: str = ""
    """A key of `TROUBLES`."""
    feedback: str = ""
    model: str = ""
    """Of the latest turn."""

    @property
    def is_looked_for(self) -> bool:
        """Whether no index answers it."""
        asked = (self.title, self.trouble, self.feedback, self.model, self.held)
        return any(asked) or self.status == "active"


def indexed(db: Database, criteria: Criteria) -> tuple[str, list[Any]]:
    """The condition of what an index answers, on a row `session`, and its parameters."""
    where, params = ["1 = 1"], []
    if criteria.status and criteria.status != "active":
        where.append("NOT (session.status = 'active') AND session.status = %s")
        params.append(criteria.status)
    if criteria.damaged:
        where.append("session.quarantined_count > 0")
    for sign, moment in ((">=", criteria.since), ("<", criteria.before)):
        if moment is not None:
            where.append(f"session.last_active_at {sign} %s")
            params.append(from_moment(moment, is_sqlite=db.is_sqlite))
    if criteria.owner_ids is not None:
        marks = ", ".join(["%s"] * len(criteria.owner_ids)) or "NULL"
        where.append(f"session.owner_id IN ({marks})")
        params += [owner_key(each, db) for each in criteria.owner_ids]
    if isinstance(criteria.any_id, UUID):
        where.append(
            f"session.id IN (SELECT id FROM {SESSION} WHERE id = %s"
            f" UNION SELECT session_id FROM {MESSAGE} WHERE id = %s"
            f" UNION SELECT session_id FROM {TURN} WHERE id = %s)"
        )
        params += [from_uuid(criteria.any_id, is_sqlite=db.is_sqlite)] * 3
    elif criteria.any_id is not None:
        where.append("session.agent_session_id = %s")
        params.append(criteria.any_id)
    return " AND ".join(where), params


def looked_for(db: Database, criteria: Criteria) -> tuple[str, list[Any]]:
    """The condition of what is looked at row by row, and its parameters."""
    where, params = ["1 = 1"], []
    if criteria.status == "active":
        where.append("session.status = 'active'")
    if criteria.held:
        where.append(IS_HELD)
    if criteria.title:
        like = "LIKE" if db.is_sqlite else "ILIKE"
        where.append(f"session.title {like} %s ESCAPE '\\'")
        escaped = criteria.title.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
        params.append(f"%{escaped}%")
    if criteria.trouble:
        where.append(
            f"EXISTS (SELECT 1 FROM {TURN} WHERE session_id = session.id"
            f" AND {TROUBLES[criteria.trouble]})"
        )
    if criteria.feedback:
        where.append(
            f"EXISTS (SELECT 1 FROM {FEEDBACK} WHERE session_id = session.id AND kind = %s)"
        )
        params.append(criteria.feedback)
    if criteria.model:
        where.append(
            f"EXISTS (SELECT 1 FROM {TURN} WHERE session_id = session.id"
            " AND number = session.last_turn_number AND model = %s)"
        )
        params.append(criteria.model)
    return " AND ".join(where), params
