"""Conversations, as staff find them and read them. Nothing is written here but that it was read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from functools import partial, wraps
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.loader import render_to_string
from django.urls import URLPattern, path, reverse
from django.utils import timezone

from conversations import lanes, rights
from conversations.admin.deleting import is_of_a_user
from conversations.admin.filters import SessionFilters
from conversations.admin.transcript import PAGE, Where, read_transcript
from conversations.admin.window import read_window
from conversations.conf import get_conf
from conversations.errors import NotFound, StoreError
from conversations.ids import parse_uuid
from conversations.markdown import spelled
from conversations.models import ChatSession, StaffRead
from conversations.store import reads, review
from conversations.store.places import read_place, write_place
from conversations.store.review import Flags, ReviewedSession, ReviewPage

if TYPE_CHECKING:
    SessionModelAdmin = admin.ModelAdmin[ChatSession]
else:
    SessionModelAdmin = admin.ModelAdmin

LISTED: Final = 50
_TEMPLATES: Final = "admin/conversations/chatsession/"
_MOST: Final = 2**62  # positions are below it
_FLAGS: Final = {
    "failed": "failed",
    "interrupted": "interrupted",
    "warned": "warning",
    "disliked": "disliked",
    "liked": "liked",
}

View = Callable[..., HttpResponse]


def _in_words(view: View) -> View:
    """A store that does not answer is said so; what is not there is 404."""

    @wraps(view)
    def answer(*args: Any, **kwargs: Any) -> HttpResponse:
        try:
            return view(*args, **kwargs)
        except NotFound as error:
            raise Http404(error.message) from None
        except StoreError as error:
            text = f"{error.message} Nothing is shown, because nothing could be written down."
            return HttpResponse(text, status=503, content_type="text/plain; charset=utf-8")

    return answer


@admin.register(ChatSession)
class ChatSessionAdmin(SessionModelAdmin):
    """The list and the pages behind it. Nothing is added, changed or deleted by hand.

    The pages have blocks named `actions` for what staff may do beside reading.
    """

    def get_urls(self) -> list[URLPattern]:
        view, name = self.admin_site.admin_view, "conversations_chatsession_{}".format
        return [
            path(
                "<uuid:session_id>/transcript/",
                view(self.transcript_view),
                name=name("transcript"),
            ),
            path("<uuid:session_id>/model/", view(self.model_view), name=name("model")),
            *super().get_urls(),
        ]

    @_in_words
    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """The list, newest activity first."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        now = timezone.now()
        filters = SessionFilters(request.GET)
        after, before = (read_place(request.GET.get(name, "")) for name in ("after", "before"))
        page = ReviewPage([], has_more=False)
        flags: dict[UUID, Flags] = {}
        models: list[str] = []
        if filters.is_valid():
            criteria = filters.criteria(now=now)

            def read(db: lanes.Database) -> tuple[ReviewPage, dict[UUID, Flags], list[str]]:
                page = review.list_sessions(db, criteria, limit=LISTED, after=after, before=before)
                ids = [session.id for session in page.sessions]
                flags = review.flags_of(db, session_ids=ids)
                return page, flags, review.latest_models(db)

            page, flags, models = lanes.look_up(read)
        context = {
            "title": "Conversations",
            "filters": filters,
            "models": models,
            "rows": [
                _row(session, flags.get(session.id, Flags()), now=now) for session in page.sessions
            ],
            "looked_through": review.LOOKED_THROUGH,
            "is_filtered": any(request.GET.get(name) for name in filters.fields),
            "may_read": request.user.has_perm(rights.VIEW_TRANSCRIPT),
            **_neighbours(request, page, after=after is not None, before=before is not None),
        }
        return self._page(request, "list.html", context | (extra_context or {}))

    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        """There is no form: the transcript is what there is to see."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        session_id = parse_uuid(object_id)
        if session_id is None:
            raise Http404
        return HttpResponseRedirect(
            reverse("admin:conversations_chatsession_transcript", args=[session_id])
        )

    @_in_words
    def transcript_view(self, request: HttpRequest, session_id: UUID) -> HttpResponse:
        """What was said, as it happened."""
        sees_hidden = _reading_right(request)
        where = Where(
            since=_position(request.GET.get("since")),
            until=_position(request.GET.get("until")),
            at=parse_uuid(request.GET.get("at", "")),
        )
        found = lanes.look_up(
            partial(read_transcript, session_id=session_id, where=where, sees_hidden=sees_hidden)
        )
        context = {
            "title": "Transcript",
            "page": found,
            "at": where.at,
            "page_size": PAGE,
            "may_restore": request.user.has_perm("conversations.view_quarantinedmessage"),
            **_about(found.session),
        }
        response = self._page(request, "transcript.html", context)
        self._record(request, session_id, StaffRead.How.PAGE)
        return response

    @_in_words
    def model_view(self, request: HttpRequest, session_id: UUID) -> HttpResponse:
        """What the model is given: on the next turn, or what is known of an earlier one."""
        sees_hidden = _reading_right(request)
        turn_id = parse_uuid(request.GET.get("turn", ""))
        found = lanes.look_up(
            partial(read_window, session_id=session_id, turn_id=turn_id, sees_hidden=sees_hidden)
        )
        context = {"title": "As the model saw it", "page": found, **_about(found.session)}
        response = self._page(request, "model.html", context)
        self._record(request, session_id, StaffRead.How.MODEL)
        return response

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return is_of_a_user(request)

    def _page(self, request: HttpRequest, name: str, context: Mapping[str, Any]) -> HttpResponse:
        """A page, made to its end: nothing of it is left to be read later."""
        every = {**self.admin_site.each_context(request), "opts": self.opts, **context}
        response = HttpResponse(render_to_string(_TEMPLATES + name, every, request))
        response["Cache-Control"] = "no-store"
        return response

    def _record(self, request: HttpRequest, session_id: UUID, how: str) -> None:
        """Write the read down, before anything of it leaves. Without a row nothing does."""
        lanes.perform(
            partial(
                reads.record,
                session_id=session_id,
                reader_id=request.user.pk,
                how=how,
                now=timezone.now(),
            )
        )


def _reading_right(request: HttpRequest) -> bool:
    """Whether hidden content is seen, too. Raises PermissionDenied where nothing is."""
    if not request.user.has_perm(rights.VIEW_TRANSCRIPT):
        raise PermissionDenied
    return request.user.has_perm(rights.VIEW_HIDDEN)


def _row(session: ReviewedSession, flags: Flags, *, now: datetime) -> dict[str, Any]:
    words = [(name, text) for name, text in _FLAGS.items() if getattr(flags, name)]
    if session.quarantined_count:
        words.append(("damaged", f"{session.quarantined_count} set aside"))
    return {
        "session": session,
        "title": _title(session),
        "flags": words,
        "idle": _span(now - session.last_active_at),
        **_expiry(session, now=now),
    }


def _about(session: ReviewedSession) -> dict[str, Any]:
    """What stands at the head of every page about a conversation."""
    now = timezone.now()
    return {
        "session": session,
        "session_title": _title(session),
        "here": reverse("admin:conversations_chatsession_transcript", args=[session.id]),
        "model_here": reverse("admin:conversations_chatsession_model", args=[session.id]),
        **_expiry(session, now=now),
    }


def _title(session: ReviewedSession) -> str:
    return spelled(" ".join(session.title.split())) or "Untitled"


def _expiry(session: ReviewedSession, *, now: datetime) -> dict[str, Any]:
    if session.hold:
        return {"expires": "on hold", "expires_at": None}
    expires_at = session.last_active_at + get_conf().retention
    left = expires_at - now
    return {
        "expires": _span(left) if left > timedelta(0) else "due",
        "expires_at": expires_at,
    }


def _span(span: timedelta) -> str:
    """A length of time in its largest unit."""
    seconds = max(0, int(span.total_seconds()))
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length} {unit}"
    return f"{seconds} s"


def _neighbours(
    request: HttpRequest, page: ReviewPage, *, after: bool, before: bool
) -> dict[str, str]:
    """The addresses of the pages around this one, with the same filters."""

    def address(name: str, place: Any) -> str:
        query = request.GET.copy()
        for each in ("after", "before"):
            query.pop(each, None)
        query[name] = write_place(place)
        return f"?{query.urlencode()}"

    found = {}
    if page.sessions and (page.has_more if before else after):
        found["newer"] = address("before", page.sessions[0].place)
    if page.sessions and (before or page.has_more):
        found["older"] = address("after", page.sessions[-1].place)
    if page.looked_to is not None:
        found["further"] = address("before" if before else "after", page.looked_to)
    return found


def _position(text: str | None) -> int | None:
    if text is None or not text.isascii() or not text.isdecimal() or len(text) > 18:
        return None
    return min(int(text), _MOST)
