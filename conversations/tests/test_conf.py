"""The app's settings: defaults for any project, and what a test or a site overrides is seen."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields
from datetime import timedelta

import pytest
from django.conf import settings
from django.test import override_settings

from chatsite.env import VARIABLES
from conversations.conf import Conf, get_conf

VARIABLE_OF = {variable.name: variable for variable in VARIABLES}
SHARED = [field.name for field in fields(Conf) if field.name.upper() in VARIABLE_OF]


def test_an_overridden_setting_is_seen_at_once_and_forgotten_after():
    before = get_conf().agent_session_max_messages
    with override_settings(AGENT_SESSION_MAX_MESSAGES=3):
        assert get_conf().agent_session_max_messages == 3
    assert get_conf().agent_session_max_messages == before


def test_a_setting_that_is_missing_has_its_default():
    with override_settings():
        del settings.CHAT_LEASE_SECONDS
        assert get_conf().chat_lease_seconds == Conf().chat_lease_seconds


def test_it_is_read_once_and_cannot_be_changed():
    assert get_conf() is get_conf()
    with pytest.raises(FrozenInstanceError):
        get_conf().chat_lease_seconds = 1


def test_spans_of_time_come_as_such():
    with override_settings(CHAT_LEASE_SECONDS=0.5, AGENT_SESSION_RETENTION_DAYS=2):
        assert get_conf().lease == timedelta(milliseconds=500)
        assert get_conf().retention == timedelta(days=2)


OF_THE_SITE = {"conversations_agent", "site_url"}


@pytest.mark.parametrize("name", sorted(set(SHARED) - OF_THE_SITE))
def test_a_default_is_the_same_for_the_site_and_for_any_other_project(name):
    variable = VARIABLE_OF[name.upper()]
    assert getattr(Conf(), name) == variable.parse(variable.default)


@pytest.mark.parametrize("name", SHARED)
def test_what_the_environment_says_reaches_the_app(name):
    assert hasattr(settings, name.upper())
