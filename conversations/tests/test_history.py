"""What belongs together: whole histories stay, and what lost its rest is left out with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from agents.run_internal.items import _TOOL_CALL_TO_OUTPUT_TYPE
from agents.run_internal.session_persistence import prepare_input_with_session
from hypothesis import given, settings
from hypothesis import strategies as st

from conversations.history import OUTPUT_OF, REASONS, Header, header_of, is_whole, misplaced

Item = dict[str, Any]
MODEST = settings(max_examples=200, deadline=None)

OUTSIDE = OUTPUT_OF.keys() - {"program", "tool_search_call", "mcp_approval_request"}
FAMILIES = {kind: answer for kind, answer in OUTPUT_OF.items() if kind != "mcp_approval_request"}


def said(text: str = "Hi", role: str = "user") -> Item:
    return {"role": role, "content": text}


def answered(text: str = "Hello", id: str = "msg_1") -> Item:
    return {"type": "message", "role": "assistant", "id": id, "content": text}


def call(name: str = "c", kind: str = "function_call", **more: Any) -> Item:
    return {"type": kind, "call_id": name, "id": f"id_of_{name}", **more}


def output(name: str = "c", kind: str = "function_call", **more: Any) -> Item:
    return {"type": OUTPUT_OF[kind], "call_id": name, "output": "x", **more}


def reasoning(name: str = "rs_1") -> Item:
    return {"type": "reasoning", "id": name, "summary": []}


def by_program(name: str = "p") -> Item:
    return {"caller": {"type": "program", "caller_id": name}}


LOST = None  # a row that holds no item
LOST_REASONING: Item = {"type": "reasoning", "lost": True}


def headers_of(items: Sequence[Item | None]) -> list[Header]:
    return [
        Header(position, (item or {}).get("type", ""), is_lost=True)
        if item is None or "lost" in item
        else header_of(position, item)
        for position, item in enumerate(items)
    ]


def left_out(*items: Item | None) -> list[int]:
    return sorted(misplaced(headers_of(items)))


def lacking(*items: Item | None) -> dict[int, str]:
    return misplaced(headers_of(items))


def kept(items: Sequence[Item | None]) -> list[Item]:
    gone = misplaced(headers_of(items))
    return [
        item
        for position, item in enumerate(items)
        if item is not None and "lost" not in item and position not in gone
    ]


# Calls and outputs


def test_calls_are_paired_as_the_sdk_pairs_them():
    assert FAMILIES == _TOOL_CALL_TO_OUTPUT_TYPE


@pytest.mark.parametrize("kind", FAMILIES)
def test_an_output_needs_its_call_before_it(kind):
    assert left_out(said(), call(kind=kind), output(kind=kind), answered()) == []
    assert left_out(said(), output(kind=kind), answered()) == [1]
    assert left_out(said(), output(kind=kind), call(kind=kind)) == [1]
    assert left_out(said(), call("other", kind), output(kind=kind)) == [2]
    assert left_out(said(), LOST, output(kind=kind), answered()) == [2]


def test_an_output_of_another_family_is_not_the_calls():
    assert left_out(call(kind="shell_call"), output(kind="custom_tool_call")) == [1]


@pytest.mark.parametrize("name", [None, "", 7, ["c"], {"c": 1}])
def test_an_output_that_names_no_call_has_none(name):
    assert left_out(call(name), output(name)) == [1]


def test_a_call_without_an_output_may_wait_for_somebody():
    assert left_out(said(), reasoning(), call()) == []
    assert left_out(said(), reasoning(), call(), said("never mind"), answered()) == []
    assert left_out(said(), call(), said("yes, do it"), output(), answered()) == []


def test_parallel_calls_stand_before_their_outputs():
    assert left_out(call("a"), call("b"), call("c"), output("b"), output("a")) == []
    assert left_out(call("a"), LOST, output("a"), output("b")) == [3]


def test_ids_that_come_twice_are_left_to_the_sdk():
    """Some providers count their calls anew in every answer."""
    turn = [said(), call("call_0"), output("call_0"), answered()]
    assert left_out(*turn, *turn) == []
    assert left_out(call(), output(), output()) == []


async def test_of_ids_that_come_twice_the_sdk_sends_one():
    class Stored:
        session_id, session_settings = "s", None

        async def get_items(self, limit: int | None = None) -> list[Item]:
            return [said(), call(), output(), output()]

    sent, _ = await prepare_input_with_session("Hi", Stored(), None)
    assert [item.get("type", "user") for item in sent] == [
        "user",
        "function_call",
        "function_call_output",
        "user",
    ]


def test_searches_without_ids_are_paired_in_their_order():
    search, found = {"type": "tool_search_call"}, {"type": "tool_search_output"}
    assert left_out(search, found, search, search, found, found) == []
    assert left_out(found, search, found, found) == [0, 3]
    assert left_out(call("t", "tool_search_call"), found) == [1]


def test_a_local_shell_output_may_name_its_call_by_either_id():
    shell = call("c", "local_shell_call")
    for name in ("c", "id_of_c"):
        assert left_out(shell, {"type": "local_shell_call_output", "id": name}) == []
    assert left_out(shell, {"type": "local_shell_call_output", "id": "other"}) == [1]


def test_a_reference_may_stand_for_any_call():
    reference = {"type": "item_reference", "id": "fc_1"}
    assert left_out(reference, output(), answered()) == []
    assert left_out(output(), reference) == [0]


# Approvals


def test_an_approval_needs_its_request():
    request = {"type": "mcp_approval_request", "id": "r"}
    answer = {"type": "mcp_approval_response", "approval_request_id": "r", "approve": True}
    assert left_out(said(), request, said("yes"), answer) == []
    assert left_out(said(), request) == []
    assert left_out(said(), answer) == [1]
    assert left_out(said(), answer, request) == [1]
    assert left_out(request, {**answer, "approval_request_id": "other"}) == [1]


# Programs


def test_what_a_program_did_needs_the_program():
    steps = [call("a", **by_program()), output("a", **by_program())]
    search = {"type": "web_search_call", "id": "w", **by_program()}
    assert left_out(call("p", "program"), *steps, search, output("p", "program")) == []
    assert left_out(LOST, *steps, search, output("p", "program"), answered()) == [1, 2, 3, 4]
    assert left_out(call("q", "program"), *steps) == [1, 2]


def test_an_output_that_does_not_name_its_program_goes_with_its_call():
    assert left_out(LOST, call("a", **by_program()), output("a")) == [1, 2]


def test_a_caller_that_is_no_program_is_nobodys():
    for caller in ({"type": "direct"}, "program", None, {"type": "program", "caller_id": 7}):
        assert left_out(call(caller=caller), output(caller=caller)) == []


# Reasoning


@pytest.mark.parametrize(
    "follower", [answered(), call(), {"type": "web_search_call", "id": "w"}, {"n": 1}]
)
def test_reasoning_stays_before_what_it_led_to(follower):
    assert left_out(said(), reasoning(), follower) == []
    assert left_out(said(), reasoning("rs_1"), reasoning("rs_2"), follower) == []


@pytest.mark.parametrize("role", ["user", "system", "developer"])
def test_reasoning_that_led_to_nothing_is_left_out(role):
    assert left_out(said(), reasoning()) == [1]
    assert left_out(said(), reasoning(), reasoning("rs_2"), said("Well?", role)) == [1, 2]
    assert left_out(answered(), reasoning(), said("Well?", role), reasoning(), answered()) == [1]


def test_reasoning_goes_with_the_item_that_is_lost():
    assert left_out(said(), reasoning(), LOST, answered()) == [1]
    assert left_out(reasoning(), LOST, output(), reasoning("rs_2"), answered()) == [0, 2]
    assert left_out(reasoning(), call(**by_program()), output()) == [0, 1, 2]


@pytest.mark.parametrize("kind", sorted(OUTSIDE))
def test_reasoning_does_not_lead_to_what_a_tool_says(kind):
    """Its own call is lost, and another's output is next."""
    first = call("a", kind)
    assert left_out(said(), first, reasoning(), output("a", kind), answered()) == [2]
    assert not is_whole([first, reasoning(), output("a", kind), answered()])


def test_an_item_goes_with_its_lost_reasoning():
    assert left_out(said(), LOST_REASONING, answered(), said()) == [2]
    assert left_out(said(), LOST_REASONING, call(), output(), answered()) == [2, 3]
    assert left_out(LOST_REASONING, reasoning("rs_2"), answered()) == [1, 2]


@pytest.mark.parametrize("id", [None, "__fake_id__", 7])
def test_an_item_without_an_id_outlives_its_reasoning(id):
    """A provider knows by the id alone that there was any."""
    assert left_out(said(), LOST_REASONING, answered(id=id), said()) == []


def test_what_people_say_outlives_anything():
    assert left_out(LOST_REASONING, {**said(), "id": "u"}, LOST, said()) == []


# Why


def test_each_row_that_is_left_out_says_what_it_lacks():
    assert lacking(said(), output(), said()) == {1: "no call"}
    assert lacking(call(**by_program()), output()) == {0: "no program", 1: "no call"}
    assert lacking(output(**by_program())) == {0: "no program"}
    assert lacking(said(), reasoning(), said("Well?")) == {1: "no follower"}
    assert lacking(LOST_REASONING, answered(), said()) == {1: "no reasoning"}
    assert lacking(said(), LOST, said()) == {}


# All of it at random


@st.composite
def histories(draw: st.DrawFn) -> list[Item]:
    """What the SDK's runner writes: turns of messages, reasoning, calls, outputs, approvals."""
    items: list[Item] = []
    parked: list[Item] = []
    for turn in range(draw(st.integers(0, 5))):
        items.append(said(f"question {turn}"))
        if parked and draw(st.booleans()):  # somebody has approved, late
            items.append(parked.pop())
        for step in range(draw(st.integers(0, 3))):
            name = f"{turn}.{step}"
            if draw(st.booleans()):
                items.append(reasoning(f"rs_{name}"))
            kinds = draw(st.lists(st.sampled_from(sorted(OUTPUT_OF)), min_size=1, max_size=3))
            outputs = []
            for number, kind in enumerate(kinds):
                one = f"{name}.{number}"
                if kind == "mcp_approval_request":
                    items.append({"type": kind, "id": one})
                    outputs.append({"type": OUTPUT_OF[kind], "approval_request_id": one})
                elif kind == "tool_search_call" and draw(st.booleans()):
                    items.append({"type": kind})
                    items.append({"type": OUTPUT_OF[kind]})
                elif kind == "program":
                    items.append(call(one, kind))
                    items.append(call(one + "s", **by_program(one)))
                    outputs.append(output(one + "s", **by_program(one)))
                    outputs.append(output(one, kind))
                else:
                    items.append(call(one, kind))
                    outputs.append(output(one, kind))
            if draw(st.integers(0, 3)):
                items += outputs
            else:
                parked += outputs[-1:]
                items += outputs[:-1]
        if draw(st.booleans()):
            items += [reasoning(f"rs_{turn}"), answered(id=f"msg_{turn}")]
    return items


ANY_WORD = st.none() | st.sampled_from(["a", "b", "", "__fake_id__"]) | st.integers() | st.just([])
ANY_ITEM = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from([*OUTPUT_OF, *OUTPUT_OF.values(), "reasoning", "message"])
        | st.sampled_from(["item_reference", "web_search_call"])
        | ANY_WORD,
        "role": st.sampled_from(["user", "assistant", "developer"]) | ANY_WORD,
        "call_id": ANY_WORD,
        "id": ANY_WORD,
        "approval_request_id": ANY_WORD,
        "caller": ANY_WORD
        | st.fixed_dictionaries({"type": st.just("program"), "caller_id": ANY_WORD}),
    },
)
ANY_ROWS = st.lists(ANY_ITEM | st.just(LOST) | st.just(LOST_REASONING), max_size=12)


@MODEST
@given(histories())
def test_a_whole_history_comes_back_untouched(items):
    assert kept(items) == items


@MODEST
@given(histories(), st.randoms(use_true_random=False), st.integers(0, 6))
def test_what_is_left_of_a_history_with_holes_is_whole(items, chance, holes):
    rows: list[Item | None] = list(items)
    for position in chance.sample(range(len(rows)), min(holes, len(rows))):
        item = rows[position]
        is_reasoning = item is not None and item.get("type") == "reasoning"
        rows[position] = LOST_REASONING if is_reasoning else LOST
    assert_whole(kept(rows))


@MODEST
@given(ANY_ROWS)
def test_what_is_left_of_anything_is_whole(rows):
    assert_whole(kept(rows))


@MODEST
@given(ANY_ROWS)
def test_what_a_row_lacks_is_one_of_the_known_reasons(rows):
    assert set(lacking(*rows).values()) <= REASONS.keys()


@MODEST
@given(ANY_ROWS)
def test_what_is_left_is_in_the_same_order_and_stays(rows):
    once = kept(rows)
    assert kept(once) == once
    remaining = iter(rows)
    assert all(any(row is item for row in remaining) for item in once)


@MODEST
@given(st.lists(ANY_ITEM, max_size=12) | histories())
def test_the_quick_look_never_says_whole_of_what_is_not(items):
    if is_whole(items):
        assert kept(items) == items


def test_the_quick_look_settles_what_is_common():
    turn = [said(), reasoning(), call("a"), call("b"), output("b"), output("a"), answered()]
    assert is_whole([*turn, *turn, said(), call("parked")])
    assert not is_whole([said(), output("a")])
    assert not is_whole([said(), reasoning()])
    assert not is_whole([{"type": ["odd"]}])


def assert_whole(items: list[Item]) -> None:
    """Said in another way than the rules: what a provider checks."""
    refers = False
    for index, item in enumerate(items):
        kind, before = item.get("type"), items[:index]
        refers = refers or kind == "item_reference"
        if not isinstance(kind, str) or refers:
            continue
        if kind in FAMILIES.values() and isinstance(item.get("call_id"), str):
            assert any(
                isinstance(other.get("type"), str)
                and OUTPUT_OF.get(other["type"]) == kind
                and item["call_id"] in (other.get("call_id"), other.get("id"))
                for other in before
            )
        if kind == "mcp_approval_response":
            assert any(other.get("id") == item["approval_request_id"] for other in before)
        if kind == "reasoning":
            after = next(other for other in items[index:] if other.get("type") != "reasoning")
            assert after.get("role") not in ("user", "developer")
            assert after.get("type") not in [OUTPUT_OF[kind] for kind in OUTSIDE]


def test_the_histories_of_these_tests_are_of_all_kinds():
    """So that the properties above say something."""
    seen: set[str] = set()

    @settings(max_examples=200, deadline=None, database=None, derandomize=True)
    @given(histories())
    def look(items: list[Item]) -> None:
        seen.update(item.get("type", "user") for item in items)

    look()
    assert seen >= {*OUTPUT_OF, *OUTPUT_OF.values(), "reasoning", "message", "user"}
