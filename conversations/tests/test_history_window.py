"""What a memory keeps when it is too long: its end, from a user message on that nothing crosses."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest
from agents.memory import SessionSettings
from agents.run_internal.session_persistence import prepare_input_with_session
from hypothesis import event, given, settings
from hypothesis import strategies as st

from conversations.history import Header, find_window, header_of, misplaced
from conversations.tests.session_histories import (
    ANSWER_OF,
    History,
    Item,
    answered,
    approval,
    by_program,
    call,
    compaction,
    histories,
    imports,
    output,
    reasoning,
    request,
    said,
)
from conversations.tests.window_oracle import Moment, the_rules_keep, waiting

MODEST = settings(max_examples=300, deadline=None, derandomize=True)
FEWER = settings(max_examples=120, deadline=None, derandomize=True)
MANY = settings(max_examples=20_000, deadline=None)

Batch = Item | Sequence[Item]


def kept(*batches: Batch, limit: int) -> list[Item]:
    """What stays of a memory that was stored in these batches."""
    items, moments = stored(batches)
    return [items[index] for index in survivors(items, moments, limit=limit)]


def stored(batches: Sequence[Batch]) -> tuple[list[Item], list[Moment]]:
    each = [[batch] if isinstance(batch, dict) else list(batch) for batch in batches]
    items = [item for batch in each for item in batch]
    return items, [moment for moment, batch in enumerate(each) for _ in batch]


def headers_of(items: Sequence[Item], moments: Sequence[Moment]) -> list[Header]:
    """The positions of a memory have holes, and do not begin at nothing."""
    return [
        header_of(100 + 3 * index, item)._replace(moment=moment)
        for index, (item, moment) in enumerate(zip(items, moments, strict=True))
    ]


def remaining(headers: Sequence[Header], *, limit: int) -> list[Header]:
    """What stays of rows that are read as the store reads them: it has no column of own ids."""
    window = find_window([header._replace(own_id="") for header in headers], limit=limit)
    return [
        header
        for header in headers
        if header.position >= window.begins_at or header.position in window.pinned
    ]


def survivors(items: Sequence[Item], moments: Sequence[Moment], *, limit: int) -> list[int]:
    left = remaining(headers_of(items, moments), limit=limit)
    return [(header.position - 100) // 3 for header in left]


def turn(text: str = "Hi") -> list[Batch]:
    return [said(text), answered(f"{text}!")]


# Where it is cut


def test_a_memory_within_its_limit_is_kept_whole():
    memory = [*turn("one"), *turn("two")]
    assert kept(*memory, limit=4) == memory
    assert kept(*memory, limit=200) == memory
    assert kept(limit=1) == []


def test_the_oldest_turns_are_forgotten_first():
    assert kept(*turn("one"), *turn("two"), *turn("three"), limit=4) == [
        *turn("two"),
        *turn("three"),
    ]


def test_a_turn_is_kept_whole_or_not_at_all():
    assert kept(*turn("one"), *turn("two"), *turn("three"), limit=5) == [
        *turn("two"),
        *turn("three"),
    ]


def test_the_newest_turn_is_kept_even_if_it_is_too_long():
    long_turn = [said("do it all"), *[[call(f"{n}"), output(f"{n}")] for n in range(9)]]
    assert kept(*turn(), *long_turn, limit=3) == stored(long_turn)[0]
    assert kept(*long_turn, limit=3) == stored(long_turn)[0]


def test_a_memory_nobody_spoke_in_is_kept():
    assert kept(answered("one"), answered("two"), limit=1) == [answered("one"), answered("two")]


def test_a_message_that_was_never_answered_is_a_turn_too():
    assert kept(said("one"), said("two"), *turn("three"), limit=3) == [said("two"), *turn("three")]


def test_several_messages_sent_at_once_are_one_question():
    asked = [said("look:"), said("a picture"), said("what is it?")]
    assert kept(*turn(), asked, answered("a cat"), limit=3) == [*asked, answered("a cat")]
    assert kept(asked, answered("a cat"), *turn(), limit=4) == turn()


def test_a_note_is_no_beginning():
    note = said("be brief", "developer")
    assert kept(*turn("one"), note, *turn("two"), limit=3) == turn("two")
    assert kept(*turn("one"), [note, said("two")], answered("2"), limit=3) == [
        said("two"),
        answered("2"),
    ]
    assert kept(*turn("one"), [said("a"), note, said("b")], answered(), limit=2) == [
        said("a"),
        note,
        said("b"),
        answered(),
    ]


# What is not parted


@pytest.mark.parametrize("kind", [kind for kind in ANSWER_OF if kind != "mcp_approval_request"])
def test_a_call_that_was_answered_late_keeps_all_in_between(kind):
    late = [said("do it"), call(kind=kind), *turn("and this"), output(kind=kind), answered("done")]
    assert kept(*turn("old"), *late, *turn("new"), limit=8) == late + turn("new")
    assert kept(*turn("old"), *late, *turn("new"), limit=7) == turn("new")
    assert kept(*turn("old"), *late, limit=2) == late


def test_an_approval_keeps_its_request():
    late = [said("delete it"), request(), *turn("sure?"), approval()]
    assert kept(*turn("old"), *late, limit=2) == late


def test_what_a_program_does_late_keeps_the_program():
    search = {"type": "web_search_call", "id": "w", **by_program()}
    late = [said("run it"), call("p", "program"), *turn("and?"), search]
    assert kept(*turn("old"), *late, limit=2) == late


def test_an_approval_that_nobody_gave_is_forgotten_in_its_turn():
    asked = [said("delete it"), [reasoning(), call()]]
    assert kept(*asked, *turn("never mind"), limit=2) == turn("never mind")


def test_calls_of_other_answers_may_bear_the_same_id():
    once = [said("look"), [call("call_0"), output("call_0")], answered("seen")]
    assert kept(*once, *once, *once, limit=4) == stored(once)[0]


def test_an_output_answers_the_nearest_call_that_waits_for_one():
    parked, done = [said("delete it"), call()], [said("look"), [call(), output()]]
    assert kept(*parked, *done, *turn(), limit=5) == [*stored(done)[0], *turn()]
    late = [*parked, *done, *turn(), output()]
    assert kept(*late, limit=6) == stored(late)[0]


def test_a_second_output_of_a_call_is_the_calls_too():
    twice = [said("look"), [call(), output()], *turn(), output()]
    assert kept(*turn("old"), *twice, limit=2) == stored(twice)[0]


def test_an_output_without_a_call_stays_with_the_reference_before_it():
    """It may stand for the call; an earlier one need not."""
    reference = {"type": "item_reference", "id": "fc_1"}
    late = [said("look"), reference, *turn(), output()]
    assert kept(said("look"), reference, *late, limit=2) == late


def test_an_output_whose_call_is_lost_holds_nothing():
    assert kept(output(), *turn(), [output(), answered()], *turn("new"), limit=2) == turn("new")
    assert kept(*turn(), *turn("new"), output(), limit=2) == [*turn("new"), output()]


def test_searches_without_ids_are_answered_in_their_order():
    search, found = {"type": "tool_search_call"}, {"type": "tool_search_output"}
    searched = [said("find"), [search, found]]
    assert kept(said("find"), search, *searched, *searched, limit=3) == stored(searched)[0]
    late = [said("find"), search, *turn(), found]
    assert kept(*searched, *late, limit=2) == late
    assert kept(*searched, *turn(), found, limit=2) == [*turn(), found]


# Summaries


def test_the_last_summary_stays_when_its_surroundings_go():
    assert kept(said("one"), compaction(), *turn("two"), *turn("three"), limit=4) == [
        compaction(),
        *turn("three"),
    ]


def test_a_summary_stays_with_the_thoughts_that_led_to_it():
    summary = [reasoning("rs_1"), reasoning("rs_2"), compaction()]
    assert kept(said("one"), summary, *turn("two"), limit=2) == [*summary, *turn("two")]


def test_an_earlier_summary_is_forgotten():
    older, newer = compaction("cmp_1"), compaction("cmp_2")
    assert kept(*turn(), older, *turn(), newer, *turn("new"), limit=3) == [newer, *turn("new")]


def test_a_summary_counts():
    memory = [said("one"), compaction(), *turn("two"), *turn("three")]
    assert kept(*memory, limit=5) == [compaction(), *turn("two"), *turn("three")]
    assert kept(*memory, limit=6) == memory
    assert kept(*memory, limit=4) == [compaction(), *turn("three")]


# All of it at random


@MODEST
@given(histories() | imports(), st.integers(1, 25))
def test_a_memory_keeps_what_the_rules_say(history, limit):
    assert_as_the_rules_say(history, limit)


@pytest.mark.long
@pytest.mark.timeout(3600)
@MANY
@given(histories() | imports(), st.integers(1, 25))
def test_many_memories_keep_what_the_rules_say(history, limit):
    assert_as_the_rules_say(history, limit)


@FEWER
@given(histories() | imports(), st.integers(1, 25))
def test_what_was_made_together_is_kept_or_forgotten_together(history, limit):
    left = set(survivors(history.items, history.moments, limit=limit))
    assert left.issuperset(range(history.newest_turn, len(history)))
    if not history.ids_repeat:
        for earlier, later in history.made_together:
            assert (earlier in left) == (later in left)


@FEWER
@given(histories() | imports(), st.integers(1, 25), st.integers(0, 12))
def test_to_forget_twice_is_to_forget_once(history, limit, less):
    headers = headers_of(history.items, history.moments)
    once = remaining(headers, limit=limit)
    assert remaining(once, limit=limit) == once
    smaller = max(1, limit - less)
    assert remaining(once, limit=smaller) == remaining(headers, limit=smaller)


@FEWER
@given(histories() | imports(), st.integers(1, 25))
def test_nothing_that_is_kept_loses_its_place(history, limit):
    headers = headers_of(history.items, history.moments)
    assert not misplaced(headers)
    assert not misplaced(remaining(headers, limit=limit))


@FEWER
@given(histories() | imports(), st.integers(1, 25))
async def test_the_sdk_sends_of_what_is_kept_all_that_it_would_have_sent(history, limit):
    left = survivors(history.items, history.moments, limit=limit)
    sent = await sent_of(history.items, left)
    expected = await sent_of(history.items, range(len(history))) & set(left)
    if history.ids_repeat:  # the SDK takes a waiting call for one that bears its id
        expected -= waiting(history.items)
    assert sent >= expected


@FEWER
@given(histories(), st.integers(1, 25), st.sets(st.integers(0, 60), min_size=1, max_size=4))
def test_what_a_crash_left_alone_does_not_hold_the_rest(history, limit, lost):
    """A call or output without its other half, say, binds nothing.

    But an output of a local shell may: no column tells in which of two ways it names its call.
    """
    alive = [
        index
        for index, kind in enumerate(history.kinds())
        if index not in lost or kind.startswith("local_shell")
    ]
    items = [history.items[index] for index in alive]
    moments = [history.moments[index] for index in alive]
    assert survivors(items, moments, limit=limit) == the_rules_keep(items, moments, limit=limit)


def test_the_histories_of_these_tests_are_of_all_kinds():
    """So that the properties above say something."""
    seen: set[str] = set()

    @settings(max_examples=400, deadline=None, database=None, derandomize=True)
    @given(histories())
    def look(history: History) -> None:
        seen.update(history.kinds())

    look()
    people = {"user", "system", "developer"}
    assert seen >= {*ANSWER_OF, *ANSWER_OF.values(), "reasoning", "message", "compaction", *people}


def assert_as_the_rules_say(history: History, limit: int) -> None:
    left = survivors(history.items, history.moments, limit=limit)
    for kind in sorted(set(history.kinds())):
        event(f"seen: {kind}")
    if len(left) == len(history):
        event("nothing was cut" + ("" if len(left) <= limit else ", nor could be"))
    else:
        event("cut" if len(left) <= limit else "cut, but over the limit")
        gap = any(later - earlier > 1 for earlier, later in pairwise(left))
        event("with a pinned summary" if gap else "without a pinned summary")
    assert left == the_rules_keep(history.items, history.moments, limit=limit)


async def sent_of(items: Sequence[Item], indexes: Sequence[int]) -> set[int]:
    """Which of these items of a memory the SDK sends to the model."""

    class Stored:
        session_id, session_settings = "s", SessionSettings(limit=10_000)

        async def get_items(self, limit: int | None = None) -> list[Item]:
            return [{**items[index], "tag": index} for index in indexes]

    sent, _ = await prepare_input_with_session("Hi", Stored(), None)
    return {item["tag"] for item in sent if "tag" in item}
