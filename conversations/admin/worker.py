"""What runs by itself, as staff see it: schedules, what became of tasks, and nothing to change.

django-q2's own pages are not served: the right to add a schedule is the right to run any code, and
what they show of a task is unpickled, which runs what is in it.
"""

from __future__ import annotations

from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any

from django.apps import apps
from django.contrib import admin
from django.contrib.admin.exceptions import NotRegistered
from django.db.models import QuerySet
from django.http import HttpRequest

from conversations.models import TaskRun

if TYPE_CHECKING:
    RowAdmin = admin.ModelAdmin[Any]
else:
    RowAdmin = admin.ModelAdmin


class ReadOnlyAdmin(RowAdmin):
    """Rows that staff look at."""

    show_full_result_count = False

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


@admin.register(TaskRun)
class TaskRunAdmin(ReadOnlyAdmin):
    """Each background task with its last run."""

    list_display = (
        "name",
        "succeeded_at",
        "failed_at",
        "run_count",
        "failure_count",
        "amount",
        "error",
    )
    ordering = ("name",)


class ScheduleAdmin(ReadOnlyAdmin):
    """Our schedules: what runs, and when it does so next."""

    list_display = ("name", "func", "schedule_type", "minutes", "next_run", "repeats")
    ordering = ("name",)
    fields = list_display

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        return super().get_queryset(request).filter(name__startswith="conversations.")


class TaskResultAdmin(ReadOnlyAdmin):
    """Tasks of ours that ended, as the queue keeps them; without what is pickled in its rows."""

    list_display = ("func", "started", "stopped", "success", "attempt_count")
    list_filter = ("success",)
    ordering = ("-stopped", "id")
    fields = ("id", *list_display)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        rows = super().get_queryset(request).filter(func__startswith="conversations.tasks.")
        return rows.defer("args", "kwargs", "result")


def take_over_queue_pages() -> None:
    """Take django-q2's own pages away, wherever it stands in INSTALLED_APPS, and show ours."""
    import_module("django_q.admin")  # what registers itself later would be there again
    queue = apps.get_app_config("django_q")
    for model in queue.get_models():
        with suppress(NotRegistered):
            admin.site.unregister(model)
    admin.site.register(queue.get_model("Schedule"), ScheduleAdmin)
    admin.site.register(queue.get_model("Task"), TaskResultAdmin)


if apps.is_installed("django_q"):
    take_over_queue_pages()
