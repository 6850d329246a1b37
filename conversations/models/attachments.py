"""Files that people attach to their messages: what is known of them; their bytes are elsewhere."""

from __future__ import annotations

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.utils import timezone

from conversations.ids import new_id
from conversations.models.sessions import ChatSession


class Attachment(models.Model):
    """A file of one owner, announced first and uploaded then, for one message of one conversation.

    A row that is `removed` stands only for bytes that are still to be erased: it tells nothing of
    the file, or whose it was. Where an owner or a conversation is deleted by the ORM, the row stays
    until a sweep has erased its bytes.
    """

    class Status(models.TextChoices):
        PENDING = "pending"
        READY = "ready"
        REMOVED = "removed"

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    owner = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        null=True,
        blank=True,
        on_delete=models.SET_NULL,
        related_name="chat_attachments",
    )
    session = models.ForeignKey(
        ChatSession,
        null=True,
        blank=True,
        on_delete=models.SET_NULL,
        related_name="attachments",
        help_text="The conversation it was used in.",
    )
    message_id = models.UUIDField(
        null=True, blank=True, help_text="The message it was sent with, which may still wait."
    )
    name = models.CharField(max_length=255, blank=True)
    mime_type = models.CharField(max_length=100, blank=True)
    size = models.PositiveBigIntegerField(default=0, help_text="In bytes, as announced.")
    stored_size = models.PositiveBigIntegerField(default=0, help_text="In bytes, as received.")
    status = models.CharField(max_length=10, choices=Status.choices, default=Status.PENDING)
    storage_name = models.CharField(
        max_length=255, blank=True, help_text="Where its bytes are, or are being written."
    )
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    attached_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = (
            models.CheckConstraint(
                condition=Q(status__in=["pending", "ready", "removed"]),
                name="chat_attachment_known_status",
            ),
        )
        indexes = (
            models.Index(
                fields=["created_at"],
                condition=Q(session__isnull=True),
                name="chat_attachment_unused",
            ),
            models.Index(
                fields=["id"], condition=Q(status="removed"), name="chat_attachment_removed"
            ),
        )

    def __str__(self) -> str:
        return f"attachment {self.id}"
