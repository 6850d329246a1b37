"""Access tokens, as staff see and revoke them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone

from conversations.admin.deleting import is_of_a_user
from conversations.models import AccessToken

if TYPE_CHECKING:
    TokenModelAdmin = admin.ModelAdmin[AccessToken]
else:
    TokenModelAdmin = admin.ModelAdmin


@admin.register(AccessToken)
class AccessTokenAdmin(TokenModelAdmin):
    """Tokens are made by signing in or by a command; here they are seen and revoked."""

    list_display = ("__str__", "user", "created_at", "last_used_at", "expires_at", "revoked_at")
    list_select_related = ("user",)
    search_fields = ("name", "user__username")
    readonly_fields = (
        "user",
        "name",
        "created_at",
        "last_used_at",
        "expires_at",
        "revoked_at",
    )
    actions = ("revoke",)
    show_full_result_count = False

    @admin.action(description="Revoke the selected tokens", permissions=["change"])
    def revoke(self, request: HttpRequest, tokens: QuerySet[AccessToken]) -> None:
        count = tokens.filter(revoked_at__isnull=True).update(revoked_at=timezone.now())
        self.message_user(request, f"{count} token(s) revoked.")

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return is_of_a_user(request)
