"""What people think of what they were told."""

from __future__ import annotations

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.utils import timezone

from conversations.ids import new_id
from conversations.models.messages import ChatMessage
from conversations.models.sessions import ChatSession


class Feedback(models.Model):
    """One person's judgement of one message: the last one they gave."""

    class Kind(models.TextChoices):
        POSITIVE = "positive"
        NEGATIVE = "negative"

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    message = models.ForeignKey(
        ChatMessage,
        on_delete=models.CASCADE,
        related_name="feedback",
        db_index=False,  # the unique constraint below begins with it
    )
    session = models.ForeignKey(
        ChatSession,
        null=True,
        on_delete=models.CASCADE,
        related_name="+",
        db_index=False,  # the index below begins with it
        help_text="The message's, so that a list of conversations can tell.",
    )
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="+")
    kind = models.CharField(max_length=10, choices=Kind.choices)
    comment = models.TextField(blank=True)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    updated_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        verbose_name_plural = "feedback"
        default_permissions = ("view",)
        constraints = (
            models.UniqueConstraint(fields=["message", "user"], name="chat_feedback_once"),
            models.CheckConstraint(
                condition=Q(kind__in=["positive", "negative"]), name="chat_feedback_known_kind"
            ),
        )
        indexes = (
            models.Index(fields=["-updated_at", "id"], name="chat_feedback_latest"),
            models.Index(fields=["session", "kind"], name="chat_feedback_of_session"),
        )

    def __str__(self) -> str:
        return f"{self.kind} feedback on {self.message_id}"
