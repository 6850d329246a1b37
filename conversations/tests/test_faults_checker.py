"""The checker of the fault harness finds what it is there to find."""

from __future__ import annotations

import json
from typing import Any

import pytest

from conversations.tests.faults.checker import Evidence, Fault, find_runs, find_violations
from conversations.tests.faults.client import Attempt, Sending

THREAD = "thread"


class Scene:
    """Two turns of a thread, one after the other, as they should be; tests spoil it."""

    def __init__(self) -> None:
        self.sendings: list[Sending] = []
        self.turns: list[dict[str, Any]] = []
        self.messages: list[dict[str, Any]] = []
        self.journal: list[dict[str, Any]] = []
        self.faults: list[Fault] = []
        self.session = {
            "id": THREAD,
            "last_position": 4,
            "message_count": 4,
            "remembered_count": 4,
            "input_tokens": 20,
            "output_tokens": 10,
        }
        for number, text in ((1, "tool a"), (2, "memory b")):
            self.add_turn(number, text)

    def add_turn(self, number: int, text: str) -> None:
        said = "I remember: a" if text.startswith("memory") else "a done"
        sending = Sending(THREAD, text, f"key{number}", turn_ids={f"turn{number}"}, said=said)
        sending.closing = {"status": "completed"}
        self.sendings.append(sending)
        self.turns.append(
            {
                "id": f"turn{number}",
                "session_id": THREAD,
                "number": number,
                "status": "completed",
                "finished_at": 1.0,
                "warning": "",
                "user_message_id": f"user{number}",
                "answer_message_id": f"answer{number}",
                "input_tokens": 10,
                "output_tokens": 5,
            }
        )
        for offset, (role, content) in enumerate((("user", text), ("assistant", said))):
            self.messages.append(
                {
                    "id": f"{'answer' if offset else 'user'}{number}",
                    "session_id": THREAD,
                    "turn_id": f"turn{number}",
                    "position": 2 * number - 1 + offset,
                    "role": role,
                    "text": content,
                    "shown": True,
                    "incomplete": False,
                    "agent_item": json.dumps({"role": role, "content": content}),
                    "quarantined_at": None,
                }
            )
        at = {"text": text, "pid": number, "after_tool": False}
        self.journal += [
            {"fact": "begin", "at": 10.0 * number, **at},
            {"fact": "end", "at": 10.0 * number + 5, **at},
        ]
        if text.startswith("tool"):
            self.journal.append({"fact": "tool", "at": 11.0, "pid": number, "text": text})

    def violations(self) -> list[str]:
        rows = {
            "integrity": "ok",
            "sessions": [self.session],
            "turns": self.turns,
            "messages": self.messages,
        }
        evidence = Evidence(self.sendings, rows, self.journal, 1.5, self.faults)
        return find_violations(evidence)


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_what_is_as_it_should_be_has_no_violation(scene):
    assert scene.violations() == []


def lose(scene: Scene) -> None:
    del scene.messages[0]


def double(scene: Scene) -> None:
    scene.messages.append(scene.messages[0] | {"id": "again", "position": 5})


def tangle(scene: Scene) -> None:
    scene.messages[0]["position"], scene.messages[2]["position"] = 3, 1


def leave_open(scene: Scene) -> None:
    scene.turns[1]["status"] = "running"


def answer_twice(scene: Scene) -> None:
    scene.messages.append(scene.messages[1] | {"id": "again", "position": 5})


def tell_another_answer(scene: Scene) -> None:
    scene.sendings[0].said = "a d"


def tell_another_end(scene: Scene) -> None:
    scene.turns[0]["status"] = "interrupted"


def miscount(scene: Scene) -> None:
    scene.session["remembered_count"] = 3


def forget_the_call(scene: Scene) -> None:
    output = {"type": "function_call_output", "call_id": "c", "output": ""}
    scene.messages[1]["agent_item"] = json.dumps(output)


def forget_the_output(scene: Scene) -> None:
    scene.messages[1]["agent_item"] = json.dumps({"type": "function_call", "call_id": "c"})


def overlap(scene: Scene) -> None:
    scene.journal[1]["at"] = 20.1


def run_again(scene: Scene) -> None:
    scene.journal += [line | {"pid": 7, "at": line["at"] + 90} for line in scene.journal[:2]]


def run_without_end(scene: Scene) -> None:
    interrupt_the_first(scene)
    del scene.journal[1]


def interrupt_the_first(scene: Scene) -> None:
    scene.turns[0]["status"] = "interrupted"
    scene.sendings[0].closing = {"status": "failed"}


def run_the_tool_twice(scene: Scene) -> None:
    scene.journal.append(scene.journal[2])


def forget_what_was_said(scene: Scene) -> None:
    scene.sendings[1].said = scene.messages[3]["text"] = "I remember:"


def become_two_turns(scene: Scene) -> None:
    scene.sendings[0].turn_ids |= scene.sendings[1].turn_ids


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lose, "is lost"),
        (double, "is stored 2 times"),
        (tangle, "is stored before"),
        (leave_open, "is still running"),
        (answer_twice, "has 2 answers"),
        (tell_another_answer, "is not the stored answer"),
        (tell_another_end, "told completed, stored as interrupted"),
        (miscount, "remembered_count says 3"),
        (forget_the_call, "an output without its call"),
        (forget_the_output, "a call without its output"),
        (overlap, "overlap"),
        (run_again, "was given to the model 2 times"),
        (run_without_end, "has no end"),
        (run_the_tool_twice, "ran 2 times"),
        (forget_what_was_said, "did not remember all"),
        (become_two_turns, "became 2 turns"),
    ],
)
def test_what_is_spoilt_is_found(scene, spoil, words):
    spoil(scene)
    assert any(words in violation for violation in scene.violations())


def test_a_run_whose_process_was_killed_needs_no_end(scene):
    run_without_end(scene)
    scene.faults.append(Fault("kill", pid=1, at=11.0, ended_at=11.0))
    assert scene.violations() == []


def test_a_run_that_slept_past_its_lease_may_end_during_the_next(scene):
    overlap(scene)
    interrupt_the_first(scene)
    scene.faults.append(Fault("pause", pid=1, at=11.0, ended_at=20.0))
    assert scene.violations() == []


def test_a_run_that_was_completed_has_no_such_excuse(scene):
    overlap(scene)
    scene.faults.append(Fault("pause", pid=1, at=11.0, ended_at=20.0))
    assert any("overlap" in violation for violation in scene.violations())


def test_a_run_taken_over_while_its_process_still_had_its_lease_is_an_overlap(scene):
    overlap(scene)
    interrupt_the_first(scene)
    scene.faults.append(Fault("pause", pid=1, at=19.9, ended_at=20.05))
    assert any("overlap" in violation for violation in scene.violations())


def late_run(scene: Scene) -> None:
    """The first run began when its process woke up, in the middle of the second."""
    scene.sendings[0].attempts = [Attempt(pid=1, begun_at=9.0, ended_at=30.0)]
    scene.faults.append(Fault("pause", pid=1, at=10.0, ended_at=21.0))
    scene.journal[0]["at"], scene.journal[1]["at"] = 21.1, 22.0


def test_a_run_that_began_after_its_process_had_slept_is_not_in_the_line(scene):
    late_run(scene)
    interrupt_the_first(scene)
    assert scene.violations() == []


def test_such_a_run_must_not_be_completed(scene):
    late_run(scene)
    assert any("overlap" in violation for violation in scene.violations())


def test_the_calls_of_the_model_around_a_tool_are_one_run():
    journal = [
        {"fact": fact, "at": at, "pid": 1, "text": "tool a", "after_tool": after_tool}
        for fact, at, after_tool in [
            ("begin", 1.0, False),
            ("end", 2.0, False),
            ("begin", 3.0, True),
            ("end", 4.0, True),
        ]
    ]
    (run,) = find_runs(journal, ["tool a"])
    assert (run.begun_at, run.ended_at) == (1.0, 4.0)
    (run,) = find_runs(journal[:3], ["tool a"])
    assert run.ended_at is None
