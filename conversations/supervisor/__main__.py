"""The two roles of the command line."""

from __future__ import annotations

import argparse
import socket
import sys
from collections.abc import Sequence
from typing import Final

from conversations.supervisor.bound import bound_command, run_bound
from conversations.supervisor.family import Program, Supervisor
from conversations.supervisor.watch import Watch

WORKER_STOP_SECONDS: Final = 15.0
WEB_STOP_MARGIN_SECONDS: Final = 15.0  # the drain's own margin, uvicorn's backstop, a bit
WORKER_PATIENCE_SECONDS: Final = 90.0  # a new worker gives its first sign of life in seconds
READINESS_EVERY_SECONDS: Final = 15.0


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m conversations.supervisor")
    roles = parser.add_subparsers(dest="role", required=True)
    site = roles.add_parser("site", help="look after the web server and the worker")
    site.add_argument("--manage", required=True, help="path of manage.py")
    site.add_argument("--fd", type=int, required=True, help="the listening socket")
    site.add_argument("--url", required=True, help="where the web server answers")
    site.add_argument("--grace", type=float, default=10.0)
    site.add_argument("--web-workers", type=int, default=1)
    site.add_argument("--no-worker", action="store_true")
    site.add_argument("--patience", type=float, default=WORKER_PATIENCE_SECONDS)
    site.add_argument("--worker-stop", type=float, default=WORKER_STOP_SECONDS)
    bound = roles.add_parser("bound", help="run a Python script that dies with its parent")
    bound.add_argument("script")
    bound.add_argument("arguments", nargs=argparse.REMAINDER)
    options = parser.parse_args(arguments)
    if options.role == "bound":
        run_bound(options.script, options.arguments)
        return 0
    return run_site(options)


def run_site(options: argparse.Namespace) -> int:
    """Look after the site until told to stop; the exit code."""
    listener = socket.socket(fileno=options.fd)
    web = [
        Program(
            name="web" if options.web_workers == 1 else f"web-{number}",
            command=(sys.executable, "-m", "conversations.web", "--fd", str(options.fd)),
            stop_seconds=options.grace + WEB_STOP_MARGIN_SECONDS,
            pass_fds=(options.fd,),
        )
        for number in range(1, options.web_workers + 1)
    ]
    worker = Program(
        name="worker",
        command=bound_command(options.manage, "qcluster"),
        stop_seconds=options.worker_stop,
    )
    watch = Watch(
        options.url,
        has_worker=not options.no_worker,
        every=min(READINESS_EVERY_SECONDS, options.patience),
    )
    supervisor = Supervisor(
        web if options.no_worker else [*web, worker],
        on_start=lambda program: watch.expect() if program in web else None,
        on_stop=listener.close,  # from here on only the web server's own copy answers
    )
    watch.on_worker_silent = lambda: supervisor.replace("worker", min_age=options.patience)
    watch.start()
    return supervisor.run()


if __name__ == "__main__":
    sys.exit(main())
