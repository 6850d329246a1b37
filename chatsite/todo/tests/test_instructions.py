"""What a model is told before the conversation."""

from __future__ import annotations

from chatsite.todo.instructions import (
    BEGINNING_IS_FORGOTTEN,
    INSTRUCTIONS,
    is_beginning_forgotten,
    write_instructions,
)
from chatsite.todo.tests.conftest import MONDAY


def test_a_whole_memory_is_told_its_work_and_the_day() -> None:
    told = write_instructions(MONDAY)
    assert told == f"{INSTRUCTIONS}\n\nToday is Monday, 2026-11-23 (UTC)."
    assert not is_beginning_forgotten(told)


def test_a_memory_that_begins_later_is_told_so_too() -> None:
    told = write_instructions(MONDAY, pruned_count=1)
    assert told == f"{write_instructions(MONDAY)}\n\n{BEGINNING_IS_FORGOTTEN}"
    assert is_beginning_forgotten(told)


def test_no_instructions_say_nothing_about_the_beginning() -> None:
    assert not is_beginning_forgotten(None)
