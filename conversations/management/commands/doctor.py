"""`manage.py doctor`: what is well here, what is not, and what to do about it."""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from dataclasses import asdict
from typing import Any

from conversations import health
from conversations.health import Finding
from conversations.management import console


class Command(console.ConsoleCommand):
    help = (
        "Look at every part of this site: what is well, what is not, and what to do about it. "
        "Changes nothing. Ends with 1 where something is not well."
    )
    requires_system_checks = ()  # they are one of the parts

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "checks", nargs="*", metavar="CHECK", choices=[*health.DOCTOR, []],
            help="look at these only: " + ", ".join(health.DOCTOR),
        )  # fmt: skip
        super().add_arguments(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        names = options["checks"] or list(health.DOCTOR)
        found: dict[str, Finding] = {}
        with self.progress("Looking …") as tell:
            for name in names:
                tell(f"Looking at {name} …")
                found[name] = health.examine(health.DOCTOR[name])
        is_well = all(finding.ok is not False for finding in found.values())
        checks = {
            name: {"status": finding.status, **asdict(finding)} for name, finding in found.items()
        }
        lines = [line for name, finding in found.items() for line in self._lines(name, finding)]
        self.answer({"ok": is_well, "checks": checks}, *lines, as_json=options["json"])
        if not is_well:
            self.stdout.flush()
            sys.exit(console.FAILED)  # what is wrong was said above

    def _lines(self, name: str, finding: Finding) -> list[str]:
        style = {
            True: self.style.SUCCESS,
            False: self.style.ERROR,
            None: self.style.NOTICE,
        }[finding.ok]
        lines = [f"{style(finding.status.ljust(7))} {name}: {finding.detail}"]
        if finding.ok is False and finding.hint:
            lines.append(f"        -> {finding.hint}")
        return lines
