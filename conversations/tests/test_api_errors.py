"""Every refusal and every failure: one shape, no content, nothing done."""

from __future__ import annotations

import base64
import json
import logging
from typing import Any
from uuid import uuid4

import httpx
import pytest
from django.core.exceptions import RequestDataTooBig
from django.db import DatabaseError, InterfaceError, OperationalError
from django.http import Http404
from django.test import RequestFactory, override_settings
from ninja.errors import AuthenticationError, HttpError

from conversations import errors, lanes, turns
from conversations.api import errors as api_errors
from conversations.api import threads as threads_api
from conversations.api.urls import api
from conversations.models import ChatMessage, ChatSession, ChatTurn
from conversations.tests import scripted
from conversations.tests.scripted import Call, Say

THREADS = "/chatkit/threads"
JSON = {"Content-Type": "application/json"}
CANARY = "canary-4711"


def assert_error(response: Any, status: int, code: str) -> dict[str, Any]:
    """The contract's shape, and no more than that."""
    assert response.status_code == status, response.content
    assert response.headers["Content-Type"] == "application/json"
    assert response.headers["Cache-Control"] == "no-store"
    body = json.loads(response.content)
    assert set(body) == {"error", "detail"}
    error: dict[str, Any] = body["error"]
    assert set(error) - {"fields"} == {"code", "message", "retryable"}
    assert error["code"] == code
    assert isinstance(error["retryable"], bool)
    assert body["detail"] == error["message"]
    assert error["message"].strip()
    for field in error.get("fields", []):
        assert {"field", "message"} <= set(field) <= {"field", "message", "code"}
        assert all(isinstance(value, str) for value in field.values())
    assert b"Traceback" not in response.content
    return error


async def snapshot() -> list[Any]:
    """All that a refused request must leave as it was."""

    def rows() -> list[Any]:
        models = (ChatSession, ChatTurn, ChatMessage)
        return [list(model.objects.order_by("pk").values()) for model in models]

    return await lanes.call(rows)


async def assert_invalid(client: httpx.AsyncClient, method: str, url: str, **request: Any) -> Any:
    response = await client.request(method, url, **request)
    assert response.status_code == 422, (request, response.text)
    return assert_error(response, 422, "invalid")


# --- The shape -----------------------------------------------------------------------------


async def test_401_404_405_have_the_shape(client, anonymous, session):
    assert_error(await anonymous.get(THREADS), 401, "unauthenticated")
    assert_error(await client.get(f"{THREADS}/{uuid4()}"), 404, "thread_not_found")
    for method in ("PUT", "DELETE", "TRACE"):
        response = await client.request(method, THREADS)
        assert_error(response, 405, "method_not_allowed")
        assert set(response.headers["Allow"].split(", ")) == {"GET", "POST"}
    response = await client.get(f"{THREADS}/{session.id}/messages")
    assert_error(response, 405, "method_not_allowed")


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
async def test_an_address_of_nothing_is_404_in_the_same_shape(method, client, anonymous):
    for path in (
        "/chatkit/nothing",
        "/chatkit/threads/",
        f"{THREADS}/{uuid4()}/nothing",
        "/chatkit/%0a",
        "/chatkit/%ff/%00",
        "/api",
        "/api/",
        "/api/nothing",
        "/api/auth",
        "/api/auth/",
        "/api/auth/nothing",
        "/api/x%0ay",
        "/healthz/nothing",
    ):
        for caller in (client, anonymous):
            response = await caller.request(method, path)
            error = assert_error(response, 404, "not_found")
            assert error["message"] == "There is nothing at this address."


async def test_the_rest_of_the_site_keeps_its_own_pages(anonymous):
    response = await anonymous.get("/nothing")
    assert response.status_code == 404
    assert response.headers["Content-Type"].startswith("text/html")


ERRORS = [
    (errors.Unauthenticated(), 401, "unauthenticated", False),
    (errors.CsrfFailed(), 403, "csrf", False),
    (errors.NotFound(), 404, "not_found", False),
    (errors.ThreadNotFound(), 404, "thread_not_found", False),
    (errors.TurnNotFound(), 404, "turn_not_found", False),
    (errors.ThreadClosed(), 409, "thread_closed", False),
    (errors.ThreadHeld(), 409, "held", False),
    (errors.ThreadBusy(), 409, "thread_busy", True),
    (errors.IdempotencyConflict(), 409, "idempotency_conflict", False),
    (errors.TooLarge(), 413, "too_large", False),
    (errors.Invalid(), 422, "invalid", False),
    (errors.Throttled(), 429, "throttled", True),
    (errors.QueueFull(), 429, "throttled", True),
    (errors.StoreError(), 503, "store_unavailable", True),
    (errors.StoreBusy(), 503, "store_unavailable", True),
    (errors.StoreReadOnly(), 503, "store_unavailable", True),
    (errors.StoreDamaged(), 503, "store_unavailable", False),
    (errors.ShuttingDown(), 503, "store_unavailable", True),
    (errors.TransactionOpen(), 500, "transaction_open", False),
    (Http404(CANARY), 404, "not_found", False),
    (AuthenticationError(), 401, "unauthenticated", False),
    (RequestDataTooBig(CANARY), 413, "too_large", False),
    (DatabaseError(CANARY), 503, "store_unavailable", True),
    (OperationalError(CANARY), 503, "store_unavailable", True),
    (InterfaceError(CANARY), 503, "store_unavailable", True),
    (HttpError(400, CANARY), 422, "invalid", False),
    (HttpError(405, CANARY), 405, "method_not_allowed", False),
    (HttpError(418, CANARY), 418, "error", False),
    (ZeroDivisionError(CANARY), 500, "error", True),
    (ExceptionGroup(CANARY, [ValueError(CANARY)]), 500, "error", True),
]


@pytest.mark.parametrize(
    ("error", "status", "code", "retryable"),
    ERRORS,
    ids=[type(case[0]).__name__ for case in ERRORS],
)
def test_each_error_has_its_status_and_its_word(error, status, code, retryable, caplog):
    response = api.on_exception(RequestFactory().get(THREADS), error)
    found = assert_error(response, status, code)
    assert found["retryable"] is retryable
    assert ("Retry-After" in response) == (status in {429, 503})
    assert ("WWW-Authenticate" in response) == (status == 401)
    assert CANARY not in response.content.decode() + caplog.text


@pytest.mark.parametrize(
    ("cause", "status", "code"),
    [
        (errors.Invalid("Send JSON."), 422, "invalid"),
        (RequestDataTooBig(CANARY), 413, "too_large"),
        (ValueError(CANARY), 422, "invalid"),
    ],
)
def test_what_happened_while_a_body_was_read_counts(cause, status, code):
    error = HttpError(400, CANARY)
    error.__cause__ = cause
    assert_error(api.on_exception(RequestFactory().get(THREADS), error), status, code)


def test_a_wait_is_said_in_whole_seconds():
    response = api_errors.from_core(errors.Throttled(retry_after=7))
    assert response["Retry-After"] == "7"


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 413, 422, 429, 500, 503])
def test_any_status_of_djangos_own_gets_the_shape(status):
    response = api_errors.from_status(status)
    body = json.loads(response.content)
    assert_error(response, status, body["error"]["code"])
    assert body["error"]["retryable"] is (status >= 500)


# --- Bodies --------------------------------------------------------------------------------


async def test_a_body_that_is_not_json_is_refused(client, session):
    before = await snapshot()
    url = f"{THREADS}/{session.id}"
    bodies: list[bytes] = [b"{", b"}", b"{'a': 1}", b"\xff\xfe\x00", b"{} {}", b" ", b"title=a"]
    bodies += [b"null", b"[]", b'[{"title": "a"}]', b'"title"', b"1", b"true", b"NaN"]
    bodies += [b"[" * 2000, b'{"title":' * 2000, b"[" * 2000 + b"]" * 2000]
    bodies += [b'{"a":' * 2000 + b"1" + b"}" * 2000, b"[" * 100_000]
    bodies += [b'{"title": ' + b"9" * 5000 + b"}"]
    for body in bodies:
        for method, path in (
            ("POST", THREADS),
            ("PATCH", url),
            ("POST", f"{url}/messages"),
            ("POST", "/api/auth/login"),
        ):
            await assert_invalid(client, method, path, content=body, headers=JSON)
    assert await snapshot() == before
    assert scripted.SCRIPT.inputs == []


async def test_only_json_is_taken(client, session):
    url = f"{THREADS}/{session.id}/messages"
    for content_type in (
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/json2",
        "application/xml",
        "nonsense",
    ):
        headers = {"Content-Type": content_type}
        error = await assert_invalid(client, "POST", url, content='{"text": "a"}', headers=headers)
        assert "application/json" in error["message"]
        await assert_invalid(client, "POST", THREADS, content="{}", headers=headers)
    assert scripted.SCRIPT.inputs == []
    for content_type in ("application/json; charset=utf-8", "Application/JSON"):
        headers = {"Content-Type": content_type}
        assert (await client.post(THREADS, content="{}", headers=headers)).status_code == 201


async def test_what_a_client_may_not_set_is_refused(client, session):
    before = await snapshot()
    for name, value in {
        "owner": 1,
        "owner_id": 1,
        "user_id": str(uuid4()),
        "hold": False,
        "fence": 7,
        "last_position": 7,
        "message_count": 7,
        "created_at": "2020-01-01T00:00:00Z",
        "id": str(uuid4()),
        "thread_id": str(uuid4()),
        "agent_session_id": "user_1",
        "__class__": "x",
    }.items():
        for method, url in (("POST", THREADS), ("PATCH", f"{THREADS}/{session.id}")):
            error = await assert_invalid(client, method, url, json={"title": "a", name: value})
            assert [field["field"] for field in error["fields"]] == [name]
    await assert_invalid(client, "POST", THREADS, json={"status": "closed"})
    assert await snapshot() == before


async def test_titles_have_bounds(client, session):
    before = await snapshot()
    url = f"{THREADS}/{session.id}"
    for title in ("", " ", "\n\t\u2003", "t" * 201, "NUL \x00", 1, True, ["a"], {"a": 1}):
        for method, path in (("POST", THREADS), ("PATCH", url)):
            error = await assert_invalid(client, method, path, json={"title": title})
            assert [field["field"] for field in error["fields"]] == ["title"]
    for lone in ('{"title": "\\ud800"}', '{"title": "a\\udfffb"}', '{"title": "\\u0000"}'):
        await assert_invalid(client, "POST", THREADS, content=lone, headers=JSON)
    assert await snapshot() == before
    for title in ("t", "t" * 200, "🙂" * 200):
        assert (await client.post(THREADS, json={"title": title})).status_code == 201


def nested(depth: int) -> Any:
    value: Any = 1
    for number in range(depth):
        value = [value] if number % 2 else {"a": value}
    return {"a": value}


async def test_metadata_has_bounds(client, session):
    before = await snapshot()
    values = [nested(25), nested(500), {"a": list(range(1000))}, {str(n): n for n in range(1000)}]
    values += [{"a": "\x00"}, {"\x00": 1}, {"a": [{"b": "\x00"}]}, {"a": 2**63}, {"a": -(2**63)}]
    values += [{"a": 10**30}, [], "a", 1, True]
    bodies = [json.dumps({"metadata": value}) for value in values]
    bodies += [
        f'{{"metadata": {{"a": {value}}}}}'
        for value in ("NaN", "Infinity", "-Infinity", "1e999", '"\\ud800"', '{"\\udfff": 1}')
    ]
    for body in bodies:
        for method, url in (("POST", THREADS), ("PATCH", f"{THREADS}/{session.id}")):
            error = await assert_invalid(client, method, url, content=body, headers=JSON)
            assert error["fields"]
    assert await snapshot() == before
    for value in (nested(19), {"a": 2**63 - 1, "b": 1e308, "c": -0.0, "d": "\u2028"}):
        assert (await client.post(THREADS, json={"metadata": value})).status_code == 201


async def test_a_status_is_one_of_three(client, session):
    for status in ("open", "ACTIVE", "", 1, ["closed"]):
        url = f"{THREADS}/{session.id}"
        await assert_invalid(client, "PATCH", url, json={"status": status})


# --- Queries -------------------------------------------------------------------------------


def place(moment: str, thread_id: str = "0" * 32, separator: str = "~") -> str:
    text = f"{moment}{separator}{thread_id}"
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


async def test_the_list_takes_only_what_it_understands(client):
    for limit in ("0", "-1", "101", "1.5", "", "a", "1e2", "9" * 30, "9" * 5000, "NaN", "１é"):
        error = await assert_invalid(client, "GET", THREADS, params={"limit": limit})
        assert [field["field"] for field in error["fields"]] == ["limit"]
    for order in ("up", "DESC", ""):
        await assert_invalid(client, "GET", THREADS, params={"order": order})
    now = "2026-01-01T00:00:00+00:00"
    for after in (
        "a",
        "é",
        "====",
        "x" * 201,
        str(uuid4()),
        place(""),
        place("yesterday"),
        place(now, "not an id"),
        place(now, ""),
        place(now, separator=" "),
        place("2026-01-01T00:00:00"),
        place("0001-01-01T00:00:00+23:59"),
        place("9999-12-31T23:59:59-23:59"),
        place(now, "\x00"),
        base64.urlsafe_b64encode(b"\xff\xfe~\xff").decode(),
    ):
        error = await assert_invalid(client, "GET", THREADS, params={"after": after})
        assert [field["field"] for field in error["fields"]] == ["after"], after
    for edge in ("0001-01-01T00:00:00+00:00", "9999-12-31T23:59:59.999999+00:00"):
        assert (await client.get(THREADS, params={"after": place(edge)})).status_code == 200
    for q in ("NUL \x00", "q" * 201):
        error = await assert_invalid(client, "GET", THREADS, params={"q": q})
        assert [field["field"] for field in error["fields"]] == ["q"]
    for q in ("%FF", "%ED%A0%80"):  # not UTF-8: read as replacement characters
        assert (await client.get(f"{THREADS}?q={q}")).status_code == 200


async def test_a_transcript_takes_only_what_it_understands(client, session):
    url = f"{THREADS}/{session.id}"
    for limit in ("0", "-1", "51", "a", "", "9" * 30):
        await assert_invalid(client, "GET", url, params={"limit": limit})
    for before in ("a", "x" * 37, "0" * 32, "\x00", str(uuid4()).replace("-", ""), "' OR 1=1 --"):
        error = await assert_invalid(client, "GET", url, params={"before": before})
        assert [field["field"] for field in error["fields"]] == ["before"], before


async def test_a_slow_pattern_is_not_slow_here(client, session):
    patterns = ["(a+)+" * 40, "%" * 200, "_%" * 100, "\\" * 200, "a" * 199 + "!"]
    for pattern in patterns:
        assert (await client.get(THREADS, params={"q": pattern})).status_code == 200
    await client.patch(f"{THREADS}/{session.id}", json={"title": "\\%_" * 60})
    (thread,) = (await client.get(THREADS, params={"q": "\\%_" * 60})).json()["data"]
    assert thread["thread_id"] == str(session.id)


# --- Failures ------------------------------------------------------------------------------


async def test_an_unexpected_failure_is_500_without_its_words(client, monkeypatch, caplog):
    def fail(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError(CANARY)

    monkeypatch.setattr(threads_api, "list_threads", fail)
    response = await client.get(THREADS)
    assert_error(response, 500, "error")
    assert CANARY not in response.text + caplog.text
    assert "unexpected RuntimeError at" in caplog.text
    assert "test_api_errors.py:" in caplog.text


@pytest.mark.parametrize(
    "failure",
    [
        DatabaseError(CANARY),
        OperationalError(CANARY),
        InterfaceError(CANARY),
        UnicodeDecodeError("utf-8", CANARY.encode(), 0, 1, CANARY),
        OverflowError(CANARY),
        errors.StoreBusy(),
    ],
    ids=lambda failure: type(failure).__name__,
)
async def test_a_store_that_fails_is_503(failure, client, monkeypatch, caplog):
    def fail(*args: Any, **kwargs: Any) -> Any:
        raise failure

    monkeypatch.setattr(threads_api, "list_threads", fail)
    response = await client.get(THREADS)
    error = assert_error(response, 503, "store_unavailable")
    assert error["retryable"] is True
    assert response.headers["Retry-After"] == "1"
    assert CANARY not in response.text + caplog.text
    monkeypatch.undo()
    assert (await client.get(THREADS)).status_code == 200


async def test_a_server_that_is_leaving_says_503(client, session):
    await turns.drain(0)
    response = await client.post(f"{THREADS}/{session.id}/messages", json={"text": "Hello"})
    error = assert_error(response, 503, "store_unavailable")
    assert error["retryable"] is True
    assert not await lanes.call(ChatTurn.objects.exists)


# --- Silence -------------------------------------------------------------------------------


async def test_no_log_holds_what_people_said(client, anonymous, session, script, user, caplog):
    caplog.set_level(logging.DEBUG)
    url = f"{THREADS}/{session.id}"
    script(
        Call("look_up", f'{{"word": "{CANARY}"}}', say=CANARY),
        Say(CANARY),
        RuntimeError(CANARY),
        Say(CANARY, then=ValueError(CANARY)),
        Call("break_down", f'{{"no such": "{CANARY}"}}'),
        Call("look_up", CANARY),
    )
    for _ in range(6):
        headers = {"Idempotency-Key": f"{CANARY}-{uuid4()}"}
        said = await client.post(f"{url}/messages", json={"text": CANARY}, headers=headers)
        assert said.status_code == 200
    await client.post(THREADS, json={"title": CANARY, "metadata": {CANARY: CANARY}})
    await client.post(THREADS, json={"title": CANARY * 50, CANARY: CANARY})
    await client.post(f"{url}/messages", json={"text": CANARY * 500})
    await client.post(f"{url}/messages", content=f'{{"text": "{CANARY}', headers=JSON)
    await client.patch(url, json={"title": CANARY})
    await client.get(THREADS, params={"q": CANARY, "after": CANARY, "limit": CANARY})
    await client.get(url, params={"before": CANARY})
    await anonymous.post("/api/auth/login", json={"email": user.email, "password": CANARY})
    await anonymous.get(THREADS, headers={"Authorization": f"Bearer {CANARY}"})
    await anonymous.get(THREADS, headers={"Cookie": f"sessionid={CANARY}"})
    with override_settings(CHAT_MAX_BODY_BYTES=10):
        await client.post(f"{url}/messages", json={"text": CANARY})
    await client.post(f"{url}/clear")
    await client.delete(url)
    assert caplog.records
    for record in caplog.records:
        said = f"{record.getMessage()} {record.args} {record.exc_text} {record.exc_info}"
        assert CANARY not in said, record
        assert user.email not in said
        assert "cst_" not in said
