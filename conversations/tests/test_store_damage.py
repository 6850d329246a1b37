"""Values of a damaged row: what they still say, and nothing that breaks whoever reads them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conversations.lanes import Database
from conversations.store.damage import (
    count_of,
    first_readable,
    flag_of,
    moment_of,
    select,
    text_of,
    uuid_of,
)

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
ID = UUID("01a2075e-5f6b-4c1d-8e2a-9b3c4d5e6f70")
STORED = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary()
) | st.datetimes(timezones=st.none() | st.timezones())


@given(STORED)
def test_nothing_that_is_stored_breaks_its_reader(value):
    assert isinstance(text_of(value), str)
    assert count_of(value) >= 0
    assert flag_of(value) in {True, False}
    uuid_of(value)
    moment = moment_of(value)
    assert moment is None or moment + timedelta(days=36_500) > moment


@pytest.mark.parametrize(
    ("value", "text"),
    [("a\x00b", "a\x00b"), (b"\xc3\xbc", "ü"), (b"a\xffb", "a\ufffdb"), (None, ""), (7, "")],
)
def test_text_is_read_as_far_as_it_is(value, text):
    assert text_of(value) == text


@pytest.mark.parametrize(
    ("value", "count"),
    [(3, 3), (b"3", 3), ("3", 3), (-3, 0), ("many", 0), (None, 0), (float("inf"), 0), (1.9, 1)],
)
def test_a_count_is_a_number_or_nothing(value, count):
    assert count_of(value) == count


@pytest.mark.parametrize("value", [True, 1, b"1", "true"])
def test_a_flag_is_set_in_the_words_of_either_engine(value):
    assert flag_of(value) is True


@pytest.mark.parametrize("value", [False, 0, b"0", "false", None, "odd", b"\xff"])
def test_a_flag_that_is_not_set_is_not(value):
    assert flag_of(value) is False


@pytest.mark.parametrize("value", [ID, str(ID), ID.hex, ID.hex.encode()])
def test_an_id_is_read_in_every_form(value):
    assert uuid_of(value) == ID


@pytest.mark.parametrize(
    "value",
    [
        NOON,
        NOON.replace(tzinfo=None),
        NOON.astimezone(timezone(timedelta(hours=-8))),
        "2026-11-23 12:00:00",
        b"2026-11-23 12:00:00+00",
        "2026-11-23T13:00:00+01:00",
    ],
)
def test_a_time_is_read_in_every_form(value):
    assert moment_of(value) == NOON


@pytest.mark.parametrize(
    "value",
    ["", "now", "2026-02-31", 17, None, b"\xff", "infinity", "9999-12-31", "0001-01-01+14:00"],
)
def test_what_is_no_time_is_none(value):
    assert moment_of(value) is None


@pytest.mark.parametrize("is_sqlite", [True, False])
def test_a_failure_that_is_not_of_a_value_is_not_tried_again(is_sqlite):
    class Broken(Database):
        asked = 0

        def all(self, sql: str, params: Any = ()) -> list[Any]:
            self.asked += 1
            raise ZeroDivisionError if is_sqlite else ValueError

    broken = Broken()
    broken.is_sqlite = is_sqlite
    with pytest.raises((ZeroDivisionError, ValueError)):
        select(broken, ["id"], "FROM x")
    assert broken.asked == 1


@given(st.lists(st.booleans()), st.integers(1, 10))
def test_the_readable_rows_are_found_among_any_others(rows, count):
    numbered = list(enumerate(rows))
    found = first_readable(
        lambda asked: numbered[:asked], count=count, read=lambda row: row if row[1] else None
    )
    assert found == [row for row in numbered if row[1]][:count]
