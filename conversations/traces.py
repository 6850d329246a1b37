"""What a site knows of a person beside their conversations: sign-ins, and what staff did."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import reduce
from importlib import import_module
from typing import Any, Final

from django.apps import apps
from django.conf import settings
from django.contrib.auth import SESSION_KEY, get_user_model
from django.core.exceptions import ValidationError
from django.db.models import ForeignKey, Q

from conversations import models

ERASED: Final = "(erased)"
_AT_ONCE: Final = 500

# Which rows are about a person, where their own columns do not say so alone.
_ABOUT: Final[dict[type[Any], Callable[[Any], Q]]] = {
    models.ChatMessage: lambda pk: Q(session__owner_id=pk),
    models.ChatTurn: lambda pk: Q(session__owner_id=pk),
    models.Feedback: lambda pk: Q(user_id=pk) | Q(message__session__owner_id=pk),
    models.QuarantinedMessage: lambda pk: Q(session__owner_id=pk),
}


def find_browser_sessions(user_id: Any) -> list[str]:
    """The browsers a person is signed in with, by their keys. Reads all sessions of the site."""
    store, name = _sessions(), str(user_id)
    if not hasattr(store, "get_model_class"):
        return []  # not in the database: they end by themselves
    rows = store.get_model_class().objects.iterator(chunk_size=_AT_ONCE)
    return [row.session_key for row in rows if str(row.get_decoded().get(SESSION_KEY)) == name]


def end_browser_sessions(keys: Sequence[str]) -> int:
    """Sign them out; how many."""
    for key in keys:
        _sessions()(key).delete()
    return len(keys)


def clear_admin_log(user_id: Any) -> int:
    """Take out of the admin's log what things of a person were called; how many entries.

    That something was done to them stays. To be done while their rows are there.
    """
    if not apps.is_installed("django.contrib.admin"):
        return 0
    from django.contrib.admin.models import LogEntry  # noqa: PLC0415 - only where it is installed
    from django.contrib.contenttypes.models import ContentType  # noqa: PLC0415

    cleared = 0
    kinds = LogEntry.objects.order_by().values_list("content_type", flat=True).distinct()
    for kind in ContentType.objects.filter(pk__in=list(kinds)):
        model = kind.model_class()
        about = _about(model, user_id) if model is not None else None
        if model is None or about is None:
            continue
        entries = LogEntry.objects.filter(content_type=kind).exclude(object_repr=ERASED)
        ids = list(entries.order_by().values_list("object_id", flat=True).distinct())
        for begin in range(0, len(ids), _AT_ONCE):
            keys = _keys(model, ids[begin : begin + _AT_ONCE])
            theirs = model._default_manager.filter(about, pk__in=keys)
            names = [str(pk) for pk in theirs.values_list("pk", flat=True)]
            cleared += entries.filter(object_id__in=names).update(
                object_repr=ERASED, change_message=""
            )
    return cleared


def _sessions() -> Any:
    return import_module(settings.SESSION_ENGINE).SessionStore


def _about(model: type[Any], user_id: Any) -> Q | None:
    """Which rows of a table are about a person; None where none can be."""
    if model is get_user_model():
        return Q(pk=user_id)
    if model in _ABOUT:
        return _ABOUT[model](user_id)
    names = [
        field.name
        for field in model._meta.concrete_fields
        if isinstance(field, ForeignKey) and field.related_model is get_user_model()
    ]
    return reduce(operator.or_, (Q(**{name: user_id}) for name in names)) if names else None


def _keys(model: type[Any], ids: Sequence[str | None]) -> list[Any]:
    """Those that can be keys of that table."""
    found = []
    for text in ids:
        with suppress(ValidationError, ValueError, TypeError):
            found.append(model._meta.pk.to_python(text))
    return found
