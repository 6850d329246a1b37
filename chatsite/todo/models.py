"""The one row the assistant works on: a task of one person."""

from __future__ import annotations

from datetime import date
from typing import Any, Self

from django.conf import settings
from django.db import models
from django.db.models import Case, F, IntegerField, Q, When
from django.db.models.functions import Lower
from django.utils import timezone

TITLE_MAX_CHARS = 200


class Priority(models.IntegerChoices):
    """Numbers in the order of urgency, so that the database can sort by them."""

    HIGH = 1, "high"
    NORMAL = 2, "normal"
    LOW = 3, "low"


class TaskQuerySet(models.QuerySet["Task"]):
    """Phrases such as `Task.objects.owned_by(user_id).open().by_priority()`."""

    def owned_by(self, user_id: Any) -> Self:
        return self.filter(owner_id=user_id)

    def open(self) -> Self:
        return self.filter(completed_at=None)

    def done(self) -> Self:
        return self.exclude(completed_at=None)

    def with_priority(self, priority: Priority) -> Self:
        return self.filter(priority=priority)

    def due_from(self, day: date) -> Self:
        return self.filter(due_date__gte=day)

    def due_until(self, day: date) -> Self:
        return self.filter(due_date__lte=day)

    def by_priority(self) -> Self:
        return self._open_first("priority", *_EARLIEST_FIRST, "id")

    def by_due_date(self) -> Self:
        return self._open_first(*_EARLIEST_FIRST, "priority", "id")

    def by_title(self) -> Self:
        return self._open_first(Lower("title"), "id")

    def oldest_first(self) -> Self:
        return self._open_first("id")

    def newest_first(self) -> Self:
        return self._open_first("-id")

    def _open_first(self, *fields: Any) -> Self:
        is_done = Case(When(completed_at=None, then=0), default=1, output_field=IntegerField())
        return self.order_by(is_done, *fields)


_EARLIEST_FIRST = (F("due_date").asc(nulls_last=True),)


class Task(models.Model):
    """Something one person wants to get done; open until `completed_at` is set."""

    owner = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="tasks"
    )
    title = models.CharField(max_length=TITLE_MAX_CHARS)
    due_date = models.DateField(null=True, blank=True)
    priority = models.PositiveSmallIntegerField(choices=Priority, default=Priority.NORMAL)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    completed_at = models.DateTimeField(null=True, blank=True)

    objects = TaskQuerySet.as_manager()

    class Meta:
        ordering = ("id",)
        constraints = (
            models.CheckConstraint(name="todo_task_has_a_title", condition=~Q(title="")),
            models.CheckConstraint(
                name="todo_task_priority_is_known", condition=Q(priority__in=Priority.values)
            ),
            models.CheckConstraint(
                name="todo_task_done_after_created",
                condition=Q(completed_at=None) | Q(completed_at__gte=F("created_at")),
            ),
        )

    def __str__(self) -> str:
        return f"Task {self.pk}"
