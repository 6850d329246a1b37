"""The ledger: what was removed, when, by whom and by which rule; never what it was."""

from __future__ import annotations

from typing import Any, NoReturn

from django.db import models

from conversations.errors import LedgerSealed


class LedgerQuerySet(models.QuerySet["LedgerEntry"]):
    """Reads only: `store.ledger` writes, so that every row is in the chain."""

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise LedgerSealed

    update = delete = bulk_create = bulk_update = _refuse
    create = get_or_create = update_or_create = _refuse


class LedgerEntry(models.Model):
    """One removal, one hold placed or lifted. Each row holds the hash of the one before.

    Nothing in it was said by anybody, and it names nobody: whom or what it is about stands in
    `subject` by a pseudonym.
    """

    number = models.BigIntegerField(primary_key=True, help_text="From 1 on, without a gap.")
    at = models.DateTimeField()
    actor = models.CharField(
        max_length=64, help_text='"schedule", "command", "user", "code" or "staff:<key>".'
    )
    action = models.CharField(max_length=32, help_text="A word of `store.ledger.ACTIONS`.")
    subject = models.CharField(max_length=64, blank=True)
    reason = models.CharField(max_length=500, blank=True, help_text="As given by who did it.")
    policy = models.CharField(max_length=100, blank=True, help_text="The rule that was applied.")
    cutoff = models.DateTimeField(null=True, blank=True)
    counts = models.TextField(help_text="JSON: how many rows of which kind.")
    byte_count = models.BigIntegerField(default=0)
    milliseconds = models.BigIntegerField(default=0)
    errors = models.TextField(help_text="JSON: which kinds of errors, and how many of each.")
    previous_hash = models.CharField(max_length=64)
    hash = models.CharField(max_length=64)

    objects = LedgerQuerySet.as_manager()

    class Meta:
        verbose_name_plural = "ledger entries"
        default_permissions = ("view",)

    def __str__(self) -> str:
        return f"{self.number}: {self.action} by {self.actor}"

    def save(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise LedgerSealed

    def delete(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise LedgerSealed


class OpenRemoval(models.Model):
    """What a run in many transactions has removed so far, until the ledger is told.

    Each transaction adds what it removes, so that a run that is killed is told of by the next.
    """

    id = models.CharField(primary_key=True, max_length=100, help_text="Action and actor.")
    action = models.CharField(max_length=32)
    actor = models.CharField(max_length=64)
    counts = models.TextField()

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return self.id
