"""The log of a conversation."""

from __future__ import annotations

from django.db import models
from django.db.models import Q
from django.utils import timezone

from conversations.ids import new_id
from conversations.models.sessions import ChatSession
from conversations.models.turns import ChatTurn


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
