"""What a process of the background worker does at its start: it asks for a sign of life.

The heartbeat goes through the queue like any task, so a worker that has just begun is known to work
after a moment, and not only when the next schedule is due.
"""

from __future__ import annotations

import logging
from typing import Any

from django_q.signals import post_spawn
from django_q.tasks import async_task

from conversations.task_results import TASKS
from conversations.task_runs import HEARTBEAT

logger = logging.getLogger(__name__)


def ask_for_heartbeat(**_: Any) -> None:
    """Put one into the queue. Where that fails, the schedule's will be the first."""
    try:
        async_task(TASKS + HEARTBEAT, group=f"conversations.{HEARTBEAT}")
    except Exception as error:
        logger.warning("no heartbeat was asked for: %s", type(error).__name__)


def listen() -> None:
    """From now on, every process of a worker asks for one."""
    post_spawn.connect(ask_for_heartbeat, dispatch_uid=f"conversations.{HEARTBEAT}")
