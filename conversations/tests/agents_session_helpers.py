"""Items for the tests of `AgentSession`, and what is stored of them."""

from __future__ import annotations

from typing import Any

from agents import RunConfig

from conversations import lanes
from conversations.ids import stored_session_id
from conversations.models import ChatMessage, ChatSession

QUIET = RunConfig(tracing_disabled=True)

CALL = {"type": "function_call", "call_id": "c"}
RESULT = {"type": "function_call_output", "call_id": "c", "output": "x"}


def said(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def answer(text: str) -> dict[str, Any]:
    return {"role": "assistant", "type": "message", "content": text}


def numbered(*numbers: int) -> list[dict[str, Any]]:
    return [{"n": number} for number in numbers]


def stored(session_id: str) -> ChatSession:
    return ChatSession.objects.get(agent_session_id=stored_session_id(session_id))


async def row_of(session_id: str) -> ChatSession:
    return await lanes.call(stored, session_id)


def remembered_rows(session_id: str) -> list[tuple[int, str]]:
    rows = ChatMessage.objects.filter(
        session__agent_session_id=stored_session_id(session_id),
        agent_item__isnull=False,
        forgotten_at=None,
        quarantined_at=None,
    )
    return list(rows.order_by("position").values_list("position", "agent_item"))


async def log_of(session_id: str) -> list[tuple[int, str]]:
    """Position and JSON of every remembered row."""
    return await lanes.call(remembered_rows, session_id)


async def transcript(session_id: str) -> list[tuple[str, str]]:
    """What people can read."""
    rows = ChatMessage.objects.filter(
        session__agent_session_id=stored_session_id(session_id), shown=True
    )
    return await lanes.call(lambda: list(rows.order_by("position").values_list("role", "text")))


async def counted(session_id: str) -> ChatSession:
    """The session, whose counters are what its rows say."""

    def look() -> ChatSession:
        row = stored(session_id)
        rows = ChatMessage.objects.filter(session=row)
        assert row.remembered_count == len(remembered_rows(session_id))
        assert row.item_count == rows.count()
        assert row.message_count == rows.filter(shown=True).count()
        return row

    return await lanes.call(look)
