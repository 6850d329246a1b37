"""Sign-in for programs: a password becomes a token, a token is revoked."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.contrib.auth import authenticate, get_user_model
from django.http import HttpRequest
from django.utils import timezone
from ninja import Router, Status

from conversations import lanes
from conversations.api.auth import principal
from conversations.api.schemas import ErrorOut, LoginIn, LoginOut, UserOut
from conversations.conf import get_conf
from conversations.errors import Unauthenticated
from conversations.ids import user_uuid
from conversations.throttle import count_login, forgive_login, login_limits
from conversations.tokens import issue_token, revoke_token

router = Router(tags=["Sign-in"])

_SAME_EMAIL_AT_MOST = 3


@router.post("/login", auth=None, response={200: LoginOut, (401, 413, 422, 429, 503): ErrorOut})
async def login(request: HttpRequest, payload: LoginIn) -> dict[str, Any]:
    """Exchange a password for an access token."""
    conf, now = get_conf(), timezone.now()
    name = (payload.email or payload.username or "").strip()
    limits = login_limits(name=name, address=request.META.get("REMOTE_ADDR", ""))
    await count_login(limits, now=now)
    user = await lanes.call_patiently(_find_user, payload, name)
    if user is None:
        raise Unauthenticated("The name or the password is wrong.")
    await forgive_login(limits)
    token = await lanes.call(
        issue_token,
        user=user,
        name="sign-in",
        lifetime=timedelta(days=conf.access_token_days),
        now=now,
    )
    return {**_user(user), "access_token": token.text, "expires_at": token.expires_at}


@router.post("/logout", response={204: None, (401, 403, 503): ErrorOut})
async def logout(request: HttpRequest) -> Status[None]:
    """Revoke the access token of this request; end the browser session of a cookie."""
    who = principal(request)
    if who.token_id is not None:
        await revoke_token(who.token_id)
    else:
        await lanes.call(request.session.flush)
    return Status(204, None)


@router.get("/me", response={200: UserOut, (401, 403, 503): ErrorOut})
async def me(request: HttpRequest) -> dict[str, Any]:
    """The signed-in user."""
    users = get_user_model()._default_manager
    user = await lanes.call(lambda: users.get(pk=principal(request).user_id))
    return _user(user)


def _find_user(payload: LoginIn, name: str) -> Any:
    """The active user whose password this is, or None; a miss takes as long as a wrong password."""
    model = get_user_model()
    names = [name]
    if payload.email:
        matching = model._default_manager.filter(email__iexact=name).order_by("pk")
        found = matching.values_list(model.USERNAME_FIELD, flat=True)[:_SAME_EMAIL_AT_MOST]
        names = list(found) or ["\N{REPLACEMENT CHARACTER} no such address"]
    for username in names:
        user = authenticate(None, username=username, password=payload.password)
        if user is not None:
            return user
    return None


def _user(user: Any) -> dict[str, Any]:
    return {
        "user_id": user_uuid(user.pk),
        "email": getattr(user, "email", "") or "",
        "username": user.get_username(),
    }
