"""One process that has loaded the site and forks servers from itself.

Loading Django and the SDK costs seconds of CPU; a fork of a process that has done it, a few
milliseconds. It speaks with the harness over a socket whose number is its only argument, one JSON
object a message:

    {"work": "serve", "output": path}                + a listening socket
    {"work": "module:function", "arguments": {...}}  + a pipe for the function's result
    -> {"pid": ...}, and later {"ended": pid, "code": ...}

Every child leads a process group of its own and dies with its parent, which dies with the harness.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import selectors
import signal
import socket
import sys
import threading
from typing import Any, NoReturn

from conversations import supervisor, web

MESSAGE_BYTES = 65_536
USED_LATER = ("uvloop", "uvicorn.loops.auto", "uvicorn.protocols.http.httptools_impl")
CHILD_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the harness's to handle
    control = socket.socket(fileno=int(sys.argv[1]))
    web.load_application()
    for name in USED_LATER:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    gc.collect()
    gc.freeze()
    _insist_on_nothing_open()
    news, alarm = socket.socketpair()
    for end in (news, alarm):
        end.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(alarm.fileno())
    selector = selectors.DefaultSelector()
    selector.register(control, selectors.EVENT_READ)
    selector.register(news, selectors.EVENT_READ)
    _tell(control, ready=os.getpid())
    while True:
        for key, _ in selector.select():
            if key.fileobj is control:
                message, handed, *_ = socket.recv_fds(control, MESSAGE_BYTES, 1)
                if not message:
                    return  # the harness is gone; the kernel ends the children
                _tell(control, pid=_fork(json.loads(message), handed[0], (control, news, alarm)))
            else:
                news.recv(4096)
                for pid, code in _ended_children():
                    _tell(control, ended=pid, code=code)


def _insist_on_nothing_open() -> None:
    """A thread or a connection would be broken in every child."""
    from django.db import connections

    assert threading.active_count() == 1, threading.enumerate()
    assert all(wrapper.connection is None for wrapper in connections.all(initialized_only=True))


def _fork(request: dict[str, Any], handed: int, to_close: tuple[socket.socket, ...]) -> int:
    pid = os.fork()
    if pid:
        with contextlib.suppress(OSError):
            os.setpgid(pid, pid)  # both do it: whoever is told of the child may signal its group
        os.close(handed)
        return pid
    code = 1
    try:
        os.setpgid(0, 0)
        signal.set_wakeup_fd(-1)
        for number in CHILD_SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        os.environ[supervisor.PARENT_VARIABLE] = str(os.getppid())
        supervisor.die_with_parent()
        for end in to_close:
            end.close()
        code = _work(request, handed)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        _leave(code)
    raise AssertionError("a child never comes back")


def _work(request: dict[str, Any], handed: int) -> int:
    if request["work"] == "serve":
        output = os.open(request["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        for number in (1, 2):
            os.dup2(output, number)
        web.serve(socket.socket(fileno=handed))
        return 0
    module, _, name = request["work"].partition(":")
    result = getattr(importlib.import_module(module), name)(**request["arguments"])
    with os.fdopen(handed, "w") as pipe:
        json.dump(result, pipe)
    return 0


def _leave(code: int) -> NoReturn:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    os._exit(code)


def _ended_children() -> list[tuple[int, int]]:
    ended = []
    with contextlib.suppress(ChildProcessError):
        while (found := os.waitpid(-1, os.WNOHANG))[0]:
            ended.append((found[0], os.waitstatus_to_exitcode(found[1])))
    return ended


def _tell(control: socket.socket, **facts: Any) -> None:
    control.send(json.dumps(facts).encode())


if __name__ == "__main__":
    main()
