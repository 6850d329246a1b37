"""The way in: streams that flow, bounded bodies, browsers from elsewhere, foreign hosts."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from django.core.handlers.asgi import ASGIHandler
from django.db import connection
from django.test import override_settings

from conversations import lanes, turns
from conversations.api.asgi import ApiHandler, Entrance, is_api_path
from conversations.models import ChatMessage, ChatSession, ChatTurn
from conversations.tests import scripted
from conversations.tests.conftest import answer
from conversations.tests.factories import ChatSessionFactory, token_for
from conversations.tests.scripted import Say
from conversations.tests.supervisor_processes import running

THREADS = "/chatkit/threads"
PAGE = "https://page.example"


# --- A peer that speaks ASGI by hand -------------------------------------------------------


class Exchange:
    """One request to an ASGI application, its answer piece by piece."""

    def __init__(
        self,
        app: Any,
        method: str = "GET",
        path: str = "/healthz",
        *,
        body: list[bytes] | None = None,
        query: bytes = b"",
        **headers: str,
    ) -> None:
        self.scope: dict[str, Any] = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": query,
            "headers": [
                (name.replace("_", "-").encode(), value.encode())
                for name, value in ({"host": "localhost"} | headers).items()
            ],
            "client": ("127.0.0.1", 1234),
            "server": ("localhost", 80),
        }
        self.taken = 0
        self.status = 0
        self.headers: dict[str, str] = {}
        self.pieces: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._body = body if body is not None else [b""]
        self._app = app
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        try:
            await self._app(self.scope, self._receive, self._send)
        finally:
            self.pieces.put_nowait(None)

    async def _receive(self) -> Mapping[str, Any]:
        if self.taken == len(self._body):
            await asyncio.Event().wait()  # the client is still there, and says no more
        piece = self._body[self.taken]
        self.taken += 1
        more = self.taken < len(self._body)
        if piece == b"HANG UP":
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": piece, "more_body": more}

    async def _send(self, message: Mapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {
                name.decode().lower(): value.decode() for name, value in message["headers"]
            }
        elif message.get("body"):
            self.pieces.put_nowait(message["body"])

    async def __aiter__(self) -> AsyncIterator[str]:
        while (piece := await self.pieces.get()) is not None:
            yield piece.decode()

    async def text(self) -> str:
        whole = "".join([piece async for piece in self])
        await self.task
        return whole

    async def json(self) -> Any:
        return json.loads(await self.text())


@pytest.fixture
def app() -> Any:
    from chatsite.asgi import application

    return application


@pytest.fixture
async def bearer(user: Any) -> str:
    return f"Bearer {await lanes.call(token_for, user)}"


Post = Callable[..., Exchange]


@pytest.fixture
async def post(app: Any, bearer: str) -> AsyncIterator[Post]:
    """Say something; the answer is read by hand."""
    exchanges: list[Exchange] = []

    def start(session: Any, text: str = "Hello") -> Exchange:
        exchange = Exchange(
            app,
            "POST",
            f"{THREADS}/{session.id}/messages",
            body=[json.dumps({"text": text}).encode()],
            authorization=bearer,
            content_type="application/json",
        )
        exchanges.append(exchange)
        return exchange

    yield start
    for exchange in exchanges:
        exchange.task.cancel()
    await asyncio.gather(*(exchange.task for exchange in exchanges), return_exceptions=True)


async def read_until(stream: AsyncIterator[str], words: str) -> str:
    read = ""
    async for piece in stream:
        read += piece
        if words in read:
            return read
    raise AssertionError(f"{words!r} never came: {read}")


# --- Streams -------------------------------------------------------------------------------


async def test_what_the_model_says_first_arrives_before_it_says_more(post, session, script):
    gate = asyncio.Event()
    script(Say("One two", gate=gate))
    exchange = post(session)
    stream = aiter(exchange)
    begun = await read_until(stream, '{"content":"One "}')
    assert exchange.status == 200
    assert exchange.headers["x-turn-id"]
    assert "two" not in begun
    assert not gate.is_set()
    gate.set()
    rest = await read_until(stream, "[DONE]")
    assert answer(begun + rest) == "One two"
    assert [piece async for piece in stream] == []


async def test_while_nothing_happens_comments_keep_the_stream_open(post, session, script):
    gate = asyncio.Event()
    script(Say("One two", gate=gate))
    with override_settings(CHAT_HEARTBEAT_SECONDS=0.01):
        stream = aiter(post(session))
        body = await read_until(stream, ": waiting\n\n")
        body += await read_until(stream, ": waiting\n\n")
        gate.set()
        body += await read_until(stream, "[DONE]")
    assert answer(body) == "One two"
    ids = [line for line in body.split("\n") if line.startswith("id: ")]
    assert ids == [f"id: {number}" for number in (1, 2, 3, 4, 5)]


async def test_an_open_stream_holds_no_thread(post, user, script):
    gate = asyncio.Event()
    sessions = await lanes.call(lambda: [ChatSessionFactory(owner=user) for _ in range(25)])
    await post(sessions[0]).text()  # what is needed once is there now
    script(*(Say("One two", gate=gate) for _ in sessions[1:]))
    before = set(threading.enumerate())
    streams = [aiter(post(session)) for session in sessions[1:]]
    for stream in streams:
        await read_until(stream, '{"content":"One "}')
    new = {thread.name for thread in set(threading.enumerate()) - before}
    assert {name for name in new if not name.startswith("store-")} == set()
    assert len(new) <= 8  # lanes that had nothing to do yet
    gate.set()
    for stream in streams:
        await read_until(stream, "[DONE]")


async def test_who_leaves_early_finds_the_whole_answer_later(post, client, session, script):
    gate = asyncio.Event()
    script(Say("One two three", gate=gate))
    exchange = post(session)
    await read_until(aiter(exchange), "One ")
    exchange.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await exchange.task
    gate.set()
    await turns.settled(session.id)
    messages = (await client.get(f"{THREADS}/{session.id}")).json()["messages"]
    assert messages[1]["content"] == "One two three"
    assert not messages[1]["incomplete"]


class FileGate:
    """Opens when a file appears: the test is another process."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def wait(self) -> None:
        while not self._path.exists():  # noqa: ASYNC110 - nothing wakes us
            await asyncio.sleep(0.005)


def build_gated_agent() -> Any:
    """The scripted assistant of the server that the test below starts."""
    gate: Any = FileGate(Path(os.environ["TEST_GATE"]))
    scripted.SCRIPT.steps[:] = [Say("One two three", gate=gate)]
    return scripted.build_agent()


@contextlib.contextmanager
def serving(gate: Path) -> Iterator[int]:
    """The real server, on this test's database; its port."""
    environment = {"DJANGO_SETTINGS_MODULE": "chatsite.settings_test", "TEST_GATE": str(gate)}
    environment["CONVERSATIONS_AGENT"] = "conversations.tests.test_api_asgi.build_gated_agent"
    if connection.vendor == "postgresql":
        url = urlsplit(os.environ["TEST_DATABASE_URL"])
        path = f"/{connection.settings_dict['NAME']}"
        environment["TEST_DATABASE_URL"] = url._replace(path=path).geturl()
    arguments = ["-m", "uvicorn", "chatsite.asgi:application", "--port", "0", "--lifespan", "off"]
    with running(*arguments, **environment) as command:
        found = command.says(r"running on http://127\.0\.0\.1:(\d+)")
        yield int(found[1])


@pytest.mark.slow
def test_over_a_real_connection_an_answer_flows_and_refusals_are_plain(session, user):
    token = token_for(user)
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    url = f"{THREADS}/{session.id}/messages"
    with tempfile.TemporaryDirectory() as folder:
        gate = Path(folder) / "gate"
        with serving(gate) as port:
            peer = http.client.HTTPConnection("127.0.0.1", port, timeout=30)

            def ask(method: str, path: str, body: Any = None, **more: str) -> tuple[int, bytes]:
                peer.request(method, path, body=body, headers=headers | more)
                response = peer.getresponse()
                return response.status, response.read()

            peer.request("POST", url, body=json.dumps({"text": "Hello"}), headers=headers)
            response = peer.getresponse()
            assert response.status == 200
            assert response.getheader("Content-Type") == "text/event-stream; charset=utf-8"
            assert response.getheader("Transfer-Encoding") == "chunked"
            begun = b""
            while b"One " not in begun:
                begun += response.readline()
            assert b"two" not in begun
            gate.touch()
            body = (begun + response.read()).decode()
            assert answer(body) == "One two three"
            assert body.endswith("data: [DONE]\n\n")

            for status, code, answered in (
                (400, "invalid", ask("GET", THREADS, Host="evil.example")),
                (400, "invalid", ask("GET", "/healthz", Host="a b")),
                (401, "unauthenticated", ask("GET", THREADS, Authorization="Bearer x")),
                (404, "not_found", ask("GET", "/api/nothing")),
                (422, "invalid", ask("POST", url, body="{")),
            ):
                assert answered[0] == status
                assert json.loads(answered[1])["error"]["code"] == code
            assert ask("GET", "/static/ninja/swagger-ui.css")[0] == 200
            peer.close()

            # 413 comes while the body is still on its way, whether its length is told or not
            for length in ({"Content-Length": "1000000"}, {"Transfer-Encoding": "chunked"}):
                peer = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
                peer.putrequest("POST", url)
                for name, value in (headers | length).items():
                    peer.putheader(name, value)
                peer.endheaders()
                if "Transfer-Encoding" in length:
                    for _ in range(5):
                        peer.send(b"10000\r\n" + b" " * 0x10000 + b"\r\n")
                response = peer.getresponse()
                assert response.status == 413
                assert json.loads(response.read())["error"]["code"] == "too_large"
                peer.close()
    assert ChatMessage.objects.filter(shown=True).count() == 2


# --- Bodies --------------------------------------------------------------------------------


async def test_a_body_of_a_declared_megabyte_is_refused_before_it_is_read(app, bearer):
    exchange = Exchange(
        app,
        "POST",
        THREADS,
        body=[b" " * 65_536] * 16,
        authorization=bearer,
        content_length="1048576",
    )
    assert (await exchange.json())["error"]["code"] == "too_large"
    assert (exchange.status, exchange.taken) == (413, 0)


async def test_a_megabyte_of_unknown_length_is_refused_once_it_is_too_much(app, bearer, session):
    exchange = Exchange(
        app,
        "POST",
        f"{THREADS}/{session.id}/messages",
        body=[b" " * 65_536] * 16,
        authorization=bearer,
        transfer_encoding="chunked",
    )
    assert (await exchange.json())["error"]["code"] == "too_large"
    assert exchange.status == 413
    assert exchange.taken == 5  # 262144 bytes are four of these
    assert not await lanes.call(ChatTurn.objects.exists)
    assert scripted.SCRIPT.inputs == []


@pytest.mark.parametrize("declared", ["10", "nonsense", "-1", ""])
async def test_a_body_longer_than_it_said_is_refused_too(declared, app, bearer):
    exchange = Exchange(
        app,
        "POST",
        THREADS,
        body=[b" " * 300_000],
        authorization=bearer,
        content_length=declared,
    )
    assert (await exchange.json())["error"]["code"] == "too_large"


async def test_the_limit_is_a_setting_and_exact(client, user):
    headers = {"Content-Type": "application/json"}
    with override_settings(CHAT_MAX_BODY_BYTES=1_024):
        body = b'{"title": "a"}' + b" " * (1_024 - 14)
        assert (await client.post(THREADS, content=body, headers=headers)).status_code == 201
        refused = await client.post(THREADS, content=body + b" ", headers=headers)
    assert refused.status_code == 413
    assert refused.headers["X-Content-Type-Options"] == "nosniff"


async def test_a_browser_elsewhere_can_read_that_its_body_was_too_large(client):
    with override_settings(CORS_ALLOWED_ORIGINS=[PAGE], CHAT_MAX_BODY_BYTES=10):
        refused = await client.post(THREADS, json={"title": "a" * 10}, headers={"Origin": PAGE})
    assert refused.status_code == 413
    assert refused.headers["Access-Control-Allow-Origin"] == PAGE


async def test_who_hangs_up_before_the_end_has_said_nothing(app, bearer, session):
    exchange = Exchange(
        app,
        "POST",
        f"{THREADS}/{session.id}/messages",
        body=[b'{"text": "Hel', b"HANG UP"],
        authorization=bearer,
    )
    assert await exchange.text() == ""
    assert exchange.status == 0
    assert not await lanes.call(ChatTurn.objects.exists)


async def test_a_key_that_no_store_takes_is_refused(app, bearer, session):
    exchange = Exchange(
        app,
        "POST",
        f"{THREADS}/{session.id}/messages",
        body=[b'{"text": "Hello"}'],
        authorization=bearer,
        content_type="application/json",
        idempotency_key="a\x00b",
    )
    error = (await exchange.json())["error"]
    assert exchange.status == 422
    assert [field["field"] for field in error["fields"]] == ["Idempotency-Key"]


async def test_a_body_in_pieces_is_put_together(app, bearer):
    exchange = Exchange(
        app,
        "POST",
        THREADS,
        body=[b'{"ti', b"", b'tle": "', "Grüße".encode()[:3], "Grüße".encode()[3:], b'"}'],
        authorization=bearer,
        content_type="application/json",
    )
    assert (await exchange.json())["title"] == "Grüße"


async def test_the_site_reads_no_more_than_its_own_limit(app):
    entrance = Entrance(api=app, site=ASGIHandler(), max_site_body=100_000)
    exchange = Exchange(
        entrance, "POST", "/admin/login/", body=[b"a" * 65_536] * 100, content_type="text/plain"
    )
    assert (await exchange.json())["error"]["code"] == "too_large"
    assert exchange.status == 413
    assert exchange.taken == 2


# --- Ways in -------------------------------------------------------------------------------


def test_which_paths_take_the_short_way():
    short = ("/chatkit", "/chatkit/threads", "/api/auth/login", "/healthz", "/readyz", "/metrics")
    assert all(map(is_api_path, short))
    assert not any(map(is_api_path, ("/", "/admin/", "/api/docs", "/chatkits", "/static/a.js")))


@pytest.mark.parametrize("kind", ["websocket", "lifespan", "nonsense"])
async def test_only_http_is_served(kind, app):
    async def unused(*_: Any) -> Any:
        raise AssertionError

    with pytest.raises(ValueError, match=kind):
        await app({"type": kind, "path": "/chatkit/threads"}, unused, unused)


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "PUT"])
async def test_a_method_of_nothing_is_405_and_tells_which_there_are(method, client):
    response = await client.request(method, THREADS)
    assert response.status_code == 405
    assert set(response.headers["Allow"].split(", ")) == {"GET", "POST"}


async def test_an_address_that_is_not_text_is_400(app, bearer):
    exchange = Exchange(app, "GET", THREADS, query=b"q=\xff", authorization=bearer)
    assert (await exchange.json())["error"]["code"] == "invalid"
    assert exchange.status == 400


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "", "a b", "[::1", "x@y"]
)
async def test_a_foreign_host_is_400_in_our_shape(host, app, bearer):
    for path in (THREADS, "/healthz"):
        exchange = Exchange(app, "GET", path, authorization=bearer, host=host)
        found = await exchange.json()
        assert exchange.status == 400
        assert set(found) == {"error", "detail"}
        assert found["error"]["code"] == "invalid"
        assert host == "" or host not in json.dumps(found)


async def test_what_a_proxy_header_says_of_the_host_is_not_believed(client):
    response = await client.get(THREADS, headers={"X-Forwarded-Host": "evil.example"})
    assert response.status_code == 200


async def test_every_answer_has_the_security_headers(client, anonymous):
    for response in (
        await client.get(THREADS),
        await anonymous.get(THREADS),
        await client.get("/chatkit/nothing"),
        await client.get("/api/nothing"),
        await anonymous.get("/healthz"),
    ):
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert response.headers["Referrer-Policy"] == "same-origin"
        assert response.headers["Cross-Origin-Opener-Policy"] == "same-origin"
        assert "Strict-Transport-Security" not in response.headers
        assert "Set-Cookie" not in response.headers


async def test_with_https_plain_http_is_sent_there_and_https_is_told_to_stay(bearer):
    with override_settings(
        SECURE_SSL_REDIRECT=True,
        SECURE_HSTS_SECONDS=31_536_000,
        SECURE_PROXY_SSL_HEADER=("HTTP_X_FORWARDED_PROTO", "https"),
    ):
        app = ApiHandler()
        plain = Exchange(app, "GET", THREADS, query=b"limit=1", authorization=bearer)
        assert await plain.text() == ""
        assert plain.status == 301
        assert plain.headers["location"] == f"https://localhost{THREADS}?limit=1"
        safe = Exchange(app, "GET", THREADS, authorization=bearer, x_forwarded_proto="https")
        assert (await safe.json())["data"] == []
        assert safe.headers["strict-transport-security"].startswith("max-age=31536000")
    assert not await lanes.call(ChatSession.objects.exists)


async def test_a_failure_in_the_middleware_is_500_in_our_shape(bearer, monkeypatch):
    from django.middleware.security import SecurityMiddleware

    app = ApiHandler()

    def fail(*_: Any) -> Any:
        raise RuntimeError("canary")

    monkeypatch.setattr(ApiHandler, "resolve_request", fail)
    exchange = Exchange(app, "GET", THREADS, authorization=bearer)
    text = await exchange.text()
    assert exchange.status == 500
    assert json.loads(text)["error"]["retryable"] is True
    assert "canary" not in text
    monkeypatch.setattr(SecurityMiddleware, "process_request", fail)
    exchange = Exchange(app, "GET", THREADS, authorization=bearer)
    assert "canary" not in await exchange.text()
    assert exchange.status == 500


# --- Browsers from elsewhere ---------------------------------------------------------------

PREFLIGHT = {
    "Origin": PAGE,
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization,content-type,idempotency-key",
}


def cors(response: Any) -> dict[str, str]:
    return {
        name: value
        for name, value in response.headers.items()
        if name.startswith("access-control-")
    }


async def test_nobody_elsewhere_is_let_in_unless_named(client, anonymous, session):
    url = f"{THREADS}/{session.id}/messages"
    for response in (
        await anonymous.options(url, headers=PREFLIGHT),
        await client.get(THREADS, headers={"Origin": PAGE}),
        await client.get("/api/auth/me", headers={"Origin": PAGE}),
        await client.get("/api/openapi.json", headers={"Origin": PAGE}),
    ):
        assert cors(response) == {}


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "http://page.example",
        "https://page.example:8443",
        "https://page.example.evil.example",
        "https://sub.page.example",
        "null",
    ],
)
async def test_only_the_exact_origin_is_let_in(origin, client, anonymous):
    with override_settings(CORS_ALLOWED_ORIGINS=[PAGE]):
        preflight = await anonymous.options(THREADS, headers=PREFLIGHT | {"Origin": origin})
        assert "access-control-allow-origin" not in cors(preflight)
        response = await client.get(THREADS, headers={"Origin": origin})
        assert "access-control-allow-origin" not in cors(response)


@override_settings(CORS_ALLOWED_ORIGINS=[PAGE])
async def test_a_named_origin_may_send_what_the_api_takes(client, anonymous, session):
    for path in (f"{THREADS}/{session.id}/messages", "/api/auth/login", "/chatkit"):
        preflight = await anonymous.options(path, headers=PREFLIGHT)
        assert preflight.status_code == 200
        allowed = cors(preflight)
        assert allowed["access-control-allow-origin"] == PAGE
        assert set(allowed["access-control-allow-headers"].split(", ")) == {
            "authorization",
            "content-type",
            "idempotency-key",
            "last-event-id",
            "accept-language",
            "x-csrftoken",
            "chatkit-frame-instance-id",
            "x-upload-token",
        }
        assert {"GET", "POST", "PATCH", "DELETE"} <= set(
            allowed["access-control-allow-methods"].split(", ")
        )
        assert "access-control-allow-credentials" not in allowed
    url = f"{THREADS}/{session.id}/messages"
    said = await client.post(url, json={"text": "Hi"}, headers={"Origin": PAGE})
    assert cors(said)["access-control-allow-origin"] == PAGE
    assert cors(said)["access-control-expose-headers"] == "X-Turn-Id"
    assert "origin" in said.headers["Vary"].lower()


@override_settings(CORS_ALLOWED_ORIGINS=[PAGE])
async def test_a_named_origin_can_read_refusals(client, anonymous):
    for response in (
        await anonymous.get(THREADS, headers={"Origin": PAGE}),
        await client.get(f"{THREADS}/nothing", headers={"Origin": PAGE}),
        await client.get("/chatkit/nothing", headers={"Origin": PAGE}),
        await client.put(THREADS, headers={"Origin": PAGE}),
        await client.post(THREADS, json={"title": ""}, headers={"Origin": PAGE}),
    ):
        assert response.status_code >= 400
        assert cors(response)["access-control-allow-origin"] == PAGE
    other = await anonymous.get("/healthz", headers={"Origin": PAGE})
    assert cors(other) == {}
