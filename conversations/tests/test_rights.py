"""The ready-made groups: there from the first migration on, and nobody's changes undone."""

from __future__ import annotations

import pytest
from django.apps import apps
from django.contrib.auth.models import Group, Permission
from django.core.management import call_command
from django.db.models.signals import post_migrate

from conversations.rights import GROUPS, ensure_groups

pytestmark = pytest.mark.django_db(transaction=True)


def rights_of(name: str) -> set[str]:
    return set(Group.objects.get(name=name).permissions.values_list("codename", flat=True))


def test_each_group_begins_with_its_rights():
    ensure_groups()
    assert {name: rights_of(name) for name in GROUPS} == {k: set(v) for k, v in GROUPS.items()}


def test_nobody_sees_hidden_content_unless_it_is_given_to_them():
    assert not any("view_hidden_content" in rights for rights in GROUPS.values())
    assert Permission.objects.filter(codename="view_hidden_content").exists()


def test_what_an_administrator_changed_stays():
    ensure_groups()
    Group.objects.get(name="Support").permissions.clear()
    ensure_groups()
    assert rights_of("Support") == set()


def test_migrating_makes_them():
    app = apps.get_app_config("conversations")
    assert post_migrate.has_listeners(app)
    call_command("migrate", verbosity=0)
    assert Group.objects.filter(name__in=GROUPS).count() == len(GROUPS)
