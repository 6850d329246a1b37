"""Jobs of sync code: one atomic unit each, on Django's own connection, failures in our words."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.exceptions import SynchronousOnlyOperation
from django.db import IntegrityError, connection, transaction

from conversations import lanes
from conversations.errors import StoreError
from conversations.lanes import Database
from conversations.models import Throttle

TABLE = Throttle._meta.db_table
INSERT = f"INSERT INTO {TABLE} (key, count, window_ends_at) VALUES (%s, 1, '2026-05-01 12:00:00')"

pytestmark = pytest.mark.django_db(transaction=True)


def insert(*keys: str) -> Any:
    def job(db: Database) -> int:
        return sum(db.run(INSERT, (key,)) for key in keys)

    return job


def stored() -> list[str]:
    return list(Throttle.objects.order_by("key").values_list("key", flat=True))


def test_its_result_comes_back_and_what_it_wrote_is_stored():
    assert lanes.perform(insert("a", "b")) == 2
    assert not connection.in_atomic_block
    assert stored() == ["a", "b"]


def test_an_error_undoes_all_of_it_and_arrives_as_it_was_raised():
    def job(db: Database) -> None:
        insert("a")(db)
        raise LookupError("as raised")

    with pytest.raises(LookupError, match="as raised"):
        lanes.perform(job)
    assert stored() == []
    assert lanes.perform(insert("b")) == 1


def test_a_constraint_arrives_as_djangos_error():
    with pytest.raises(IntegrityError):
        lanes.perform(insert("a", "a"))
    assert stored() == []


def test_a_failure_of_the_engine_arrives_in_our_words():
    with pytest.raises(StoreError) as caught:
        lanes.perform(lambda db: db.run("UPDATE no_such_table SET x = 1"))
    assert caught.value.__cause__ is not None
    assert lanes.perform(insert("a")) == 1


def test_within_a_transaction_it_is_part_of_it():
    with transaction.atomic():
        lanes.perform(insert("a"))
        with pytest.raises(LookupError):
            lanes.perform(lambda db: [insert("b")(db), {}["missing"]])
    assert stored() == ["a"]
    with transaction.atomic():
        lanes.perform(insert("c"))
        transaction.set_rollback(True)
    assert stored() == ["a"]


def test_a_dry_run_has_its_result_and_leaves_nothing():
    assert lanes.perform(insert("a", "b"), dry_run=True) == 2
    assert stored() == []
    with transaction.atomic():
        lanes.perform(insert("c"))
        lanes.perform(insert("d"), dry_run=True)
    assert stored() == ["c"]


def test_a_look_opens_no_transaction():
    lanes.perform(insert("a"))
    connection.close()

    def job(db: Database) -> tuple[bool, list[Any]]:
        return connection.in_atomic_block, db.all(f"SELECT key FROM {TABLE}")

    assert lanes.look_up(job) == (False, [("a",)])
    with pytest.raises(StoreError) as caught:
        lanes.look_up(lambda db: db.one("SELECT x FROM no_such_table"))
    assert caught.value.__cause__ is not None
    assert lanes.look_up(job)[1] == [("a",)]


@pytest.mark.parametrize("door", [lanes.perform, lanes.look_up])
async def test_it_does_not_hold_up_an_event_loop(door):
    with pytest.raises(SynchronousOnlyOperation):
        door(insert("a"))
