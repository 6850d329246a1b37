"""Background work that names somebody who is being erased: in the queue, and what is kept of it."""

from __future__ import annotations

import base64
import re
import zlib
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final
from uuid import UUID

from django.core.signing import b64_decode
from django.db import connection
from django.db.models import Q
from django.dispatch import receiver
from django_q.models import OrmQ, Task

from conversations.ids import user_uuid
from conversations.models import Attachment, ChatMessage, ChatSession, ChatTurn
from conversations.signals import erasing_user

_TEXT: Final = re.compile(
    rb"[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}", re.IGNORECASE
)
_NUMBER: Final = re.compile(rb"\x8a[\x0f-\x11]", re.DOTALL)
"""How a pickle begins the number that a UUID is."""
_AT_ONCE: Final = 500
_COLUMNS: Final = ("name", "args", "kwargs", "result")


@receiver(erasing_user, dispatch_uid="conversations.queued")
def forget_work(*, user_id: Any, **_: Any) -> Counter[str]:
    """Take work out of the queue, and results out of the table, that name a person's rows.

    What is stored is searched, and nothing of it is executed.
    """
    payloads = OrmQ.objects.values_list("pk", "payload").iterator()
    waiting = {key: _signed(payload) for key, payload in payloads}
    done = {key: b"\n".join(map(_plain, values)) for key, *values in _results()}
    named = {key: set(_ids(text)) for key, text in (waiting | done).items()}
    theirs = _of(user_id, set().union(*named.values())) | {user_uuid(user_id)}
    found = [key for key, ids in named.items() if ids & theirs]
    gone: Counter[str] = Counter()
    for model in (OrmQ, Task):
        keys = [key for key in found if (key in waiting) == (model is OrmQ)]
        gone["queue"] += model._default_manager.filter(pk__in=keys).delete()[0]
    return +gone


def _results() -> list[Any]:
    columns = ", ".join(("id", *_COLUMNS))
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {columns} FROM {Task._meta.db_table}")
        return list(cursor.fetchall())


def _signed(payload: str) -> bytes:
    """What is in a signed package; the package as it is where it is none."""
    packed = payload.partition(":")[0]
    is_compressed = packed.startswith(".")
    try:
        text = b64_decode(packed.removeprefix(".").encode())
        return zlib.decompress(text) if is_compressed else text
    except (ValueError, zlib.error):
        return payload.encode()


def _plain(value: Any) -> bytes:
    """A column as it was before it was written as text."""
    text = value.encode() if isinstance(value, str) else value or b""
    try:
        return text + b"\n" + base64.b64decode(text, validate=True)
    except ValueError:
        return bytes(text)


def _ids(text: bytes) -> Iterator[UUID]:
    for match in _TEXT.finditer(text):
        yield UUID(match.group().decode())
    for match in _NUMBER.finditer(text):
        length = text[match.end() - 1]
        number = int.from_bytes(text[match.end() : match.end() + length], "little")
        if 0 < number < 1 << 128:
            yield UUID(int=number)


def _of(user_id: Any, ids: set[UUID]) -> set[UUID]:
    """Those of the ids that are rows of this person."""
    wanted = sorted(ids)
    found: set[UUID] = set()
    theirs = {
        ChatSession: Q(owner_id=user_id),
        ChatTurn: Q(session__owner_id=user_id),
        ChatMessage: Q(session__owner_id=user_id),
        Attachment: Q(owner_id=user_id),
    }
    for begin in range(0, len(wanted), _AT_ONCE):
        some = wanted[begin : begin + _AT_ONCE]
        for model, whose in theirs.items():
            rows = model._default_manager.filter(whose, pk__in=some)
            found.update(rows.values_list("pk", flat=True))
    return found
