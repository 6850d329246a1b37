"""The web process: uvicorn, started from our own code so that a stop loses nothing.

python -m conversations.web [--host 127.0.0.1] [--port 8000]

On SIGTERM or SIGINT running turns may finish for `CHAT_SHUTDOWN_GRACE_SECONDS` (10); what then
still runs is stopped and saved, every open stream gets its closing event, and the exit code is 0.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import importlib
import logging
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final

# First of all: the site's package sets the umask and chooses the SQLite library.
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "chatsite.settings")
importlib.import_module(os.environ["DJANGO_SETTINGS_MODULE"].partition(".")[0])

import django  # noqa: E402
import uvicorn  # noqa: E402
from django.conf import settings  # noqa: E402
from django.core import checks  # noqa: E402
from django.utils.module_loading import import_string  # noqa: E402

from conversations import supervisor  # noqa: E402

logger = logging.getLogger(__name__)

DEFAULT_GRACE_SECONDS: Final = 10.0
DRAIN_MARGIN_SECONDS: Final = 5.0  # for saving and saying goodbye after the grace
BACKSTOP_SECONDS: Final = 5  # then uvicorn cancels what is left
KEEP_ALIVE_SECONDS: Final = 75  # longer than the proxies' usual 60: they close first
GC_THRESHOLD: Final = 20_000
MAX_HEAD_BYTES: Final = 65_536
STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)

Begin = Callable[[], Awaitable[None]]
Drain = Callable[[float], Awaitable[None]]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m conversations.web")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--fd", type=int, help="a listening socket to take over")
    options = parser.parse_args(arguments)
    supervisor.die_with_parent()
    for number in STOP_SIGNALS:
        signal.signal(number, _leave_quietly)  # nothing runs yet that would have to be saved
    if options.fd is not None:
        listener = socket.socket(fileno=options.fd)
    else:
        try:
            listener = supervisor.open_listener(host=options.host, port=options.port)
        except supervisor.CannotListen as error:
            supervisor.say(str(error))
            return 1
    serve(listener)
    return 0


def serve(listener: socket.socket) -> None:
    """Load the site and answer on `listener` until told to stop."""
    application = load_application()
    grace = float(getattr(settings, "CHAT_SHUTDOWN_GRACE_SECONDS", DEFAULT_GRACE_SECONDS))
    server = Server(
        build_config(application), begin=begin_turns, drain=drain_turns, grace_seconds=grace
    )
    freeze_loaded_objects()
    try:
        server.run(sockets=[listener])
    finally:
        importlib.import_module("conversations.lanes").close()


def load_application() -> Any:
    """The ASGI application with all that its requests will need, loaded now."""
    django.setup()
    application = import_string(settings.ASGI_APPLICATION)
    for message in checks.run_checks():  # loads every URL, too
        if not message.is_silenced():
            logger.log(message.level, "%s", message)
    load_assistant()
    load_chatkit()
    return application


def load_assistant() -> None:
    """Build the assistant; a site whose assistant cannot be built still serves everything else."""
    try:
        importlib.import_module("conversations.assistant").get_agent()
    except Exception:
        logger.exception(
            "The assistant could not be built. The site starts, but answers fail until this is "
            "mended; see CONVERSATIONS_AGENT in docs/settings.md."
        )


def load_chatkit() -> None:
    """Build the server of the ChatKit protocol, in whose words turns tell what tools show."""
    try:
        importlib.import_module("conversations.chatkit_server").get_server()
    except Exception:
        logger.exception(
            "The ChatKit server could not be built. Answers fail until this is mended; see "
            "CONVERSATIONS_CHATKIT_SERVER in docs/settings.md."
        )


def freeze_loaded_objects() -> None:
    """Keep what is loaded out of garbage collection: a full one would stop the loop for 100 ms.

    A run of the SDK makes thousands of short-lived objects, and nearly all die by reference count:
    looking for cycles less often saves a tenth of a turn's CPU.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD)


async def begin_turns() -> None:
    """Recover what a process that was killed left open."""
    await importlib.import_module("conversations.turns").look_after_abandoned()


async def drain_turns(grace_seconds: float) -> None:
    """Refuse new turns, let running ones finish, stop and save the rest, close every stream."""
    await importlib.import_module("conversations.turns").drain(grace_seconds)


def build_config(application: Any) -> uvicorn.Config:
    """How uvicorn runs here."""
    return uvicorn.Config(
        application,
        http=_http_protocol(),
        ws="none",
        lifespan="off",  # Django has none; the drain does its work
        log_config=None,  # Django's LOGGING is the one place
        access_log=False,
        server_header=False,
        proxy_headers=True,
        forwarded_allow_ips=["127.0.0.1", "::1"],
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=BACKSTOP_SECONDS,
        h11_max_incomplete_event_size=MAX_HEAD_BYTES,
        backlog=supervisor.BACKLOG,
    )


class Server(uvicorn.Server):
    """A server whose turns end before its connections do, and whose stop is not an error."""

    def __init__(
        self, config: uvicorn.Config, *, begin: Begin, drain: Drain, grace_seconds: float
    ) -> None:
        super().__init__(config)
        self._begin = begin
        self._drain = drain
        self._grace_seconds = grace_seconds

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer, and close what a process before this one left open."""
        await super().startup(sockets)
        await self._begin()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Drain while the socket still answers, then close."""
        await self._drain_in_time()
        await super().shutdown(sockets)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        # Ours stay to the end and are not raised again: uvicorn's would end the process by the
        # signal, with an exit code that is not 0 and the closing work undone.
        for number in STOP_SIGNALS:
            signal.signal(number, self.handle_exit)
        yield

    async def _drain_in_time(self) -> None:
        draining = asyncio.ensure_future(self._drain(self._grace_seconds))
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._grace_seconds + DRAIN_MARGIN_SECONDS
        while not draining.done() and not self.force_exit and loop.time() < deadline:
            await asyncio.wait({draining}, timeout=0.1)
        if not draining.done():
            logger.error("Turns were still running when the time to stop was over.")
            draining.cancel()
            await asyncio.wait({draining}, timeout=1)
        elif draining.exception() is not None:
            logger.error("Turns could not be drained.", exc_info=draining.exception())


def _leave_quietly(_number: int, _frame: FrameType | None) -> None:
    sys.exit(0)


def _http_protocol() -> Any:
    """httptools with a bound on the head of a request, which it lacks; else h11, which has one."""
    try:
        from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol  # noqa: PLC0415
    except ImportError:
        return "h11"

    class BoundedHttpToolsProtocol(HttpToolsProtocol):
        _reading_head = False
        _head_bytes = 0

        def data_received(self, data: bytes) -> None:
            before = self.headers
            super().data_received(data)
            if self._reading_head and self.headers is before:
                self._head_bytes += len(data)
                if self._head_bytes > MAX_HEAD_BYTES:
                    self._reading_head = False
                    self.transport.write(
                        b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
                        b"content-length: 0\r\nconnection: close\r\n\r\n"
                    )
                    self.transport.close()

        def on_message_begin(self) -> None:
            super().on_message_begin()
            self._reading_head, self._head_bytes = True, 0

        def on_headers_complete(self) -> None:
            self._reading_head = False
            super().on_headers_complete()

    return BoundedHttpToolsProtocol


if __name__ == "__main__":
    sys.exit(main())
