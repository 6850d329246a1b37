"""What people think of an answer: over REST, for its owner alone, and gone with its message."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest
from django.contrib.auth.models import Permission
from django.test import Client

from conversations import feedback, lanes, threads
from conversations.agents_session import AgentSession
from conversations.models import ChatMessage, Feedback
from conversations.tests.factories import ChatSessionFactory, UserFactory


def write(session: Any, text: str = "Hello", **values: Any) -> ChatMessage:
    session.last_position += 1
    session.save()
    options = {"kind": "message", "role": "assistant", "text": text, "shown": True}
    return ChatMessage.objects.create(
        session=session, position=session.last_position, **options | values
    )


@pytest.fixture
def message(session: Any) -> ChatMessage:
    return write(session)


def url(session: Any, message_id: Any) -> str:
    return f"/chatkit/threads/{session.id}/messages/{message_id}/feedback"


async def give(session: Any, message: ChatMessage) -> None:
    await feedback.give(
        session_id=session.id,
        owner_id=session.owner_id,
        message_ids=[message.id],
        kind="positive",
        comment="Good",
    )


async def test_the_last_judgement_counts_and_is_in_the_transcript(client, session, message, user):
    other = await lanes.call(write, session)
    for body, expected in (
        ({"kind": "positive", "comment": "Good"}, {"kind": "positive", "comment": "Good"}),
        ({"kind": "negative"}, {"kind": "negative", "comment": "Good"}),
        ({"kind": "negative", "comment": ""}, {"kind": "negative", "comment": ""}),
    ):
        response = await client.post(url(session, message.id), json=body)
        assert (response.status_code, response.json()) == (200, expected)
    stored = await lanes.call(Feedback.objects.get)
    assert (stored.user_id, stored.message_id, stored.kind) == (user.pk, message.id, "negative")
    assert stored.created_at < stored.updated_at
    transcript = (await client.get(f"/chatkit/threads/{session.id}")).json()
    by_id = {each["message_id"]: each for each in transcript["messages"]}
    assert by_id[str(message.id)]["feedback"] == expected
    assert "feedback" not in by_id[str(other.id)]


async def test_only_ones_own_messages_are_judged(client, strangers_client, session, message):
    body = {"kind": "positive"}
    elsewhere = await lanes.call(lambda: write(ChatSessionFactory(owner=session.owner)))
    unseen = await lanes.call(lambda: write(session, shown=False))
    hidden = await lanes.call(
        lambda: write(session, shown=False, kind="hidden_context_item", thread_item="{}")
    )
    for message_id in (elsewhere.id, unseen.id, hidden.id, uuid4(), "msg_1"):
        response = await client.post(url(session, message_id), json=body)
        assert (response.status_code, response.json()["error"]["code"]) == (404, "not_found")
    response = await strangers_client.post(url(session, message.id), json=body)
    assert (response.status_code, response.json()["error"]["code"]) == (404, "thread_not_found")
    assert await lanes.call(Feedback.objects.count) == 0


@pytest.mark.parametrize("way", ["clear", "delete", "pop", "user"])
async def test_feedback_goes_with_its_message(way, session):
    memory = AgentSession(session.agent_session_id)
    await memory.add_items([{"role": "assistant", "content": "Hi"}])
    await give(session, await lanes.call(ChatMessage.objects.get))
    assert await lanes.call(Feedback.objects.count) == 1
    if way == "clear":
        await threads.clear_thread(session_id=session.id, owner_id=session.owner_id)
    elif way == "delete":
        await threads.delete_thread(session_id=session.id, owner_id=session.owner_id)
    elif way == "pop":
        await memory.pop_item()
    else:
        await lanes.call(session.owner.delete)
    assert await lanes.call(Feedback.objects.count) == 0
    assert await lanes.call(ChatMessage.objects.count) == 0


async def test_staff_read_feedback_and_change_nothing_of_it(session, message):
    await give(session, message)

    def look() -> None:
        member = UserFactory(is_staff=True)
        member.user_permissions.add(Permission.objects.get(codename="view_feedback"))
        browser = Client()
        browser.force_login(member)
        stored = Feedback.objects.get()
        listed = "/admin/conversations/feedback/"
        assert "Good" in browser.get(listed + "?kind__exact=positive").content.decode()
        assert "Good" not in browser.get(listed + "?kind__exact=negative").content.decode()
        page = browser.get(f"{listed}{stored.pk}/change/")
        assert page.status_code == 200
        assert 'type="submit"' not in page.content.decode().partition("content-main")[2]
        assert browser.get(f"{listed}add/").status_code == 403
        assert browser.post(f"{listed}{stored.pk}/delete/", {"post": "yes"}).status_code == 403
        member.user_permissions.clear()
        assert browser.get(listed).status_code == 403

    await lanes.call_patiently(look)
    assert str(await lanes.call(Feedback.objects.get)) == f"positive feedback on {message.id}"
