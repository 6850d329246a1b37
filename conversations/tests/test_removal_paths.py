"""Every path on which something said may go: on hold it stays, and else the ledger knows of it.

Whoever adds a path adds it here: a statement that deletes is found by its text.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any, Final

import httpx
import pytest
from django.core.management import call_command
from django.utils import timezone

from conversations import holds, lanes, processes, retention, sweeps
from conversations.agents_session import AgentSession
from conversations.errors import ThreadHeld
from conversations.models import Attachment, ChatMessage, ChatSession, ChatTurn, Feedback
from conversations.store import ledger, shown
from conversations.tests import factories
from conversations.tests.commands import call
from conversations.tests.ledger_helpers import entries
from conversations.tests.retention_helpers import leave
from conversations.tests.sweeps_helpers import remember, speak
from conversations.tests.test_layers import SOURCES

pytestmark = pytest.mark.django_db(transaction=True)

SECRET: Final = "a secret"


@dataclass(frozen=True)
class Place:
    """A conversation in which there is something of everything, and who may remove it."""

    session: Any
    client: httpx.AsyncClient
    message: Any
    turn: Any
    file: Any

    def url(self, rest: str = "") -> str:
        return f"/chatkit/threads/{self.session.id}{rest}"


@pytest.fixture
async def place(session: Any, client: httpx.AsyncClient) -> Place:
    def fill() -> Place:
        remember(session, 3)
        ticket = speak(session, SECRET, process=processes.new_name(), said="words")
        ended = {"status": "completed", "lease_owner": "", "lease_until": None}
        ChatTurn.objects.filter(id=ticket.turn_id).update(**ended, finished_at=timezone.now())
        turn = ChatTurn.objects.get(id=ticket.turn_id)
        message = ChatMessage.objects.get(id=turn.user_message_id)
        Feedback.objects.create(message=message, user=session.owner, kind="positive")
        file = factories.AttachmentFactory(
            owner=session.owner, session=session, message_id=message.id
        )
        return Place(session, client, message, turn, file)

    return await lanes.call(fill)


def content() -> list[Any]:
    """All that was said, as it is stored; what is remembered of it is another matter."""
    columns = ("id", "text", "shown", "thread_item", "agent_item")
    return [
        *ChatMessage.objects.order_by("id").values_list(*columns),
        *Attachment.objects.order_by("id").values_list("id", "status", "name"),
        *Feedback.objects.order_by("id").values_list("id"),
    ]


async def delete_by_rest(place: Place) -> int:
    return (await place.client.delete(place.url())).status_code


async def clear_by_rest(place: Place) -> int:
    return (await place.client.post(place.url("/clear"))).status_code


async def by_chatkit(place: Place, kind: str, **params: Any) -> int:
    body = {"type": kind, "params": {"thread_id": str(place.session.id), **params}}
    return (await place.client.post("/chatkit", json=body)).status_code


async def delete_by_chatkit(place: Place) -> int:
    return await by_chatkit(place, "threads.delete")


async def retry_by_chatkit(place: Place) -> int:
    return await by_chatkit(place, "threads.retry_after_item", item_id=str(place.message.id))


async def delete_file_by_chatkit(place: Place) -> int:
    body = {"type": "attachments.delete", "params": {"attachment_id": str(place.file.id)}}
    return (await place.client.post("/chatkit", json=body)).status_code


async def delete_item(place: Place) -> None:
    from conversations.store.thread_items import delete_item as delete

    job = partial(
        delete,
        session_id=place.session.id,
        owner_id=place.session.owner_id,
        item_id=place.message.id,
        now=timezone.now(),
    )
    await lanes.write(job)


async def command(place: Place, *arguments: str) -> int:
    return (await lanes.call(call, *arguments)).returncode


async def clear_by_command(place: Place) -> int:
    return await command(place, "clear_session", str(place.session.id), "--no-input")


async def erase_by_rest(place: Place) -> int:
    return (await place.client.delete("/chatkit/account-data")).status_code


async def erase_by_command(place: Place) -> int:
    return await command(place, "erase_user", place.session.owner.username, "--no-input")


async def clean_up(place: Place, clean: Callable[[], Any]) -> None:
    await lanes.call(leave, place.session)
    await lanes.call(clean)


async def clean_up_by_schedule(place: Place) -> None:
    await clean_up(place, partial(retention.cleanup, now=timezone.now()))


async def clean_up_by_command(place: Place) -> None:
    await clean_up(place, partial(call_command, "cleanup_sessions", "--no-input", verbosity=0))


async def prune_by_schedule(place: Place) -> None:
    await lanes.call(sweeps.prune_sessions, now=timezone.now())


async def prune_by_command(place: Place) -> int:
    return await command(place, "prune_sessions", str(place.session.id))


async def clear_by_code(place: Place) -> None:
    await AgentSession(place.session.agent_session_id).clear_session()


async def pop_by_code(place: Place) -> None:
    assert await AgentSession(place.session.agent_session_id).pop_item() is not None


async def sweep_unused(place: Place) -> None:
    def sweep() -> None:
        long_ago = timezone.now() - timedelta(days=2)
        Attachment.objects.update(session=None, message_id=None, created_at=long_ago)
        sweeps.sweep_orphans(now=timezone.now())

    await lanes.call(sweep)


async def take_back(place: Place) -> None:
    def take() -> None:
        ticket = speak(place.session, "more", process=processes.new_name())
        ChatMessage.objects.filter(id=place.message.id).update(role="assistant", thread_item="{}")
        lease = ticket.started.lease
        lanes.perform(
            partial(shown.take_back, lease=lease, message_id=place.message.id, now=timezone.now())
        )

    await lanes.call(take)


Path = Callable[[Place], Awaitable[Any]]
PATHS: Final[dict[str, tuple[Path, str, str]]] = {
    "REST: delete a thread": (delete_by_rest, "delete", "user"),
    "ChatKit: delete a thread": (delete_by_chatkit, "delete", "user"),
    "REST: clear a thread": (clear_by_rest, "clear", "user"),
    "ChatKit: retry": (retry_by_chatkit, "retry", "user"),
    "ChatKit: delete an item": (delete_item, "item_deleted", "user"),
    "ChatKit: delete a file": (delete_file_by_chatkit, "attachment_deleted", "user"),
    "schedule: files never sent": (sweep_unused, "attachments_swept", "schedule"),
    "schedule: cleanup": (clean_up_by_schedule, "cleanup", "schedule"),
    "command: cleanup": (clean_up_by_command, "cleanup", "command"),
    "command: clear": (clear_by_command, "clear", "command"),
    "REST: erase all of oneself": (erase_by_rest, "erase", "user"),
    "command: erase a user": (erase_by_command, "erase", "command"),
    "schedule: prune": (prune_by_schedule, "prune", "schedule"),
    "command: prune": (prune_by_command, "prune", "command"),
    "AgentSession.clear_session": (clear_by_code, "clear", "code"),
    "AgentSession.pop_item": (pop_by_code, "item_deleted", "code"),
    "a tool takes back what it showed": (take_back, "item_deleted", "code"),
}
REFUSED: Final = {
    delete_by_rest,
    clear_by_rest,
    delete_by_chatkit,
    retry_by_chatkit,
    erase_by_rest,
}
ALL = pytest.mark.parametrize("name", PATHS)


@pytest.fixture(autouse=True)
def _little_is_remembered(settings: Any) -> None:
    settings.AGENT_SESSION_MAX_MESSAGES = 2


@ALL
async def test_what_goes_is_in_the_ledger_with_who_removed_it(place, script, name):
    path, action, actor = PATHS[name]
    before = await lanes.call(content)
    await path(place)
    written = await lanes.call(entries)
    assert [(entry["action"], entry["actor"]) for entry in written] == [(action, actor)]
    assert await lanes.call(content) != before
    (entry,) = written
    assert entry["counts"]
    assert action in ledger.ACTIONS
    assert SECRET not in str(entry)
    assert (await lanes.read(ledger.verify)).is_whole


@ALL
@pytest.mark.parametrize("held", ["session", "user"])
async def test_what_is_on_hold_stays(place, script, name, held):
    path, action, _ = PATHS[name]
    said = {"reason": "a case", "actor": "command", "now": timezone.now()}
    if held == "session" and name == "schedule: files never sent":
        pytest.skip("a file that was never sent is in no session")
    if held == "session":
        await lanes.call(partial(holds.hold_session, session_id=place.session.id, **said))
    else:
        await lanes.call(partial(holds.hold_user, user_id=place.session.owner_id, **said))
    if action == "item_deleted" and path is take_back:
        await lanes.call(
            ChatMessage.objects.filter(id=place.message.id).update,
            role="assistant",
            thread_item="{}",
        )
    before = await lanes.call(content)
    try:
        outcome = await path(place)
    except ThreadHeld:
        outcome = 409
    after = await lanes.call(content)
    assert [row for row in after if row in before] == before
    assert {entry["action"] for entry in await lanes.call(entries)} <= {"hold", "cleanup"}
    if path in REFUSED:
        assert outcome == 409
    assert await lanes.call(ChatSession.objects.filter(id=place.session.id).exists)


TABLES: Final = "SESSION|MESSAGE|_MESSAGE|TURN|FEEDBACK|ATTACHMENT|_ATTACHMENT"
REMOVES: Final = re.compile(
    rf"DELETE FROM \{{(?:{TABLES}|table)\}}|\._raw_delete\(|(?<!row)\.delete\(\)|delete_messages\("
)
KNOWN: Final = {
    "erasure": "the account itself",
    "queued": "work and results, not what was said",
    "store.erasing": "erase_some, erase_rest",
    "task_results": "results of tasks, not what was said",
    "traces": "sign-ins, not what was said",
    "store.attachments": "take, take_of_*, take_orphans",
    "store.log": "clear, delete_messages",
    "store.pruning": "forget",
    "store.recall": "pop",
    "store.removing": "remove_sessions, remove_piece",
    "store.rewinding": "rewind",
    "store.shown": "take_back",
    "store.thread_items": "delete_item",
    "store.weights": "delete_weighed, for store.removing",
}


def test_nothing_else_deletes_what_was_said():
    found = {name for name, path in SOURCES.items() if REMOVES.search(path.read_text())}
    assert found == set(KNOWN)
