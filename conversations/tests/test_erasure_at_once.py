"""A person is erased by two at once: they end one after the other, with one receipt."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import pytest
from django.db import connections
from django.utils import timezone

from conversations import erasure, lanes
from conversations.models import OpenRemoval
from conversations.store import erasing, ledger
from conversations.tests import factories
from conversations.tests.ledger_helpers import entries
from conversations.tests.sweeps_helpers import remember

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.mark.parametrize("scope", ["conversations", "account"])
def test_two_that_erase_the_same_person_tell_it_once(session, monkeypatch, scope):
    remember(session, 5)
    factories.AttachmentFactory(owner=session.owner)
    expected = erasure.preview(user_id=session.owner_id, now=timezone.now(), scope=scope)
    both, note = threading.Barrier(2), erasing.note

    def meet(db: Any, *, user_id: Any, counts: Mapping[str, int]) -> dict[str, int]:
        noted = note(db, user_id=user_id, counts=counts)
        if noted and not counts:  # about to be told
            with suppress(threading.BrokenBarrierError):
                both.wait(0.3)
        return noted

    monkeypatch.setattr(erasing, "note", meet)
    numbers: list[int | None] = []

    def work() -> None:
        try:
            steps = erasure.erase(
                user_id=session.owner_id, actor=ledger.COMMAND, now=timezone.now(), scope=scope
            )
            numbers.append(list(steps)[-1].ledger_number)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(numbers, key=str) == [1, None]
    (told,) = entries()
    assert told["counts"] | {"bytes": told["byte_count"]} == expected.counts
    assert not OpenRemoval.objects.exists()
    assert lanes.look_up(ledger.verify).is_whole
