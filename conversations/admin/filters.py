"""The filters of the staff's list, between the address and the store."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from typing import Any, Final

from django import forms
from django.contrib.auth import get_user_model
from django.db.models import QuerySet

from conversations.ids import is_storable, parse_uuid
from conversations.models import ChatSession, Feedback
from conversations.store.criteria import TROUBLES, Criteria

_ANY: Final = [("", "any")]
_IDLE: Final = [*_ANY, ("1", "1 day"), ("3", "3 days"), ("7", "7 days"), ("30", "30 days")]
_TROUBLE: Final = [
    *_ANY,
    ("any", "any trouble"),
    ("failed", "failed turn"),
    ("interrupted", "interrupted turn"),
    ("warning", "warning"),
    ("damaged", "entries set aside"),
]
_MOST_PEOPLE: Final = 20


class SessionFilters(forms.Form):
    """What staff look for. The address holds it, so that a list can be bookmarked and sent."""

    q = forms.CharField(
        label="Title or id",
        required=False,
        max_length=200,
        widget=forms.TextInput(attrs={"type": "search", "autocomplete": "off"}),
    )
    owner = forms.CharField(label="Owner", required=False, max_length=254)
    status = forms.ChoiceField(choices=[*_ANY, *ChatSession.Status.choices], required=False)
    idle = forms.ChoiceField(label="Idle for", choices=_IDLE, required=False)
    trouble = forms.ChoiceField(choices=_TROUBLE, required=False)
    feedback = forms.ChoiceField(choices=[*_ANY, *Feedback.Kind.choices], required=False)
    held = forms.ChoiceField(label="Hold", choices=[*_ANY, ("1", "on hold")], required=False)
    model = forms.CharField(
        label="Model",
        required=False,
        max_length=200,
        widget=forms.TextInput(attrs={"list": "models", "autocomplete": "off"}),
    )
    since = forms.DateField(
        label="Active from", required=False, widget=forms.DateInput(attrs={"type": "date"})
    )
    until = forms.DateField(
        label="Active to", required=False, widget=forms.DateInput(attrs={"type": "date"})
    )

    def __init__(self, asked: Any) -> None:
        super().__init__(asked, auto_id="filter-%s", label_suffix="")

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or {}
        for name, value in cleaned.items():
            if isinstance(value, str) and not is_storable(value):
                self.add_error(name, "This holds characters that nothing stored can hold.")
        return cleaned

    def criteria(self, *, now: datetime) -> Criteria:
        """What is asked for, once it is valid."""
        asked = self.cleaned_data
        trouble = asked["trouble"]
        limits = [_day(asked["until"], after=1)] if asked["until"] else []
        if asked["idle"]:
            limits.append(now - timedelta(days=int(asked["idle"])))
        term = asked["q"].strip()
        any_id = parse_uuid(term) or (term if term.startswith("user_") else None)
        return Criteria(
            status=asked["status"],
            held=bool(asked["held"]),
            damaged=trouble == "damaged",
            since=_day(asked["since"]) if asked["since"] else None,
            before=min(limits) if limits else None,
            owner_ids=_owners(asked["owner"]) if asked["owner"] else None,
            any_id=any_id,
            title="" if any_id else term,
            trouble=trouble if trouble in TROUBLES else "",
            feedback=asked["feedback"],
            model=asked["model"],
        )


def _day(day: Any, *, after: int = 0) -> datetime:
    """The first moment of a day, or of one after it, in UTC."""
    moment = datetime.combine(day, time(), UTC)
    return moment + timedelta(days=after) if day.year < 9999 else moment


def _owners(name: str) -> tuple[Any, ...]:
    """The people of exactly that name or address."""
    user = get_user_model()
    people: QuerySet[Any] = user._default_manager.filter(**{user.USERNAME_FIELD: name})
    if "@" in name:
        people = people.values("pk").union(
            user._default_manager.filter(**{user.get_email_field_name(): name}).values("pk")
        )
        return tuple(person["pk"] for person in people[:_MOST_PEOPLE])
    return tuple(people.values_list("pk", flat=True)[:_MOST_PEOPLE])
