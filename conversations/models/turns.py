"""The turns of a conversation, and what their streams have told."""

from __future__ import annotations

from django.db import models
from django.db.models import Q
from django.utils import timezone

from conversations.ids import new_id
from conversations.models.sessions import ChatSession


class ChatTurn(models.Model):
    """One user message and all that follows until its answer is closed.

    Also the ticket in the conversation's queue, the lease, and the usage record.
    """

    class Status(models.TextChoices):
        QUEUED = "queued"
        RUNNING = "running"
        COMPLETED = "completed"
        FAILED = "failed"
        CANCELLED = "cancelled"
        INTERRUPTED = "interrupted"

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    session = models.ForeignKey(
        ChatSession,
        on_delete=models.CASCADE,
        related_name="turns",
        db_index=False,  # the unique constraint below begins with it
    )
    number = models.BigIntegerField(help_text="Unique per session: the order of turns.")
    status = models.CharField(max_length=12, choices=Status.choices, default=Status.QUEUED)
    input = models.TextField(
        blank=True, help_text="What was said, while it waits; at the start it moves to the log."
    )
    input_item = models.TextField(  # noqa: DJ001 - NULL: a text alone
        null=True, blank=True, help_text="What else was said, as `store.inputs` encodes it."
    )
    idempotency_key = models.CharField(max_length=255, null=True, blank=True)  # noqa: DJ001 - NULLs are distinct

    lease_owner = models.CharField(max_length=64, blank=True)
    lease_until = models.BigIntegerField(
        null=True, help_text="In milliseconds of the lease clock, which is not the wall clock."
    )
    fence = models.BigIntegerField(default=0)

    model = models.CharField(max_length=200, blank=True)
    requests = models.PositiveIntegerField(default=0)
    input_tokens = models.PositiveBigIntegerField(default=0)
    output_tokens = models.PositiveBigIntegerField(default=0)
    error_code = models.CharField(max_length=50, blank=True)
    warning = models.CharField(max_length=500, blank=True)
    event_count = models.PositiveIntegerField(
        default=0, help_text="The number of the closing event, once there is one."
    )
    stop_requested_at = models.DateTimeField(null=True)
    user_message_id = models.UUIDField(null=True)
    answer_message_id = models.UUIDField(null=True)

    queued_at = models.DateTimeField(default=timezone.now, editable=False)
    started_at = models.DateTimeField(null=True)
    first_token_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)

    class Meta:
        constraints = (
            models.UniqueConstraint(fields=["session", "number"], name="chat_turn_number"),
            models.UniqueConstraint(
                fields=["session"], condition=Q(status="running"), name="chat_turn_one_running"
            ),
            models.UniqueConstraint(
                fields=["session", "idempotency_key"],
                condition=Q(idempotency_key__isnull=False),
                name="chat_turn_idempotency_key",
            ),
            models.CheckConstraint(
                condition=Q(
                    status__in=[
                        "queued",
                        "running",
                        "completed",
                        "failed",
                        "cancelled",
                        "interrupted",
                    ]
                ),
                name="chat_turn_known_status",
            ),
            models.CheckConstraint(
                condition=~Q(status="running") | Q(lease_until__isnull=False),
                name="chat_turn_running_has_lease",
            ),
        )
        indexes = (
            models.Index(
                fields=["lease_owner"],
                condition=Q(status__in=["queued", "running"]),
                name="chat_turn_live",
            ),
            models.Index(
                fields=["session", "number"],
                condition=Q(status__in=["queued", "running"]),
                name="chat_turn_line",
            ),
            models.Index(
                fields=["session"],
                condition=Q(status="failed") | Q(status="interrupted") | Q(warning__gt=""),
                name="chat_turn_in_trouble",
            ),
        )

    def __str__(self) -> str:
        return f"turn {self.number} of {self.session_id}"


class RecordedEvents(models.Model):
    """Some events of a turn in their order, kept so that its stream can be picked up again.

    They go a while after the turn has ended.
    """

    pk = models.CompositePrimaryKey("turn_id", "first_number")
    turn = models.ForeignKey(
        ChatTurn,
        on_delete=models.CASCADE,
        related_name="recorded_events",
        db_index=False,  # the primary key begins with it
    )
    first_number = models.PositiveIntegerField()
    last_number = models.PositiveIntegerField()
    events = models.TextField(help_text="JSON, as `events.encode_events` writes it.")

    def __str__(self) -> str:
        return f"events {self.first_number} to {self.last_number} of {self.turn_id}"
