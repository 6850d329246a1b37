"""What of a memory belongs together, and what a crash or a foreign writer left without its rest.

A model's provider refuses a conversation in which an output has no call, or reasoning has lost the
item it led to, and goes on refusing it on every later turn. So these are not sent, and are set
aside: an output, or the answer to an approval request, that comes before what it answers or without
it; what a program did that is not there; reasoning that is followed by no item of the model's (the
memory ends, somebody else speaks, or the item is lost); an item whose own reasoning is lost. What
is left out takes along what depends on it; all else stays as it is.

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

_MESSAGES: Final = frozenset({"message", ""})  # a program says nothing
_ANSWERS: Final = frozenset(OUTPUT_OF.values())
_PAIRED_BY_ORDER: Final = "tool_search_output"  # where neither side has a call id
_STANDS_FOR_ANY: Final = "item_reference"  # an item the provider keeps, known by its id alone
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
            if item.get("role") in _NOT_THE_MODEL:
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


def misplaced(headers: Sequence[Header]) -> set[int]:
    """The positions, in a whole memory, of rows that must not be sent without what is missing.

    Lost rows are not among them. What remains is in order: asked again, nothing is misplaced.
    """
    found = _without_cause(headers)
    return found | _dangling_reasoning(headers, found)


def _without_cause(headers: Iterable[Header]) -> set[int]:
    """Rows that follow from something which does not come before them."""
    found: set[int] = set()
    answerable: set[tuple[str, str]] = set()
    programs: set[str] = set()
    searches = 0  # without a call id, not yet answered
    is_all_there = True  # no reference before: every call would be seen
    has_lost_reasoning = False
    for header in headers:
        position, kind, _, own_id, pair_id, program_id, is_lost = header
        if is_lost:
            has_lost_reasoning = kind == "reasoning"
            continue
        if kind == "reasoning":
            continue
        is_bad = bool(program_id) and program_id not in programs and is_all_there
        if kind in _ANSWERS:
            if kind == _PAIRED_BY_ORDER and not pair_id:
                is_bad = is_bad or (searches == 0 and is_all_there)
                searches -= searches > 0 and not is_bad
            else:
                is_bad = is_bad or ((kind, pair_id) not in answerable and is_all_there)
        elif has_lost_reasoning and own_id and header.role not in _NOT_THE_MODEL:
            is_bad = True
        has_lost_reasoning = False
        if is_bad:
            found.add(position)
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


def _dangling_reasoning(headers: Sequence[Header], left_out: set[int]) -> set[int]:
    """Reasoning that the item it led to does not follow."""
    found: set[int] = set()
    is_followed = False
    for header in reversed(headers):
        if header.kind == "reasoning" and not header.is_lost:
            if not is_followed:
                found.add(header.position)
        else:
            is_gone = header.is_lost or header.position in left_out
            is_followed = not is_gone and header.role not in _NOT_THE_MODEL
    return found


def _word(value: Any) -> str:
    return value if isinstance(value, str) else ""
