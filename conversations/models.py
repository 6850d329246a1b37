"""The rows: one ordered log per conversation, its turns, and who may come in."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final, Self

from django.conf import settings
from django.db import models
from django.db.models import F, Q
from django.utils import timezone

from conversations.ids import MAX_SESSION_ID_CHARS, new_id

USUAL_BUDGET: Final = 200
"""Sessions that remember more are found by an index: `AGENT_SESSION_MAX_MESSAGES` as it comes."""


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
        on_delete=models.CASCADE,
        related_name="chat_sessions",
        db_index=False,  # the list index below begins with it
        help_text="Empty for a session that only code uses.",
    )
    title = models.CharField(max_length=200, blank=True)
    status = models.CharField(max_length=10, choices=Status.choices, default=Status.ACTIVE)
    metadata = models.JSONField(default=dict, blank=True)
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
            models.Index(
                fields=["id"],
                condition=Q(remembered_count__gt=USUAL_BUDGET),
                name="chat_session_over_budget",
            ),
        )

    def __str__(self) -> str:
        return f"conversation {self.id}"


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


class ChatMessage(models.Model):
    """One entry of the log, any role, hidden ones too; ChatKit's and the SDK's item."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    session = models.ForeignKey(
        ChatSession,
        on_delete=models.CASCADE,
        related_name="messages",
        db_index=False,  # the unique constraint below begins with it
    )
    position = models.BigIntegerField(help_text="Unique per session: the order of the log.")
    turn = models.ForeignKey(
        ChatTurn,
        null=True,
        blank=True,
        on_delete=models.CASCADE,
        related_name="messages",
        db_index=False,  # the partial index below
    )
    kind = models.CharField(max_length=40, help_text="The item's type, as the SDK names it.")
    role = models.CharField(max_length=20, blank=True)
    call_id = models.CharField(
        max_length=200,
        blank=True,
        help_text="By which a call and its output, a request and its answer, find each other.",
    )
    caller_id = models.CharField(
        max_length=200, blank=True, db_default="", help_text="The program that made the call."
    )
    text = models.TextField(blank=True, help_text="Plain text for people and search.")
    shown = models.BooleanField(default=False, help_text="People see it in the transcript.")
    incomplete = models.BooleanField(default=False, help_text="The answer was cut short.")
    agent_item = models.TextField(  # noqa: DJ001 - NULL and empty differ
        null=True,
        blank=True,
        help_text="Exact JSON as the SDK gave it; NULL: the model does not see this row.",
    )
    thread_item = models.TextField(  # noqa: DJ001 - NULL and empty differ
        null=True, blank=True, help_text="ChatKit JSON where the text alone cannot rebuild it."
    )
    quarantined_at = models.DateTimeField(
        null=True, blank=True, help_text="When the row was found damaged and set aside."
    )
    quarantine_reason = models.CharField(
        max_length=20, blank=True, db_default="", help_text="A key of `history.REASONS`."
    )
    forgotten_at = models.DateTimeField(
        null=True,
        blank=True,
        help_text="When the model forgot a row that a hold keeps as it is.",
    )
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        constraints = (
            models.UniqueConstraint(fields=["session", "position"], name="chat_message_position"),
        )
        indexes = (
            models.Index(
                fields=["turn"], condition=Q(turn__isnull=False), name="chat_message_of_turn"
            ),
            models.Index(
                fields=["quarantined_at"],
                condition=Q(quarantined_at__isnull=False),
                name="chat_message_quarantined",
            ),
        )

    def __str__(self) -> str:
        return f"{self.role or self.kind} at {self.position} of {self.session_id}"


class QuarantinedMessage(ChatMessage):
    """An entry that is set aside, as staff see it."""

    class Meta:
        proxy = True
        verbose_name = "entry set aside"
        verbose_name_plural = "entries set aside"
        default_permissions = ("view",)
        permissions = (("restore_chatmessage", "Can put entries set aside back into the memory"),)

    def __str__(self) -> str:
        return f"entry {self.pk}"  # the other columns may be damaged


class AccessTokenQuerySet(models.QuerySet["AccessToken"]):
    def valid_at(self, now: datetime) -> Self:
        return self.filter(revoked_at__isnull=True, expires_at__gt=now, user__is_active=True)


class AccessToken(models.Model):
    """A sign-in of a program: the token itself is signed, not stored."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="access_tokens"
    )
    name = models.CharField(max_length=100, blank=True)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    expires_at = models.DateTimeField()
    last_used_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True)

    objects = AccessTokenQuerySet.as_manager()

    class Meta:
        constraints = (
            models.CheckConstraint(
                condition=Q(expires_at__gt=F("created_at")), name="access_token_expires_later"
            ),
        )

    def __str__(self) -> str:
        return self.name or f"token {self.id}"


class Throttle(models.Model):
    """How often something happened in the current window; shared by all processes."""

    key = models.CharField(max_length=64, primary_key=True)
    count = models.PositiveIntegerField(default=0)
    window_ends_at = models.DateTimeField()

    def __str__(self) -> str:
        return self.key
