"""Exports: all that people could read, losslessly, and nothing else."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import httpx
import pytest
from chatkit.types import ThreadItem
from django.db import connection
from django.utils import timezone
from pydantic import TypeAdapter

from conversations import exports, lanes
from conversations.errors import ThreadNotFound
from conversations.ids import new_id
from conversations.models import ChatMessage, ChatSession, ChatTurn, Feedback
from conversations.store import exporting
from conversations.tests import factories

pytestmark = pytest.mark.django_db(transaction=True)

NOW = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)
WIDGET = {
    "type": "widget",
    "widget": {"type": "Card", "children": [{"type": "Text", "value": "Plan"}]},
    "copy_text": "Plan",
}


def write(session: Any, **fields: Any) -> ChatMessage:
    position = session.messages.count() + 1
    given = {"kind": "message", "role": "user", "shown": True, "position": position} | fields
    return ChatMessage.objects.create(session=session, **given)


def export(session: Any, format: Any = "json", owner_id: Any = None) -> str:
    pieces = exports.export_session(
        session_id=session.id, owner_id=owner_id, format=format, now=NOW
    )
    return "".join(pieces)


def as_json(session: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(export(session))
    return found


@pytest.fixture
def spoken(session: Any) -> Any:
    """A question, a widget, an answer that was judged, and what people do not see."""
    ChatSession.objects.filter(id=session.id).update(title="Plans", metadata={"a": [1]})
    turn = ChatTurn.objects.create(session=session, number=1, status="completed", model="m")
    question = write(session, text="What's next?", turn=turn)
    write(session, kind="function_call", role="", shown=False, agent_item='{"secret": "call"}')
    write(session, kind="reasoning", role="", shown=False, agent_item='{"secret": "thought"}')
    hidden = json.dumps({"type": "hidden_context_item", "content": "a secret"})
    write(session, kind="hidden_context_item", role="", shown=False, thread_item=hidden)
    write(session, kind="widget", role="assistant", shown=False, thread_item=json.dumps(WIDGET))
    answer = write(session, role="assistant", text="Rest.", incomplete=True, agent_item="{}")
    Feedback.objects.create(
        message=answer, user=session.owner, kind="negative", comment="Too\nshort"
    )
    factories.AttachmentFactory(
        owner=session.owner, session=session, message_id=question.id, name="a b.png"
    )
    ChatTurn.objects.create(session=session, number=2, status="queued", input="And then?")
    return session


def test_json_tells_what_people_could_read_and_nothing_else(spoken):
    found = as_json(spoken)
    assert (found["thread_id"], found["title"]) == (str(spoken.id), "Plans")
    assert (found["status"], found["metadata"]) == ("active", {"a": [1]})
    assert found["exported_at"] == NOW.isoformat()
    assert [(each["role"], each["content"]) for each in found["messages"]] == [
        ("user", "What's next?"),
        ("assistant", ""),
        ("assistant", "Rest."),
    ]
    question, widget, answer = found["messages"]
    assert question["turn_id"] == found["turns"][0]["turn_id"]
    assert widget["item"] == WIDGET
    assert "item" not in answer
    assert answer["incomplete"] is True
    assert answer["feedback"] == {"kind": "negative", "comment": "Too\nshort"}
    assert [turn["status"] for turn in found["turns"]] == ["completed", "queued"]
    assert found["turns"][1]["waiting"] == "And then?"
    (file,) = found["attachments"]
    assert (file["name"], file["message_id"]) == ("a b.png", question["message_id"])
    assert "secret" not in export(spoken)


def test_each_line_of_jsonl_says_what_it_is(spoken):
    lines = [json.loads(line) for line in export(spoken, "jsonl").splitlines()]
    kinds = [line.pop("type") for line in lines]
    assert kinds == ["conversation", *["message"] * 3, *["turn"] * 2, "attachment"]
    found = as_json(spoken)
    assert lines[1:4] == found["messages"]
    assert lines[4:6] == found["turns"]
    assert lines[6:] == found["attachments"]


def test_markdown_is_for_people(spoken):
    write(spoken, role="assistant", shown=True, text="# Mine")
    told = export(spoken, "markdown")
    assert told.startswith(f"# Plans\n\nConversation {spoken.id}, begun ")
    assert "\n## You, " in told
    assert "\n*[widget]*\n\n## Assistant, " in told
    assert "Rest.\n\n*[cut short]*\n\n*[negative feedback: Too short]*\n" in told
    assert "secret" not in told


def test_markdown_without_a_title_or_words(session):
    write(session, kind="widget", role="", shown=False, text="Plan", thread_item="{}")
    told = export(session, "markdown")
    assert told.startswith("# Conversation\n")
    assert "\n## Assistant, " in told
    assert told.endswith("\n\n*[widget]*\n\nPlan\n")


def test_a_message_with_its_item_is_chatkits_thread_item(spoken):
    for message in as_json(spoken)["messages"]:
        if "item" in message:
            of_the_row = {
                "id": message["message_id"],
                "thread_id": str(spoken.id),
                "created_at": message["created_at"],
            }
            item: Any = TypeAdapter(ThreadItem).validate_python(message["item"] | of_the_row)
            assert item.type == "widget"


@pytest.mark.parametrize(
    "text", ["\u2028 \U0001f642 \"quoted\" \\ 'x'", "line\nbreak\ttab", "<b>&"]
)
def test_texts_come_as_they_are(session, text):
    write(session, text=text)
    for format in ("json", "jsonl"):
        lines = export(session, format).split("\n")
        assert lines[-1] == ""
        found = [json.loads(line) for line in lines[:-1]]
        messages = found[0]["messages"] if format == "json" else found[1:]
        assert messages[0]["content"] == text


def test_what_no_json_or_utf8_holds_is_told_all_the_same(session):
    item = '{"type":"widget","a":NaN,"b":[{"c":-Infinity}],"d":"\\ud800","e":1e22,"f":"\\u0000"}'
    write(session, kind="widget", shown=False, thread_item=item)
    export(session).encode()
    (message,) = as_json(session)["messages"]
    assert message["item"] == {
        "type": "widget",
        "a": None,
        "b": [{"c": None}],
        "d": "\ud800",
        "e": 1e22,
        "f": "\x00",
    }


@pytest.mark.parametrize("thread_item", ["", "{", '{"type":"sdk_hidden_context"}', "[1]"])
def test_what_is_damaged_or_hidden_after_all_is_left_out(session, thread_item):
    write(session, kind="widget", shown=False, thread_item=thread_item)
    write(session, text="Hello", thread_item=thread_item)
    assert [each["content"] for each in as_json(session)["messages"]] == ["Hello"]


def test_many_pages_lose_and_double_nothing(session, monkeypatch):
    monkeypatch.setattr(exporting, "PAGE", 3)
    texts = [f"message {number}" for number in range(10)]
    for text in texts:
        write(session, text=text)
        number = session.turns.count() + 1
        ChatTurn.objects.create(session=session, number=number, status="completed")
        factories.AttachmentFactory(owner=session.owner, session=session, data=None)
    found = as_json(session)
    assert [each["content"] for each in found["messages"]] == texts
    assert len({turn["turn_id"] for turn in found["turns"]}) == 10
    assert len({file["attachment_id"] for file in found["attachments"]}) == 10


def test_a_page_of_long_entries_is_shorter(session, monkeypatch):
    monkeypatch.setattr(exporting, "CHARS_AT_ONCE", 100)
    for _ in range(4):
        write(session, text="x" * 80)
    pieces = list(
        exports.export_session(session_id=session.id, owner_id=None, format="jsonl", now=NOW)
    )
    assert [piece.count("\n") for piece in pieces] == [1, 2, 2]


def test_what_goes_between_two_pages_is_left_out(session, monkeypatch):
    monkeypatch.setattr(exporting, "PAGE", 1)
    for number in range(3):
        write(session, text=str(number))
    pieces = exports.export_session(session_id=session.id, owner_id=None, format="jsonl", now=NOW)
    told = [next(pieces), next(pieces)]
    ChatMessage.objects.filter(text="1").delete()
    told += list(pieces)
    assert [json.loads(line)["content"] for line in told[1:]] == ["0", "2"]


def test_all_of_ones_own_are_lines_and_nobody_elses(spoken, stranger, monkeypatch):
    monkeypatch.setattr(exporting, "IDS_AT_ONCE", 1)
    second = factories.ChatSessionFactory(owner=spoken.owner)
    foreign = factories.ChatSessionFactory(owner=stranger)
    seen = []
    lines = "".join(
        exports.export_sessions(owner_id=spoken.owner_id, now=NOW, told=seen.append)
    ).splitlines()
    assert [json.loads(line)["thread_id"] for line in lines] == [str(spoken.id), str(second.id)]
    assert json.loads(lines[0]) == as_json(spoken)
    assert [each.conversations for each in seen] == [1, 2]
    everybody = "".join(exports.export_sessions(owner_id=None, now=NOW)).splitlines()
    ids = [json.loads(line)["thread_id"] for line in everybody]
    assert ids == [str(each.id) for each in (spoken, second, foreign)]


def test_one_that_is_deleted_meanwhile_is_left_out(user):
    made = [factories.ChatSessionFactory(owner=user) for _ in range(3)]
    rows = sorted(made, key=lambda row: row.id)
    pieces = exports.export_sessions(owner_id=user.pk, now=NOW)
    told = [next(pieces)]
    ChatSession.objects.filter(id=rows[1].id).delete()
    told += list(pieces)
    ids = [json.loads(line)["thread_id"] for line in "".join(told).splitlines()]
    assert ids == [str(rows[0].id), str(rows[2].id)]


def test_anothers_and_a_missing_one_are_not_there(session, stranger):
    for owner_id in (stranger.pk, 0):
        with pytest.raises(ThreadNotFound):
            export(session, owner_id=owner_id)
    with pytest.raises(ThreadNotFound):
        list(exports.export_sessions(owner_id=None, now=NOW, only=new_id()))


def test_feedback_is_the_owners_own(session, stranger):
    message = write(session, text="Hello")
    Feedback.objects.create(message=message, user=stranger, kind="positive")
    ChatSession.objects.filter(id=session.id).update(owner=None)
    assert "feedback" not in as_json(session)["messages"][0]


@pytest.mark.skipif(connection.vendor != "sqlite", reason="SQLite stores anything anywhere")
def test_damaged_rows_hide_nothing_else(session):
    for text in ("Hello", "there"):
        write(session, text=text)
    ChatTurn.objects.create(session=session, number=1, status="completed")
    with connection.cursor() as cursor:
        cursor.execute("UPDATE conversations_chatmessage SET text = X'ff61' WHERE text = 'Hello'")
        cursor.execute("UPDATE conversations_chatmessage SET id = 'x' WHERE text = 'there'")
        cursor.execute("UPDATE conversations_chatsession SET created_at = 'never', title = X'ff'")
    found = as_json(session)
    assert [each["content"] for each in found["messages"]] == ["\ufffda", "there"]
    assert found["messages"][1]["message_id"] is None
    assert found["title"] == "\ufffd"
    assert datetime.fromisoformat(found["created_at"]) > timezone.now() - timedelta(days=1)
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM conversations_chatmessage")


# --- Over HTTP -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("format", "kind", "suffix"),
    [
        ("json", "application/json", "json"),
        ("markdown", "text/markdown; charset=utf-8", "md"),
        ("jsonl", "application/x-ndjson", "jsonl"),
    ],
)
async def test_it_is_a_download_that_no_browser_runs(client, spoken, format, kind, suffix):
    response = await client.get(f"/chatkit/threads/{spoken.id}/export", params={"format": format})
    assert response.status_code == 200
    assert response.headers["Content-Type"] == kind
    name = f"conversation-{spoken.id}.{suffix}"
    assert response.headers["Content-Disposition"] == f'attachment; filename="{name}"'
    assert response.headers["Cache-Control"] == "private, no-store"
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert "sandbox" in response.headers["Content-Security-Policy"]
    assert "What's next?" in response.text


async def test_json_is_what_comes_unasked(client, spoken):
    response = await client.get(f"/chatkit/threads/{spoken.id}/export")
    assert UUID(response.json()["thread_id"]) == spoken.id


async def test_all_of_ones_own_over_http(client, strangers_client, spoken):
    response = await client.get("/chatkit/export")
    assert response.headers["Content-Type"] == "application/x-ndjson"
    assert response.headers["Content-Disposition"].endswith('.ndjson"')
    (line,) = response.text.splitlines()
    assert json.loads(line)["title"] == "Plans"
    nothing = await strangers_client.get("/chatkit/export")
    assert (nothing.status_code, nothing.text) == (200, "")


async def test_a_store_that_fails_in_the_middle_breaks_the_download_off(
    client, session, monkeypatch
):
    def fail(*args: Any, **options: Any) -> Any:
        raise RuntimeError("the disk is gone")

    await lanes.call(write, session, text="Hello")
    monkeypatch.setattr(exporting, "read_turns", fail)
    with pytest.raises((RuntimeError, httpx.HTTPError)):
        await client.get(f"/chatkit/threads/{session.id}/export")
