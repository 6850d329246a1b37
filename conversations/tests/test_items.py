"""An item as a row: exact one way and back, and what people may read of it."""

from __future__ import annotations

import json
import uuid
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conversations.ids import is_storable
from conversations.items import (
    MAX_LEVELS,
    decode_item,
    decode_items,
    encode_item,
    message_text,
    row_from_item,
)

ANY_TEXT = st.text(st.characters(exclude_categories=()))
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | ANY_TEXT,
    lambda inner: st.lists(inner) | st.dictionaries(ANY_TEXT, inner),
    max_leaves=10,
)
ITEMS = st.dictionaries(ANY_TEXT, JSON_VALUES)

MODEST = settings(max_examples=50, deadline=None)


@MODEST
@given(st.lists(ITEMS, max_size=4))
def test_items_come_back_as_they_went_in(items):
    texts = [encode_item(item) for item in items]
    assert all(text.isascii() and "\x00" not in text for text in texts)
    assert json.dumps(decode_items(texts)) == json.dumps(items)


@pytest.mark.parametrize("number", [2**63, -(2**200), 10**4000, 5e-324, 1.7976931348623157e308])
def test_numbers_beyond_the_usual_stay_exact(number):
    assert decode_items([encode_item({"n": number})]) == [{"n": number}]


def nested(levels: int) -> dict[str, Any]:
    item: dict[str, Any] = {}
    for _ in range(levels - 1):
        item = {"inner": item}
    return item


def test_an_item_nested_deeply_comes_back():
    item = nested(MAX_LEVELS)
    assert decode_items([encode_item(item)]) == [item]


def test_an_item_nested_too_deeply_to_be_copied_is_none():
    """The SDK would fail at it on every turn."""
    assert decode_item(encode_item(nested(MAX_LEVELS + 1))) is None
    assert decode_item('{"a":' + "[" * MAX_LEVELS + "]" * MAX_LEVELS + "}") is None


@pytest.mark.parametrize("content", [object(), b"bytes", {1, 2}, uuid.uuid4()])
def test_what_json_cannot_hold_is_a_type_error(content):
    with pytest.raises(TypeError):
        encode_item({"content": content})


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "{",
        "not json",
        "[]",
        "7",
        "null",
        '"text"',
        '{"a": 1},{"b": 2}',
        '{"a": 1}]',
        b"\xff\xfe{",
        None,
        17,
        "[" * 100_000,
    ],
)
def test_a_text_that_holds_no_item_is_found(bad):
    assert decode_item(bad) is None
    assert decode_items(['{"a":1}', bad, '{"b":2}']) is None


def test_an_item_that_only_the_standard_library_reads_costs_no_other():
    texts = [encode_item({"lone": "\ud800"}), encode_item({"ok": 1})]
    assert decode_items(texts) == [{"lone": "\ud800"}, {"ok": 1}]


def test_bytes_of_valid_json_are_an_item():
    assert decode_items([b'{"a":1}']) == [{"a": 1}]
    assert decode_item(b'{"a":1}') == {"a": 1}


def test_no_texts_are_no_items():
    assert decode_items([]) == []


@MODEST
@given(ITEMS)
def test_every_item_makes_a_row_that_fits_the_table(item):
    row = row_from_item(item)
    assert len(row.kind) <= 40
    assert len(row.role) <= 20
    assert len(row.call_id) <= 200
    assert all(is_storable(word) for word in (row.kind, row.role, row.call_id, row.text))
    assert row.shown == bool(row.text)
    assert json.dumps(decode_item(row.agent_item)) == json.dumps(item)


@pytest.mark.parametrize(
    ("item", "kind", "role", "text", "shown"),
    [
        ({"role": "user", "content": "Hi"}, "message", "user", "Hi", True),
        ({"role": "user", "content": ""}, "message", "user", "", False),
        ({"role": "user", "content": None}, "message", "user", "", False),
        ({"role": "system", "content": "Rules"}, "message", "system", "", False),
        ({"role": "developer", "content": "Rules"}, "message", "developer", "", False),
        ({"type": "function_call", "name": "f"}, "function_call", "", "", False),
        ({"type": "reasoning", "role": "assistant"}, "reasoning", "assistant", "", False),
        ({}, "unknown", "", "", False),
        ({"role": 7, "type": ["odd"]}, "", "", "", False),
    ],
)
def test_people_read_what_people_and_the_assistant_said(item, kind, role, text, shown):
    row = row_from_item(item)
    assert (row.kind, row.role, row.text, row.shown) == (kind, role, text, shown)


def test_an_answer_in_parts_reads_as_one_text():
    item = {
        "type": "message",
        "role": "assistant",
        "content": [
            {"type": "output_text", "text": "I would, "},
            {"type": "refusal", "refusal": "but I cannot."},
            {"type": "input_image", "image_url": "data:"},
            {"text": 7},
            "odd",
        ],
    }
    assert message_text(item) == "I would, but I cannot."
    assert row_from_item(item).text == message_text(item)


@pytest.mark.parametrize("content", [None, 7, {"text": "no"}, object()])
def test_content_of_another_kind_has_no_text(content):
    assert message_text({"content": content}) == ""


def test_text_for_people_holds_nothing_an_engine_refuses():
    row = row_from_item({"role": "user", "content": "a\x00b\ud800"})
    assert row.text == "a\ufffdb\ufffd"
    assert decode_item(row.agent_item) == {"role": "user", "content": "a\x00b\ud800"}


def test_a_call_is_found_by_its_id():
    assert row_from_item({"type": "function_call", "call_id": "call_1"}).call_id == "call_1"
    assert row_from_item({"type": "function_call", "call_id": 7}).call_id == ""
