"""The way in: bodies are bounded, and API requests take a short path through Django.

Django's handler opens a thread context per request, which costs a new thread and a new database
connection at the first hop and lives as long as a stream. The API needs neither: its database
work goes through `conversations.lanes`. The admin and all else keep Django's own handler.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from io import BytesIO
from typing import Any, Final, cast

from asgiref.sync import markcoroutinefunction
from corsheaders.middleware import CorsMiddleware
from django.core.exceptions import DisallowedHost
from django.core.handlers.asgi import ASGIHandler, get_script_prefix
from django.core.handlers.exception import convert_exception_to_response
from django.http import HttpRequest, HttpResponse, QueryDict
from django.http.response import HttpResponseBase
from django.middleware.security import SecurityMiddleware
from django.urls import set_script_prefix
from django.utils.datastructures import MultiValueDict

from conversations.api import uploads
from conversations.api.errors import from_core, from_status
from conversations.conf import get_conf
from conversations.errors import TooLarge

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[Mapping[str, Any]]]
Send = Callable[[Mapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

API_PATHS: Final = ("/chatkit/", "/api/auth/", "/healthz", "/readyz", "/metrics")


def is_api_path(path: str) -> bool:
    """Whether a request to this path takes the short way."""
    return path.startswith(API_PATHS) or path == "/chatkit"


class Entrance:
    """The ASGI application: `api` for the API's paths, `site` for all else."""

    def __init__(self, *, api: App, site: App, max_site_body: int = 10_485_760) -> None:
        self._api = api
        self._site = site
        self._max_site_body = max_site_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise ValueError(f"only HTTP is served here, not {scope['type']}")
        if is_api_path(scope["path"]):
            await self._api(scope, receive, send)
        else:
            await self._serve_site(scope, receive, send)

    async def _serve_site(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Django's own handler, whose request ends once its body outgrows the limit."""
        size, has_answered = 0, False

        async def bounded() -> Mapping[str, Any]:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            return message if size <= self._max_site_body else {"type": "http.disconnect"}

        async def noted(message: Mapping[str, Any]) -> None:
            nonlocal has_answered
            has_answered = True
            await send(message)

        await self._site(scope, bounded, noted)
        if size > self._max_site_body and not has_answered:
            refusal = from_core(TooLarge())
            headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
            start = {"type": "http.response.start", "status": refusal.status_code}
            await send({**start, "headers": headers})
            await send({"type": "http.response.body", "body": refusal.content})


class ApiHandler(ASGIHandler):
    """Django's handler without a thread, a connection or a spool file per request."""

    def load_middleware(self, is_async: bool = False) -> None:
        """Only what an API needs, all of it async or free of waiting."""
        self._view_middleware: list[Any] = []
        self._template_response_middleware: list[Any] = []
        self._exception_middleware: list[Any] = []
        handler: Any = convert_exception_to_response(self._answer)
        handler = convert_exception_to_response(CorsMiddleware(handler))
        self._middleware_chain: Any = convert_exception_to_response(ApiMiddleware(handler))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_upload = uploads.is_upload(scope)
        limit = get_conf().chat_max_body_bytes
        body = b"" if is_upload else await _read_body(scope, receive, limit)
        if body is None:
            return  # the client left before it had said everything
        set_script_prefix(get_script_prefix(scope))
        readable = BytesIO() if isinstance(body, TooLarge) else BytesIO(body)
        request, _ = self.create_request(scope, readable)
        if request is not None:
            request.META["conversations.too_large"] = isinstance(body, TooLarge)  # see `_answer`
            if is_upload:
                _leave_body(request, receive)
            response: Any = await self.run_get_response(request)
        else:  # an address that is not text
            response = from_status(400)
        end = getattr(response, "end", None)
        if end is not None:
            await _send_until_left(self.send_response(response, send), receive, end)
        else:
            await self.send_response(response, send)
        for close in response._resource_closers:
            close()

    async def _answer(self, request: Any) -> HttpResponseBase:
        if request.META["conversations.too_large"]:
            return from_core(TooLarge())
        response: HttpResponseBase = await self._get_response_async(request)  # type: ignore[attr-defined]
        return response


class ApiMiddleware:
    """Host check and security headers; and Django's own HTML errors become the contract's."""

    async_capable = True
    sync_capable = False

    def __init__(self, get_response: Callable[[HttpRequest], Awaitable[HttpResponseBase]]) -> None:
        markcoroutinefunction(self)  # else Django takes it for a sync one, and errors pass it by
        self._get_response = get_response
        # Its two halves never wait, so they need no thread of their own.
        self._security: Any = SecurityMiddleware(get_response)

    async def __call__(self, request: HttpRequest) -> HttpResponseBase:
        try:
            request.get_host()
        except DisallowedHost:
            return from_status(400)
        redirect = self._security.process_request(request)
        response = redirect or await self._get_response(request)
        if response.status_code >= 400 and "json" not in response.get("Content-Type", ""):
            plain = from_status(response.status_code)
            for name in ("Allow", "Access-Control-Allow-Origin", "Vary"):
                if name in response:
                    plain[name] = response[name]
            response = plain
        if isinstance(response, HttpResponse):
            response["Content-Length"] = str(len(response.content))
        return cast(HttpResponseBase, self._security.process_response(request, response))


async def _send_until_left(
    sending: Coroutine[Any, Any, None], receive: Receive, end: Callable[[], Awaitable[None]]
) -> None:
    """Send a stream that ends when its listener leaves, however far it was sent by then."""
    task, leaving = asyncio.ensure_future(sending), asyncio.ensure_future(_left(receive))
    try:
        await asyncio.wait({task, leaving}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        task.cancel()  # nothing happens to one that is done
        leaving.cancel()
        await asyncio.wait({task, leaving})
        await end()
    if not task.cancelled():
        task.result()


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _leave_body(request: Any, receive: Receive) -> None:
    """For the route to read, once it knows that it wants it. Nobody looks for a form in it."""
    request.META[uploads.BODY] = uploads.read_body(receive)
    request._post, request._files = QueryDict(), MultiValueDict()


async def _read_body(scope: Scope, receive: Receive, limit: int) -> bytes | TooLarge | None:
    declared = dict(scope["headers"]).get(b"content-length", b"0")
    if declared.isdigit() and int(declared) > limit:
        return TooLarge()
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        chunks.append(message.get("body", b""))
        size += len(chunks[-1])
        if size > limit:
            return TooLarge()
        if not message.get("more_body", False):
            return b"".join(chunks)
