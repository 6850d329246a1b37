"""The ledger: every row follows the one before, and whoever changes one is found out."""

from __future__ import annotations

import json
import threading
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID

import pytest
from django.db import DatabaseError, connection, connections

from conversations import lanes
from conversations.errors import LedgerSealed
from conversations.models import LedgerEntry, OpenRemoval
from conversations.store import ledger
from conversations.store.ledger import Entry
from conversations.tests.ledger_helpers import entries, unguarded

pytestmark = pytest.mark.django_db(transaction=True)

NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)


def entry(**changes: Any) -> Entry:
    return Entry(**{"action": "delete", "actor": "user", "at": NOON, "counts": {"n": 1}} | changes)


def append(**changes: Any) -> int:
    return lanes.perform(lambda db: ledger.append(db, entry(**changes)))


def verify(head: str = "") -> ledger.Verified:
    return lanes.look_up(partial(ledger.verify, head=head))


@pytest.fixture
def written() -> list[str]:
    """The hashes of five entries."""
    for hour in range(5):
        append(at=NOON + timedelta(hours=hour, microseconds=hour), cutoff=NOON, reason="Ünï")
    return list(LedgerEntry.objects.order_by("number").values_list("hash", flat=True))


def test_an_empty_ledger_is_whole():
    found = verify()
    assert (found.is_whole, found.entries, found.head, found.guarded) == (True, 0, "0" * 64, True)


def test_the_head_of_an_empty_ledger_is_found_again_when_there_are_entries(written):
    assert verify(head="0" * 64).is_whole


def test_rows_are_numbered_from_one_and_each_holds_the_hash_of_the_one_before(written):
    rows = LedgerEntry.objects.order_by("number")
    assert list(rows.values_list("number", flat=True)) == [1, 2, 3, 4, 5]
    assert list(rows.values_list("previous_hash", flat=True)) == ["0" * 64, *written[:-1]]
    found = verify()
    assert (found.is_whole, found.entries, found.head) == (True, 5, written[-1])


def test_a_row_says_all_that_it_was_given():
    append(
        action="cleanup",
        actor=ledger.staff(3),
        subject=ledger.of_user(7),
        reason="asked for",
        policy="idle for 7d",
        cutoff=NOON - timedelta(days=7),
        counts={"sessions": 2},
        byte_count=2**40,
        milliseconds=12,
        errors={"StoreDamaged": 1},
    )
    (row,) = LedgerEntry.objects.values()
    assert (row["at"], row["cutoff"]) == (NOON, NOON - timedelta(days=7))
    assert (row["actor"], row["action"], row["milliseconds"]) == ("staff:3", "cleanup", 12)
    assert entries() == [
        {
            "actor": "staff:3",
            "action": "cleanup",
            "subject": ledger.of_user(7),
            "reason": "asked for",
            "policy": "idle for 7d",
            "cutoff": NOON - timedelta(days=7),
            "counts": {"sessions": 2},
            "byte_count": 2**40,
            "errors": {"StoreDamaged": 1},
        }
    ]
    assert verify().is_whole


def test_what_is_undone_leaves_no_row_and_no_gap(written):
    def fail(db: lanes.Database) -> None:
        ledger.append(db, entry())
        raise LookupError

    with pytest.raises(LookupError):
        lanes.perform(fail)
    assert append() == 6
    assert verify().is_whole


CHANGES = [
    ("at", "'2026-05-01 14:00:01'"),
    ("actor", "'usex'"),
    ("action", "'clear'"),
    ("subject", "'user:1'"),
    ("reason", "'Uni'"),
    ("policy", "'idle'"),
    ("cutoff", "NULL"),
    ("counts", """'{"n":2}'"""),
    ("byte_count", "1"),
    ("milliseconds", "1"),
    ("errors", """'{"X":1}'"""),
    ("previous_hash", "hash"),
    ("hash", "previous_hash"),
]


@pytest.mark.parametrize(("column", "value"), CHANGES, ids=[column for column, _ in CHANGES])
def test_a_value_that_was_changed_breaks_the_chain_there(written, column, value):
    with unguarded() as cursor:
        cursor.execute(f"UPDATE {ledger.LEDGER} SET {column} = {value} WHERE number = 3")
    found = verify()
    assert (found.is_whole, found.broken_at, found.entries) == (False, 3, 2)
    assert found.head == written[1]
    assert found.why


def test_every_single_byte_counts(written):
    if connection.vendor != "sqlite":
        pytest.skip("SQLite stores anything anywhere")
    columns = ("at", "actor", "counts", "errors", "reason", "hash", "number", "byte_count")
    for column in columns:
        text = f"CAST({column} AS TEXT)"
        with connection.cursor() as cursor:
            cursor.execute(f"SELECT LENGTH({text}) FROM {ledger.LEDGER} WHERE number = 3")
            length = cursor.fetchone()[0]
        for place in range(1, length + 1):
            with unguarded() as cursor:
                cursor.execute("SAVEPOINT flip")
                cursor.execute(
                    f"UPDATE {ledger.LEDGER} SET {column} = substr({text}, 1, {place - 1})"
                    f" || '~' || substr({text}, {place + 1}) WHERE number = 3"
                )
                found = verify()
                cursor.execute("ROLLBACK TO flip")
                cursor.execute("RELEASE flip")
            assert not found.is_whole, (column, place)
    assert verify().is_whole


def test_a_row_that_is_no_text_is_found_beside_those_that_are(written):
    if connection.vendor != "sqlite":
        pytest.skip("SQLite stores anything anywhere")
    with unguarded() as cursor:
        cursor.execute(f"UPDATE {ledger.LEDGER} SET actor = CAST(x'ff' AS TEXT) WHERE number = 4")
    found = verify()
    assert (found.broken_at, found.why) == (4, "it cannot be read")


@pytest.mark.parametrize(
    ("sql", "broken_at", "why"),
    [
        ("DELETE FROM {0} WHERE number = 1", 1, "it is missing"),
        ("DELETE FROM {0} WHERE number = 3", 3, "it is missing"),
        (
            "DELETE FROM {0} WHERE number = 3;"
            "UPDATE {0} SET number = number - 9 WHERE number > 3;"
            "UPDATE {0} SET number = number + 8 WHERE number < 0",
            3,
            "it does not follow the one before",
        ),
    ],
    ids=["the first", "one in between", "one in between, closed up"],
)
def test_a_row_that_is_missing_is_found(written, sql, broken_at, why):
    with unguarded() as cursor:
        for statement in sql.format(ledger.LEDGER).split(";"):
            cursor.execute(statement)
    found = verify()
    assert (found.broken_at, found.why) == (broken_at, why)


def test_that_the_latest_are_missing_is_known_to_who_noted_one_of_them(written):
    with unguarded() as cursor:
        cursor.execute(f"DELETE FROM {ledger.LEDGER} WHERE number > 3")
    assert verify().is_whole
    assert verify(written[2]).is_whole
    found = verify(written[4])
    assert (found.is_whole, found.broken_at) == (False, 4)
    assert "later rows are missing" in found.why


def test_long_chains_are_followed_page_by_page(written, monkeypatch):
    monkeypatch.setattr(ledger, "_AT_ONCE", 2)
    assert verify(written[0]) == verify(written[4])
    assert verify().entries == 5


@pytest.mark.parametrize("sql", ["UPDATE {0} SET reason = 'other'", "DELETE FROM {0}"])
def test_the_database_refuses_to_change_rows(written, sql):
    with pytest.raises(DatabaseError, match="only grows"), connection.cursor() as cursor:
        cursor.execute(sql.format(ledger.LEDGER))
    assert verify().entries == 5


def test_it_says_when_nothing_keeps_rows_as_they_are(written):
    with unguarded():
        found = verify()
    assert (found.is_whole, found.guarded) == (True, False)
    assert verify().guarded


@pytest.mark.parametrize(
    "change",
    [
        lambda: LedgerEntry.objects.update(reason="other"),
        lambda: LedgerEntry.objects.all().delete(),
        lambda: LedgerEntry.objects.create(number=9, at=NOON),
        lambda: LedgerEntry.objects.bulk_create([LedgerEntry(number=9, at=NOON)]),
        lambda: LedgerEntry.objects.first().save(),
        lambda: LedgerEntry.objects.first().delete(),
    ],
    ids=["update", "delete", "create", "bulk_create", "save", "delete one"],
)
def test_so_does_the_model(written, change):
    with pytest.raises(LedgerSealed):
        change()
    assert str(LedgerEntry.objects.get(number=2)) == "2: delete by user"


def test_writers_at_once_make_one_chain():
    def write() -> None:
        try:
            for _ in range(10):
                append()
        finally:
            connections.close_all()

    threads = [threading.Thread(target=write) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = verify()
    assert (found.is_whole, found.entries) == (True, 30)


def test_a_pseudonym_is_the_same_for_the_same_one_and_tells_nothing(settings):
    session = UUID(int=7)
    assert ledger.of_session(session) == ledger.of_session(session.hex)
    assert ledger.of_session(session) != ledger.of_user(session)
    assert session.hex not in ledger.of_session(session)
    before = ledger.of_user(7)
    assert before.startswith("user:")
    settings.SECRET_KEY = "another" * 10
    assert ledger.of_user(7) != before


# --- Runs of many transactions -------------------------------------------------------------


def note(**counts: int) -> None:
    lanes.perform(partial(ledger.note, action="prune", actor="schedule", counts=counts))


def tell(actor: str = "schedule") -> int | None:
    said = {"policy": "at most 200", "milliseconds": 2000, "at": NOON}
    return lanes.perform(partial(ledger.tell, action="prune", actor=actor, **said))


def test_what_a_run_notes_becomes_one_row():
    note(entries=3)
    note(entries=4, sessions=1)
    assert tell() == 1
    assert entries() == [
        {
            "action": "prune",
            "actor": "schedule",
            "policy": "at most 200",
            "counts": {"entries": 7, "sessions": 1},
        }
    ]
    assert LedgerEntry.objects.get().milliseconds == 2000
    assert not OpenRemoval.objects.exists()
    assert tell() is None


def test_what_a_run_that_was_killed_has_noted_is_told_by_the_next():
    note(entries=3)
    assert str(OpenRemoval.objects.get()) == "prune:schedule"
    assert tell("command") is None
    assert lanes.look_up(partial(ledger.has_noted, action="prune", actor="schedule"))
    note(entries=4)
    assert tell() == 1
    assert json.loads(LedgerEntry.objects.get().counts) == {"entries": 7}
