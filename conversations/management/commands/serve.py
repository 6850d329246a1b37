"""`manage.py serve`: everything a site needs, in one command."""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser
from pathlib import Path
from typing import Any, NoReturn

from django.apps import apps
from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError
from django.db import DatabaseError, connections
from django.utils import timezone

from conversations import supervisor
from conversations.demo import ensure_demo_users


class Command(BaseCommand):
    help = "Prepare the database, then run the web server and the worker until stopped."
    requires_system_checks = ()  # they load the whole site; the web process runs them

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
        parser.add_argument("--port", type=int, default=8000, help="port to listen on; 0: any")
        parser.add_argument(
            "--web-workers", type=int, default=1, metavar="N", help="web processes (default 1)"
        )
        parser.add_argument("--demo", action="store_true", help="create two users to try it with")
        parser.add_argument("--no-worker", action="store_true", help="run the web server only")

    def handle(self, *_args: Any, **options: Any) -> None:
        if options["web_workers"] < 1:
            raise CommandError("--web-workers: write 1 or more.")
        try:  # before the rest: a site that runs already is told so at once
            listener = supervisor.open_listener(host=options["host"], port=options["port"])
        except supervisor.CannotListen as error:
            raise CommandError(str(error)) from None
        with listener:
            self._prepare(demo=options["demo"], verbosity=options["verbosity"])
            listener.set_inheritable(True)
            command = ["site", "--manage", str(Path(sys.argv[0]).resolve())]
            command += ["--fd", str(listener.fileno()), "--url", supervisor.url_of(listener)]
            command += ["--grace", str(getattr(settings, "CHAT_SHUTDOWN_GRACE_SECONDS", 10))]
            command += ["--web-workers", str(options["web_workers"])]
            command += ["--no-worker"] if options["no_worker"] else []
            self.stdout.write(f"Starting: {supervisor.url_of(listener)}")
            self._become_supervisor(command)

    def _prepare(self, *, demo: bool, verbosity: int) -> None:
        try:
            call_command("migrate", interactive=False, verbosity=max(0, verbosity - 1))
            if apps.is_installed("django_q"):
                from conversations.schedules import sync_schedules

                sync_schedules(now=timezone.now())
            if demo:
                self._ensure_demo_users()
        except DatabaseError as error:
            raise CommandError(f"The database could not be prepared: {error}") from error
        finally:
            connections.close_all()

    def _ensure_demo_users(self) -> None:
        for user in ensure_demo_users():
            if user.password is not None:
                shown = f"password {user.password}  (shown only now)"
            else:
                shown = (
                    "password as printed at the first start; "
                    f"a new one: manage.py changepassword {user.username}"
                )
            self.stdout.write(f"Sign in as {user.email} (username {user.username}), {shown}")

    def _become_supervisor(self, command: list[str]) -> NoReturn:
        """Replace this process: the parent of the site holds no Django and no connection."""
        self.stdout.flush()
        self.stderr.flush()
        paths = [str(Path(sys.argv[0]).resolve().parent), os.environ.get("PYTHONPATH", "")]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
        program = [sys.executable, "-m", "conversations.supervisor", *command]
        os.execve(sys.executable, program, environment)  # noqa: S606 - our own command
