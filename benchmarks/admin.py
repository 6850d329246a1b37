"""What the staff's pages cost where there is much: 50,000 conversations of 1,000,000 entries.

    python -m benchmarks.admin [--sessions 50000] [--messages 1000000] [--rounds 15]
                               [--database-url postgresql://.../empty]

Each page is asked for by the test client, from the address to the last byte; the queries of one
visit are counted, those beneath Django's cursor included.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any
from unittest import mock

import chatsite  # noqa: F401 - first: the SQLite library
from benchmarks.measure import fresh_site, table

PEOPLE, TURNS, LONG = 500, 4, 10_000
LIST = "/admin/conversations/chatsession/"
PAGE_BARS = (150.0, 9)
TRANSCRIPT_BARS = (100.0, 14)


class Filled:
    """A site with many conversations, and one of `LONG` entries."""

    def __init__(self, *, sessions: int, messages: int) -> None:
        from django.contrib.auth import get_user_model
        from django.db import connection
        from django.utils import timezone

        self.on_sqlite = connection.vendor == "sqlite"
        self.now = timezone.now()
        self.staff = get_user_model().objects.create(
            username="staff", is_staff=True, is_superuser=True
        )
        people = [get_user_model()(username=f"person{n}") for n in range(PEOPLE)]
        get_user_model().objects.bulk_create(people)
        self._first = get_user_model().objects.get(username="person0").pk
        with connection.cursor() as self._cursor:
            self._sessions(sessions)
            self._turns(sessions * TURNS)
            self._messages(messages, sessions)
            self._feedback(sessions)
            self.long = self._one_long(sessions)
            self._cursor.execute("ANALYZE")

    def _run(self, count: int, sql: str, *params: Any) -> None:
        series = "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < %s)"
        self._cursor.execute(sql.replace("SERIES", series), [count - 1, *params])

    def _id(self, number: str, kind: str) -> str:
        """A UUID of a number, in the order of numbers."""
        if self.on_sqlite:
            return f"printf('{kind}%%031x', {number})"
        return f"('{kind}' || lpad(to_hex(({number})::bigint), 31, '0'))::uuid"

    def _ago(self, seconds: str) -> str:
        moment = self.now.replace(tzinfo=None).isoformat(" ")
        if self.on_sqlite:
            return (
                f"strftime('%%Y-%%m-%%d %%H:%%M:%%f', '{moment}', '-' || ({seconds}) || ' seconds')"
            )
        return f"timestamptz '{moment}+00' - ({seconds}) * interval '1 second'"

    def _sessions(self, count: int) -> None:
        status = (
            "CASE WHEN i %% 50 = 0 THEN 'locked' WHEN i %% 70 = 0 THEN 'closed' ELSE 'active' END"
        )
        is_held = "i %% 400 = 0" if self.on_sqlite else "(i %% 400 = 0)"
        self._run(
            count,
            "INSERT INTO conversations_chatsession (id, agent_session_id, owner_id, title, status,"
            " metadata, hold, hold_reason, last_position, last_turn_number, fence,"
            " remembered_count, message_count, item_count, pruned_count, quarantined_count,"
            " input_tokens, output_tokens, created_at, updated_at, last_active_at)"
            f" SERIES SELECT {self._id('i', '0')}, 'session ' || i, {self._first} + i %% {PEOPLE},"
            f" 'Plan number ' || i, {status}, '{{}}', {is_held}, '', 20, {TURNS}, 0, 20, 10, 20,"
            " 0, CASE WHEN i %% 500 = 0 THEN 1 ELSE 0 END, i, i,"
            f" {self._ago('i * 12')}, {self._ago('i * 12')}, {self._ago('i * 12')} FROM n",
        )

    def _turns(self, count: int) -> None:
        status = "CASE WHEN i %% 997 = 0 THEN 'failed' ELSE 'completed' END"
        warning = "CASE WHEN i %% 1499 = 0 THEN 'Context unavailable' ELSE '' END"
        self._run(
            count,
            "INSERT INTO conversations_chatturn (id, session_id, number, status, input, fence,"
            " lease_owner, model, requests, input_tokens, output_tokens, error_code, warning,"
            " event_count, queued_at, started_at, finished_at)"
            f" SERIES SELECT {self._id('i', '1')}, {self._id(f'i / {TURNS}', '0')},"
            f" i %% {TURNS} + 1, {status}, '', 0, '', 'model-' || (i %% 3), 2, 500, 100, '',"
            f" {warning}, 0, {self._ago('i * 3')}, {self._ago('i * 3')}, {self._ago('i * 3')}"
            " FROM n",
        )

    def _messages(self, count: int, sessions: int) -> None:
        each = max(1, count // sessions)
        self._run(
            each * sessions,
            _MESSAGES.format(
                id=self._id("i", "2"),
                session=self._id(f"i / {each}", "0"),
                turn=self._id(f"i / {each} * {TURNS} + (i %% {each}) * {TURNS} / {each}", "1"),
                position=f"i %% {each} + 1",
                when=self._ago("i"),
            ),
        )

    def _feedback(self, sessions: int) -> None:
        self._run(
            sessions // 100,
            "INSERT INTO conversations_feedback (id, message_id, session_id, user_id, kind,"
            f" comment, created_at, updated_at) SERIES SELECT {self._id('i', '3')}, m.id,"
            f" m.session_id, {self._first}, CASE WHEN i %% 2 = 0 THEN 'negative' ELSE 'positive'"
            f" END, '', {self._ago('i')}, {self._ago('i')} FROM n JOIN conversations_chatmessage m"
            f" ON m.session_id = {self._id('i * 100', '0')} AND m.position = 2",
        )

    def _one_long(self, number: int) -> Any:
        from conversations.models import ChatSession

        session = ChatSession.objects.create(
            agent_session_id="long",
            owner_id=self._first,
            title="A long one",
            last_active_at=self.now + timedelta(seconds=1),
            last_position=LONG,
            last_turn_number=LONG // 4,
            remembered_count=200,
            message_count=LONG // 2,
            item_count=LONG,
        )
        key = f"'{session.id.hex if self.on_sqlite else session.id}'"
        key = key if self.on_sqlite else f"{key}::uuid"
        first = number * TURNS
        self._run(
            LONG // 4,
            "INSERT INTO conversations_chatturn (id, session_id, number, status, input, fence,"
            " lease_owner, model, requests, input_tokens, output_tokens, error_code, warning,"
            " event_count, queued_at, started_at, finished_at)"
            f" SERIES SELECT {self._id(f'i + {first}', '1')}, {key}, i + 1, 'completed', '', 0,"
            f" '', 'model-1', 2, 500, 100, '', '', 0, {self._ago('9')}, {self._ago('8')},"
            f" {self._ago('5')} FROM n",
        )
        self._run(
            LONG,
            _MESSAGES.format(
                id=self._id("i", "4"),
                session=key,
                turn=self._id(f"i / 4 + {first}", "1"),
                position="i + 1",
                when=self._ago("1"),
            ),
        )
        self._cursor.execute(
            f"UPDATE conversations_chatmessage SET forgotten_at = created_at"
            f" WHERE session_id = {key} AND position <= {LONG - 200}"
        )
        return session


_SAID = "Some **words** about plan ' || i || ':\n\n- one\n- two, with `code`\n\nAnd so on, and on."
_MESSAGES = (
    "INSERT INTO conversations_chatmessage (id, session_id, position, turn_id, kind, role, call_id,"
    " caller_id, text, shown, incomplete, agent_item, quarantine_reason, created_at)"
    " SERIES SELECT {id}, {session}, {position}, {turn},"
    " CASE i %% 4 WHEN 1 THEN 'function_call' WHEN 2 THEN 'function_call_output'"
    " ELSE 'message' END,"
    " CASE i %% 4 WHEN 0 THEN 'user' WHEN 3 THEN 'assistant' ELSE '' END,"
    " CASE WHEN i %% 4 IN (1, 2) THEN 'c' || i / 4 ELSE '' END, '',"
    " CASE WHEN i %% 4 IN (0, 3) THEN '" + _SAID + "' ELSE '' END, i %% 4 IN (0, 3), i < 0,"
    ' CASE i %% 4 WHEN 1 THEN \'{{"type":"function_call","call_id":"c\' || i / 4 ||'
    ' \'","name":"look_up","arguments":"{{}}"}}\''
    ' WHEN 2 THEN \'{{"type":"function_call_output","call_id":"c\' || i / 4 ||'
    ' \'","output":"found"}}\''
    ' WHEN 0 THEN \'{{"role":"user","content":"x"}}\''
    ' ELSE \'{{"role":"assistant","content":"x"}}\' END, \'\', {when} FROM n'
)


@contextmanager
def counted() -> Iterator[list[str]]:
    """The SQL of what runs meanwhile: Django's, and what goes beneath its cursor."""
    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    from conversations.lanes.database import SqliteDatabase

    found: list[str] = []
    beneath = SqliteDatabase._execute

    def execute(self: Any, sql: str, params: Any) -> Any:
        found.append(sql)
        return beneath(self, sql, params)

    with (
        mock.patch.object(SqliteDatabase, "_execute", execute),
        CaptureQueriesContext(connection) as context,
    ):
        yield found
    found += [query["sql"] for query in context.captured_queries]


def measure(visit: Callable[[], Any], *, rounds: int) -> tuple[list[float], int]:
    """Milliseconds of each visit, and how many queries one takes."""
    visit()
    with counted() as queries:
        visit()
    times = []
    for _ in range(rounds):
        begun = time.perf_counter()
        visit()
        times.append((time.perf_counter() - begun) * 1e3)
    return times, len(queries)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sessions", type=int, default=50_000)
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--database-url", default="")
    options = parser.parse_args()
    fresh_site(database_url=options.database_url)
    filled = Filled(sessions=options.sessions, messages=options.messages)

    from django.test import Client

    browser = Client(SERVER_NAME="localhost")
    browser.force_login(filled.staff)

    def visit(address: str) -> Callable[[], None]:
        def go() -> None:
            response = browser.get(address)
            assert response.status_code == 200, response.status_code

        return go

    lists = {
        "the list": "",
        "locked": "?status=locked",
        "closed": "?status=closed",
        "active": "?status=active",
        "idle for 3 days": "?idle=3",
        "any trouble": "?trouble=any",
        "failed": "?trouble=failed",
        "set aside": "?trouble=damaged",
        "on hold": "?held=1",
        "disliked": "?feedback=negative",
        "a model": "?model=model-2",
        "no such model": "?model=none",
        "dates": "?since=2000-01-01&until=2100-01-01",
        "a title": "?q=number+49",
        "no such title": "?q=zzz",
        "an owner": "?owner=person7",
        "an id": f"?q={filled.long.id}",
        "all at once": "?status=locked&held=1&trouble=any&feedback=negative&model=x&q=y",
    }
    one = f"{LIST}{filled.long.id}/"
    pages = {
        "transcript of 10,000": f"{one}transcript/",
        "its beginning": f"{one}transcript/?since=0",
        "its middle": f"{one}transcript/?since=5000",
        "its window": f"{one}model/",
    }
    rows, missed = [], 0
    for title, address, bars in [
        *((title, LIST + query, PAGE_BARS) for title, query in lists.items()),
        *((title, address, TRANSCRIPT_BARS) for title, address in pages.items()),
    ]:
        times, queries = measure(visit(address), rounds=options.rounds)
        middle = statistics.median(times)
        is_met = middle <= bars[0] and queries <= bars[1]
        missed += not is_met
        rows.append(
            [title, f"{middle:.1f}", f"{max(times):.1f}", str(queries), "" if is_met else "X"]
        )
    sys.stdout.write(f"milliseconds and queries a visit, {options.rounds} rounds\n\n")
    sys.stdout.write(table(["page", "median", "worst", "queries", "missed"], rows))
    sys.stdout.write(f"\nbars missed: {missed}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
