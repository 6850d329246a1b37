"""The trace of who read what, for whoever watches over it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.contrib.auth import get_user_model
from django.core.paginator import Paginator
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.functional import cached_property

from conversations.admin.deleting import is_of_a_user
from conversations.ids import parse_uuid
from conversations.models import StaffRead

if TYPE_CHECKING:
    ReadModelAdmin = admin.ModelAdmin[StaffRead]
    ReadPaginator = Paginator[StaffRead]
else:
    ReadModelAdmin = admin.ModelAdmin
    ReadPaginator = Paginator

MOST_COUNTED = 1_000


class FewPages(ReadPaginator):
    """Counts no further than to `MOST_COUNTED`: what is older is found by a search."""

    @cached_property
    def count(self) -> int:
        rows: Any = self.object_list
        return len(rows.order_by().values_list("pk")[:MOST_COUNTED])


@admin.register(StaffRead)
class StaffReadAdmin(ReadModelAdmin):
    """Reads are looked at here, and nothing else."""

    list_display = ("read_at", "who", "conversation", "how")
    list_select_related = ("reader",)
    list_display_links = None
    search_fields = ("session_id",)
    search_help_text = "The id of a conversation, or the name of an account"
    ordering = ("-id",)
    fields = readonly_fields = ("read_at", "who", "conversation", "how")
    paginator = FewPages
    show_full_result_count = False
    actions = None
    sortable_by = ()

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[StaffRead], search_term: str
    ) -> tuple[QuerySet[StaffRead], bool]:
        term = search_term.strip()
        if not term:
            return queryset, False
        session_id = parse_uuid(term)
        if session_id is not None:
            return queryset.filter(session_id=session_id), False
        name = get_user_model().USERNAME_FIELD
        return queryset.filter(**{f"reader__{name}": term}), False

    @admin.display(description="who")
    def who(self, read: StaffRead) -> str:
        return str(read.reader) if read.reader else f"account {read.reader_id}, deleted"

    @admin.display(description="conversation")
    def conversation(self, read: StaffRead) -> str:
        return str(read.session_id)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return is_of_a_user(request)
