"""Who is calling: a bearer token, or Django's session cookie with CSRF. Never a mix of both."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from importlib import import_module
from typing import Any

from django.conf import settings
from django.contrib.auth import get_user
from django.http import HttpRequest
from ninja.security.base import AuthBase
from ninja.utils import check_csrf

from conversations import lanes
from conversations.attachments import read_upload_token
from conversations.errors import CsrfFailed, StoreError, Unauthenticated
from conversations.ids import parse_uuid
from conversations.tokens import Principal, authenticate_token, read_signed


class TokenOrSession(AuthBase):
    """With an Authorization header only the token counts; without one, the session cookie.

    With `is_enough_signed`, a signed token is let in unverified while the store is away: for what
    touches no store. Raises Unauthenticated, CsrfFailed, StoreError.
    """

    openapi_type = "http"
    openapi_scheme = "bearer"
    openapi_description = (
        "A token from POST /api/auth/login. Browsers that are signed in to this site may send its "
        "session cookie and X-CSRFToken instead."
    )

    def __init__(self, *, is_enough_signed: bool = False) -> None:
        super().__init__()
        self._is_enough_signed = is_enough_signed

    async def __call__(self, request: HttpRequest) -> Principal:
        header = request.META.get("HTTP_AUTHORIZATION")
        if header is not None:
            token = _bearer(request)
            try:
                return await authenticate_token(token)
            except StoreError:
                if not self._is_enough_signed:
                    raise
                return read_signed(token)
        key = request.COOKIES.get(settings.SESSION_COOKIE_NAME)
        if not key:
            raise Unauthenticated
        return await lanes.call(_from_session, request, key)


class MayUpload(TokenOrSession):
    """The same; or, without an Authorization header, the token of one upload (`X-Upload-Token`)."""

    async def __call__(self, request: HttpRequest) -> Principal:
        text = request.META.get("HTTP_X_UPLOAD_TOKEN")
        if text is None or "HTTP_AUTHORIZATION" in request.META:
            return await super().__call__(request)
        attachment_id = parse_uuid(request.path.rpartition("/")[2])
        if attachment_id is None:
            raise Unauthenticated
        return Principal(read_upload_token(text, attachment_id=attachment_id))


def _bearer(request: HttpRequest) -> str:
    header: str = request.META["HTTP_AUTHORIZATION"]
    scheme, _, token = header.partition(" ")
    if scheme.lower() != "bearer":
        raise Unauthenticated
    return token.strip()


def _from_session(request: HttpRequest, key: str) -> Principal:
    request.session = import_module(settings.SESSION_ENGINE).SessionStore(key)
    user: Any = get_user(request)
    if not user.is_authenticated or not user.is_active:
        raise Unauthenticated
    if check_csrf(request) is not None:
        raise CsrfFailed
    return Principal(user.pk)


def verifier(request: HttpRequest) -> Callable[[], Awaitable[Principal]]:
    """Asks once more who is calling, for one who was let in unverified. Raises Unauthenticated."""
    return partial(authenticate_token, _bearer(request))


def principal(request: HttpRequest) -> Principal:
    """Who the authenticator found."""
    found: Principal = request.auth  # type: ignore[attr-defined]
    return found
