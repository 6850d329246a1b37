"""`manage.py cleanup_sessions`: remove conversations that are idle for too long."""

from __future__ import annotations

import re
from argparse import ArgumentParser
from dataclasses import asdict
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final
from uuid import UUID

from django.core.management.base import CommandError
from django.utils import timezone

from conversations import retention
from conversations.errors import Invalid, PlanNotFound
from conversations.ids import parse_uuid
from conversations.management import console
from conversations.retention import CleanupPlan, CleanupReceipt

_UNITS: Final = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_AGE: Final = re.compile(r"([0-9]{1,6})([mhdw])")


class Command(console.ConsoleCommand):
    help = (
        "Remove conversations without activity for AGENT_SESSION_RETENTION_DAYS, with all that "
        "belongs to them, for good. What is on hold stays, and so does what has a turn that waits "
        "or runs. The worker does this once a day. A plan says what would go, and can be applied "
        "within 24 hours: what was used or held since then stays."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--idle-for", metavar="AGE", help="such as 7d, 12h, 30m, 2w")
        parser.add_argument("--limit", metavar="N", help="at most so many, the longest idle first")
        parser.add_argument(
            "--batch-size", metavar="N", help="at most so many in one transaction (default 200)"
        )
        what = parser.add_mutually_exclusive_group()
        what.add_argument("--plan", action="store_true", help="keep the plan, and remove nothing")
        what.add_argument("--apply", metavar="ID", help="remove what this plan names")
        console.add_dry_run(parser)
        super().add_arguments(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        now, limit = timezone.now(), _number("limit", options["limit"])
        batch_size = _number("batch-size", options["batch_size"])
        batch_size = retention.BATCH_SESSIONS if batch_size is None else batch_size
        age = None if options["idle_for"] is None else _age(options["idle_for"])
        only_plans = options["plan"] or options["dry_run"]
        if options["apply"] is not None:
            if age is not None or limit is not None:
                raise Invalid("apply: the plan says what goes; leave out --idle-for and --limit.")
            plan_id = _plan_id(options["apply"])
            if options["dry_run"]:
                self._tell(retention.preview(plan_id), dry_run=True, as_json=options["json"])
                return
            named = retention.get_receipt(plan_id).planned
        else:
            with self.progress("Looking") as show:
                plan = retention.plan_cleanup(
                    now=now,
                    idle_for=age,
                    limit=limit,
                    stores=not options["dry_run"],
                    measures=only_plans,
                    told=lambda sessions: show(f"Looking: {sessions} sessions"),
                )
            if only_plans:
                self._tell_plan(plan, **{name: options[name] for name in ("dry_run", "json")})
                return
            plan_id, named = plan.plan_id, plan.sessions
        if options["interactive"] and named:
            self.confirm(f"Up to {named} sessions and all that was said in them will be gone.")
        self._apply(plan_id, named, now=now, batch_size=batch_size, as_json=options["json"])

    def _apply(
        self, plan_id: UUID, named: int, *, now: datetime, batch_size: int, as_json: bool
    ) -> None:
        with self.bar("Removing", total=named) as advance:
            receipt = retention.apply(plan_id, now=now, batch_size=batch_size, told=advance)
        self._tell(receipt, dry_run=False, as_json=as_json)
        if receipt.failed:
            raise CommandError(
                f"{receipt.failed} of {receipt.planned} sessions could not be removed.",
                returncode=console.FAILED
                if receipt.failed == receipt.planned
                else console.SOME_FAILED,
            )

    def _tell_plan(self, plan: CleanupPlan, *, dry_run: bool, json: bool) -> None:
        found = asdict(plan) | {"dry_run": dry_run}
        lines = [
            f"cutoff: {_day(plan.cutoff)}",
            *_amounts(plan, "would be removed"),
            *([f"oldest: {_day(plan.oldest)}"] if plan.oldest else []),
            *([f"newest: {_day(plan.newest)}"] if plan.newest else []),
            *_spared(held=plan.held, busy=plan.busy),
        ]
        if dry_run:
            del found["plan_id"], found["expires_at"]
        else:
            lines.append(f"plan: {plan.plan_id}, until {_day(plan.expires_at)}")
        self.answer(found, *lines, as_json=json)

    def _tell(self, receipt: CleanupReceipt, *, dry_run: bool, as_json: bool) -> None:
        lines = [
            *_amounts(receipt, "would be removed" if dry_run else "removed"),
            *_spared(held=receipt.held, busy=receipt.busy, awake=receipt.awake),
        ]
        if not dry_run:
            lines.append(f"plan: {receipt.plan_id}, ledger row: {receipt.ledger_number}")
        self.answer(asdict(receipt) | {"dry_run": dry_run}, *lines, as_json=as_json)


def _amounts(found: CleanupPlan | CleanupReceipt, verb: str) -> list[str]:
    counts = ("sessions", "messages", "attachments", "bytes")
    return [f"{name} {verb}: {getattr(found, name)}" for name in counts]


def _spared(*, held: int, busy: int, awake: int = 0) -> list[str]:
    why = {
        "left because they are on hold": held,
        "left to the turn in them": busy,
        "left because somebody used them": awake,
    }
    return [f"sessions {reason}: {count}" for reason, count in why.items() if count]


def _age(text: str) -> timedelta:
    found = _AGE.fullmatch(text)
    if found is None or int(found[1]) == 0:
        raise Invalid(
            f"idle-for: {text!r} is no age: write a number and m, h, d or w, such as 7d;"
            " more than 0."
        )
    return timedelta(**{_UNITS[found[2]]: int(found[1])})


def _number(option: str, text: str | None) -> int | None:
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal() and 0 < len(text) < 10 and int(text)):
        raise Invalid(f"{option}: write a whole number of 1 or more, not {text!r}.")
    return int(text)


def _plan_id(text: str) -> UUID:
    found = parse_uuid(text)
    if found is None:
        raise PlanNotFound(f"There is no plan {text!r}.")
    return found


_day = partial("{:%Y-%m-%d %H:%M} UTC".format)
