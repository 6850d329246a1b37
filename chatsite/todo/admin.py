"""Tasks in the admin: to look at and to correct."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.contrib import admin

from chatsite.todo.models import Task

if TYPE_CHECKING:
    TaskModelAdmin = admin.ModelAdmin[Task]
else:
    TaskModelAdmin = admin.ModelAdmin  # takes no parameter at run time


@admin.register(Task)
class TaskAdmin(TaskModelAdmin):
    list_display = ("id", "owner", "title", "priority", "due_date", "completed_at")
    list_filter = ("priority", ("completed_at", admin.EmptyFieldListFilter))
    list_select_related = ("owner",)
    search_fields = ("title",)
    autocomplete_fields = ("owner",)
    readonly_fields = ("created_at",)
    ordering = ("-id",)
