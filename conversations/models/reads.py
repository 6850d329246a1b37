"""Who of the staff has read which conversation."""

from __future__ import annotations

from django.conf import settings
from django.db import models
from django.utils import timezone

from conversations.ids import new_id
from conversations.models.sessions import ChatSession


class StaffRead(models.Model):
    """That somebody of the staff read a conversation; nothing of what they read.

    Rows are added, never changed (a trigger refuses it), and go with their conversation. The key of
    an account that is deleted stays, without a name: a trace must not end with an account.
    """

    class How(models.TextChoices):
        PAGE = "page", "Transcript"
        MODEL = "model", "As the model saw it"
        EXPORT = "export", "Export"
        SEARCH = "search", "Search hit"

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    session = models.ForeignKey(
        ChatSession,
        on_delete=models.CASCADE,
        related_name="reads",
        db_index=False,  # the index below begins with it
    )
    reader = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        null=True,
        on_delete=models.DO_NOTHING,
        db_constraint=False,
        related_name="+",
    )
    how = models.CharField(max_length=10, choices=How.choices)
    read_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        default_permissions = ("view",)
        constraints = (
            models.CheckConstraint(
                condition=models.Q(how__in=["page", "model", "export", "search"]),
                name="chat_staff_read_known_how",
            ),
        )
        indexes = (models.Index(fields=["session", "id"], name="chat_staff_read_of_session"),)

    def __str__(self) -> str:
        return f"read of {self.session_id} at {self.read_at}"
