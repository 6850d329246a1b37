"""The staff's view of access tokens."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import Client

from conversations.models import AccessToken
from conversations.tests import factories

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def staff() -> Client:
    browser = Client()
    browser.force_login(factories.UserFactory(is_staff=True, is_superuser=True))
    return browser


def test_staff_see_tokens_and_never_their_text(staff: Client, user: Any) -> None:
    text = factories.token_for(user)
    page = staff.get("/admin/conversations/accesstoken/").content.decode()
    assert user.username in page
    assert text not in page


def test_staff_revoke_a_token(staff: Client, user: Any) -> None:
    factories.token_for(user)
    token = AccessToken.objects.get()
    staff.post(
        "/admin/conversations/accesstoken/",
        {"action": "revoke", "_selected_action": [str(token.pk)]},
    )
    token.refresh_from_db()
    assert token.revoked_at is not None


def test_tokens_are_neither_added_nor_deleted_by_hand(staff: Client, user: Any) -> None:
    factories.token_for(user)
    token = AccessToken.objects.get()
    assert staff.get("/admin/conversations/accesstoken/add/").status_code == 403
    delete = f"/admin/conversations/accesstoken/{token.pk}/delete/"
    assert staff.post(delete, {"post": "yes"}).status_code == 403
    assert AccessToken.objects.count() == 1
