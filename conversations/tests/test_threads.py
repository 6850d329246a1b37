"""What a person does with their conversations, without HTTP."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.core.files.storage import storages

from conversations import lanes, threads, turns
from conversations.errors import ThreadHeld, ThreadNotFound
from conversations.models import Attachment, ChatMessage, ChatSession, ChatTurn
from conversations.tests import factories, scripted
from conversations.tests.scripted import Say


async def stored(session_id: UUID) -> ChatSession:
    return await lanes.call(ChatSession.objects.get, id=session_id)


async def say(session: Any, text: str = "Hello") -> Any:
    """Said and answered."""
    turn = await turns.send(session_id=session.id, owner_id=session.owner_id, text=text)
    await turns.settled(session.id)
    return turn


async def counts() -> tuple[int, ...]:
    models = (ChatSession, ChatTurn, ChatMessage)
    return await lanes.call(lambda: tuple(model.objects.count() for model in models))


async def test_a_conversation_is_begun(user):
    thread = await threads.create_thread(
        owner_id=user.pk, title="Plans", metadata={"a": [1, {"b": None}]}
    )
    session = await stored(thread.id)
    assert (session.title, session.metadata) == ("Plans", {"a": [1, {"b": None}]})
    assert session.owner_id == user.pk
    assert session.agent_session_id.endswith(f"_conv_{thread.id}")
    assert (thread.title, thread.status, thread.message_count) == ("Plans", "active", 0)
    assert thread.created_at == thread.updated_at == thread.last_active_at


async def test_it_needs_neither_title_nor_metadata(user):
    thread = await threads.create_thread(owner_id=user.pk)
    session = await stored(thread.id)
    assert (session.title, session.metadata) == ("", {})


async def test_only_what_is_given_changes(user):
    thread = await threads.create_thread(owner_id=user.pk, title="Plans", metadata={"a": 1})
    changed = await threads.update_thread(session_id=thread.id, owner_id=user.pk, status="locked")
    assert (changed.title, changed.status) == ("Plans", "locked")
    changed = await threads.update_thread(session_id=thread.id, owner_id=user.pk, metadata={})
    assert (changed.title, changed.status) == ("Plans", "locked")
    assert (await stored(thread.id)).metadata == {}
    assert changed.updated_at > thread.updated_at
    assert changed.last_active_at == thread.last_active_at  # reading and renaming keep nothing


async def test_another_persons_conversation_is_as_unknown_as_none(session, stranger):
    calls = (threads.update_thread, threads.clear_thread, threads.delete_thread)
    before = await lanes.call(ChatSession.objects.values().get)
    for call in calls:
        for session_id, owner_id in ((session.id, stranger.pk), (uuid4(), stranger.pk)):
            with pytest.raises(ThreadNotFound):
                await call(session_id=session_id, owner_id=owner_id)
    assert await lanes.call(ChatSession.objects.values().get) == before


async def test_clearing_forgets_the_words_and_keeps_what_they_cost(session):
    await say(session)
    await say(session)
    cleared = await threads.clear_thread(session_id=session.id, owner_id=session.owner_id)
    assert cleared == 4
    assert await counts() == (1, 2, 0)
    kept = await stored(session.id)
    assert (kept.message_count, kept.remembered_count, kept.input_tokens) == (0, 0, 20)
    assert await threads.clear_thread(session_id=session.id, owner_id=session.owner_id) == 0
    await say(session, "Do you remember?")
    assert len(scripted.SCRIPT.inputs[-1]) == 1


async def test_deleting_leaves_nothing(session):
    await say(session)
    await threads.delete_thread(session_id=session.id, owner_id=session.owner_id)
    assert await counts() == (0, 0, 0)
    with pytest.raises(ThreadNotFound):
        await threads.delete_thread(session_id=session.id, owner_id=session.owner_id)


@pytest.mark.parametrize("door", [threads.clear_thread, threads.delete_thread])
async def test_the_files_that_came_with_it_go_too_bytes_and_all(door, session):
    def send(at: Any) -> Any:
        common = {"owner": session.owner, "session": at, "message_id": uuid4()}
        return factories.AttachmentFactory(**common)

    gone = await lanes.call(send, session)
    elsewhere = await lanes.call(lambda: factories.ChatSessionFactory(owner=session.owner))
    kept = await lanes.call(send, elsewhere)
    await door(session_id=session.id, owner_id=session.owner_id)
    assert await lanes.call(list, Attachment.objects.all()) == [kept]
    storage = storages["attachments"]
    assert not storage.exists(gone.storage_name)
    assert storage.exists(kept.storage_name)


@pytest.mark.parametrize("door", [threads.clear_thread, threads.delete_thread])
async def test_what_is_on_hold_stays(door, session):
    await say(session)
    await lanes.call(ChatSession.objects.update, hold=True)
    before = await counts()
    with pytest.raises(ThreadHeld):
        await door(session_id=session.id, owner_id=session.owner_id)
    assert await counts() == before


@pytest.mark.parametrize("door", [threads.clear_thread, threads.delete_thread])
@pytest.mark.parametrize("change", ["held", "gone"])
async def test_a_hold_or_deletion_at_the_last_moment_counts(door, change, session, monkeypatch):
    async def meanwhile(session_id: UUID, *, reason: str = "") -> None:
        if change == "held":
            await lanes.call(ChatSession.objects.update, hold=True)
        else:
            await lanes.call(ChatSession.objects.all().delete)

    monkeypatch.setattr(turns, "stop_session", meanwhile)
    with pytest.raises(ThreadHeld if change == "held" else ThreadNotFound):
        await door(session_id=session.id, owner_id=session.owner_id)
    assert (await counts())[0] == (1 if change == "held" else 0)


@pytest.mark.parametrize("door", [threads.clear_thread, threads.delete_thread])
async def test_what_runs_and_waits_is_ended_first(door, session, script):
    script(Say("One two", gate=asyncio.Event()))
    running = await turns.send(session_id=session.id, owner_id=session.owner_id, text="a")
    waiting = await turns.send(session_id=session.id, owner_id=session.owner_id, text="b")
    async for batch in running.listen():
        if any(getattr(event, "text", "") for _, event in batch):
            break  # it speaks
    await door(session_id=session.id, owner_id=session.owner_id)
    assert running.closed
    assert waiting.closed
    assert len(scripted.SCRIPT.inputs) == 1
    kept = 1 if door is threads.clear_thread else 0
    assert (await counts())[0::2] == (kept, 0)
