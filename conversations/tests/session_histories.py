"""Histories as the SDK's runner leaves them in a session: of every family, and of every misfortune.

Each is stored batch by batch, as a session would be, and remembers which items were made together.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from agents.run_internal.items import _TOOL_CALL_TO_OUTPUT_TYPE
from hypothesis import strategies as st

Item = dict[str, Any]

ANSWER_OF = {**_TOOL_CALL_TO_OUTPUT_TYPE, "mcp_approval_request": "mcp_approval_response"}


# Items


def said(text: str = "Hi", role: str = "user") -> Item:
    return {"role": role, "content": text}


def answered(text: str = "Hello", id: str = "msg_1") -> Item:
    return {"type": "message", "role": "assistant", "id": id, "content": text}


def call(name: str = "c", kind: str = "function_call", **more: Any) -> Item:
    return {"type": kind, "call_id": name, "id": f"id_of_{name}", **more}


def output(name: str = "c", kind: str = "function_call", **more: Any) -> Item:
    """What answers a call of this kind."""
    return {"type": ANSWER_OF[kind], "call_id": name, "output": "x", **more}


def request(name: str = "r") -> Item:
    return {"type": "mcp_approval_request", "id": name, "name": "delete", "arguments": "{}"}


def approval(name: str = "r") -> Item:
    return {"type": "mcp_approval_response", "approval_request_id": name, "approve": True}


def reasoning(id: str = "rs_1") -> Item:
    return {"type": "reasoning", "id": id, "summary": []}


def compaction(id: str = "cmp_1") -> Item:
    return {"type": "compaction", "id": id, "encrypted_content": "x"}


def by_program(name: str = "p") -> Item:
    return {"caller": {"type": "program", "caller_id": name}}


# Histories


@dataclass
class History:
    """What is remembered of one session."""

    items: list[Item] = field(default_factory=list)
    moments: list[int | None] = field(default_factory=list)
    """When the batch of each item was stored; none where that is not known."""
    made_together: list[tuple[int, int]] = field(default_factory=list)
    ids_repeat: bool = False
    """Calls of several answers may bear one id, or none: which is answered is a guess."""
    newest_turn: int = 0
    """The first user message of the last input."""

    def __len__(self) -> int:
        return len(self.items)

    def kinds(self) -> Iterator[str]:
        return (item.get("type", item.get("role", "")) for item in self.items)


BLOCKS = [
    *ANSWER_OF,
    "function_call",  # a handoff is one too
    "program that searches",
    "program that searches late",
    "search without an id",
    "shell by its own id",
    "web_search_call",
    "compaction",
    "item_reference",
]
THOUGHTS = (0, 0, 0, 1, 2)
INPUTS = [("user",)] * 5 + [
    ("user", "user"),
    ("user", "user", "user"),
    ("developer", "user"),
    ("user", "system", "user"),
]

# Made once: to make them is most of the time that a draw takes.
SOME_BLOCKS = st.lists(st.sampled_from(BLOCKS), min_size=1, max_size=4)
SOME_THOUGHTS = st.sampled_from(THOUGHTS)
AN_INPUT = st.sampled_from(INPUTS)
A_NOTE = st.sampled_from(["system", "developer"])
STEPS = st.sampled_from([None, 0, 0, 1, 1, 1, 2])
OFTEN = st.booleans()
SOMETIMES = st.sampled_from([False, False, False, True])
SELDOM = st.sampled_from([False] * 9 + [True])


@st.composite
def histories(draw: st.DrawFn) -> History:
    """Up to six turns, with what may happen in them and between them."""
    writer = _Writer(draw)
    for _ in range(draw(st.integers(0, 6))):
        writer.turn()
        writer.between_turns()
    return writer.finished()


@st.composite
def imports(draw: st.DrawFn) -> History:
    """A history that somebody wrote at one stroke, and the turns that came after."""
    writer = _Writer(draw)
    for _ in range(draw(st.integers(1, 4))):
        writer.turn()
    writer.history.moments = [0] * len(writer.history)
    for _ in range(draw(st.integers(0, 2))):
        writer.turn()
    return writer.finished()


@dataclass
class _Answer:
    """An answer that is still to come, and the items that it belongs to."""

    item: Item
    belongs_to: list[int]
    may_wait: bool = True
    """A person may be asked first; the SDK asks for most calls."""
    is_a_guess: bool = False
    """It does not name the call."""


class _Writer:
    """Writes one history, batch by batch."""

    def __init__(self, draw: st.DrawFn) -> None:
        self._draw = draw
        self._waiting: list[list[_Answer]] = []
        self._batches = 0
        self._names = 0
        self._own_ids = 0
        self._has_fake_ids = self._draw(SELDOM)
        blocks = [(block, thoughts) for block in draw(SOME_BLOCKS) for thoughts in THOUGHTS]
        self._calls = st.lists(st.sampled_from(blocks), min_size=1, max_size=3)
        self._counts_anew = self._draw(OFTEN)
        self.history = History(ids_repeat=self._counts_anew)

    def _own_id(self) -> str:
        self._own_ids += 1
        return "__fake_id__" if self._has_fake_ids else f"id_{self._own_ids}"

    def _store(self, *batch: Item) -> None:
        self._batches += 1
        for item in batch:
            self._put(item)

    def _put(self, item: Item, *belongs_to: int) -> int:
        index = len(self.history)
        self.history.items.append(item)
        self.history.moments.append(self._batches)
        self.history.made_together += [(earlier, index) for earlier in belongs_to]
        return index

    # A turn

    def turn(self) -> None:
        """A message and what came of it: nothing, if the model failed."""
        roles = self._draw(AN_INPUT)
        first = len(self.history) + roles.index("user")
        self._store(*[said(f"{len(self.history)}", role) for role in roles])
        self.history.newest_turn = first
        steps = self._draw(STEPS)
        if steps is None:
            return
        if self._waiting and self._draw(OFTEN):
            self._approve()
        for _ in range(steps):
            if self._step() and self._draw(OFTEN):
                return  # somebody is asked first
        self._batches += 1
        self._reasoned(answered(id=self._own_id()), self._draw(SOME_THOUGHTS))

    def _step(self) -> bool:
        """One answer of the model that calls tools; whether one of them waits for a person."""
        self._batches += 1
        if self._counts_anew:
            self._names = 0
        blocks = self._draw(self._calls)
        answers = [answer for block in blocks if (answer := self._block(*block))]
        may_wait = [answer for answer in answers if answer[0].may_wait]
        waits = bool(may_wait) and self._draw(OFTEN)
        if waits:
            waiting = self._draw(st.sampled_from(may_wait))
            answers.remove(waiting)
            self._waiting.append(waiting)
            self.history.ids_repeat |= waiting[0].is_a_guess
        for answer in answers:
            self._answer(answer)
        return waits

    def _block(self, block: str, thoughts: int) -> list[_Answer]:
        """Write a call and what it owns; what it is to be answered with."""
        name = self._name()
        if block.startswith("program"):
            return self._program(name, block, thoughts)
        if block == "compaction":
            self._reasoned(compaction(self._own_id()), thoughts)
            return []
        if block == "web_search_call":
            self._reasoned({"type": block, "id": self._own_id()}, thoughts)
            return []
        if block == "mcp_approval_request":
            asked, answer = request(name), approval(name)
        elif block == "search without an id":
            asked = {"type": "tool_search_call", "arguments": {}}
            answer = {"type": "tool_search_output", "tools": []}
        elif block == "item_reference":
            asked = {"type": block, "id": self._own_id()}
            answer = output(f"kept_{len(self.history)}")
        elif block == "shell by its own id":
            own_id = f"shell_{len(self.history)}"
            asked = call(f"call_of_{own_id}", "local_shell_call", id=own_id)
            answer = {"type": "local_shell_call_output", "id": own_id}
        else:
            asked, answer = call(name, block, id=self._own_id()), output(name, block)
        may_wait = block != "shell by its own id"
        is_a_guess = block in ("item_reference", "search without an id")
        return [_Answer(answer, [self._reasoned(asked, thoughts)], may_wait, is_a_guess)]

    def _program(self, name: str, block: str, thoughts: int) -> list[_Answer]:
        program = self._reasoned(call(name, "program", id=self._own_id()), thoughts)
        owned = by_program(name)
        search = {"type": "web_search_call", "id": self._own_id(), **owned}
        if block == "program that searches late":
            return [_Answer(search, [program])]
        if block == "program that searches":
            self._put(search, program)
        step = self._name()
        index = self._put(call(step, id=self._own_id(), **owned), program)
        return [
            _Answer(output(step, **owned), [program, index]),
            _Answer(output(name, "program"), [program]),
        ]

    def _name(self) -> str:
        self._names += 1
        return f"call_{self._names - 1}"

    def _reasoned(self, item: Item, thoughts: int) -> int:
        """Write an item, after the thoughts that led to it."""
        before = [self._put(reasoning(self._own_id())) for _ in range(thoughts)]
        return self._put(item, *before)

    def _answer(self, answers: list[_Answer]) -> None:
        for answer in answers:
            self._put(answer.item, *answer.belongs_to)

    def _approve(self) -> None:
        """Somebody has decided, maybe long after."""
        self._batches += 1
        answers = self._waiting.pop(self._draw(st.integers(0, len(self._waiting) - 1)))
        self._answer(answers)
        if not answers[0].is_a_guess and self._draw(SELDOM):
            self._waiting.append(answers)  # it will be written twice

    # Between turns

    def between_turns(self) -> None:
        if self._waiting and self._draw(SOMETIMES):
            self._approve()
            self._batches += 1
            self._reasoned(answered(id=self._own_id()), 0)
        if self._draw(SOMETIMES):
            self._store(said("note", self._draw(A_NOTE)))
        if self._draw(SELDOM):
            self._compact()

    def _compact(self) -> None:
        """Write a summary over all there is, or over the end of it, as `responses.compact` does.

        It leaves what the user said, and one item that holds the rest.
        """
        history = self.history
        starts = [
            index
            for index, item in enumerate(history.items)
            if item.get("role") == "user"
            and not any(earlier < index <= later for earlier, later in history.made_together)
        ]
        start = self._draw(st.sampled_from([0, 0, *([] if self._waiting else starts)]))
        spoken = [item for item in history.items[start:] if item.get("role") == "user"]
        del history.items[start:], history.moments[start:]
        history.made_together = [pair for pair in history.made_together if pair[1] < start]
        self._waiting.clear()
        self._store(*spoken)
        self._reasoned(compaction(self._own_id()), self._draw(SOME_THOUGHTS))
        history.newest_turn = start

    def finished(self) -> History:
        """The history, its earliest moments perhaps forgotten."""
        history = self.history
        if self._draw(SELDOM):
            unknown = self._draw(st.integers(0, history.newest_turn))
            history.moments[:unknown] = [None] * unknown
        return history
