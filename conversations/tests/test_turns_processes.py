"""Several processes, one conversation: strictly one after the other, whatever dies or sleeps."""

from __future__ import annotations

import signal
from itertools import pairwise
from typing import Any

import pytest

from conversations.models import ChatMessage, ChatSession, ChatTurn, RecordedEvents
from conversations.tests.supervisor_processes import eventually
from conversations.tests.turns_processes import Speaker, speaking
from conversations.tests.turns_worker import ANSWER

pytestmark = pytest.mark.slow

LEASE = 1.0


def shown(session: Any) -> list[tuple[str, str]]:
    rows = ChatMessage.objects.filter(session=session, shown=True).order_by("position")
    return [(row.role, row.text + "…" * row.incomplete) for row in rows]


def turns_of(session: Any) -> list[ChatTurn]:
    return list(ChatTurn.objects.filter(session=session).order_by("number"))


def answered(text: str) -> list[tuple[str, str]]:
    return [("user", text), ("assistant", ANSWER + text)]


def until_kept(session: Any, text: str) -> None:
    """Wait until the answer so far is in the database."""
    told = RecordedEvents.objects.filter(turn__session=session, events__contains=text)
    eventually(told.exists)


def counters_fit(session: Any) -> None:
    found = ChatSession.objects.get(id=session.id)
    rows = ChatMessage.objects.filter(session=session)
    assert found.message_count == rows.filter(shown=True).count()
    assert found.remembered_count == rows.filter(agent_item__isnull=False).count()
    assert sorted(rows.values_list("position", flat=True)) == list(range(1, rows.count() + 1))


def test_four_processes_answer_forty_messages_one_after_the_other(session):
    speakers = [
        Speaker(session, *(f"{process}.{number}" for number in range(10))) for process in range(4)
    ]
    with speaking(*speakers):
        for speaker in speakers:
            speaker.hear("go")
        for speaker in speakers:
            speaker.ends_well()
    found = turns_of(session)
    assert [turn.number for turn in found] == list(range(1, 41))
    assert {turn.status for turn in found} == {"completed"}
    text_of = {fact["turn"]: fact["text"] for s in speakers for fact in s.told("taken")}
    by_ticket = [text_of[str(turn.id)] for turn in found]
    assert shown(session) == [entry for text in by_ticket for entry in answered(text)]
    facts = [fact for speaker in speakers for fact in speaker.facts]
    begun = sorted((fact["at"], fact["text"]) for fact in facts if fact["fact"] == "begun")
    ended = sorted((fact["at"], fact["text"]) for fact in facts if fact["fact"] == "ended")
    assert [text for _, text in begun] == [text for _, text in ended] == by_ticket
    assert all(
        end < following for (end, _), (following, _) in zip(ended[:-1], begun[1:], strict=True)
    )
    assert all(earlier.finished_at <= later.started_at for earlier, later in pairwise(found))
    said = [fact["said"] for fact in facts if fact["fact"] == "answered"]
    assert sorted(said) == sorted([ANSWER + text, "completed"] for text in by_ticket)
    counters_fit(session)


def test_a_process_killed_mid_answer_loses_and_doubles_nothing(session):
    dying = Speaker(session, "first", "second", lease=LEASE, hold=True)
    next_one = Speaker(session, "third", lease=LEASE)
    with speaking(dying, next_one):
        dying.hear("go")
        until_kept(session, ANSWER)
        eventually(lambda: len(dying.told("taken")) == 2)
        dying.send(signal.SIGKILL)
        next_one.hear("go")
        next_one.ends_well()
    first, second, third = turns_of(session)
    assert (first.status, second.status, third.status) == (
        "interrupted",
        "completed",
        "completed",
    )
    words = {fact["turn"]: fact["text"] for fact in dying.told("taken")}
    assert shown(session) == [
        ("user", words[str(first.id)]),
        ("assistant", ANSWER + "…"),
        *answered(words[str(second.id)]),
        *answered("third"),
    ]
    assert second.input == ""
    counters_fit(session)


def test_a_process_that_slept_past_its_lease_can_write_no_more(session):
    sleeping = Speaker(session, "first", lease=LEASE, hold=True)
    next_one = Speaker(session, "second", lease=LEASE)
    with speaking(sleeping, next_one):
        sleeping.hear("go")
        until_kept(session, ANSWER)
        sleeping.send(signal.SIGSTOP)
        next_one.hear("go")
        next_one.ends_well()
        before = shown(session)
        sleeping.hear("open")
        sleeping.send(signal.SIGCONT)
        assert sleeping.until("answered")["said"][1] == "interrupted"
        sleeping.ends_well()
    assert shown(session) == before
    assert before == [("user", "first"), ("assistant", ANSWER + "…"), *answered("second")]
    assert [turn.status for turn in turns_of(session)] == ["interrupted", "completed"]
    counters_fit(session)


def test_the_same_message_sent_to_two_processes_is_answered_once(session):
    first = Speaker(session, "once", key="k", hold=True)
    second = Speaker(session, "once", key="k", hold=True)
    with speaking(first, second):
        for speaker in (first, second):
            speaker.hear("go")
        turn_ids = {speaker.until("taken")["turn"] for speaker in (first, second)}
        for speaker in (first, second):
            speaker.hear("open")
        for speaker in (first, second):
            speaker.ends_well()
    assert len(turn_ids) == 1
    for speaker in (first, second):
        assert speaker.told("answered")[0]["said"] == [ANSWER + "once", "completed"]
    assert len(first.told("begun") + second.told("begun")) == 1
    assert shown(session) == answered("once")
    assert len(turns_of(session)) == 1
    counters_fit(session)
