"""Between a conversation's row and ChatKit's thread: what each tells of the other."""

from __future__ import annotations

from typing import Any, Final

from chatkit.types import ActiveStatus, ClosedStatus, LockedStatus, ThreadMetadata

from conversations.ids import storable, storable_value
from conversations.store.thread_details import Changes, Details

MAX_TITLE_CHARS: Final = 200
_STATUSES: Final = {"active": ActiveStatus, "locked": LockedStatus, "closed": ClosedStatus}


def thread_of(details: Details) -> ThreadMetadata:
    """The thread that a conversation is to ChatKit."""
    thread, extras = details.thread, details.extras
    reason = extras.get("reason") if extras.get("reason_of") == thread.status else None
    domains = extras.get("allowed_image_domains")
    return ThreadMetadata(
        id=str(thread.id),
        title=thread.title or None,
        created_at=thread.created_at,
        status=_status(thread.status, reason if isinstance(reason, str) else None),
        allowed_image_domains=domains if _is_texts(domains) else None,
        metadata=details.metadata,
    )


def changes_between(known: ThreadMetadata, thread: ThreadMetadata) -> Changes:
    """What is to be written so that `known` becomes `thread`."""
    changed: dict[str, Any] = {}
    if thread.title != known.title:
        changed["title"] = storable(thread.title or "")[:MAX_TITLE_CHARS]
    extras: dict[str, Any] = {}
    if thread.status != known.status:
        changed["status"] = thread.status.type
        reason = getattr(thread.status, "reason", None)
        extras |= {"reason_of": thread.status.type, "reason": reason}
    if thread.allowed_image_domains != known.allowed_image_domains:
        extras["allowed_image_domains"] = thread.allowed_image_domains
    metadata = {
        storable(key): storable_value(value)
        for key, value in thread.metadata.items()
        if key not in known.metadata or known.metadata[key] != value
    }
    dropped = frozenset(known.metadata.keys() - thread.metadata.keys())
    return Changes(**changed, metadata=metadata, dropped_metadata=dropped, extras=extras)


def _status(status: str, reason: str | None) -> Any:
    kind = _STATUSES.get(status, LockedStatus)
    return ActiveStatus() if kind is ActiveStatus else kind(reason=reason)


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)
