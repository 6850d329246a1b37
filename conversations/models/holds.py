"""Whose conversations are all kept as they are."""

from __future__ import annotations

from django.conf import settings
from django.db import models
from django.utils import timezone


class UserHold(models.Model):
    """All that one person has is on hold, what they begin from now on too.

    A hold on a single session is `ChatSession.hold`.
    """

    user = models.OneToOneField(
        settings.AUTH_USER_MODEL,
        primary_key=True,
        on_delete=models.PROTECT,  # nor can the person be deleted
        related_name="chat_hold",
    )
    reason = models.CharField(max_length=500)
    placed_by = models.CharField(max_length=64, help_text="An actor of the ledger.")
    at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        default_permissions = ("view",)

    def __str__(self) -> str:
        return f"hold on user {self.user_id}"
