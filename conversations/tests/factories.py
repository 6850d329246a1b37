"""Rows for tests."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import factory
from django.contrib.auth import get_user_model
from django.utils import timezone

from conversations import ids, models
from conversations.tokens import issue_token


class UserFactory(factory.django.DjangoModelFactory[Any]):
    class Meta:
        model = get_user_model()
        skip_postgeneration_save = True

    username = factory.Sequence(lambda n: f"user{n}")
    email = factory.LazyAttribute(lambda user: f"{user.username}@example.com")
    password = factory.django.Password("correct horse")


class ChatSessionFactory(factory.django.DjangoModelFactory[models.ChatSession]):
    class Meta:
        model = models.ChatSession

    owner = factory.SubFactory(UserFactory)
    agent_session_id = factory.LazyAttribute(
        lambda session: ids.agent_session_id(user_id=session.owner.pk, session_id=session.id)
    )
    id = factory.LazyFunction(ids.new_id)


def token_for(user: Any, **lifetime: float) -> str:
    """An access token's text."""
    return issue_token(
        user=user,
        name="test",
        lifetime=timedelta(**(lifetime or {"days": 1})),
        now=timezone.now(),
    ).text
