"""Every route of the OpenAPI document: it works, and it refuses whom and what it must.

A new route without a case here fails.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from fnmatch import fnmatch
from html.parser import HTMLParser
from typing import Any, Final
from urllib.parse import urljoin, urlsplit
from uuid import uuid4

import httpx
import pytest
from django.test import Client, override_settings

from conversations import lanes
from conversations.api.urls import api
from conversations.errors import StoreError
from conversations.events import CONTEXT_UNAVAILABLE, NOT_SAVED
from conversations.models import AccessToken, Attachment, ChatMessage, ChatSession, ChatTurn
from conversations.tests import factories, scripted

DOCUMENT: Final[dict[str, Any]] = json.loads(json.dumps(api.get_openapi_schema()))
ROUTES: Final = [
    (method.upper(), path)
    for path, operations in DOCUMENT["paths"].items()
    for method in operations
]
THREAD: Final = "/chatkit/threads/{thread_id}"


@dataclass(frozen=True)
class Case:
    """What a route answers to a good request, and which are not good."""

    status: int
    request: Callable[[Any], dict[str, Any]] = lambda user: {}
    invalid: list[dict[str, Any]] = field(default_factory=list)
    public: bool = False
    errors: set[int] = field(default_factory=set)
    """Statuses of its own, beside those that follow from its kind."""


def body(**values: Any) -> Callable[[Any], dict[str, Any]]:
    return lambda user: {"json": values}


CASES: Final[dict[tuple[str, str], Case]] = {
    ("GET", "/healthz"): Case(200, public=True),
    ("GET", "/readyz"): Case(200, public=True),
    ("GET", "/metrics"): Case(200, public=True, errors={401, 503}),
    ("POST", "/api/auth/login"): Case(
        200,
        lambda user: {"json": {"email": user.email, "password": "correct horse"}},
        invalid=[{"json": {}}, {"content": b"{"}, {"json": {"email": "a", "password": 1}}],
        public=True,
        errors={401, 429},
    ),
    ("POST", "/api/auth/logout"): Case(204),
    ("GET", "/api/auth/me"): Case(200),
    ("POST", "/chatkit"): Case(
        200,
        body(type="threads.list", params={}),
        invalid=[
            {"json": {"type": "threads.list"}},
            {"json": {"type": "threads.share", "params": {}}},
            {"json": {"params": {}}},
            {"json": []},
            {"content": b"{"},
        ],
        errors={404, 409, 429, 501},
    ),
    ("POST", "/chatkit/threads"): Case(
        201,
        body(title="Plans", metadata={"a": 1}),
        invalid=[{"json": {"title": ""}}, {"json": {"owner": 1}}, {"content": b"["}],
    ),
    ("GET", "/chatkit/threads"): Case(
        200, invalid=[{"params": {"limit": 0}}, {"params": {"after": "x"}}]
    ),
    ("GET", THREAD): Case(200, invalid=[{"params": {"limit": 51}}, {"params": {"before": "x"}}]),
    ("PATCH", THREAD): Case(
        200,
        body(title="Renamed"),
        invalid=[{"json": {"title": ""}}, {"json": {"status": "x"}}, {"content": b"{"}],
    ),
    ("DELETE", THREAD): Case(204, errors={409}),
    ("POST", THREAD + "/messages/{message_id}/feedback"): Case(
        200,
        body(kind="positive", comment="Well said."),
        invalid=[
            {"json": {"kind": "neutral"}},
            {"json": {"kind": "positive", "comment": "x" * 2_001}},
            {"json": {"kind": "positive", "comment": "a\x00"}},
            {"json": {}},
            {"content": b"{"},
        ],
    ),
    ("GET", THREAD + "/reads"): Case(
        200, invalid=[{"params": {"limit": 0}}, {"params": {"after": "x"}}]
    ),
    ("POST", THREAD + "/clear"): Case(200, errors={409}),
    ("POST", THREAD + "/messages"): Case(
        200,
        body(text="Hello"),
        invalid=[
            {"json": {"text": ""}},
            {"content": b"{"},
            {"json": {"text": "a"}, "headers": {"Idempotency-Key": "k" * 300}},
        ],
        errors={409, 429},
    ),
    ("GET", THREAD + "/turns/{turn_id}"): Case(200),
    ("GET", THREAD + "/turns/{turn_id}/events"): Case(
        200,
        invalid=[
            {"headers": {"Last-Event-ID": number}}
            for number in ("-1", "x", "1.5", "999", "9" * 300, "\u0661".encode())
        ],
        errors={409},
    ),
    ("POST", THREAD + "/turns/{turn_id}/stop"): Case(200),
    ("POST", THREAD + "/turns/{turn_id}/retry"): Case(
        200,
        body(text="Hello again"),
        invalid=[
            {"json": {"text": ""}},
            {"json": {"text": 1}},
            {"json": {"message": "Hello"}},
            {"content": b"{"},
            {"headers": {"Idempotency-Key": "k" * 300}},
        ],
        errors={409},
    ),
}

DATA: Final = (None, factories.PNG)
FILE: Final = "/chatkit/attachments/{attachment_id}"
CASES |= {
    ("PUT", FILE): Case(
        200,
        lambda user: {"content": factories.PNG},
        invalid=[{"content": factories.PNG[:-1]}, {"files": {"other": b"x"}}],
        errors={409, 429},
    ),
    ("POST", FILE): Case(
        200,
        lambda user: {"files": {"file": factories.PNG}},
        invalid=[{"content": b"x" * len(factories.PNG)}, {"files": {"other": b"x"}}],
        errors={409, 429},
    ),
    ("GET", FILE): Case(200),
    ("GET", THREAD + "/export"): Case(200, invalid=[{"params": {"format": "xml"}}]),
    ("GET", "/chatkit/export"): Case(200),
    ("DELETE", "/chatkit/account-data"): Case(200, errors={409}),
}

each_route = pytest.mark.parametrize("route", ROUTES, ids=" ".join)
each_private_route = pytest.mark.parametrize(
    "route",
    [route for route in ROUTES if route not in CASES or not CASES[route].public],
    ids=" ".join,
)
each_thread_route = pytest.mark.parametrize(
    "route", [route for route in ROUTES if "{thread_id}" in route[1]], ids=" ".join
)


@dataclass(frozen=True)
class Place:
    """A conversation with one answered message."""

    thread_id: Any
    turn_id: Any
    message_id: Any
    file_ids: Any = ()
    """Of a file that is announced, and of one that is uploaded."""

    def url(self, path: str, method: str = "GET") -> str:
        pending, ready = self.file_ids or (uuid4(), uuid4())
        return path.format(
            thread_id=self.thread_id,
            turn_id=self.turn_id,
            message_id=self.message_id,
            attachment_id=ready if method == "GET" else pending,
        )


@pytest.fixture
async def place(client: httpx.AsyncClient, session: Any) -> Place:
    await client.post(f"/chatkit/threads/{session.id}/messages", json={"text": "Hello"})
    turn = await lanes.call(ChatTurn.objects.get)

    def files() -> list[Any]:
        return [factories.AttachmentFactory(owner=session.owner, data=data).id for data in DATA]

    return Place(session.id, turn.id, turn.answer_message_id, await lanes.call(files))


def case_of(route: tuple[str, str]) -> Case:
    assert route in CASES, f"{' '.join(route)} has no case in CASES: describe it there"
    return CASES[route]


def operation_of(route: tuple[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = DOCUMENT["paths"][route[1]][route[0].lower()]
    return found


async def send(
    client: httpx.AsyncClient, route: tuple[str, str], place: Place, request: dict[str, Any]
) -> httpx.Response:
    if "content" in request:
        request = {"headers": {"Content-Type": "application/json"}} | request
    return await client.request(route[0], place.url(route[1], route[0]), **request)


async def snapshot() -> list[Any]:
    def rows() -> list[Any]:
        tables = [model.objects.order_by("pk") for model in (ChatSession, ChatTurn, ChatMessage)]
        tokens = AccessToken.objects.order_by("pk").values("id", "user_id", "revoked_at")
        files = Attachment.objects.order_by("pk").values()
        return [list(table.values()) for table in tables] + [list(tokens), list(files)]

    return await lanes.call(rows)


def schema_of(response: dict[str, Any]) -> dict[str, Any] | None:
    content = response.get("content", {}).get("application/json")
    if content is None:
        return None
    schema: dict[str, Any] = content["schema"]
    name = schema.get("$ref", "").rpartition("/")[2]
    return DOCUMENT["components"]["schemas"][name] if name else schema


# --- The matrix ----------------------------------------------------------------------------


@each_route
async def test_it_answers_as_it_is_described(route, client, place, user):
    case = case_of(route)
    response = await send(client, route, place, case.request(user))
    assert response.status_code == case.status, response.text
    described = operation_of(route)["responses"][str(case.status)]
    schema = schema_of(described)
    if schema is None:
        kinds = list(described.get("content", {}))
        kind = response.headers.get("Content-Type", "").partition(";")[0]
        assert len(kinds) == bool(response.content)
        assert all(fnmatch(kind, described) for described in kinds)
    else:
        assert set(schema["required"]) <= set(response.json()) <= set(schema["properties"])


@each_private_route
async def test_who_is_not_signed_in_is_401(route, anonymous, client, place, user):
    before = await snapshot()
    known = await send(anonymous, route, place, case_of(route).request(user))
    nowhere = Place(uuid4(), uuid4(), uuid4())
    unknown = await send(anonymous, route, nowhere, case_of(route).request(user))
    for response in (known, unknown):
        assert response.status_code == 401
        assert response.json()["error"]["code"] == "unauthenticated"
    assert known.json() == unknown.json()
    assert await snapshot() == before
    assert len(scripted.SCRIPT.inputs) == 1


@each_private_route
async def test_a_cookie_without_a_csrf_token_changes_nothing(route, user, place, anonymous):
    def sign_in() -> str:
        browser = Client()
        browser.force_login(user)
        return str(browser.cookies["sessionid"].value)

    anonymous.headers["Cookie"] = f"sessionid={await lanes.call(sign_in)}"
    before = await snapshot()
    response = await send(anonymous, route, place, case_of(route).request(user))
    if route[0] == "GET":
        assert response.status_code == 200
    else:
        assert (response.status_code, response.json()["error"]["code"]) == (403, "csrf")
    assert await snapshot() == before


@each_thread_route
async def test_a_stranger_learns_nothing_and_changes_nothing(route, strangers_client, place, user):
    before = await snapshot()
    request = case_of(route).request(user)
    foreign = await send(strangers_client, route, place, request)
    nowhere = Place(uuid4(), uuid4(), uuid4())
    random = await send(strangers_client, route, nowhere, request)
    assert (foreign.status_code, foreign.json()["error"]["code"]) == (404, "thread_not_found")
    assert foreign.content == random.content
    different = {name: foreign.headers[name] for name in foreign.headers}
    assert different == {name: random.headers[name] for name in random.headers}
    assert await snapshot() == before
    assert len(scripted.SCRIPT.inputs) == 1


@each_private_route
async def test_a_stranger_gets_nothing_of_anothers(route, strangers_client, place, user):
    response = await send(strangers_client, route, place, case_of(route).request(user))
    told = response.text
    assert str(place.thread_id) not in told
    assert str(place.turn_id) not in told
    assert str(place.message_id) not in told
    assert not any(str(file_id) in told for file_id in place.file_ids)
    assert user.email not in told


@each_thread_route
async def test_what_is_missing_deleted_or_no_id_is_404(route, client, place, user):
    gone = (await client.post("/chatkit/threads")).json()["thread_id"]
    await client.delete(f"/chatkit/threads/{gone}")
    before = await snapshot()
    answers = set()
    for thread_id in (
        uuid4(),
        gone,
        "1",
        "x" * 36,
        str(place.thread_id).replace("-", ""),
        f"{{{place.thread_id}}}",
        f"urn:uuid:{place.thread_id}",
        f"{place.thread_id}%00",
        f"{place.thread_id}%20",
        "%F0%9F%99%82",
        "%27%20OR%201=1",
        "..%2f..%2fetc",
        "9" * 3000,
    ):
        elsewhere = Place(thread_id, place.turn_id, place.message_id)
        response = await send(client, route, elsewhere, case_of(route).request(user))
        assert response.status_code == 404, thread_id
        if "%2f" not in str(thread_id):  # an address of its own
            answers.add(response.content)
    assert len(answers) == 1
    assert json.loads(answers.pop())["error"]["code"] == "thread_not_found"
    assert await snapshot() == before


@each_route
async def test_what_is_invalid_is_422_and_does_nothing(route, client, place):
    case = case_of(route)
    operation = operation_of(route)
    parameters = [p for p in operation.get("parameters", []) if p["in"] != "path"]
    assert bool(case.invalid) == bool("requestBody" in operation or parameters), (
        "a route that takes something needs `invalid` examples"
    )
    before = await snapshot()
    for request in case.invalid:
        response = await send(client, route, place, request)
        assert response.status_code == 422, request
        assert response.json()["error"]["code"] == "invalid"
    assert await snapshot() == before
    assert len(scripted.SCRIPT.inputs) == 1


@each_route
async def test_a_body_beyond_the_limit_is_413(route, client, place):
    before = await snapshot()
    with override_settings(CHAT_MAX_BODY_BYTES=1_024, CHAT_ATTACHMENT_MAX_BYTES=1_024):
        response = await send(client, route, place, {"content": b" " * 1_025})
    assert (response.status_code, response.json()["error"]["code"]) == (413, "too_large")
    assert await snapshot() == before


@each_private_route
async def test_a_store_that_is_down_is_503(route, client, place, user, monkeypatch):
    async def fail(*args: Any, **kwargs: Any) -> Any:
        raise StoreError

    for name in ("read", "write", "call"):
        monkeypatch.setattr(lanes, name, fail)
    response = await send(client, route, place, case_of(route).request(user))
    monkeypatch.undo()
    if route == ("POST", THREAD + "/messages"):  # the one thing that is better than an error
        assert response.status_code == 200
        assert CONTEXT_UNAVAILABLE in response.text
        assert NOT_SAVED in response.text
    else:
        assert response.status_code == 503
        assert response.json()["error"]["code"] == "store_unavailable"


async def test_the_process_is_up_whatever_the_store_does(anonymous, monkeypatch):
    async def fail(*args: Any, **kwargs: Any) -> Any:
        raise StoreError

    for name in ("read", "write", "call"):
        monkeypatch.setattr(lanes, name, fail)
    response = await anonymous.get("/healthz", headers={"Authorization": "Bearer nonsense"})
    assert (response.status_code, response.json()) == (200, {"status": "ok"})
    monkeypatch.undo()


# --- The document --------------------------------------------------------------------------


def test_no_case_describes_a_route_that_is_gone():
    assert set(CASES) == set(ROUTES)


@each_route
def test_every_error_a_route_may_answer_is_described(route):
    case, operation = case_of(route), operation_of(route)
    expected = set(case.errors)
    if not case.public:
        expected |= {401, 403, 503}
    if "{" in route[1]:
        expected |= {404}
    if "requestBody" in operation:
        expected |= {413, 422}
    if case.invalid:
        expected |= {422}
    described = {int(status) for status in operation["responses"] if int(status) >= 400}
    assert expected <= described
    for status in described:
        schema = operation["responses"][str(status)]["content"]["application/json"]["schema"]
        report = route == ("GET", "/readyz")  # what is not well is its answer, not an error
        assert schema["$ref"].endswith("/ReadyOut" if report else "/ErrorOut")


@each_route
def test_every_route_says_what_it_does_and_who_may(route):
    operation = operation_of(route)
    assert operation["description"].endswith(".")
    assert operation["tags"]
    assert ("security" in operation) != case_of(route).public
    for parameter in operation.get("parameters", []):
        assert parameter["in"] != "header" or "_" not in parameter["name"]


def test_the_token_is_described():
    schemes = DOCUMENT["components"]["securitySchemes"].values()
    assert {(scheme["type"], scheme["scheme"]) for scheme in schemes} == {("http", "bearer")}


@pytest.mark.parametrize(
    "route",
    [
        ("POST", THREAD + "/messages"),
        ("GET", THREAD + "/turns/{turn_id}/events"),
        ("POST", THREAD + "/turns/{turn_id}/retry"),
    ],
)
def test_the_stream_is_described(route):
    answers = operation_of(route)["responses"]
    assert list(answers["200"]["content"]) == ["text/event-stream"]
    assert "X-Turn-Id" in answers["200"]["headers"]


async def test_the_document_is_served(anonymous):
    response = await anonymous.get("/api/openapi.json")
    assert response.headers["Content-Type"].startswith("application/json")
    served = response.json()
    assert served["openapi"].startswith("3.")
    assert set(served["paths"]) == set(DOCUMENT["paths"])
    everything = json.dumps(served)
    references = {part.partition('"')[0] for part in everything.split('"#/components/schemas/')[1:]}
    assert references <= set(served["components"]["schemas"])


# --- The page ------------------------------------------------------------------------------


class Page(HTMLParser):
    """What a page loads, and the scripts written into it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.assets: list[str] = []
        self.inline: list[str] = []
        self._in_script = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        address = given.get("src") or (given.get("href") if tag == "link" else None)
        if address:
            self.assets.append(address)
        kind = given.get("type") or "text/javascript"
        self._in_script = tag == "script" and "src" not in given and "json" not in kind
        assert not any(name.startswith("on") for name in given)
        assert "style" not in given

    def handle_data(self, data: str) -> None:
        if self._in_script and data.strip():
            self.inline.append(data)


async def test_the_page_loads_everything_from_here(anonymous):
    response = await anonymous.get("/api/docs")
    assert response.status_code == 200
    assert "http://" not in response.text
    assert "https://" not in response.text
    page = Page(response.text)
    assert page.inline == []  # the content security policy would forbid it
    assert any(asset.endswith(".js") for asset in page.assets)
    assert any(asset.endswith(".css") for asset in page.assets)
    for asset in page.assets:
        address = urljoin("http://localhost/api/docs", asset)
        assert urlsplit(address).netloc == "localhost"
        found = await anonymous.get(address)
        assert found.status_code == 200, asset
        assert found.content
        if asset.endswith(".js"):
            assert "javascript" in found.headers["Content-Type"]
    assert "/api/openapi.json" in response.text
    policy = response.headers["Content-Security-Policy"]
    assert "default-src 'self'" in policy
    assert "unsafe" not in policy
