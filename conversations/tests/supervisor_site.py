"""The smallest site the supervisor can look after: settings, addresses and ASGI door in one module.

The processes that the tests start import it by DJANGO_SETTINGS_MODULE; nothing here is Django's
own start-up, so that a web process answers in well under a second.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator

from django.core.handlers.asgi import ASGIHandler
from django.http import HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
from django.urls import path

SECRET_KEY = "supervisor-site-" + "s" * 40
ALLOWED_HOSTS = ["localhost", "127.0.0.1"]
INSTALLED_APPS: list[str] = []
ROOT_URLCONF = __name__
ASGI_APPLICATION = f"{__name__}.application"
USE_TZ = True
CHAT_SHUTDOWN_GRACE_SECONDS = float(os.environ.get("SITE_GRACE", "5"))

draining = asyncio.Event()
streams: set[asyncio.Queue[bytes]] = set()


async def healthz(request: HttpRequest) -> HttpResponse:
    return HttpResponse("draining" if draining.is_set() else "ok")


async def readyz(request: HttpRequest) -> HttpResponse:
    return JsonResponse({"checks": {"database": {"ok": True}, "worker": {"ok": False}}}, status=503)


async def whoami(request: HttpRequest) -> HttpResponse:
    return JsonResponse(
        {
            "pid": os.getpid(),
            "umask": _umask(),
            "sqlite": sys.modules["sqlite3"].sqlite_version if "sqlite3" in sys.modules else None,
            "client": request.META["REMOTE_ADDR"],
            "secure": request.scheme == "https",
        }
    )


async def stream(request: HttpRequest) -> StreamingHttpResponse:
    async def events() -> AsyncIterator[bytes]:
        queue: asyncio.Queue[bytes] = asyncio.Queue()
        streams.add(queue)
        yield b"data: first\n\n"
        try:
            yield await queue.get()
        finally:
            streams.discard(queue)

    return StreamingHttpResponse(events(), content_type="text/event-stream")


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


class Turns:
    """Stands in for `conversations.turns`: a drain that takes a moment and ends every stream."""

    async def look_after_abandoned(self) -> None:
        """Nobody left anything."""

    async def drain(self, grace_seconds: float) -> None:
        draining.set()
        if os.environ.get("SITE_DRAIN") == "fails":
            raise RuntimeError("the store is gone")
        if os.environ.get("SITE_DRAIN") == "hangs":
            await asyncio.sleep(3600)
        await asyncio.sleep(float(os.environ.get("SITE_DRAIN") or 0))
        for queue in streams:
            queue.put_nowait(b"data: interrupted\n\n")


class Assistant:
    """Stands in for `conversations.assistant`."""

    def get_agent(self) -> None:
        if os.environ.get("SITE_AGENT") == "broken":
            raise ValueError("no such model")


class Lanes:
    """Stands in for `conversations.lanes`."""

    def close(self) -> None:
        sys.stderr.write("lanes closed\n")


if os.environ.get("DJANGO_SETTINGS_MODULE") == __name__:  # not when a test merely imports it
    for _name, _stand_in in (("turns", Turns()), ("assistant", Assistant()), ("lanes", Lanes())):
        sys.modules[f"conversations.{_name}"] = _stand_in  # type: ignore[assignment]

urlpatterns = [
    path("healthz", healthz),
    path("readyz", readyz),
    path("whoami", whoami),
    path("stream", stream),
]
application = ASGIHandler()
