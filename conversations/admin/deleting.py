"""What staff cannot delete by itself goes with the account it belongs to."""

from __future__ import annotations

from django.contrib.auth import get_permission_codename, get_user_model
from django.http import HttpRequest


def is_of_a_user(request: HttpRequest) -> bool:
    """Whether it is an account that is deleted, by somebody who may do that."""
    opts, match = get_user_model()._meta, request.resolver_match
    pages = {f"{opts.app_label}_{opts.model_name}_{page}" for page in ("delete", "changelist")}
    right = f"{opts.app_label}.{get_permission_codename('delete', opts)}"
    return match is not None and match.url_name in pages and request.user.has_perm(right)
