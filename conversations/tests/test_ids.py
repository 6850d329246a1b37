"""Identifiers: in order, deterministic, and safe on any engine."""

from __future__ import annotations

import time
import uuid
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conversations.ids import (
    MAX_SESSION_ID_CHARS,
    agent_session_id,
    is_storable,
    lowest_id,
    new_id,
    parse_uuid,
    storable,
    stored_session_id,
    user_uuid,
)

ANY_TEXT = st.text(st.characters(exclude_categories=()))
MODEST = settings(max_examples=50, deadline=None)


def test_a_new_id_is_a_version_7_uuid_that_begins_with_the_time():
    before = time.time_ns() // 1_000_000
    made = new_id()
    after = time.time_ns() // 1_000_000
    assert (made.version, made.variant) == (7, uuid.RFC_4122)
    assert before <= made.int >> 80 <= after


def test_new_ids_differ_also_within_one_millisecond():
    assert len({new_id() for _ in range(10_000)}) == 10_000


def test_a_moment_divides_the_ids_made_before_it_from_the_later_ones():
    before = new_id()
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=(before.int >> 80) + 1)
    assert before < lowest_id(moment)
    while (after := new_id()).int >> 80 == before.int >> 80:
        pass
    assert lowest_id(moment) <= after
    assert before.hex < lowest_id(moment).hex <= after.hex  # as SQLite stores them


def test_all_random_bits_of_a_new_id_vary():
    ids = [new_id().int & (1 << 64) - 1 for _ in range(500)]
    always = never = ids[0]
    for number in ids:
        always, never = always & number, never | number
    assert (always ^ never).bit_count() == 62


def test_ids_that_one_process_makes_are_in_order():
    ids = [new_id() for _ in range(1_000)]
    assert sorted(ids) == ids


def test_a_users_uuid_is_the_key_itself_where_it_is_one():
    key = uuid.uuid4()
    assert user_uuid(key) == key


def test_a_users_uuid_is_made_of_any_other_key_and_stays_the_same():
    assert user_uuid(1) == user_uuid("1") == uuid.UUID("45fb8053-0d16-5187-9423-de3819d6cdc4")
    assert user_uuid(1) != user_uuid(2)


def test_the_session_id_names_the_user_and_the_conversation():
    conversation = uuid.uuid4()
    assert agent_session_id(user_id=7, session_id=conversation) == (
        f"user_{user_uuid(7)}_conv_{conversation}"
    )


@pytest.mark.parametrize("plain", ["x", "user_1", "a b/c:d", "ü", "🙂" * MAX_SESSION_ID_CHARS])
def test_a_plain_session_id_is_stored_as_it_is(plain):
    assert stored_session_id(plain) == plain


@pytest.mark.parametrize("odd", ["x" * (MAX_SESSION_ID_CHARS + 1), "a\x00b", "\ud800", "x\udfff"])
def test_what_no_column_holds_is_stored_as_a_digest(odd):
    stored = stored_session_id(odd)
    assert stored.startswith("sha256:")
    assert len(stored) == len("sha256:") + 64
    assert stored_session_id(odd) == stored


def test_nobody_reaches_a_session_by_its_digest():
    digest = stored_session_id("x" * 500)
    assert stored_session_id(digest) != digest


@MODEST
@given(ANY_TEXT.filter(bool), ANY_TEXT.filter(bool))
def test_two_ids_never_meet_and_every_stored_one_fits(one, other):
    for session_id in (one, other):
        stored = stored_session_id(session_id)
        assert is_storable(stored)
        assert len(stored) <= MAX_SESSION_ID_CHARS
    assert (stored_session_id(one) == stored_session_id(other)) == (one == other)


@pytest.mark.parametrize("wrong", [None, 7, b"x", uuid.uuid4()])
def test_a_session_id_that_is_no_text_is_a_type_error(wrong):
    with pytest.raises(TypeError, match=f"not {type(wrong).__name__}"):
        stored_session_id(wrong)


def test_an_empty_session_id_is_a_value_error():
    with pytest.raises(ValueError, match="must not be empty"):
        stored_session_id("")


@MODEST
@given(ANY_TEXT)
def test_storable_replaces_only_what_no_engine_stores(text):
    stored = storable(text)
    assert is_storable(stored)
    assert len(stored) == len(text)
    assert (stored == text) == is_storable(text)


def test_storable_keeps_the_rest_of_the_text():
    assert storable("a\x00b\ud800c🙂") == "a\ufffdb\ufffdc🙂"


def test_a_uuid_is_read_in_its_canonical_form_only():
    value = uuid.UUID("0190f5d2-7a3b-7c4d-8e5f-0123456789ab")
    assert parse_uuid(str(value)) == value
    assert parse_uuid(str(value).upper()) == value


@pytest.mark.parametrize(
    "other",
    [
        "",
        "x",
        "0190f5d27a3b7c4d8e5f0123456789ab",
        "{0190f5d2-7a3b-7c4d-8e5f-0123456789ab}",
        "urn:uuid:0190f5d2-7a3b-7c4d-8e5f-0123456789ab",
        " 0190f5d2-7a3b-7c4d-8e5f-0123456789ab",
        "0190f5d2-7a3b-7c4d-8e5f-0123456789aß",
        None,
        7,
    ],
)
def test_anything_else_is_no_uuid(other):
    assert parse_uuid(other) is None
