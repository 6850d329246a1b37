"""What staff may do so far: revoke access tokens, look at what is set aside, and
read what people think of answers.

The view of conversations comes later.
"""

from __future__ import annotations

from contextlib import suppress

from django.apps import apps
from django.contrib import admin
from django.contrib.admin.exceptions import NotRegistered

from conversations.admin.feedback import FeedbackAdmin
from conversations.admin.quarantine import QuarantinedMessageAdmin
from conversations.admin.tokens import AccessTokenAdmin

__all__ = ["AccessTokenAdmin", "FeedbackAdmin", "QuarantinedMessageAdmin"]

# The right to add a schedule is the right to run any code: django-q2's own pages are not served.
if apps.is_installed("django_q"):
    for _model in apps.get_app_config("django_q").get_models():
        with suppress(NotRegistered):
            admin.site.unregister(_model)
