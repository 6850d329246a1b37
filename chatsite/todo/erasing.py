"""The tasks of somebody who is being erased go with what was said about them."""

from __future__ import annotations

from typing import Any

from django.dispatch import receiver

from chatsite.todo.models import Task
from conversations.signals import erasing_user


@receiver(erasing_user, dispatch_uid="chatsite.todo.erasing")
def forget_tasks(*, user_id: Any, **_: Any) -> dict[str, int]:
    """How many there were."""
    return {"tasks": Task.objects.owned_by(user_id).delete()[0]}
