"""The pages people see: the chat, the way in and the way out."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from django.conf import settings
from django.contrib.auth import get_user_model
from django.test import Client, override_settings

from conversations import lanes

PASSWORD = "a password nobody guesses"
STATIC = Path(settings.BASE_DIR) / "conversations" / "static" / "conversations"


@pytest.fixture(scope="session", autouse=True)
def _lanes_end_before_the_database(django_db_setup: None) -> Iterator[None]:
    yield
    lanes.close()


@pytest.fixture
def user(transactional_db: None) -> Any:
    return get_user_model().objects.create_user("ada", "ada@example.com", PASSWORD)


@pytest.fixture
def visitor(transactional_db: None) -> Client:
    """A browser that nobody has signed in with, CSRF checks included."""
    return Client(enforce_csrf_checks=True)


@pytest.fixture
def signed_in(user: Any) -> Client:
    client = Client(enforce_csrf_checks=True)
    client.force_login(user)
    return client


def sign_in(client: Client, password: str = PASSWORD, **fields: str) -> Any:
    """Fill in the form as a browser does; `fields` are further ones."""
    client.get("/sign-in")
    token = client.cookies["csrftoken"].value
    form = {"username": "ada", "password": password, "csrfmiddlewaretoken": token}
    return client.post("/sign-in", form | fields)


# The chat page


def test_the_chat_page_needs_a_signed_in_user(visitor: Client) -> None:
    response = visitor.get("/")
    assert (response.status_code, response["Location"]) == (302, "/sign-in?next=/")


def test_the_chat_page_sets_the_cookie_its_script_reads(signed_in: Client) -> None:
    response = signed_in.get("/")
    assert response.status_code == 200
    cookie = response.cookies["csrftoken"]
    assert cookie.value
    assert not cookie["httponly"]
    assert "no-store" in response["Cache-Control"]  # not to be seen again by "Back" after sign-out


def test_the_chat_page_is_only_read(signed_in: Client) -> None:
    token = signed_in.get("/").cookies["csrftoken"].value
    assert signed_in.post("/", headers={"x-csrftoken": token}).status_code == 405


def test_the_chat_page_escapes_the_name_of_its_user(transactional_db: None, client: Client) -> None:
    client.force_login(get_user_model().objects.create_user("<b>ada</b>"))
    page = client.get("/").content.decode()
    assert "&lt;b&gt;ada&lt;/b&gt;" in page
    assert "<b>ada" not in page


@pytest.mark.parametrize("path", ["/", "/sign-in"])
def test_a_page_has_nothing_inline_and_nothing_from_elsewhere(
    path: str, visitor: Client, signed_in: Client
) -> None:
    response = (signed_in if path == "/" else visitor).get(path)
    policy = response["Content-Security-Policy"]
    assert "default-src 'self'" in policy
    assert "unsafe" not in policy
    page = response.content.decode()
    assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:", page, re.IGNORECASE)
    assert all(" src=" in tag for tag in re.findall(r"<script[^>]*>", page))
    addresses = re.findall(r'\s(?:src|href|action)="([^"]*)"', page)
    assert addresses
    assert all(re.match(r"/(?!/)|data:image/", address) for address in addresses)


async def _fetch(addresses: list[str]) -> list[httpx.Response]:
    """Through the ASGI application: the test client cannot read what streams asynchronously."""
    from chatsite.asgi import application

    transport = httpx.ASGITransport(app=application)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as browser:
        return [await browser.get(address) for address in addresses]


@pytest.mark.parametrize("path", ["/", "/sign-in"])
def test_the_static_files_of_a_page_are_served(
    path: str, visitor: Client, signed_in: Client
) -> None:
    page = (signed_in if path == "/" else visitor).get(path).content.decode()
    addresses = re.findall(r'"(/static/[^"]+)"', page)
    assert addresses
    for response in asyncio.run(_fetch(addresses)):
        assert response.status_code == 200, response.url
        assert response.content


def test_the_script_never_writes_html() -> None:
    script = (STATIC / "chat.js").read_text()
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|setHTML|document\.write|\beval\(|DOMParser|\.style\b",
        script,
    )
    assert not re.search(r"https?://", script)


def test_the_script_and_the_page_name_the_same_elements(signed_in: Client) -> None:
    page = signed_in.get("/").content.decode()
    script = (STATIC / "chat.js").read_text()
    wanted = set(re.findall(r'(?:\$|onClick)\("([\w-]+)"', script))
    assert wanted
    assert wanted <= set(re.findall(r'\sid="([\w-]+)"', page))


# The way in


def test_the_right_password_opens_the_chat(user: Any, visitor: Client) -> None:
    response = sign_in(visitor)
    assert (response.status_code, response["Location"]) == (302, "/")
    assert visitor.get("/").status_code == 200


def test_a_wrong_password_is_told_and_opens_nothing(user: Any, visitor: Client) -> None:
    response = sign_in(visitor, "wrong")
    page = response.content.decode()
    assert 'role="alert"' in page
    assert "Please enter a correct username and password" in page
    assert "wrong" not in page
    assert visitor.get("/").status_code == 302


def test_signing_in_leads_back_to_the_conversation_that_was_open(
    user: Any, visitor: Client
) -> None:
    response = sign_in(visitor, next="/#0190a2b0-0000-7000-8000-000000000000")
    assert response["Location"] == "/#0190a2b0-0000-7000-8000-000000000000"


@pytest.mark.parametrize(
    "elsewhere", ["https://evil.example/", "//evil.example", "/\\evil.example", "javascript:x"]
)
def test_signing_in_never_leads_to_another_site(elsewhere: str, user: Any, visitor: Client) -> None:
    assert sign_in(visitor, next=elsewhere)["Location"] == "/"


def test_the_sign_in_form_is_safe_from_other_sites(user: Any, visitor: Client) -> None:
    response = visitor.post("/sign-in", {"username": "ada", "password": PASSWORD})
    assert response.status_code == 403


def test_who_is_signed_in_need_not_sign_in_again(signed_in: Client) -> None:
    response = signed_in.get("/sign-in")
    assert (response.status_code, response["Location"]) == (302, "/")


@override_settings(LOGIN_ATTEMPTS_PER_MINUTE=2)
def test_guessing_is_slowed_down_even_with_the_right_password(user: Any, visitor: Client) -> None:
    assert [sign_in(visitor, guess).status_code for guess in ("one", "two")] == [200, 200]
    response = sign_in(visitor)
    assert response.status_code == 429
    assert int(response["Retry-After"]) > 0
    assert "Too many requests" in response.content.decode()
    assert visitor.get("/").status_code == 302


@override_settings(LOGIN_ATTEMPTS_PER_MINUTE=2)
def test_guesses_count_together_with_those_at_the_api(user: Any, visitor: Client) -> None:
    for guess in ("one", "two"):
        sign_in(visitor, guess)
    response = visitor.post(
        "/api/auth/login",
        {"username": "Ada", "password": PASSWORD},
        content_type="application/json",
    )
    assert response.status_code == 429


@override_settings(LOGIN_ATTEMPTS_PER_MINUTE=2)
def test_signing_in_rightly_does_not_count(user: Any, visitor: Client) -> None:
    for _ in range(3):
        assert sign_in(visitor).status_code == 302
        visitor.logout()


@override_settings(SECURE_SSL_REDIRECT=True, SESSION_COOKIE_SECURE=True, CSRF_COOKIE_SECURE=True)
def test_under_https_both_cookies_are_secure(user: Any) -> None:
    client = Client()
    assert client.get("/sign-in")["Location"] == "https://testserver/sign-in"
    form = {"username": "ada", "password": PASSWORD}
    assert client.post("/sign-in", form, secure=True).status_code == 302
    response = client.get("/", secure=True)
    assert response.status_code == 200
    assert response.cookies["csrftoken"]["secure"]
    assert client.cookies["sessionid"]["secure"]
    assert client.cookies["sessionid"]["httponly"]


# The way out


def test_signing_out_is_a_post_and_ends_the_session(signed_in: Client) -> None:
    token = signed_in.get("/").cookies["csrftoken"].value
    assert signed_in.get("/sign-out").status_code == 405
    response = signed_in.post("/sign-out", {"csrfmiddlewaretoken": token})
    assert (response.status_code, response["Location"]) == (302, "/sign-in")
    assert signed_in.get("/").status_code == 302


def test_no_other_site_can_sign_somebody_out(signed_in: Client) -> None:
    assert signed_in.post("/sign-out").status_code == 403
    assert signed_in.get("/").status_code == 200
