"""The numbers of the site: from the database what all processes share, and nothing that grows."""

from __future__ import annotations

import re
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone

from conversations import measuring, metrics, retention, task_runs
from conversations.models import ChatTurn
from conversations.store import ledger
from conversations.tests import factories
from conversations.tests.retention_helpers import leave
from conversations.tests.sweeps_helpers import remember

pytestmark = pytest.mark.django_db(transaction=True)


def read(health: Any = None) -> dict[str, float]:
    """Every sample of the page by its name with labels; fails where the page is not well formed."""
    found: dict[str, float] = {}
    kinds: dict[str, str] = {}
    for line in metrics.render(health or {}).splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            assert name not in kinds, "a family is told once"
            kinds[name] = kind
        elif not line.startswith("# HELP "):
            sample, value = re.fullmatch(r"(\S+(?:\{.*\})?) (\S+)", line).groups()
            assert sample not in found
            family = re.sub(r"(_bucket|_sum|_count)?(\{.*)?$", "", sample)
            assert family in kinds or sample.partition("{")[0] in kinds
            found[sample.removeprefix("conversations_")] = float(value)
    return found


def test_turns_that_run_and_wait_are_counted(user):
    busy, calm = (factories.ChatSessionFactory(owner=user) for _ in range(2))
    queued_at = timezone.now() - timedelta(seconds=30)
    common = {"input": "Hi", "queued_at": queued_at}
    ChatTurn.objects.create(session=busy, number=1, status="running", lease_until=1, **common)
    ChatTurn.objects.create(session=busy, number=2, **common)
    ChatTurn.objects.create(session=calm, number=1, status="completed", **common)
    found = read()
    assert (found["active_sessions"], found["running_turns"], found["queue_depth"]) == (1, 1, 1)
    assert 30 <= found["oldest_queued_seconds"] < 60


def test_nothing_waits_in_a_quiet_site():
    found = read({"database": True, "worker": False, "search_index": None})
    assert (found["queue_depth"], found["oldest_queued_seconds"]) == (0, 0)
    assert found['health{check="database"}'] == 1
    assert found['health{check="worker"}'] == 0
    assert 'health{check="search_index"}' not in found


def test_what_the_worker_did_is_told_by_any_process():
    def run(name: str, amount: int) -> None:
        task_runs.record_run(name, lambda: amount, outline=str)

    before = timezone.now().timestamp()
    run("prune_sessions", 60)
    run("prune_sessions", 3)
    task_runs.expect(["heartbeat"], now=timezone.now())
    found = read()
    assert found['task_amount_total{task="prune_sessions"}'] == 63
    assert found['task_runs_total{task="prune_sessions"}'] == 2
    assert found['task_failures_total{task="prune_sessions"}'] == 0
    assert found['task_last_success_timestamp_seconds{task="prune_sessions"}'] >= before
    assert found['task_runs_total{task="heartbeat"}'] == 0
    assert 'task_last_success_timestamp_seconds{task="heartbeat"}' not in found


def test_cleanups_are_summed_up_whoever_began_them(user):
    assert read()["cleanups_total"] == 0
    assert "cleanup_last_success_timestamp_seconds" not in read()
    now = timezone.now()
    for actor in (ledger.SCHEDULE, ledger.COMMAND):
        remember(session := factories.ChatSessionFactory(owner=user), 3)
        leave(session)
        retention.cleanup(now=now, actor=actor)
    found = read()
    assert (found["cleanups_total"], found["cleanup_sessions_total"]) == (2, 2)
    assert found["cleanup_rows_total"] == 8
    assert found["cleanup_bytes_total"] > 0
    assert found["cleanup_failed_total"] == 0
    assert found["cleanup_seconds_total"] >= 0
    assert found["cleanup_last_success_timestamp_seconds"] == pytest.approx(now.timestamp(), 0.01)


def test_what_the_worker_counted_is_told_with_its_time(user):
    remember(factories.ChatSessionFactory(owner=user), 3)
    assert "sessions" not in read()
    now = timezone.now()
    measuring.measure_sessions(now=now)
    found = read()
    assert (found["sessions"], found["remembered_rows"], found["stored_rows"]) == (1, 3, 3)
    assert found["measured_timestamp_seconds"] == pytest.approx(now.timestamp(), abs=0.01)


def test_every_measure_has_its_words():
    assert metrics._MEASURED.keys() == measuring.NAMES.keys()


def test_it_asks_little_however_much_is_stored(django_assert_max_num_queries):
    read()
    with django_assert_max_num_queries(7):
        read()


def test_the_size_of_a_file_is_that_of_all_its_parts(monkeypatch, tmp_path):
    for suffix, size in (("", 100), ("-wal", 20)):
        (tmp_path / f"chat.db{suffix}").write_bytes(b"x" * size)
    place = {"NAME": tmp_path / "chat.db"}
    monkeypatch.setattr(
        metrics, "connection", SimpleNamespace(vendor="sqlite", settings_dict=place)
    )
    assert metrics._database_bytes() == 120


def test_the_database_has_a_size():
    assert metrics._database_bytes() > 10_000
    assert connection.vendor in {"sqlite", "postgresql"}
