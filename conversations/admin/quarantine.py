"""Entries that are set aside: staff see what is in them, and put back what was repaired."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Final, cast
from uuid import UUID

from django.contrib import admin, messages
from django.contrib.admin.models import CHANGE, LogEntry
from django.core.paginator import Paginator
from django.db import connection
from django.db.models import BinaryField, BooleanField, Func, QuerySet, TextField, Value
from django.db.models.expressions import Combinable
from django.db.models.functions import Cast
from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.safestring import SafeString

from conversations import lanes
from conversations.errors import ConversationsError, ThreadNotFound
from conversations.history import REASONS
from conversations.ids import parse_uuid
from conversations.models import ChatMessage, ChatTurn, QuarantinedMessage
from conversations.store import restoring
from conversations.store.damage import moment_of, text_of, uuid_of

if TYPE_CHECKING:
    from datetime import datetime

    QuarantinedModelAdmin = admin.ModelAdmin[QuarantinedMessage]
    QuarantinedPaginator = Paginator[QuarantinedMessage]
else:
    QuarantinedModelAdmin = admin.ModelAdmin
    QuarantinedPaginator = Paginator

SHOWN_CHARS: Final = 20_000
MOST_COUNTED: Final = 1_000
MOST_AT_ONCE: Final = 1_000

_COLUMNS: Final = ("session_id", "position", "kind", "quarantine_reason", "quarantined_at")
_IS_AN_ID: Final = (  # SQLite stores anything anywhere, and no page can name what has none
    "typeof(%(expressions)s) = 'text' AND length(%(expressions)s) = 32"
    " AND %(expressions)s NOT GLOB '*[^0-9a-f]*'"
)


class FewPages(QuarantinedPaginator):
    """Counts no further than to `MOST_COUNTED`."""

    @cached_property
    def count(self) -> int:
        rows = cast("QuerySet[QuarantinedMessage]", self.object_list)
        return rows[:MOST_COUNTED].count()


class ReasonFilter(admin.SimpleListFilter):
    title = "reason"
    parameter_name = "reason"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Iterable[tuple[str, str]]:
        return [(reason, reason) for reason in REASONS]

    def queryset(
        self, request: HttpRequest, queryset: QuerySet[QuarantinedMessage]
    ) -> QuerySet[QuarantinedMessage]:
        return queryset.filter(quarantine_reason=self.value()) if self.value() else queryset


@admin.register(QuarantinedMessage)
class QuarantinedMessageAdmin(QuarantinedModelAdmin):
    """Nothing is changed here but that an entry is remembered again.

    The columns of such a row may hold anything, so they are read as the bytes they are.
    """

    list_display = ("set_aside_at", "conversation", "place", "sort", "reason")
    fields = readonly_fields = (*list_display, "its_turn", "item")
    list_filter = (ReasonFilter,)
    search_fields = ("session_id",)
    search_help_text = "The id of a conversation"
    ordering = ("-quarantined_at",)
    actions = ("put_back",)
    paginator = FewPages
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER

    def get_queryset(self, request: HttpRequest) -> QuerySet[QuarantinedMessage]:
        rows = super().get_queryset(request).filter(quarantined_at__isnull=False)
        if connection.vendor == "sqlite":
            rows = rows.filter(Func("id", template=_IS_AN_ID, output_field=BooleanField()))
        plain = {f"plain_{column}": _plain(column) for column in _COLUMNS}
        return rows.only("id").annotate(**plain)

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[QuarantinedMessage], search_term: str
    ) -> tuple[QuerySet[QuarantinedMessage], bool]:
        term = search_term.strip()
        if not term:
            return queryset, False
        session_id = parse_uuid(term)
        found = queryset.filter(session_id=session_id) if session_id else queryset.none()
        return found, False

    @admin.display(description="set aside at")
    def set_aside_at(self, entry: Any) -> datetime | None:
        return moment_of(entry.plain_quarantined_at)

    @admin.display(description="conversation")
    def conversation(self, entry: Any) -> str:
        return str(uuid_of(entry.plain_session_id) or text_of(entry.plain_session_id))

    @admin.display(description="position")
    def place(self, entry: Any) -> str:
        return _visible(entry.plain_position)

    @admin.display(description="kind")
    def sort(self, entry: Any) -> str:
        return _visible(entry.plain_kind)

    @admin.display(description="reason")
    def reason(self, entry: Any) -> str:
        reason = _visible(entry.plain_quarantine_reason)
        return f"{reason}: {REASONS[reason]}" if reason in REASONS else reason

    @admin.display(description="turn")
    def its_turn(self, entry: Any) -> str:
        turns = ChatTurn.objects.filter(messages=entry.pk)
        row = turns.values_list(_plain("id"), _plain("number"), _plain("status")).first()
        if row is None:
            return ""
        turn_id, number, status = row
        return f"{uuid_of(turn_id)}: number {_visible(number)}, {_visible(status)}"

    @admin.display(description="item")
    def item(self, entry: Any) -> SafeString:
        """What is in the row, as text and nothing but text."""
        beginning = Func(
            _plain("agent_item"),
            Value(1),
            Value(4 * SHOWN_CHARS + 4),  # of bytes, where they are read as such
            function="SUBSTR",
            output_field=_plain_field(),
        )
        stored = ChatMessage.objects.filter(pk=entry.pk).values_list(beginning).first()
        text = _visible(stored[0]) if stored else ""
        cut = f"The first {SHOWN_CHARS:,} characters." if len(text) > SHOWN_CHARS else ""
        return format_html(
            '<textarea rows="20" cols="100" aria-label="item" readonly>\n{}</textarea> {}',
            text[:SHOWN_CHARS],
            cut,
        )

    @admin.action(description="Put back into the memory", permissions=["restore"])
    def put_back(self, request: HttpRequest, entries: QuerySet[QuarantinedMessage]) -> None:
        by_session: dict[UUID | None, list[UUID]] = {}
        for entry in entries[:MOST_AT_ONCE]:
            session_id = uuid_of(entry.plain_session_id)  # type: ignore[attr-defined]
            by_session.setdefault(session_id, []).append(entry.pk)
        restored: list[UUID] = []
        left: Counter[str] = Counter()
        for session_id, ids in by_session.items():
            try:
                found = _restore(session_id, ids)
            except ConversationsError as error:
                text = f"Conversation {session_id}: {error.message}"
                self.message_user(request, text, messages.ERROR)
            else:
                restored += found.message_ids
                left.update(found.left.values())
        self._tell(request, restored, left)

    def _tell(self, request: HttpRequest, restored: list[UUID], left: Counter[str]) -> None:
        if restored:
            self.message_user(request, f"{len(restored)} put back into the memory.")
            LogEntry.objects.log_actions(
                user_id=str(request.user.pk),
                queryset=[QuarantinedMessage(pk=key) for key in restored],
                action_flag=CHANGE,
                change_message="Put back into the memory.",
            )
        for why, count in sorted(left.items()):
            text = f"{count} not put back: {restoring.WHY_NOT[why]}."
            self.message_user(request, text, messages.WARNING)

    def has_restore_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("conversations.restore_chatmessage")

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


def _restore(session_id: UUID | None, ids: list[UUID]) -> restoring.Restored:
    if session_id is None:
        raise ThreadNotFound
    return lanes.perform(partial(restoring.restore, session_id=session_id, message_ids=ids))


def _plain(column: str) -> Combinable:
    """A column that can be read whatever is in it: as bytes on SQLite, else as text."""
    return Cast(column, _plain_field())


def _plain_field() -> Any:
    return BinaryField() if connection.vendor == "sqlite" else TextField()


def _visible(value: Any) -> str:
    """The text of a plain column, without what no page can hold."""
    return text_of(value).replace("\0", "\ufffd")
