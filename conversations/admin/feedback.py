"""What people think of answers, as staff see it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.http import HttpRequest

from conversations.admin.deleting import is_of_a_user
from conversations.models import Feedback

if TYPE_CHECKING:
    FeedbackModelAdmin = admin.ModelAdmin[Feedback]
else:
    FeedbackModelAdmin = admin.ModelAdmin


@admin.register(Feedback)
class FeedbackAdmin(FeedbackModelAdmin):
    """Feedback is read here, and changed only by whoever gave it."""

    list_display = ("kind", "user", "message_id", "comment", "updated_at")
    list_filter = ("kind",)
    list_select_related = ("user",)
    ordering = ("-updated_at", "id")
    fields = ("kind", "comment", "user", "message_id", "created_at", "updated_at")
    readonly_fields = fields
    show_full_result_count = False

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return is_of_a_user(request)
