"""Sign-in over HTTP: passwords, tokens, cookies, and all that is refused."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Any

import httpx
import pytest
from asgiref.sync import sync_to_async
from django.conf import settings
from django.core import signing
from django.db import connections
from django.test import AsyncClient, Client, override_settings
from django.utils import timezone

from conversations import lanes
from conversations.ids import user_uuid
from conversations.models import AccessToken, ChatSession, Throttle
from conversations.tests.factories import UserFactory, token_for

LOGIN, LOGOUT, ME = "/api/auth/login", "/api/auth/logout", "/api/auth/me"
PASSWORD = "correct horse"


async def login(client: Any, **body: Any) -> httpx.Response:
    return await client.post(LOGIN, json={"password": PASSWORD} | body)


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def status_with(client: httpx.AsyncClient, token: str) -> int:
    return (await client.get(ME, headers=bearer(token))).status_code


@pytest.fixture
def cookie(user: Any) -> str:
    """The cookie of a browser in which `user` is signed in."""
    browser = Client()
    browser.force_login(user)
    return browser.cookies[settings.SESSION_COOKIE_NAME].value


def with_cookie(cookie: str, **more: str) -> dict[str, str]:
    cookies = {settings.SESSION_COOKIE_NAME: cookie} | more
    return {"Cookie": "; ".join(f"{name}={value}" for name, value in cookies.items())}


# --- A password becomes a token ------------------------------------------------------------


@pytest.mark.parametrize("way", ["email", "username", "email in capitals", "email with spaces"])
async def test_a_right_password_gives_a_token(way, user, anonymous):
    given = {
        "email": {"email": user.email},
        "username": {"username": user.username},
        "email in capitals": {"email": user.email.upper()},
        "email with spaces": {"email": f" {user.email} "},
    }[way]
    response = await login(anonymous, **given)
    assert response.status_code == 200
    body = response.json()
    assert body["user_id"] == str(user_uuid(user.pk))
    assert body["email"] == user.email
    lifetime = datetime.fromisoformat(body["expires_at"]) - timezone.now()
    assert timedelta(days=29, hours=23) < lifetime <= timedelta(days=30)
    me = await anonymous.get(ME, headers=bearer(body["access_token"]))
    assert me.status_code == 200
    assert me.json() == {
        "user_id": body["user_id"],
        "email": user.email,
        "username": user.username,
    }


async def test_the_days_of_a_token_are_a_setting(user, anonymous):
    with override_settings(ACCESS_TOKEN_DAYS=1):
        body = (await login(anonymous, email=user.email)).json()
    lifetime = datetime.fromisoformat(body["expires_at"]) - timezone.now()
    assert timedelta(hours=23) < lifetime <= timedelta(days=1)


async def test_of_two_users_with_one_email_the_password_decides(user, stranger, anonymous):
    def share_an_address() -> None:
        stranger.email = user.email.upper()
        stranger.set_password("another one")
        stranger.save()

    await lanes.call(share_an_address)
    first = await login(anonymous, email=user.email)
    second = await login(anonymous, email=user.email, password="another one")
    assert first.json()["username"] == user.username
    assert second.json()["username"] == stranger.username
    assert (await login(anonymous, email=user.email, password="third")).status_code == 401


@pytest.mark.parametrize(
    "why", ["wrong password", "unknown email", "unknown username", "inactive", "email as username"]
)
async def test_all_else_is_one_and_the_same_401(why, user, anonymous):
    if why == "inactive":
        user.is_active = False
        await lanes.call(user.save)
    given = {
        "wrong password": {"email": user.email, "password": "wrong"},
        "unknown email": {"email": "nobody@example.com"},
        "unknown username": {"username": "nobody"},
        "inactive": {"email": user.email},
        "email as username": {"username": user.email},
    }[why]
    response = await login(anonymous, **given)
    assert response.status_code == 401
    assert response.headers["WWW-Authenticate"] == "Bearer"
    assert response.json() == {
        "error": {
            "code": "unauthenticated",
            "message": "The name or the password is wrong.",
            "retryable": False,
        },
        "detail": "The name or the password is wrong.",
    }
    assert not await lanes.call(AccessToken.objects.exists)


async def test_people_without_an_email_are_not_found_by_an_empty_one(anonymous):
    await lanes.call(UserFactory, email="")
    for email in ("", " ", "\t"):
        assert (await login(anonymous, email=email)).status_code == 422


async def test_what_is_no_sign_in_is_422_with_its_fields(user, anonymous):
    invalid: list[Any] = [
        {},
        {"password": PASSWORD},
        {"email": user.email},
        {"email": user.email, "username": user.username, "password": PASSWORD},
        {"email": user.email, "password": ""},
        {"email": user.email, "password": None},
        {"email": user.email, "password": 1},
        {"email": user.email, "password": "p" * 4097},
        {"email": 1, "password": PASSWORD},
        {"email": "e" * 255, "password": PASSWORD},
        {"username": "NUL \x00", "password": PASSWORD},
        {"username": ["a"], "password": PASSWORD},
        {"email": user.email, "password": PASSWORD, "is_staff": True},
    ]
    for body in invalid:
        response = await anonymous.post(LOGIN, json=body)
        assert response.status_code == 422, body
        assert response.json()["error"]["code"] == "invalid"
        assert response.json()["error"]["fields"]
    lone = '{"username": "\\ud800", "password": "\\ud800"}'
    response = await anonymous.post(
        LOGIN, content=lone, headers={"Content-Type": "application/json"}
    )
    assert response.status_code == 422
    assert not await lanes.call(Throttle.objects.exists)


# --- Trying again and again ----------------------------------------------------------------


async def test_too_many_wrong_passwords_are_429_and_free_again_after_the_window(user, anonymous):
    with override_settings(LOGIN_ATTEMPTS_PER_MINUTE=3):
        for _ in range(3):
            assert (await login(anonymous, email=user.email, password="no")).status_code == 401
        for email in (user.email, user.email.upper()):
            refused = await login(anonymous, email=email)  # even the right one
            assert refused.status_code == 429
            assert refused.json()["error"]["code"] == "throttled"
            assert refused.json()["error"]["retryable"] is True
            assert 0 < int(refused.headers["Retry-After"]) <= 60
        assert not await lanes.call(AccessToken.objects.exists)
        await lanes.call(Throttle.objects.update, window_ends_at=timezone.now())
        assert (await login(anonymous, email=user.email)).status_code == 200


async def test_of_many_wrong_passwords_at_once_only_the_allowed_are_looked_at(user, anonymous):
    with override_settings(LOGIN_ATTEMPTS_PER_MINUTE=5):
        answers = await asyncio.gather(
            *(login(anonymous, email=user.email, password=f"guess {n}") for n in range(20))
        )
    statuses = sorted(answer.status_code for answer in answers)
    assert statuses == [401] * 5 + [429] * 15


async def test_right_passwords_are_not_counted(user, anonymous):
    with override_settings(LOGIN_ATTEMPTS_PER_MINUTE=2):
        for _ in range(5):
            assert (await login(anonymous, email=user.email)).status_code == 200


async def test_one_account_does_not_lock_another(user, stranger, anonymous):
    with override_settings(LOGIN_ATTEMPTS_PER_MINUTE=1):
        await login(anonymous, email=user.email, password="no")
        assert (await login(anonymous, email=user.email)).status_code == 429
        assert (await login(anonymous, email=stranger.email)).status_code == 200


async def test_one_address_tries_only_so_many_accounts(user, anonymous):
    with override_settings(LOGIN_ATTEMPTS_PER_MINUTE=1):
        for number in range(10):
            response = await login(anonymous, username=f"guess{number}")
            assert response.status_code == 401
        assert (await login(anonymous, username="guess10")).status_code == 429
        headers = {"X-Forwarded-For": "198.51.100.7"}  # what a client says of itself is not asked
        spoofed = await anonymous.post(
            LOGIN, json={"username": "guess11", "password": "x"}, headers=headers
        )
        assert spoofed.status_code == 429


# --- Tokens at the door --------------------------------------------------------------------


async def test_logout_revokes_the_token_for_every_client(client, user, anonymous):
    token = client.headers["Authorization"].removeprefix("Bearer ")
    other = await lanes.call(token_for, user)
    assert await status_with(anonymous, token) == 200
    response = await client.post(LOGOUT)
    assert (response.status_code, response.content) == (204, b"")
    assert (await client.get(ME)).status_code == 401
    assert (await client.post(LOGOUT)).status_code == 401
    assert await status_with(anonymous, token) == 401
    assert await status_with(anonymous, other) == 200


async def test_what_is_not_a_valid_token_is_401(user, anonymous):
    token = await lanes.call(token_for, user)
    claims = signing.loads(token[4:], salt="conversations.access-token")
    refused = {
        "no header": {},
        "empty header": {"Authorization": ""},
        "the scheme alone": {"Authorization": "Bearer"},
        "an empty bearer": {"Authorization": "Bearer "},
        "the token alone": {"Authorization": token},
        "another scheme": {"Authorization": f"Basic {token}"},
        "a scheme of Django's": {"Authorization": f"Token {token}"},
        "expired": bearer(await lanes.call(token_for, user, seconds=0.001)),
        "truncated": bearer(token[:-2]),
        "forged": bearer(token[:-2] + "zz"),
        "another salt": bearer("cst_" + signing.dumps(claims, salt="other")),
        "not ASCII": {"Authorization": "Bearer é".encode()},
        "two tokens": bearer(f"{token} {token}"),
    }
    for name, headers in refused.items():
        response = await anonymous.get("/chatkit/threads", headers=headers)
        assert response.status_code == 401, name
        assert response.json()["error"]["code"] == "unauthenticated"
        assert response.headers["WWW-Authenticate"] == "Bearer"
        assert response.headers["Cache-Control"] == "no-store"


async def test_the_scheme_may_be_written_in_any_case(user, anonymous):
    token = await lanes.call(token_for, user)
    for header in (f"bearer {token}", f"BEARER {token}", f"Bearer   {token}"):
        assert (await anonymous.get(ME, headers={"Authorization": header})).status_code == 200


@pytest.mark.parametrize("fate", ["revoked", "deactivated", "deleted"])
async def test_a_token_does_not_outlive_its_right(fate, user, client):
    assert (await client.get(ME)).status_code == 200
    if fate == "revoked":
        await lanes.call(AccessToken.objects.update, revoked_at=timezone.now())
    elif fate == "deactivated":
        user.is_active = False
        await lanes.call(user.save)
    else:
        await lanes.call(user.delete)
    assert (await client.get(ME)).status_code == 401


async def test_the_use_of_a_token_is_noted(client):
    await client.get(ME)
    used = AccessToken.objects.filter(last_used_at__isnull=False)
    async with asyncio.timeout(10):  # noted beside the request
        while not await lanes.call(used.exists):
            await lanes.write(lambda db: None)
    first = (await lanes.call(AccessToken.objects.get)).last_used_at
    await client.get(ME)
    assert (await lanes.call(AccessToken.objects.get)).last_used_at == first


# --- The cookie of the site ----------------------------------------------------------------


async def test_a_cookie_reads_without_a_csrf_token_and_writes_only_with_one(
    user, cookie, anonymous
):
    me = await anonymous.get(ME, headers=with_cookie(cookie))
    assert (me.status_code, me.json()["username"]) == (200, user.username)
    for headers in (
        with_cookie(cookie),
        with_cookie(cookie, csrftoken="a" * 32),
        with_cookie(cookie, csrftoken="a" * 32) | {"X-CSRFToken": "b" * 32},
        with_cookie(cookie) | {"X-CSRFToken": "a" * 32},
    ):
        refused = await anonymous.post("/chatkit/threads", headers=headers)
        assert refused.status_code == 403
        assert refused.json()["error"]["code"] == "csrf"
    assert not await lanes.call(ChatSession.objects.exists)
    headers = with_cookie(cookie, csrftoken="a" * 32) | {"X-CSRFToken": "a" * 32}
    created = await anonymous.post("/chatkit/threads", json={"title": "Mine"}, headers=headers)
    assert created.status_code == 201
    owner = (await lanes.call(ChatSession.objects.get)).owner_id
    assert owner == user.pk


async def test_a_message_by_cookie(session, cookie, anonymous):
    headers = with_cookie(cookie, csrftoken="a" * 32) | {"X-CSRFToken": "a" * 32}
    url = f"/chatkit/threads/{session.id}/messages"
    assert (
        await anonymous.post(url, json={"text": "Hi"}, headers=with_cookie(cookie))
    ).status_code == 403
    response = await anonymous.post(url, json={"text": "Hi"}, headers=headers)
    assert response.status_code == 200
    assert "data: [DONE]" in response.text


async def test_with_both_the_header_alone_counts(user, stranger, cookie, anonymous):
    token = await lanes.call(token_for, stranger)
    both = with_cookie(cookie) | bearer(token)
    assert (await anonymous.get(ME, headers=both)).json()["username"] == stranger.username
    created = await anonymous.post("/chatkit/threads", headers=both)  # and so it needs no CSRF
    assert created.status_code == 201
    assert (await lanes.call(ChatSession.objects.get)).owner_id == stranger.pk
    for header in ("Bearer wrong", "Basic wrong", ""):
        headers = with_cookie(cookie) | {"Authorization": header}
        assert (await anonymous.get(ME, headers=headers)).status_code == 401


async def test_logout_by_cookie_ends_the_session(cookie, anonymous):
    headers = with_cookie(cookie, csrftoken="a" * 32) | {"X-CSRFToken": "a" * 32}
    assert (await anonymous.post(LOGOUT, headers=with_cookie(cookie))).status_code == 403
    assert (await anonymous.post(LOGOUT, headers=headers)).status_code == 204
    assert (await anonymous.get(ME, headers=with_cookie(cookie))).status_code == 401


async def test_a_cookie_that_stands_for_nobody_is_401(user, cookie, anonymous):
    for value in ("", "unknown", "a" * 32, "\\000", "x" * 500):
        assert (await anonymous.get(ME, headers=with_cookie(value))).status_code == 401
    user.set_password("changed elsewhere")
    await lanes.call(user.save)
    assert (await anonymous.get(ME, headers=with_cookie(cookie))).status_code == 401


async def test_the_cookie_of_someone_deactivated_is_401(user, cookie, anonymous):
    user.is_active = False
    await lanes.call(user.save)
    assert (await anonymous.get(ME, headers=with_cookie(cookie))).status_code == 401


@pytest.fixture
async def browser(user: Any) -> AsyncIterator[AsyncClient]:
    """Django's own handler with all of its middleware."""
    yield AsyncClient(enforce_csrf_checks=True)
    await sync_to_async(connections.close_all)()  # of the thread its middleware works in


async def test_the_whole_way_through_djangos_own_handler(user, browser):
    found = await browser.post(
        LOGIN, {"email": user.email, "password": PASSWORD}, content_type="application/json"
    )
    headers = bearer(found.json()["access_token"])
    created = await browser.post(
        "/chatkit/threads", content_type="application/json", headers=headers
    )
    assert created.status_code == 201
    url = f"/chatkit/threads/{created.json()['thread_id']}"
    said = await browser.post(
        f"{url}/messages", {"text": "Hi"}, content_type="application/json", headers=headers
    )
    assert said.headers["Content-Type"] == "text/event-stream; charset=utf-8"
    body = b"".join([chunk async for chunk in said.streaming_content])
    assert body.endswith(b"data: [DONE]\n\n")
    thread = (await browser.get(url, headers=headers)).json()
    assert [message["content"] for message in thread["messages"]] == ["Hi", "I remember: Hi"]
    assert (await browser.post(LOGOUT, headers=headers)).status_code == 204
    assert (await browser.get(url, headers=headers)).status_code == 401
    missing = await browser.post("/chatkit/nothing", headers=headers)
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "not_found")


async def test_djangos_own_handler_takes_the_cookie_too(user, browser):
    await browser.aforce_login(user)
    assert (await browser.get(ME)).status_code == 200
    refused = await browser.post(LOGOUT)
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "csrf")
    browser.cookies["csrftoken"] = "a" * 32
    assert (await browser.post(LOGOUT, headers={"X-CSRFToken": "a" * 32})).status_code == 204
    assert (await browser.get(ME)).status_code == 401
