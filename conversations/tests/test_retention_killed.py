"""A cleanup that is killed anywhere, again and again, comes to the same end as one that is not."""

from __future__ import annotations

import json
from typing import Any

import pytest

from conversations import holds, lanes, retention
from conversations.models import ChatSession, CleanupPage, LedgerEntry
from conversations.store import ledger
from conversations.tests.other_process import SITE, run_python
from conversations.tests.retention_helpers import NOW, full, idle, left
from conversations.tests.sweeps_helpers import remember

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow]

KILLED = (
    SITE
    + """
    import json, random, signal
    from datetime import datetime
    from uuid import UUID
    from conversations import retention
    from conversations.lanes.database import DjangoDatabase, SqliteDatabase
    from conversations.retention import applying

    plan_id, now, seed = sys.argv[1:]
    applying.PIECE_ROWS, applying.FIRST_ROWS = 10, 4
    statements, ends = random.Random(int(seed)), []

    def work(left):
        for kind in (SqliteDatabase, DjangoDatabase):
            execute = kind._execute
            def counting(db, sql, params, execute=execute):
                nonlocal left
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return execute(db, sql, params)
            kind._execute = counting
        retention.apply(UUID(plan_id), now=datetime.fromisoformat(now), batch_size=3)

    while not ends or ends[-1]:
        left = statements.randrange(1, 90)
        child = os.fork()
        if not child:
            try:
                work(left)
            except BaseException as error:
                print(repr(error), file=sys.stderr, flush=True)
                os._exit(1)
            os._exit(0)
        ends.append(os.waitpid(child, 0)[1])
        assert ends[-1] in (0, signal.SIGKILL), ends
    print(json.dumps(len(ends) - 1))
"""
)


@pytest.mark.parametrize("seed", [1, 2])
def test_killed_again_and_again_it_comes_to_the_same_end(user, stranger, seed):
    for number in range(20):
        idle(user, messages=number % 4)
    full(user)
    idle(None, messages=45)
    used, held, late = idle(stranger), idle(stranger), idle(stranger, since=NOW)
    planned = retention.plan_cleanup(now=NOW)
    remember(used, 1)
    said: dict[str, Any] = {"reason": "a case", "actor": "command", "now": NOW}
    holds.hold_session(session_id=held.id, **said)
    printed = run_python(KILLED, str(planned.plan_id), NOW.isoformat(), str(seed))
    assert json.loads(printed) > 3
    receipt = retention.get_receipt(planned.plan_id)
    assert set(ChatSession.objects.values_list("id", flat=True)) == {used.id, held.id, late.id}
    assert left() == {"ChatSession": 3, "ChatMessage": 7}
    assert (receipt.sessions, receipt.awake, receipt.held, receipt.failed) == (22, 1, 1, 0)
    assert receipt.messages == planned.messages - 4
    assert receipt.attachments == planned.attachments == 1
    assert receipt.finished
    assert receipt.planned == 24
    told = LedgerEntry.objects.get(action="cleanup")
    assert (told.number, told.byte_count) == (receipt.ledger_number, receipt.bytes)
    counts = {"sessions": 22, "messages": receipt.messages, "attachments": 1}
    assert json.loads(told.counts) == counts
    assert lanes.look_up(ledger.verify).is_whole
    assert not CleanupPage.objects.exists()
