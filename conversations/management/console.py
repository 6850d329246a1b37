"""What commands have in common: options, answers, questions, exit codes, the session that is meant.

Results go to stdout; progress, questions and complaints to stderr. With `--json` stdout is exactly
one object, also where the command fails: `{"error": {"code", "message", "retryable"}}`.
"""

from __future__ import annotations

import json
import sys
import time
from argparse import ArgumentParser
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, Final

from django.contrib.auth import get_user_model
from django.core.management.base import BaseCommand, CommandError
from django.core.serializers.json import DjangoJSONEncoder
from django.utils import timezone

from conversations import lanes
from conversations.errors import ConversationsError, Invalid, NotFound, ThreadNotFound
from conversations.ids import is_storable, parse_uuid, stored_session_id
from conversations.store.statistics import SessionStatistics, find_statistics

FAILED: Final = 1
USAGE: Final = 2
SOME_FAILED: Final = 3
INTERRUPTED: Final = 130
"""Beside 0: done, or nothing to do."""


class Declined(ConversationsError):
    """Nothing was changed."""

    code = "declined"


class Interrupted(ConversationsError):
    """Interrupted. What was done until then stays done."""

    code = "interrupted"


class UserNotFound(NotFound):
    """There is no such user."""


class ConsoleCommand(BaseCommand):
    """A command that fails in words and by the exit codes above; Ctrl-C is one of them."""

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--json", action="store_true", help="print one JSON object")

    def execute(self, *args: Any, **options: Any) -> str | None:
        try:
            return super().execute(*args, **options)
        except KeyboardInterrupt:
            raise self._failure(Interrupted(), INTERRUPTED, options) from None
        except ConversationsError as error:
            returncode = USAGE if isinstance(error, Invalid) else FAILED
            raise self._failure(error, returncode, options) from error

    def answer(self, found: Mapping[str, Any], *lines: str, as_json: bool) -> None:
        """Print what was found or done: as one JSON object, or in lines."""
        if as_json:
            self.stdout.write(json.dumps(found, cls=DjangoJSONEncoder))
            return
        for line in lines:
            self.stdout.write(line)

    def confirm(self, question: str) -> None:
        """Ask at the terminal, and raise Declined unless the answer is yes.

        Raises Invalid where there is no terminal to ask at.
        """
        if not (sys.stdin.isatty() and self.stderr.isatty()):
            raise Invalid("There is no terminal to ask at: add --no-input to do it unasked.")
        self.stderr.write(f"{question} Type yes to go on: ", self.style.WARNING, ending="")
        self.stderr.flush()
        if sys.stdin.readline().strip().lower() not in {"y", "yes"}:
            raise Declined

    @contextmanager
    def progress(self, status: str) -> Iterator[Callable[[str], object]]:
        """Show how far it is, on a terminal; the function takes what to show from now on."""
        if not self.stderr.isatty():
            yield lambda status: None
            return
        from rich.console import Console  # noqa: PLC0415 - only a terminal needs it

        with Console(stderr=True).status(status) as shown:
            yield shown.update

    @contextmanager
    def bar(self, title: str, *, total: int) -> Iterator[Callable[[int], object]]:
        """Show on a terminal how many are done, how fast, and how long it will take.

        The function takes how many are done by now.
        """
        if not self.stderr.isatty():
            yield lambda done: None
            return
        from rich.console import Console  # noqa: PLC0415 - only a terminal needs it
        from rich.progress import (  # noqa: PLC0415
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=Console(stderr=True)) as shown:
            task, begun = shown.add_task(title, total=total, rate=""), time.monotonic()

            def advance(done: int) -> None:
                rate = done / max(time.monotonic() - begun, 0.001)
                shown.update(task, completed=done, rate=f"{rate:.0f}/s")

            yield advance

    def _failure(
        self, error: ConversationsError, returncode: int, options: Mapping[str, Any]
    ) -> CommandError:
        if options["json"]:
            told = {"code": error.code, "message": error.message, "retryable": error.retryable}
            self.answer({"error": told}, as_json=True)
        return CommandError(error.message, returncode=returncode)


def add_dry_run(parser: ArgumentParser) -> None:
    """The options of a command that changes something."""
    parser.add_argument("--dry-run", action="store_true", help="say what would change")
    parser.add_argument(
        "--no-input",
        "--noinput",
        action="store_false",
        dest="interactive",
        help="ask nothing",
    )


def find_user(name: str) -> Any:
    """The user of that name. Raises UserNotFound, StoreError."""
    model = get_user_model()
    if is_storable(name):
        with suppress(model.DoesNotExist):
            return lanes.look_up(lambda db: model._default_manager.get_by_natural_key(name))
    raise UserNotFound(f"There is no user named {name!r}.")


def find_session(name: str) -> SessionStatistics:
    """The session that somebody names by its id, or by the id the SDK knows it by.

    Raises ThreadNotFound, also where it is no id at all.
    """
    now, found = timezone.now(), None
    session_id = parse_uuid(name)
    if session_id is not None:
        found = lanes.look_up(partial(find_statistics, session_id=session_id, now=now))
    if found is None and name:
        stored_id = stored_session_id(name)
        found = lanes.look_up(partial(find_statistics, agent_session_id=stored_id, now=now))
    if found is None:
        raise ThreadNotFound(f"There is no session {name!r}.")
    return found
