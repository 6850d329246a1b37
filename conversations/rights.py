"""Which rights the staff's view knows, and the two groups that come ready-made."""

from __future__ import annotations

from typing import Any, Final

from django.contrib.auth.models import Group, Permission

VIEW_TRANSCRIPT: Final = "conversations.view_transcript"
VIEW_HIDDEN: Final = "conversations.view_hidden_content"

GROUPS: Final = {
    "Support": ("view_chatsession", "view_transcript", "view_feedback"),
    "Data protection": ("view_chatsession", "view_staffread"),
}
"""Names of groups, and the rights they begin with."""


def ensure_groups(**_: Any) -> None:
    """Create the groups that are missing; one that is there stays as an administrator left it."""
    for name, codenames in GROUPS.items():
        group, is_new = Group.objects.get_or_create(name=name)
        if is_new:
            rights = Permission.objects.filter(
                content_type__app_label="conversations", codename__in=codenames
            )
            group.permissions.set(rights)
