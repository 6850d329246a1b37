"""The worker for real: the queue's own command finds our schedules and does what they say."""

from __future__ import annotations

import signal
from datetime import timedelta

import pytest
from django.utils import timezone
from django_q.models import OrmQ, Schedule, Success, Task

from conversations.schedules import sync_schedules
from conversations.tests.other_process import environment
from conversations.tests.supervisor_processes import eventually, running
from conversations.tests.sweeps_helpers import sessions, speak, statuses

# The queue looks for due schedules half a minute after its start, and every half minute then.
FIRST_LOOK_SECONDS = 75


@pytest.mark.slow
def test_a_dead_turn_is_closed_by_schedule_once_after_a_long_downtime(user, gone):
    dead, living = sessions(user, 2)
    speak(dead, "Tell me", process=gone, said="Once upon")
    speak(living, process="another machine's")
    long_ago = timezone.now() - timedelta(days=3)
    sync_schedules(now=long_ago)
    with running("manage.py", "qcluster", **environment()) as worker:
        eventually(lambda: statuses(dead) == ["interrupted"], within=FIRST_LOOK_SECONDS)
        eventually(lambda: Success.objects.count() == 4)
        worker.send(signal.SIGTERM)
        assert worker.ends() == 0, worker.output
    assert statuses(living) == ["running"]
    results = dict(Task.objects.values_list("func", "result"))
    assert results == {
        "conversations.tasks.recover_turns": 1,
        "conversations.tasks.forget_events": 0,
        "conversations.tasks.prune_sessions": 0,
        "conversations.tasks.sweep_orphans": 0,
    }
    assert not OrmQ.objects.exists()
    assert all(row.next_run > long_ago + timedelta(days=3) for row in Schedule.objects.all())
    assert "Once upon" not in worker.output
