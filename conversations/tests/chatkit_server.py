"""A site for tests of the ChatKit door, from any program that speaks HTTP.

    python -m conversations.tests.chatkit_server --port 8765

One JSON line on stdout says that it answers, where, and as whom:

    {"url": "http://127.0.0.1:8765/chatkit", "headers_a": {"Authorization": ...}, "headers_b": ...}

The assistant is `chatkit_agent`. The database is new and gone at the end (SIGTERM or Ctrl-C); no
`.env` and no environment changes anything. Everything else goes to stderr.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import secrets
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Final, TextIO

from conversations import supervisor

GRACE_SECONDS: Final = 1.0
TESTS: Final = "conversations.tests"
OURS: Final = {
    "CONVERSATIONS_AGENT": f"{TESTS}.chatkit_agent.build_agent",
    "CONVERSATIONS_CHATKIT_SERVER": f"{TESTS}.chatkit_test_server.ConformanceServer",
    "CHAT_SHUTDOWN_GRACE_SECONDS": str(GRACE_SECONDS),
    "CHAT_MAX_QUEUED_TURNS": "100",
}
"""Nobody who speaks to a site can change these: they are read from its environment, once."""


def main(arguments: Sequence[str] | None = None) -> int:
    options = read_options(arguments)
    supervisor.die_with_parent()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave)  # what was made so far is removed on the way out
    stdout = _keep_stdout()
    try:
        listener = supervisor.open_listener(host=options.host, port=options.port)
    except supervisor.CannotListen as error:
        sys.stderr.write(f"{error}\n")
        return 1
    with listener, _folder() as folder, _database(options.database_url, folder) as place:
        address = supervisor.url_of(listener)
        os.environ.update(build_environment(folder, SITE_URL=address, ALLOWED_HOSTS="*", **place))
        _serve(listener, address=address, stdout=stdout)
    return 0


def read_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=f"python -m {TESTS}.chatkit_server")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0, the default: any that is free")
    parser.add_argument(
        "--database-url",
        default="",
        help="postgresql://user:password@host/name: a database of its own on that server, "
        "dropped at the end (without it, a SQLite file in a temporary folder)",
    )
    options = parser.parse_args(arguments)
    if options.database_url and not options.database_url.startswith(("postgres://", "postgresql")):
        parser.error("--database-url: write postgresql://user:password@host:5432/name")
    return options


def build_environment(folder: Path, **changes: str) -> dict[str, str]:
    """Every setting: its default, with all that is kept in `folder`, and what the tests need."""
    from chatsite.env import VARIABLES  # chooses the SQLite library, before anything opens one

    environment = {}
    for variable in VARIABLES:
        is_place = variable.default.startswith("data/")
        environment[variable.name] = str(folder / variable.default if is_place else "") or (
            variable.default
        )
    return (
        environment
        | {"DJANGO_SETTINGS_MODULE": "chatsite.settings", "SECRET_KEY": secrets.token_urlsafe(50)}
        | OURS
        | changes
    )


def _serve(listener: Any, *, address: str, stdout: TextIO) -> None:
    from conversations import lanes, web

    application = web.load_application()
    tokens = _prepare()

    async def begin() -> None:
        await web.begin_turns()
        headers = [{"Authorization": f"Bearer {token}"} for token in tokens]
        ready = {"url": f"{address}/chatkit", "headers_a": headers[0], "headers_b": headers[1]}
        with contextlib.suppress(BrokenPipeError):  # nobody has to read it
            print(json.dumps(ready), file=stdout, flush=True)

    server = web.Server(
        web.build_config(application),
        begin=begin,
        drain=web.drain_turns,
        grace_seconds=GRACE_SECONDS,
    )
    web.freeze_loaded_objects()
    try:
        server.run(sockets=[listener])
    finally:
        lanes.close()


def _prepare() -> list[str]:
    """All tables and two users; a token of each."""
    from django.db import connections

    from conversations.tests.faults.database import prepare

    try:
        return list(prepare(users=2)["tokens"])
    finally:
        connections.close_all()


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="chatsite-chatkit-"))
    try:
        (folder / "data").mkdir(mode=0o700)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _database(url: str, folder: Path) -> Iterator[Mapping[str, str]]:
    """A new database, as the environment names it; gone at the end."""
    from conversations.tests.faults import engines

    if not url:
        yield {}
        return
    with engines.own_database(url) as own:
        yield {"DATABASE_URL": own}


def _keep_stdout() -> TextIO:
    """The real stdout; whatever else is printed from now on goes to stderr."""
    stdout = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return stdout


def _leave(_number: int, _frame: FrameType | None) -> None:
    sys.exit(0)


if __name__ == "__main__":
    sys.exit(main())
