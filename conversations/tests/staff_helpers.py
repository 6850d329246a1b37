"""What tests of the staff's pages share: who looks, what is there to see, what it costs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final
from unittest import mock

from django.contrib.auth.models import Permission
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from conversations import lanes
from conversations.events import Usage
from conversations.items import Row, row_from_item
from conversations.lanes.database import SqliteDatabase
from conversations.models import ChatMessage, ChatSession, ChatTurn
from conversations.store import log
from conversations.tests import factories

LIST: Final = "/admin/conversations/chatsession/"
READER: Final = ("view_chatsession", "view_transcript")


def browser(*rights: str, **user: Any) -> Client:
    """Of a member of the staff with some rights."""
    client = Client()
    member = factories.UserFactory(is_staff=True, **user)
    member.user_permissions.set(Permission.objects.filter(codename__in=rights))
    client.force_login(member)
    client.user = member  # type: ignore[attr-defined]
    return client


def said(text: str) -> Row:
    return row_from_item({"role": "user", "content": text})


def answered(text: str) -> Row:
    content = [{"type": "output_text", "text": text}]
    return row_from_item({"type": "message", "role": "assistant", "content": content})


def called(name: str = "look_up", arguments: str = "{}", call_id: str = "c1") -> Row:
    item = {"type": "function_call", "call_id": call_id, "name": name, "arguments": arguments}
    return row_from_item(item)


def output(value: Any = "found", call_id: str = "c1") -> Row:
    return row_from_item({"type": "function_call_output", "call_id": call_id, "output": value})


def reasoned(text: str) -> Row:
    summary = [{"type": "summary_text", "text": text}]
    return row_from_item({"type": "reasoning", "id": "r1", "summary": summary})


def take_turn(session: Any, *rows: Row, status: str = "completed", **turn: Any) -> ChatTurn:
    """A turn that has stored these rows."""
    ChatSession.objects.filter(id=session.id).update(last_turn_number=_next_number(session))
    now: datetime = turn.pop("now", timezone.now())
    values = {
        "model": "model-1",
        "requests": 1,
        "queued_at": now,
        "started_at": now,
        "finished_at": now + timedelta(seconds=2),
        "user_message_id": rows[0].id if rows else None,
        "lease_until": 2**60 if status == "running" else None,
    }
    number = ChatSession.objects.get(id=session.id).last_turn_number
    made = ChatTurn.objects.create(session=session, number=number, status=status, **values | turn)
    name = session.agent_session_id
    lanes.perform(partial(log.append, agent_session_id=name, rows=rows, usage=Usage(), now=now))
    ChatMessage.objects.filter(id__in=[row.id for row in rows]).update(turn=made)
    return made


def page(client: Client, address: str, **params: Any) -> str:
    response = client.get(address, params)
    assert response.status_code == 200, response.status_code
    return response.content.decode()


def transcript(client: Client, session: Any, **params: Any) -> str:
    return page(client, f"{LIST}{session.id}/transcript/", **params)


def window(client: Client, session: Any, **params: Any) -> str:
    return page(client, f"{LIST}{session.id}/model/", **params)


@contextmanager
def counted() -> Iterator[list[str]]:
    """The SQL of what runs meanwhile: Django's, and what goes beneath its cursor."""
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


def _next_number(session: Any) -> int:
    return int(ChatSession.objects.get(id=session.id).last_turn_number) + 1
