"""A conversation, with its counters: the row that every turn locks."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final, Self

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.utils import timezone

from conversations.ids import MAX_SESSION_ID_CHARS, new_id

USUAL_BUDGET: Final = 200
"""Sessions that remember more are found by an index: `AGENT_SESSION_MAX_MESSAGES` as it comes."""


def cascade_unless_held(collector: Any, field: Any, sub_objs: Any, using: str) -> None:
    """As CASCADE, but a user of whom a conversation is on hold cannot be deleted."""
    held = set(sub_objs.filter(hold=True))
    if held:
        raise models.ProtectedError("Some of these conversations are on hold.", held)
    models.CASCADE(collector, field, sub_objs, using)


class ChatSessionQuerySet(models.QuerySet["ChatSession"]):
    def owned_by(self, user_id: Any) -> Self:
        return self.filter(owner_id=user_id)

    def idle_since(self, cutoff: datetime) -> Self:
        """Sessions without activity since `cutoff`."""
        return self.filter(last_active_at__lt=cutoff)


class ChatSession(models.Model):
    """One conversation of one owner; ChatKit's thread, the SDK's session."""

    class Status(models.TextChoices):
        ACTIVE = "active"
        LOCKED = "locked"
        CLOSED = "closed"

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    agent_session_id = models.CharField(
        max_length=MAX_SESSION_ID_CHARS,
        unique=True,
        help_text="The SDK session id, or its digest where it is too long for the column.",
    )
    owner = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        null=True,
        blank=True,
        on_delete=cascade_unless_held,
        related_name="chat_sessions",
        db_index=False,  # the list index below begins with it
        help_text="Empty for a session that only code uses.",
    )
    title = models.CharField(max_length=200, blank=True)
    status = models.CharField(max_length=10, choices=Status.choices, default=Status.ACTIVE)
    metadata = models.JSONField(default=dict, blank=True)
    thread_extras = models.TextField(  # noqa: DJ001 - NULL is what conversations have
        null=True,
        blank=True,
        help_text="JSON: what ChatKit's thread has that no other column holds.",
    )
    hold = models.BooleanField(default=False)
    hold_reason = models.CharField(max_length=500, blank=True)

    last_position = models.BigIntegerField(default=0)
    last_turn_number = models.BigIntegerField(default=0)
    fence = models.BigIntegerField(
        default=0, help_text="Grows with every start and every end of a turn."
    )
    remembered_count = models.PositiveIntegerField(
        default=0, help_text="Entries the model is given on the next turn."
    )
    message_count = models.PositiveIntegerField(
        default=0, help_text="Messages people see in the transcript."
    )
    item_count = models.PositiveIntegerField(
        default=0, db_default=0, help_text="Entries of the log, hidden ones too."
    )
    pruned_count = models.PositiveIntegerField(
        default=0, db_default=0, help_text="Entries that were taken from the memory for its size."
    )
    quarantined_count = models.PositiveIntegerField(
        default=0, db_default=0, help_text="Entries that are set aside because they are damaged."
    )
    input_tokens = models.PositiveBigIntegerField(default=0)
    output_tokens = models.PositiveBigIntegerField(default=0)

    created_at = models.DateTimeField(default=timezone.now, editable=False)
    updated_at = models.DateTimeField(default=timezone.now, editable=False)
    last_active_at = models.DateTimeField(default=timezone.now, editable=False)

    objects = ChatSessionQuerySet.as_manager()

    class Meta:
        constraints = (
            models.CheckConstraint(
                condition=Q(status__in=["active", "locked", "closed"]),
                name="chat_session_known_status",
            ),
        )
        indexes = (
            models.Index(
                fields=["owner", "last_active_at", "id"],
                condition=Q(owner__isnull=False),
                name="chat_session_by_activity",
            ),
            models.Index(fields=["last_active_at", "id"], name="chat_session_idle"),
            models.Index(
                fields=["id"],
                condition=Q(remembered_count__gt=USUAL_BUDGET),
                name="chat_session_over_budget",
            ),
            # What the staff's list is filtered by where few match.
            models.Index(
                fields=["last_active_at", "id"],
                condition=~Q(status="active"),
                name="chat_session_not_active",
            ),
            models.Index(
                fields=["last_active_at", "id"],
                condition=Q(quarantined_count__gt=0),
                name="chat_session_damaged",
            ),
        )
        verbose_name = "conversation"
        permissions = (
            ("view_transcript", "Can read what was said in conversations"),
            ("view_hidden_content", "Can read what people do not see of their conversations"),
        )

    def __str__(self) -> str:
        return f"conversation {self.id}"
