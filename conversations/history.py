"""What of a memory belongs together: what goes when it is too long, what lost its rest.

A memory that is too long keeps its newest part, from where the user speaks and nothing before is
answered or owned later, and the newest turn whatever its length.

A model's provider refuses a conversation in which an output has no call, or reasoning has lost the
item it led to, and goes on refusing it on every later turn. So these are not sent, and are set
aside: an output, or the answer to an approval request, that comes before what it answers or without
it; what a program did that is not there; reasoning that is followed by no item of the model's (the
memory ends, somebody or a tool speaks, or the item is lost); an item whose own reasoning is lost.
What is left out takes along what depends on it; all else stays as it is.

Not touched are a call without an output, which may wait for a person's approval (the SDK keeps it
from the model until it is answered), and ids that come twice (of which the SDK sends the latest).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

OUTPUT_OF: Final = {
    "program": "program_output",
    "function_call": "function_call_output",
    "custom_tool_call": "custom_tool_call_output",
    "shell_call": "shell_call_output",
    "apply_patch_call": "apply_patch_call_output",
    "computer_call": "computer_call_output",
    "local_shell_call": "local_shell_call_output",
    "tool_search_call": "tool_search_output",
    "mcp_approval_request": "mcp_approval_response",
}
"""The kind that answers each kind of call; as the SDK pairs them."""

REASONS: Final = {
    "unreadable": "there is no item in it",
    "no position": "its position is no number",
    "no call": "what it answers does not come before it",
    "no program": "the program that made it does not come before it",
    "no follower": "the item that this reasoning led to does not follow",
    "no reasoning": "the reasoning that led to it cannot be read",
}
"""Why a row is not sent, and is set aside."""

_MESSAGES: Final = frozenset({"message", ""})  # a program says nothing
_ANSWERS: Final = frozenset(OUTPUT_OF.values())
_PAIRED_BY_ORDER: Final = "tool_search_output"  # where neither side has a call id
_NAMED_OTHERWISE: Final = "local_shell_call_output"  # may name its call by the item's own id
_SUMMARY: Final = "compaction"  # of all that was before it
_STANDS_FOR_ANY: Final = "item_reference"  # an item the provider keeps, known by its id alone
_FROM_OUTSIDE: Final = _ANSWERS - {"program_output", "tool_search_output"}
_NOT_THE_MODEL: Final = frozenset({"user", "system", "developer"})
_FAKE_ID: Final = "__fake_id__"  # what the SDK puts where a provider gives no ids


class Header(NamedTuple):
    """What the rules need to know of one row of the memory."""

    position: int
    kind: str
    role: str = ""
    own_id: str = ""
    pair_id: str = ""
    """By which a call and its output, a request and its answer, find each other."""
    program_id: str = ""
    """The program that made it."""
    is_lost: bool = False
    """No item can be read from the row: what belongs to it is left without it."""
    moment: Any = None
    """When it was stored: the messages of one input share it."""


class Window(NamedTuple):
    """What a memory keeps: the rows from a position on, and the pinned ones before it."""

    begins_at: int
    pinned: frozenset[int] = frozenset()


def header_of(position: int, item: Mapping[str, Any]) -> Header:
    """The header of an item, whatever is in it."""
    kind = _word(item.get("type"))
    own_id = _word(item.get("id"))
    if kind == "mcp_approval_request":
        pair_id = own_id
    elif kind == "mcp_approval_response":
        pair_id = _word(item.get("approval_request_id"))
    else:
        pair_id = _word(item.get("call_id"))
        if not pair_id and kind == "local_shell_call_output":
            pair_id = own_id  # the provider's own form of it
    caller = item.get("caller") if kind not in _MESSAGES else None
    program_id = ""
    if isinstance(caller, dict) and caller.get("type") == "program":
        program_id = _word(caller.get("caller_id"))
    own_id = "" if own_id == _FAKE_ID else own_id
    return Header(position, kind, _word(item.get("role")), own_id, pair_id, program_id)


def find_window(headers: Sequence[Header], *, limit: int) -> Window:
    """The longest valid end of a memory with at most `limit` rows, given all of them in order.

    It begins with an input of the user's that nothing reaches across, and the newest turn is in it.
    The last summary (`compaction`) stays, too, and counts. Where all that is more than `limit`,
    the shortest valid end stays; where there is none, all of it.
    """
    if len(headers) <= limit or not headers:
        return Window(headers[0].position if headers else 0)
    summary = _last_summary(headers)
    shortest = Window(headers[0].position)
    for start in _starts(headers):
        pinned = summary if summary.stop <= start else range(0)
        shortest = Window(
            headers[start].position, frozenset(headers[index].position for index in pinned)
        )
        if len(headers) - start + len(pinned) <= limit:
            break
    return shortest


def _starts(headers: Sequence[Header]) -> list[int]:
    """Where a memory may begin, oldest first: no later than with its newest turn."""
    inputs = []
    is_asking = False  # the user has a message in this input already
    for index, header in enumerate(headers):
        is_same = index and header.moment is not None and header.moment == headers[index - 1].moment
        is_asking = bool(is_asking and is_same and header.role in _NOT_THE_MODEL)
        if _is_said(header):
            if not is_asking:
                inputs.append(index)
            is_asking = True
    reaches = _reaches(headers)
    starts, farthest = [], len(headers)
    following = len(headers)
    for start in reversed(inputs):
        farthest = min(farthest, *reaches[start:following])
        following = start
        if farthest >= start:
            starts.append(start)
    starts.reverse()
    return starts


def _reaches(headers: Sequence[Header]) -> list[int]:
    """For each row the index of the earliest row that it cannot do without; its own, if none.

    An output is of the nearest call before it that has its id and no output yet.
    """
    waiting: dict[tuple[str, str], list[int]] = {}  # calls without an output, by what it will be
    answered: dict[tuple[str, str], int] = {}
    programs: dict[str, int] = {}
    latest: dict[str, int] = {}  # by the kind of their answers, whatever their ids
    reference: int | None = None  # the nearest
    reaches = []
    for index, header in enumerate(headers):
        kind, pair_id = header.kind, header.pair_id
        needs: list[int | None] = [index]
        if header.program_id:
            needs.append(programs.get(header.program_id, reference))
        if kind in _ANSWERS:
            calls = waiting.get((kind, pair_id))
            if calls:
                answered[kind, pair_id] = calls.pop()
                needs.append(answered[kind, pair_id])
            elif pair_id and (kind, pair_id) in answered:
                needs.append(answered[kind, pair_id])
            elif kind == _NAMED_OTHERWISE:
                needs.append(latest.get(kind, reference))
            else:
                needs.append(reference)
        answer = OUTPUT_OF.get(kind)
        if answer is not None:
            waiting.setdefault((answer, pair_id), []).append(index)
            latest[answer] = index
            if kind == "program":
                programs[pair_id] = index
        elif kind == _STANDS_FOR_ANY:
            reference = index
        reaches.append(min(need for need in needs if need is not None))
    return reaches


def _last_summary(headers: Sequence[Header]) -> range:
    """The indexes of the last summary and the reasoning that led to it."""
    for last in range(len(headers) - 1, -1, -1):
        if headers[last].kind == _SUMMARY:
            first = last
            while first and headers[first - 1].kind == "reasoning":
                first -= 1
            return range(first, last + 1)
    return range(0)


def _is_said(header: Header) -> bool:
    """Whether a row is a message of the user's."""
    return header.role == "user" and header.kind in _MESSAGES


def is_whole(items: Iterable[Mapping[str, Any]]) -> bool:
    """Whether a quick look shows that nothing is misplaced: so it is in nearly every memory.

    False where it takes the rules to say, which cost as much as the reading did.
    """
    try:
        return _is_whole(items)
    except TypeError:  # a word that is a list, say
        return False


def _is_whole(items: Iterable[Mapping[str, Any]]) -> bool:
    calls: set[tuple[str, Any]] = set()
    is_reasoned = False  # the item before this one is reasoning
    for item in items:
        kind = item.get("type")
        if is_reasoned and kind != "reasoning":
            if item.get("role") in _NOT_THE_MODEL or kind in _FROM_OUTSIDE:
                return False
            is_reasoned = False
        if kind == "message" or kind is None:
            continue
        if kind == "reasoning":
            is_reasoned = True
        elif "caller" in item:
            return False
        elif kind in OUTPUT_OF:
            calls.add((OUTPUT_OF[kind], item.get("call_id")))
        elif kind in _ANSWERS:
            call_id = item.get("call_id")
            if not call_id or type(call_id) is not str or (kind, call_id) not in calls:
                return False
    return not is_reasoned


def misplaced(headers: Sequence[Header]) -> dict[int, str]:
    """The positions, in a whole memory, of rows that must not be sent, with what they lack.

    Lost rows are not among them. What remains is in order: asked again, nothing is misplaced.
    """
    found = _without_cause(headers)
    return found | _dangling_reasoning(headers, found)


def _without_cause(headers: Iterable[Header]) -> dict[int, str]:
    """Rows that follow from something which does not come before them."""
    found: dict[int, str] = {}
    answerable: set[tuple[str, str]] = set()
    programs: set[str] = set()
    searches = 0  # without a call id, not yet answered
    is_all_there = True  # no reference before: every call would be seen
    has_lost_reasoning = False
    for header in headers:
        position, kind, _, own_id, pair_id, program_id, is_lost, _ = header
        if is_lost:
            has_lost_reasoning = kind == "reasoning"
            continue
        if kind == "reasoning":
            continue
        lacks = ""
        if program_id and program_id not in programs and is_all_there:
            lacks = "no program"
        elif kind in _ANSWERS:
            if kind == _PAIRED_BY_ORDER and not pair_id:
                is_answer = searches > 0
                searches -= is_answer
            else:
                is_answer = (kind, pair_id) in answerable
            lacks = "no call" if is_all_there and not is_answer else ""
        elif has_lost_reasoning and own_id and header.role not in _NOT_THE_MODEL:
            lacks = "no reasoning"
        has_lost_reasoning = False
        if lacks:
            found[position] = lacks
            continue
        if kind == _STANDS_FOR_ANY:
            is_all_there = False
        answer = OUTPUT_OF.get(kind)
        if answer is not None:
            answerable.update((answer, name) for name in (pair_id, own_id) if name)
            searches += answer == _PAIRED_BY_ORDER and not pair_id
            if kind == "program":
                programs.add(pair_id)
    return found


def _dangling_reasoning(headers: Sequence[Header], left_out: Mapping[int, str]) -> dict[int, str]:
    """Reasoning that the item it led to does not follow."""
    found: dict[int, str] = {}
    is_followed = False
    for header in reversed(headers):
        if header.kind == "reasoning" and not header.is_lost:
            if not is_followed:
                found[header.position] = "no follower"
        else:
            is_gone = header.is_lost or header.position in left_out
            is_followed = not (
                is_gone or header.role in _NOT_THE_MODEL or header.kind in _FROM_OUTSIDE
            )
    return found


def _word(value: Any) -> str:
    return value if isinstance(value, str) else ""
