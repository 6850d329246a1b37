"""What must hold when the dust has settled: every message once, in order, one run at a time.

Pure functions over what the clients learned, what is stored, what the models noted, and which
processes were killed or paused when. An empty list of violations is the promise kept.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final

from conversations.tests.faults import agent
from conversations.tests.faults.client import Sending

LIVE: Final = {"queued", "running"}
HANDED_ON: Final = 0.6
"""The part of a lease that a process surely has left when it is paused: it renews each third."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A process that was killed, or slept from `at` until `ended_at`."""

    kind: str
    pid: int
    at: float
    ended_at: float


@dataclass(frozen=True, slots=True)
class Run:
    """One run of the model for a text, its tools included; without an end it was cut off."""

    text: str
    pid: int
    begun_at: float
    ended_at: float | None


@dataclass
class Evidence:
    """All that is known of a run of the harness."""

    sendings: list[Sending]
    rows: dict[str, Any]
    journal: list[dict[str, Any]]
    lease_seconds: float
    faults: list[Fault] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.texts = {sending.text: sending for sending in self.sendings}
        self.turns: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self.messages: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for turn in self.rows["turns"]:
            self.turns[turn["session_id"]].append(turn)
        for message in self.rows["messages"]:
            self.messages[message["session_id"]].append(message)
        self.turn_by_id = {turn["id"]: turn for turn in self.rows["turns"]}
        self.user_row = {
            message["text"]: message
            for message in self.rows["messages"]
            if message["role"] == "user" and message["shown"]
        }
        self.runs = sorted(find_runs(self.journal, self.texts), key=lambda run: run.begun_at)

    def turn_of(self, text: str) -> dict[str, Any] | None:
        """The turn that a text became, by the row of the text itself."""
        row = self.user_row.get(text)
        return self.turn_by_id.get(row["turn_id"]) if row else None


def find_violations(evidence: Evidence) -> list[str]:
    """Every promise that was not kept, in words."""
    checks = (
        _complaints,
        _every_message_once,
        _told_as_stored,
        _in_order,
        _all_ended,
        _one_answer_at_most,
        _counters_fit,
        _memory_is_valid,
        _one_run_at_a_time,
        _tools_ran_once,
        _memory_was_whole,
    )
    return [violation for check in checks for violation in check(evidence)]


def find_runs(journal: Iterable[dict[str, Any]], texts: Iterable[str]) -> list[Run]:
    """The runs of these texts. A tool's second call of the model belongs to the first."""
    wanted = set(texts)
    begun: dict[tuple[str, int], list[dict[str, Any]]] = defaultdict(list)
    ended: dict[tuple[str, int], list[dict[str, Any]]] = defaultdict(list)
    for line in journal:
        if line.get("text") in wanted and line["fact"] in {"begin", "end"}:
            (begun if line["fact"] == "begin" else ended)[line["text"], line["pid"]].append(line)
    runs = []
    for (text, pid), calls in begun.items():
        ends = ended[text, pid]
        starts = [call["at"] for call in calls if not call["after_tool"]] or [calls[0]["at"]]
        if len(starts) > 1:  # the same process ran it again: each is a run of its own
            bounds = [*starts[1:], float("inf")]
            for start, bound in zip(starts, bounds, strict=True):
                within = [end["at"] for end in ends if start <= end["at"] < bound]
                runs.append(Run(text, pid, start, max(within, default=None)))
            continue
        is_over = len(ends) == len(calls)
        runs.append(Run(text, pid, starts[0], max(end["at"] for end in ends) if is_over else None))
    return runs


def _complaints(evidence: Evidence) -> Iterator[str]:
    for sending in evidence.sendings:
        yield from (f"{sending.text!r}: {complaint}" for complaint in sending.complaints)
    for line in evidence.journal:
        if line["fact"] == "invalid" and line["text"] in evidence.texts:
            yield f"{line['text']!r}: the model was given {line['complaint']}"
    if evidence.rows["integrity"] != "ok":
        yield f"the file is damaged: {evidence.rows['integrity']}"


def _every_message_once(evidence: Evidence) -> Iterator[str]:
    stored = Counter(
        (message["session_id"], message["text"])
        for message in evidence.rows["messages"]
        if message["role"] == "user" and message["shown"]
    )
    for sending in evidence.sendings:
        found = stored.pop((sending.thread_id, sending.text), 0)
        if found > 1:
            yield f"{sending.text!r} is stored {found} times"
        elif sending.is_acknowledged and not found and not sending.was_told_unsaved:
            yield f"{sending.text!r} was acknowledged and is lost"
        became = sending.turn_ids & evidence.turn_by_id.keys()
        if len(became) > 1:
            yield f"{sending.text!r} became {len(became)} turns"
    for thread_id, text in stored:
        yield f"{text!r} is in thread {thread_id}, where nobody said it"


def _told_as_stored(evidence: Evidence) -> Iterator[str]:
    answers = {message["id"]: message for message in evidence.rows["messages"]}
    for sending in evidence.sendings:
        turn = evidence.turn_of(sending.text)
        if turn is None or sending.closing is None or sending.was_told_unsaved:
            continue
        told, status = sending.closing["status"], turn["status"]
        if turn["id"] not in sending.turn_ids:
            yield f"{sending.text!r}: told of another turn than it became"
        if told not in {"failed", status}:
            yield f"{sending.text!r}: told {told}, stored as {status}"
        if told == "completed" and not sending.warnings:
            answer = answers.get(str(turn["answer_message_id"]))
            if answer is None or answer["text"] != sending.said:
                yield f"{sending.text!r}: what was told is not the stored answer"
            elif answer["incomplete"]:
                yield f"{sending.text!r}: told completed, stored as incomplete"


def _in_order(evidence: Evidence) -> Iterator[str]:
    for thread_id, turns in evidence.turns.items():
        position = {message["id"]: message["position"] for message in evidence.messages[thread_id]}
        said = [(turn["number"], position.get(str(turn["user_message_id"]))) for turn in turns]
        for number, place in said:
            if place is None:
                yield f"turn {number} of thread {thread_id} has no message"
        placed = [(number, place) for number, place in said if place is not None]
        for (number, place), (later, following) in pairwise(placed):
            if place >= following:
                yield f"thread {thread_id}: turn {later} is stored before turn {number}"


def _all_ended(evidence: Evidence) -> Iterator[str]:
    for turn in evidence.rows["turns"]:
        if turn["status"] in LIVE:
            yield f"turn {turn['number']} of thread {turn['session_id']} is still {turn['status']}"
        elif turn["finished_at"] is None:
            yield f"turn {turn['number']} of thread {turn['session_id']} has no end"


def _one_answer_at_most(evidence: Evidence) -> Iterator[str]:
    answers: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for message in evidence.rows["messages"]:
        if message["role"] == "assistant" and message["shown"]:
            answers[str(message["turn_id"])].append(message)
    for turn in evidence.rows["turns"]:
        found = answers.pop(turn["id"], [])
        name = f"turn {turn['number']} of thread {turn['session_id']} ({turn['status']})"
        if len(found) > 1:
            yield f"{name} has {len(found)} answers"
        elif turn["status"] == "completed" and not found and not turn["warning"]:
            yield f"{name} has no answer"
        elif found and found[0]["id"] != str(turn["answer_message_id"]):
            yield f"{name} names another answer than its own"
    for turn_id in answers:
        yield f"an answer belongs to no turn: {turn_id}"


def _counters_fit(evidence: Evidence) -> Iterator[str]:
    for session in evidence.rows["sessions"]:
        name, messages = f"thread {session['id']}", evidence.messages[session["id"]]
        positions = [message["position"] for message in messages]
        if any(earlier >= later for earlier, later in pairwise(positions)):
            yield f"{name}: positions do not grow"
        if positions and positions[-1] > session["last_position"]:
            yield f"{name}: the last position is {session['last_position']}, not {positions[-1]}"
        counts = {
            "message_count": sum(message["shown"] for message in messages),
            "remembered_count": sum(_is_remembered(message) for message in messages),
            "input_tokens": sum(turn["input_tokens"] for turn in evidence.turns[session["id"]]),
            "output_tokens": sum(turn["output_tokens"] for turn in evidence.turns[session["id"]]),
        }
        for counter, counted in counts.items():
            if session[counter] != counted:
                yield f"{name}: {counter} says {session[counter]}, the rows {counted}"


def _memory_is_valid(evidence: Evidence) -> Iterator[str]:
    for thread_id, messages in evidence.messages.items():
        items = [
            json.loads(message["agent_item"]) for message in messages if _is_remembered(message)
        ]
        complaint = agent.find_fault(items)
        if complaint:
            yield f"thread {thread_id} remembers {complaint}"


def _one_run_at_a_time(evidence: Evidence) -> Iterator[str]:
    """No two runs of a thread at once, unless a fault had taken the earlier one's lease.

    What was answered without the store had nothing to be ordered by.
    """
    times = Counter(run.text for run in evidence.runs if not is_sleepers(evidence, run))
    for text, count in times.items():
        if count > 1 and not evidence.texts[text].was_told_unsaved:
            yield f"{text!r} was given to the model {count} times"
    by_thread: dict[str, list[Run]] = defaultdict(list)
    for run in evidence.runs:
        if not (evidence.texts[run.text].was_told_unsaved or is_sleepers(evidence, run)):
            by_thread[evidence.texts[run.text].thread_id].append(run)
    for runs in by_thread.values():
        before, held_until, numbers = "", 0.0, [0]
        for run in runs:
            until, turn = _holds_until(evidence, run), evidence.turn_of(run.text)
            if until is None:
                yield f"the run of {run.text!r} has no end, and its process lives"
            elif until > run.begun_at:  # else it woke up too late: others may run beside it
                if run.begun_at < held_until:
                    yield f"the runs of {before!r} and {run.text!r} overlap"
                if until > held_until:
                    before, held_until = run.text, until
                numbers += [turn["number"]] if turn else []
        yield from (
            f"turn {later} ran after turn {number} of a thread"
            for number, later in pairwise(numbers)
            if later < number
        )


def is_sleepers(evidence: Evidence, run: Run) -> bool:
    """Whether a process that slept past a lease answered, without the store, what was another's.

    It is not stored, and its sender hears the other one; see the limit in decision 0008.
    """
    turn = evidence.turn_of(run.text)
    owner = str(turn.get("lease_owner", "")) if turn is not None else ""
    if not owner or str(run.pid) in owner.split("."):
        return False
    attempts = evidence.texts[run.text].attempts
    since = min((attempt.begun_at for attempt in attempts), default=run.begun_at)
    return any(
        fault.kind == "pause"
        and fault.pid == run.pid
        and since <= fault.ended_at
        and fault.at <= run.begun_at
        and fault.ended_at - fault.at >= HANDED_ON * evidence.lease_seconds
        for fault in evidence.faults
    )


def _holds_until(evidence: Evidence, run: Run) -> float | None:
    """Until when no other run may begin: its end, or when a fault has surely used up its lease.

    The fault may lie before the run itself: a process may sleep between its start and the model.
    A turn that was completed has kept its lease to the end, whatever happened to its process.
    """
    turn = evidence.turn_of(run.text)
    if turn is not None and turn["status"] == "completed":
        return run.ended_at
    first_attempt = evidence.texts[run.text].attempts[:1]
    since = min([run.begun_at, *(attempt.begun_at for attempt in first_attempt)])
    left = HANDED_ON * evidence.lease_seconds
    moments = [] if run.ended_at is None else [run.ended_at]
    for fault in evidence.faults:
        is_meant = fault.pid == run.pid and since <= fault.at <= (run.ended_at or fault.at)
        if is_meant and fault.kind == "kill":
            moments.append(fault.at)  # whoever comes next sees that it is gone
        elif is_meant and fault.ended_at - fault.at >= left:
            moments.append(fault.at + left)
    return min(moments, default=None)


def _tools_ran_once(evidence: Evidence) -> Iterator[str]:
    notes = Counter(
        line["text"]
        for line in evidence.journal
        if line["fact"] == "tool" and line["text"] in evidence.texts
    )
    for text, count in notes.items():
        slept = any(run.text == text and is_sleepers(evidence, run) for run in evidence.runs)
        if count > 1 and not evidence.texts[text].was_told_unsaved and not slept:
            yield f"the tool of {text!r} ran {count} times"
    for sending in evidence.sendings:
        turn = evidence.turn_of(sending.text)
        is_completed = turn is not None and turn["status"] == "completed"
        if is_completed and sending.text.startswith("tool ") and not notes[sending.text]:
            yield f"{sending.text!r} was completed without its tool"


def _memory_was_whole(evidence: Evidence) -> Iterator[str]:
    """What a model said it remembers: earlier messages of its thread, in order, none missing.

    The oldest may have left the window; what an interrupted turn said may be missing.
    """
    answers = {message["id"]: message["text"] for message in evidence.rows["messages"]}
    for thread_id, turns in evidence.turns.items():
        said: list[tuple[str, bool]] = []
        for turn in turns:
            text = answers.get(str(turn["user_message_id"]), "")
            sending = evidence.texts.get(text)
            # Told so: it had no context, or ran before what is stored before it.
            was_warned = sending is not None and bool(sending.warnings)
            if text.startswith("memory ") and turn["status"] == "completed" and not was_warned:
                answer = answers.get(str(turn["answer_message_id"]), "")
                remembered = answer.removeprefix("I remember:").split()
                if not _is_remembrance(remembered, said):
                    yield f"turn {turn['number']} of thread {thread_id} did not remember all"
            if text:
                said.append((text.split()[-1], turn["status"] == "completed"))


def _is_remembrance(remembered: list[str], said: list[tuple[str, bool]]) -> bool:
    if not remembered:
        return not any(is_sure for _, is_sure in said)
    tags = [tag for tag, _ in said]
    if remembered[0] not in tags:
        return False
    window = said[tags.index(remembered[0]) :]
    rest = iter(remembered)
    current = next(rest, None)
    for tag, is_sure in window:
        if tag == current:
            current = next(rest, None)
        elif is_sure:
            return False
    return current is None


def _is_remembered(message: dict[str, Any]) -> bool:
    return message["agent_item"] is not None and message["quarantined_at"] is None
