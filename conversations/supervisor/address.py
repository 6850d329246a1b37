"""The listening socket that all web processes share."""

from __future__ import annotations

import errno
import socket
from typing import Final

BACKLOG: Final = 2048


class CannotListen(Exception):
    """The address cannot be served; the message says why and what to do."""


def open_listener(*, host: str, port: int) -> socket.socket:
    """A listening socket for children to share; clients wait in it while no child answers."""
    if not 0 <= port <= 65_535:
        raise CannotListen(f"There is no port {port}: choose one from 1 to 65535.")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise CannotListen(
                f"Port {port} on {host} is already in use: stop what runs there, "
                "or choose another with --port."
            ) from None
        reason = error.strerror or error
        raise CannotListen(f"Cannot listen on {host}, port {port}: {reason}.") from None


def url_of(listener: socket.socket) -> str:
    """Where to reach a listener from this machine."""
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - not bound here
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
