"""What the background worker did: one row for every task, and what was counted by them."""

from __future__ import annotations

from django.db import models


class TaskRun(models.Model):
    """What became of a task's runs: when it ran last, and the sums of all its runs.

    "Scheduled" is not "ran": this row is written by the task itself. One row for every task, so the
    table never grows.
    """

    name = models.CharField(max_length=100, primary_key=True)
    since = models.DateTimeField(help_text="When it was scheduled first, or ran first.")
    beat_at = models.DateTimeField(null=True, help_text="Its last sign of life.")
    started_at = models.DateTimeField(null=True)
    succeeded_at = models.DateTimeField(null=True)
    failed_at = models.DateTimeField(null=True)
    run_count = models.PositiveBigIntegerField(default=0)
    failure_count = models.PositiveBigIntegerField(default=0)
    amount = models.PositiveBigIntegerField(
        default=0, help_text="The sum of what its runs returned: turns closed, entries removed."
    )
    seconds = models.FloatField(default=0, help_text="How long all its runs took.")
    error = models.CharField(
        max_length=500, blank=True, help_text="Which errors the last failure was, without words."
    )

    class Meta:
        verbose_name = "background task"

    def __str__(self) -> str:
        return self.name


class Measurement(models.Model):
    """A number that takes long to count: as the worker counted it last."""

    name = models.CharField(max_length=100, primary_key=True)
    value = models.BigIntegerField()
    measured_at = models.DateTimeField()

    def __str__(self) -> str:
        return f"{self.name}: {self.value}"
