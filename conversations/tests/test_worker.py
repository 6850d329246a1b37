"""The worker for real: it does what the schedules say, and one that hangs works again."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db import connections
from django.utils import timezone
from django_q.models import OrmQ, Schedule, Success, Task
from django_q.signals import post_spawn

from conversations import health, schedules, supervisor, worker
from conversations.models import TaskRun
from conversations.schedules import sync_schedules
from conversations.tests.other_process import environment
from conversations.tests.supervisor_processes import (
    ROOT,
    Command,
    alive,
    descendants,
    eventually,
    is_running,
    running,
)
from conversations.tests.sweeps_helpers import sessions, speak, statuses

# The queue looks for due schedules half a minute after its start, and every half minute then.
FIRST_LOOK_SECONDS = 75


@pytest.mark.django_db(transaction=True)
def test_a_process_that_starts_asks_for_a_sign_of_life() -> None:
    post_spawn.send(sender="django_q", proc_name="Process-1")
    assert OrmQ.objects.count() == 1
    assert OrmQ.objects.get().func() == "conversations.tasks.heartbeat"


@pytest.mark.django_db(transaction=True)
def test_a_process_starts_although_it_cannot_ask(monkeypatch, caplog) -> None:
    def fail(*args: Any, **options: Any) -> None:
        raise LookupError("a secret")

    monkeypatch.setattr(worker, "async_task", fail)
    with caplog.at_level(logging.WARNING):
        post_spawn.send(sender="django_q", proc_name="Process-1")
    assert "no heartbeat was asked for: LookupError" in caplog.text
    assert "secret" not in caplog.text


@pytest.mark.slow
def test_a_dead_turn_is_closed_by_schedule_once_after_a_long_downtime(user, gone):
    dead, living = sessions(user, 2)
    speak(dead, "Tell me", process=gone, said="Once upon")
    speak(living, process="another machine's")
    long_ago = timezone.now() - timedelta(days=3)
    sync_schedules(now=long_ago)
    due = [row.task for row in schedules.build_table() if row.timing.first_run(now=long_ago)]
    due = [task for task in due if Schedule.objects.get(func=task).next_run < timezone.now()]
    with running("manage.py", "qcluster", **environment()) as command:
        eventually(lambda: TaskRun.objects.filter(name="heartbeat", run_count=1).exists())
        eventually(lambda: statuses(dead) == ["interrupted"], within=FIRST_LOOK_SECONDS)
        eventually(lambda: Success.objects.count() == len(due) + 1)  # the first heartbeat
        command.send(signal.SIGTERM)
        assert command.ends() == 0, command.output
    assert statuses(living) == ["running"]
    results = dict(Task.objects.values_list("func", "result"))
    assert results.keys() == set(due)
    assert results.pop("conversations.tasks.recover_turns") == 1
    assert results.pop("conversations.tasks.measure_sessions", 2) == 2
    assert set(results.values()) == {0}
    assert not OrmQ.objects.exists()
    assert all(row.next_run > long_ago + timedelta(days=3) for row in Schedule.objects.all())
    assert "Once upon" not in command.output


# --- One that hangs ---------------------------------------------------------------------------

SILENT_AFTER = 4.0

MANAGE = """
import os, sys
sys.path.insert(0, {root!r})
os.umask(0o077)
import chatsite, django
django.setup()
import django_q.cluster

class AtOnce(float):
    "How far the queue counts with every look, until it looks for due schedules: all of it."

    def __radd__(self, counter):
        return 30.0

django_q.cluster.Conf.GUARD_CYCLE = AtOnce(0.5)
from django.core.management import execute_from_command_line
execute_from_command_line(["manage.py", *sys.argv[1:]])
"""


class Hurried(Command):
    """The site as `serve` runs it, whose worker looks for due schedules all the time."""

    def worker(self) -> dict[str, int]:
        """The pids of the worker's processes, once all stand."""

        def look() -> dict[str, int]:
            for main in descendants(self.pid):
                if b"qcluster" not in _cmdline(main) or _children(main) == []:
                    continue
                (sentinel, *_) = _children(main)
                helpers = sorted(_children(sentinel))
                if len(helpers) == 3:
                    names = ("worker", "monitor", "pusher")
                    return {"main": main, "sentinel": sentinel} | dict(
                        zip(names, helpers, strict=True)
                    )
            return {}

        found = eventually(look)
        self.started |= set(found.values())
        return found


def _cmdline(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def _children(pid: int) -> list[int]:
    try:
        listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [child for child in map(int, listed) if is_running(child)]


@pytest.fixture
def site(tmp_path: Path, transactional_db: None) -> Iterator[Hurried]:
    """Under the supervisor, on the tests' own database."""
    manage = tmp_path / "manage.py"
    manage.write_text(MANAGE.format(root=str(ROOT)))
    sync_schedules(now=timezone.now())
    Schedule.objects.exclude(name="conversations.heartbeat").delete()
    listener = supervisor.open_listener(host="127.0.0.1", port=0)
    code = "import os, sys; os.dup2(0, 9); os.execv(sys.executable, sys.argv[1:])"
    started = Hurried(
        "-c", code, sys.executable, "-m", "conversations.supervisor", "site",
        "--manage", str(manage), "--fd", "9", "--url", supervisor.url_of(listener),
        "--patience", "4", "--grace", "1", "--worker-stop", "1",
        stdin=listener.fileno(),
        **environment(CHAT_WORKER_SILENT_SECONDS=str(SILENT_AFTER)),
    )  # fmt: skip
    listener.close()
    yield started
    started.close()


@contextmanager
def every_second_due() -> Iterator[None]:
    """The heartbeat's schedule, which no timing of the table could have so often."""
    stopping = threading.Event()

    def make_due() -> None:
        while not stopping.wait(1):
            Schedule.objects.update(next_run=timezone.now() - timedelta(seconds=1))
        connections.close_all()

    thread = threading.Thread(target=make_due)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join()


def runs() -> int:
    found = TaskRun.objects.filter(name="heartbeat").values_list("run_count", flat=True).first()
    return found or 0


def is_well() -> bool:
    return health.examine(health.READINESS["worker"]).ok is True


def kill_idle(processes: dict[str, int]) -> None:
    os.kill(processes["worker"], signal.SIGKILL)


def stop_sentinel(processes: dict[str, int]) -> None:
    os.kill(processes["sentinel"], signal.SIGSTOP)


def stop_worker(processes: dict[str, int]) -> None:
    os.kill(processes["worker"], signal.SIGSTOP)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    "break_it",
    [
        kill_idle,
        pytest.param(stop_sentinel, marks=pytest.mark.long),
        pytest.param(stop_worker, marks=pytest.mark.long),
    ],
)
def test_a_worker_that_hangs_is_seen_and_works_again(
    site: Hurried, settings: Any, break_it: Callable[[dict[str, int]], None]
) -> None:
    settings.CHAT_WORKER_SILENT_SECONDS = SILENT_AFTER
    with every_second_due():
        site.says(r"^Ready: ")
        before = site.worker()
        eventually(lambda: runs() >= 6)  # longer than it may be silent: it is left alone
        assert "does not work" not in site.output
        assert is_well()

        break_it(before)
        eventually(lambda: not is_well())
        broken_at = runs()
        site.says("worker is alive but does not work: it is replaced")
        eventually(lambda: alive(list(before.values())) == set())
        eventually(is_well)
        eventually(lambda: runs() > broken_at)  # begun is a sign of life, done is counted
        after = site.worker()
        assert not set(before.values()) & set(after.values())
    site.send(signal.SIGTERM)
    assert site.ends(within=25) in {0, 1}
