"""Access tokens: signed, so that a copied database opens no door; a row each, so that they can be
listed, expire and be revoked."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache, lru_cache
from typing import Any, Final
from uuid import UUID

from django.contrib.auth import get_user_model
from django.core import signing
from django.core.exceptions import ValidationError
from django.core.signals import setting_changed
from django.utils import timezone

from conversations import lanes
from conversations.errors import Unauthenticated
from conversations.models import AccessToken

logger = logging.getLogger(__name__)

_SALT: Final = "conversations.access-token"
_PREFIX: Final = "cst_"
_USED_AT_MOST_EVERY: Final = timedelta(minutes=1)
_TOKEN: Final = AccessToken._meta.db_table

_noting: dict[UUID, datetime] = {}


@dataclass(frozen=True, slots=True)
class Principal:
    """Who speaks: a user, and the token they came with (None for a browser session).

    Not verified: the token is signed by us and not expired, but whether it was revoked, or the user
    shut out, could not be looked up.
    """

    user_id: Any
    token_id: UUID | None = None
    is_verified: bool = True


@dataclass(frozen=True, slots=True)
class IssuedToken:
    """The token's text is shown once and stored nowhere."""

    text: str
    expires_at: datetime


def issue_token(*, user: Any, name: str, lifetime: timedelta, now: datetime) -> IssuedToken:
    """A new access token for a user."""
    row = AccessToken.objects.create(
        user=user, name=name[:100], created_at=now, expires_at=now + lifetime
    )
    claims = [row.id.hex, str(user.pk), int(row.expires_at.timestamp())]
    return IssuedToken(_PREFIX + signing.dumps(claims, salt=_SALT), row.expires_at)


@lru_cache(maxsize=4096)
def read_claims(text: str) -> tuple[UUID, Any, datetime]:
    """Token id, user id and expiry of a token whose signature is ours.

    Needs no database; whether the token still holds is asked anew each time. Raises
    Unauthenticated.
    """
    try:
        if not text.startswith(_PREFIX):
            raise Unauthenticated
        token, user, expires = signing.loads(text.removeprefix(_PREFIX), salt=_SALT)
        user_id = get_user_model()._meta.pk.to_python(user)
        return UUID(token), user_id, datetime.fromtimestamp(expires, UTC)
    except (signing.BadSignature, ValueError, TypeError, ValidationError):
        raise Unauthenticated from None


def read_signed(text: str) -> Principal:
    """Who a token stands for by its signature alone, unverified. Raises Unauthenticated."""
    token_id, user_id = _claims_at(timezone.now(), text)
    return Principal(user_id, token_id, is_verified=False)


async def authenticate_token(text: str) -> Principal:
    """Who a token stands for. Raises Unauthenticated, StoreError."""
    now = timezone.now()
    token_id, user_id = _claims_at(now, text)
    row = await lanes.read(
        lambda db: db.one(_find_sql(), (lanes.from_uuid(token_id, is_sqlite=db.is_sqlite),))
    )
    if row is None or row[0] is not None or not row[2]:
        raise Unauthenticated
    last_used_at = lanes.to_moment(row[1])
    if last_used_at is None or now - last_used_at > _USED_AT_MOST_EVERY:
        _note_use(token_id, now=now)
    return Principal(user_id, token_id)


def _claims_at(now: datetime, text: str) -> tuple[UUID, Any]:
    token_id, user_id, expires_at = read_claims(text)
    if expires_at <= now:
        raise Unauthenticated
    return token_id, user_id


async def revoke_token(token_id: UUID) -> None:
    """From now on the token opens nothing."""
    tokens = AccessToken.objects.filter(id=token_id, revoked_at__isnull=True)
    await lanes.call(tokens.update, revoked_at=timezone.now())


def _note_use(token_id: UUID, *, now: datetime) -> None:
    """Beside the request, which neither waits for it nor fails with it."""
    for other in [known for known, at in list(_noting.items()) if now - at > _USED_AT_MOST_EVERY]:
        del _noting[other]
    if token_id in _noting:
        return  # under way, or it failed just now
    _noting[token_id] = now

    def note(db: lanes.Database) -> int:
        used_at = lanes.from_moment(now, is_sqlite=db.is_sqlite)
        token = lanes.from_uuid(token_id, is_sqlite=db.is_sqlite)
        return db.run(f"UPDATE {_TOKEN} SET last_used_at = %s WHERE id = %s", (used_at, token))

    def noted(future: asyncio.Future[int]) -> None:
        error = None if future.cancelled() else future.exception()
        if error is None:
            _noting.pop(token_id, None)  # from now on the row says it
        else:
            logger.warning("the use of a token was not noted: %s", type(error).__name__)

    lanes.write_soon(note).add_done_callback(noted)


@cache
def _find_sql() -> str:
    users = get_user_model()._meta
    names = {field.name for field in users.concrete_fields}
    active = "u.is_active" if "is_active" in names else "1"
    return (
        f"SELECT t.revoked_at, t.last_used_at, {active} FROM {_TOKEN} t"
        f" JOIN {users.db_table} u ON u.{users.pk.column} = t.user_id WHERE t.id = %s"
    )


def _forget(*, setting: str, **_: Any) -> None:
    if setting in {"SECRET_KEY", "SECRET_KEY_FALLBACKS", "AUTH_USER_MODEL"}:
        read_claims.cache_clear()
        _find_sql.cache_clear()


setting_changed.connect(_forget, dispatch_uid="conversations.tokens")
