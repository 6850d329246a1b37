"""`manage.py create_access_token USER`: a token for a program, printed once."""

from __future__ import annotations

from argparse import ArgumentParser
from datetime import timedelta
from typing import Any

from django.contrib.auth import get_user_model
from django.utils import timezone

from conversations.conf import get_conf
from conversations.errors import Invalid
from conversations.management import console
from conversations.tokens import issue_token


class Command(console.ConsoleCommand):
    help = "Create an access token for a user and print it: it is shown once and stored nowhere."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("user", help="user name")
        parser.add_argument("--days", type=int, help="days until it expires (ACCESS_TOKEN_DAYS)")
        parser.add_argument("--name", default="", help="what it is for, shown in the admin")
        super().add_arguments(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        days = options["days"] if options["days"] is not None else get_conf().access_token_days
        if not 1 <= days <= 3650:
            raise Invalid("--days: write a whole number from 1 to 3650.")
        model = get_user_model()
        try:
            user = model._default_manager.get_by_natural_key(options["user"])
        except model.DoesNotExist:
            raise console.UserNotFound(f"There is no user named {options['user']!r}.") from None
        token = issue_token(
            user=user, name=options["name"], lifetime=timedelta(days=days), now=timezone.now()
        )
        found = {"access_token": token.text, "expires_at": token.expires_at.isoformat()}
        self.answer(found, token.text, as_json=options["json"])
        if not options["json"]:
            self.stderr.write(
                f"Valid until {token.expires_at:%Y-%m-%d %H:%M} UTC. It is shown once."
            )
