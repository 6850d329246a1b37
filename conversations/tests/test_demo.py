"""The demo users: made once, told once, never changed."""

from __future__ import annotations

import threading

import pytest
from django.contrib.auth import authenticate, get_user_model
from django.contrib.auth.password_validation import validate_password
from django.db import connection

from conversations.demo import ensure_demo_users


@pytest.mark.django_db
def test_the_first_call_makes_two_users_who_can_sign_in():
    demo, staff = ensure_demo_users()
    assert (demo.username, demo.email) == ("demo", "demo@example.com")
    assert (staff.username, staff.email) == ("staff", "staff@example.com")
    assert demo.password != staff.password
    for shown in (demo, staff):
        user = authenticate(username=shown.username, password=shown.password)
        assert user is not None
        assert user.is_staff == user.is_superuser == (shown.username == "staff")
        validate_password(shown.password, user)


@pytest.mark.django_db
def test_later_calls_change_nothing_and_know_no_password():
    first = ensure_demo_users()
    hashes = list(get_user_model().objects.values_list("username", "password").order_by("id"))
    again = ensure_demo_users()
    assert [user.password for user in again] == [None, None]
    assert [user.username for user in again] == [user.username for user in first]
    assert hashes == list(
        get_user_model().objects.values_list("username", "password").order_by("id")
    )


@pytest.mark.django_db
def test_a_person_who_has_that_name_is_left_alone():
    person = get_user_model().objects.create_user("staff", "someone@example.org", "their own one")
    _demo, staff = ensure_demo_users()
    person.refresh_from_db()
    assert staff.password is None
    assert staff.email == "someone@example.org"
    assert not person.is_superuser
    assert person.check_password("their own one")


@pytest.mark.django_db(transaction=True)
def test_of_many_at_once_one_makes_each_user():
    results: list[list[str | None]] = []
    together = threading.Barrier(4)

    def ensure() -> None:
        try:
            together.wait(timeout=30)
            results.append([user.password for user in ensure_demo_users()])
        finally:
            connection.close()

    threads = [threading.Thread(target=ensure) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert get_user_model().objects.count() == 2
    for passwords in zip(*results, strict=True):
        assert len(passwords) == 4
        assert sum(password is not None for password in passwords) == 1
