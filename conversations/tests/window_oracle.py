"""What a memory keeps, told by the rules alone: every cut there is, is tried.

It looks at whole items and knows nothing of headers, so that it and the pruner err apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from conversations.tests.session_histories import ANSWER_OF, Item

Moment = int | None


def the_rules_keep(items: Sequence[Item], moments: Sequence[Moment], *, limit: int) -> list[int]:
    """The longest of the memories that a cut may leave, within the limit; else the shortest."""
    ways = [left_by(items, cut) for cut in cuts(items, moments)]
    return next((way for way in ways if len(way) <= limit), ways[-1])


def left_by(items: Sequence[Item], cut: int) -> list[int]:
    summaries = [index for index, item in enumerate(items) if item.get("type") == "compaction"]
    pinned: list[int] = []
    if summaries and summaries[-1] < cut:
        pinned = [summaries[-1]]
        while pinned[0] > 0 and items[pinned[0] - 1].get("type") == "reasoning":
            pinned.insert(0, pinned[0] - 1)
    return [*pinned, *range(cut, len(items))]


def cuts(items: Sequence[Item], moments: Sequence[Moment]) -> Iterator[int]:
    """Where a memory may begin, the earliest first."""
    together = list(ties(items))
    yield 0
    for cut in inputs(items, moments):
        if not any(earlier < cut <= later for earlier, later in together):
            yield cut


def inputs(items: Sequence[Item], moments: Sequence[Moment]) -> Iterator[int]:
    """The first user message of every input: the last of them begins the newest turn."""
    has_begun = False
    for index, item in enumerate(items):
        if moments[index] is None or (index and moments[index] != moments[index - 1]):
            has_begun = False
        if not is_said(item):
            has_begun = False
        elif item["role"] == "user":
            if not has_begun:
                yield index
            has_begun = True


def is_said(item: Item) -> bool:
    """By people, not by the model."""
    return item.get("role") in ("user", "system", "developer")


def ties(items: Sequence[Item]) -> Iterator[tuple[int, int]]:
    """Each pair of items that must not be parted, the earlier first."""
    taken: set[int] = set()
    for index, item in enumerate(items):
        before = range(index - 1, -1, -1)
        calls = [other for other in before if is_answered_by(items[other], item)]
        waiting_calls = [other for other in calls if other not in taken]
        if waiting_calls:
            taken.add(waiting_calls[0])
            yield waiting_calls[0], index
        elif calls and not is_unnamed(item):
            yield calls[0], index
        owners = [other for other in before if owns(items[other], item)]
        if owners:
            yield owners[0], index
        if item.get("type") in ANSWER_OF.values() and not calls:
            references = [o for o in before if items[o].get("type") == "item_reference"]
            yield from [(other, index) for other in references[:1]]
        if index and items[index - 1].get("type") == "reasoning" and not is_said(item):
            yield index - 1, index


def is_answered_by(one: Item, other: Item) -> bool:
    if other.get("type") is None or ANSWER_OF.get(one.get("type", "")) != other["type"]:
        return False
    if other["type"] == "mcp_approval_response":
        return one["id"] == other["approval_request_id"]
    if is_unnamed(other):
        return one.get("call_id") is None
    named = other.get("call_id") or other["id"]  # so may a local shell
    return named in (one.get("call_id"), one.get("id"))


def is_unnamed(item: Item) -> bool:
    return item["type"] == "tool_search_output" and item.get("call_id") is None


def owns(one: Item, other: Item) -> bool:
    caller: dict[str, Any] = other.get("caller") or {}
    return one.get("type") == "program" and one["call_id"] == caller.get("caller_id")


def waiting(items: Sequence[Item]) -> set[int]:
    """Calls that nobody has answered, and what came before or of them."""
    together = list(ties(items))
    answers = set(ANSWER_OF.values())
    found = {
        index
        for index, item in enumerate(items)
        if item.get("type") in ANSWER_OF
        and not any(e == index and items[o].get("type") in answers for e, o in together)
    }
    for earlier, later in reversed(together):
        if later in found and items[earlier].get("type") == "reasoning":
            found.add(earlier)
    for earlier, later in together:
        if earlier in found and items[earlier].get("type") == "program":
            found.add(later)
    return found
