"""What is idle for too long: which sessions are to go, and what became of that."""

from __future__ import annotations

from django.db import models
from django.db.models import Q

from conversations.ids import new_id


class Cleanup(models.Model):
    """A plan, then the run that applies it, then its receipt.

    While it runs, every transaction adds here what it removes: nothing is counted twice, however
    often it is killed.
    """

    class Status(models.TextChoices):
        PLANNED = "planned"
        RUNNING = "running"
        DONE = "done"

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    status = models.CharField(max_length=10, choices=Status.choices, default=Status.PLANNED)
    actor = models.CharField(max_length=64, help_text="An actor of the ledger.")
    planned_at = models.DateTimeField()
    cutoff = models.DateTimeField(help_text="Who was last active before was idle for too long.")
    idle_seconds = models.BigIntegerField()

    planned_sessions = models.BigIntegerField(default=0)
    planned_messages = models.BigIntegerField(default=0)
    planned_attachments = models.BigIntegerField(default=0)
    planned_bytes = models.BigIntegerField(default=0)
    oldest = models.DateTimeField(null=True)
    newest = models.DateTimeField(null=True)
    held = models.BigIntegerField(default=0)
    busy = models.BigIntegerField(default=0)

    process = models.CharField(max_length=64, blank=True)
    seen = models.BigIntegerField(
        default=0, help_text="Its last sign of life, in milliseconds of the lease clock."
    )
    fence = models.BigIntegerField(default=0, help_text="Grows when another process takes over.")
    started_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)

    position = models.BigIntegerField(
        default=0, help_text="How many of the planned sessions have been looked at again."
    )
    sessions = models.BigIntegerField(default=0)
    messages = models.BigIntegerField(default=0)
    attachments = models.BigIntegerField(default=0)
    byte_count = models.BigIntegerField(default=0)
    milliseconds = models.BigIntegerField(default=0)
    awake = models.BigIntegerField(default=0)
    now_held = models.BigIntegerField(default=0)
    now_busy = models.BigIntegerField(default=0)
    failed = models.BigIntegerField(default=0)
    errors = models.TextField(default="{}")
    ledger_number = models.BigIntegerField(null=True)

    class Meta:
        default_permissions = ("view",)
        constraints = (
            models.UniqueConstraint(
                fields=["status"], condition=Q(status="running"), name="chat_cleanup_one_running"
            ),
            models.CheckConstraint(
                condition=Q(status__in=["planned", "running", "done"]),
                name="chat_cleanup_known_status",
            ),
        )
        indexes = (models.Index(fields=["finished_at"], name="chat_cleanup_finished"),)

    def __str__(self) -> str:
        return f"cleanup {self.id}"


class CleanupPage(models.Model):
    """Some sessions of a plan, by their ids and when they were last active."""

    pk = models.CompositePrimaryKey("cleanup_id", "number")
    cleanup = models.ForeignKey(
        Cleanup,
        on_delete=models.CASCADE,
        related_name="pages",
        db_index=False,  # the primary key begins with it
    )
    number = models.IntegerField()
    sessions = models.BinaryField(help_text="16 bytes of id and 8 of microseconds each.")

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return f"page {self.number} of {self.cleanup_id}"
