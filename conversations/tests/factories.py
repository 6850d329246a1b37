"""Rows for tests."""

from __future__ import annotations

import secrets
from datetime import timedelta
from typing import Any, Final

import factory
from django.contrib.auth import get_user_model
from django.core.files.base import ContentFile
from django.core.files.storage import storages
from django.utils import timezone

from conversations import ids, models
from conversations.tokens import issue_token

PNG: Final = b"\x89PNG\r\n\x1a\n" + bytes(range(200))
"""What begins as an image does."""


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


class AttachmentFactory(factory.django.DjangoModelFactory[models.Attachment]):
    """A small image that is uploaded and waits to be sent; `data=None`: only announced."""

    class Meta:
        model = models.Attachment

    class Params:
        data = PNG

    id = factory.LazyFunction(ids.new_id)
    owner = factory.SubFactory(UserFactory)
    name = "a.png"
    mime_type = "image/png"
    size = factory.LazyAttribute(lambda row: len(row.data or PNG))
    stored_size = factory.LazyAttribute(lambda row: len(row.data or b""))
    status = factory.LazyAttribute(lambda row: "pending" if row.data is None else "ready")

    @factory.lazy_attribute
    def storage_name(row: Any) -> str:
        if row.data is None:
            return ""
        return str(storages["attachments"].save(secrets.token_hex(16), ContentFile(row.data)))


def token_for(user: Any, **lifetime: float) -> str:
    """An access token's text."""
    return issue_token(
        user=user,
        name="test",
        lifetime=timedelta(**(lifetime or {"days": 1})),
        now=timezone.now(),
    ).text
