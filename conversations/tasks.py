"""The tasks of the background worker, by the paths that `schedules` gives to django-q2.

They take no arguments, so that nothing a person said is ever in the queue. Each may run twice, or
again after it was killed.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from functools import wraps
from typing import Final

from django.utils import timezone

from conversations import measuring, retention, sweeps, task_results, task_runs
from conversations.errors import CleanupRunning

CLEANUP_SECONDS: Final = 120.0
"""Well below what the queue gives a task; the rest follows within minutes."""


class TaskFailed(Exception):
    """A task failed: by which errors and where, without their words."""


def recorded(task: Callable[[], int]) -> Callable[[], int]:
    """The same task, which leaves in its row that it ran, and whose failures hold no text.

    The queue stores and logs failures, and an engine's error may quote the row it did not take.
    """

    @wraps(task)
    def outlined() -> int:
        try:
            return task_runs.record_run(task.__name__, task, outline=_outline)
        except Exception as error:
            raise TaskFailed(_outline(error)) from None

    return outlined


@recorded
def heartbeat() -> int:
    """Nothing: that it ran is what the worker is known to work by."""
    return 0


@recorded
def recover_turns() -> int:
    """Close the turns of processes that are gone; how many."""
    return sweeps.recover_turns(now=timezone.now())


@recorded
def forget_events() -> int:
    """Drop recorded events that are no longer kept; of how many turns."""
    return sweeps.forget_events(now=timezone.now())


@recorded
def prune_sessions() -> int:
    """Forget what memories hold beyond their budget; how many entries."""
    return sweeps.prune_sessions(now=timezone.now()).forgotten


@recorded
def sweep_orphans() -> int:
    """Erase attached files that were never sent, or whose conversation is gone; how many."""
    return sweeps.sweep_orphans(now=timezone.now())


@recorded
def cleanup_sessions() -> int:
    """Remove conversations that are idle for too long; how many. Nothing while another does."""
    try:
        return retention.cleanup(now=timezone.now(), seconds=CLEANUP_SECONDS).sessions
    except CleanupRunning:
        return 0


@recorded
def finish_cleanup() -> int:
    """Go on with a cleanup that was killed, or had no time left; how many that one has removed."""
    try:
        receipt = retention.finish_cleanup(now=timezone.now(), seconds=CLEANUP_SECONDS)
    except CleanupRunning:
        return 0
    return 0 if receipt is None else receipt.sessions


@recorded
def measure_sessions() -> int:
    """Count what takes long to count; how many conversations there are."""
    return measuring.measure_sessions(now=timezone.now())


@recorded
def forget_results() -> int:
    """Drop old results of tasks from the queue's tables; how many."""
    return task_results.forget_results(now=timezone.now())


def _outline(error: BaseException) -> str:
    """The types of an error and its causes, and the lines it came through."""
    names, cause = [type(error).__name__], error.__cause__
    while cause is not None:
        names.append(type(cause).__name__)
        cause = cause.__cause__
    frames = traceback.extract_tb(error.__traceback__)
    inner = [frame for frame in frames[1:] if frame.filename != task_runs.__file__]
    lines = [f"{frame.filename.rpartition('/')[2]}:{frame.lineno}" for frame in inner]
    return f"{' from '.join(names)}, at {' > '.join(lines)}"
