"""The two people a first look at the site needs: one who chats, one who looks after it."""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from django.contrib.auth import get_user_model
from django.contrib.auth.hashers import make_password


@dataclass(frozen=True, slots=True)
class DemoUser:
    """`password` is None where the user existed: passwords are shown once and never reset."""

    username: str
    email: str
    password: str | None


def ensure_demo_users() -> list[DemoUser]:
    """Create the demo user and the staff user where they are missing.

    Idempotent; of two processes at once, one creates a user and alone knows its password.
    """
    return [
        _ensure_user("demo", is_staff=False),
        _ensure_user("staff", is_staff=True),
    ]


def _ensure_user(username: str, *, is_staff: bool) -> DemoUser:
    password = secrets.token_urlsafe(12)
    user, created = get_user_model().objects.get_or_create(
        username=username,
        defaults={
            "email": f"{username}@example.com",
            "password": make_password(password),
            "is_staff": is_staff,
            "is_superuser": is_staff,
        },
    )
    return DemoUser(username, user.email, password if created else None)
