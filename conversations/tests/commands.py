"""Commands as the tests call them: in this process, at a terminal of their own or at none."""

from __future__ import annotations

from dataclasses import dataclass
from io import StringIO
from unittest.mock import patch

from django.core.management import BaseCommand, CommandError, call_command


class Terminal(StringIO):
    """A terminal: what was typed is read from it, or what is shown is written to it."""

    def isatty(self) -> bool:
        return True


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code and complaint, what it printed, what it showed besides."""

    returncode: int
    complaint: str
    printed: str
    shown: str


def call(command: str | BaseCommand, *arguments: str, typed: str | Terminal | None = None) -> Ended:
    """Run a command; at a terminal if something is typed there."""
    returncode, complaint = 0, ""
    out, shown = StringIO(), StringIO() if typed is None else Terminal()
    keys = Terminal(typed) if isinstance(typed, str) else typed or StringIO()
    with patch("sys.stdin", keys), patch("sys.stderr", shown):
        try:
            call_command(command, *arguments, stdout=out, stderr=shown, skip_checks=True)
        except CommandError as error:
            returncode, complaint = error.returncode, str(error)
    return Ended(returncode, complaint, out.getvalue(), shown.getvalue())


def run(command: str, *arguments: str) -> str:
    """What a command prints that ends well, without a terminal."""
    ended = call(command, *arguments)
    assert (ended.returncode, ended.complaint) == (0, "")
    return ended.printed
