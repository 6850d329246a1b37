"""What tests share: a scripted assistant, users, conversations, an HTTP client on the real app."""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any
from uuid import uuid4

import httpx
import pytest
from django.test import override_settings

from conversations import lanes
from conversations.assistant import TurnContext
from conversations.tests import factories, scripted
from conversations.tests.faults.hearing import Visitor
from conversations.tests.faults.servers import Server, Site
from conversations.tests.fresh_database import quickly_emptied
from conversations.tests.other_process import run_python

pytest.register_assert_rewrite(
    *(
        f"conversations.tests.{name}"
        for name in ("agents_session_helpers", "session_contract", "session_contract_runs")
    )
)


@pytest.fixture(scope="session", autouse=True)
def _lanes_end_before_the_database(django_db_setup: None) -> Iterator[None]:
    yield
    lanes.close()


@pytest.fixture(scope="session", autouse=True)
def _it_is_quickly_emptied(django_db_setup: None, django_db_blocker: Any) -> Iterator[None]:
    with django_db_blocker.unblock(), quickly_emptied():
        yield


@pytest.fixture(autouse=True)
def script() -> Iterator[Callable[..., scripted.Script]]:
    """`script(Say("Hello"), Call("look_up"))`: what the model does next."""
    scripted.SCRIPT.clear()

    def play(*steps: scripted.Step) -> scripted.Script:
        scripted.SCRIPT.steps.extend(steps)
        return scripted.SCRIPT

    with override_settings(CONVERSATIONS_AGENT="conversations.tests.scripted.build_agent"):
        yield play


@pytest.fixture
def user(transactional_db: None) -> Any:
    return factories.UserFactory()


@pytest.fixture
def stranger(transactional_db: None) -> Any:
    return factories.UserFactory()


@pytest.fixture
def session(user: Any) -> Any:
    return factories.ChatSessionFactory(owner=user)


@pytest.fixture
def context() -> TurnContext:
    """What a run of the scripted agent is told about its turn."""
    return TurnContext(user_id=7, session_id=uuid4(), turn_id=uuid4())


@pytest.fixture
def gone() -> str:
    """The name of a process that runs no more."""
    script = "from conversations import processes; print(processes.new_name())"
    return run_python(script)


def _client(token: str | None = None) -> httpx.AsyncClient:
    from chatsite.asgi import application

    headers = {"Authorization": f"Bearer {token}"} if token else {}
    transport = httpx.ASGITransport(app=application)
    return httpx.AsyncClient(transport=transport, base_url="http://localhost", headers=headers)


@pytest.fixture
async def client(user: Any) -> AsyncIterator[httpx.AsyncClient]:
    """Signed in as `user`."""
    async with _client(await lanes.call(factories.token_for, user)) as client:
        yield client


@pytest.fixture
async def strangers_client(stranger: Any) -> AsyncIterator[httpx.AsyncClient]:
    async with _client(await lanes.call(factories.token_for, stranger)) as client:
        yield client


@pytest.fixture
async def anonymous(transactional_db: None) -> AsyncIterator[httpx.AsyncClient]:
    async with _client() as client:
        yield client


@pytest.fixture
def server(site: Site) -> Server:
    """The first one of the module's own `site`."""
    return site.servers[0]


@pytest.fixture
async def visitor(site: Site) -> AsyncIterator[Visitor]:
    """Somebody who speaks to the servers of a `site`."""
    async with Visitor(site.tokens[0]) as visitor:
        yield visitor


@pytest.fixture
def tag() -> str:
    """What no other text of a `site` holds."""
    return secrets.token_hex(4)


def frames(body: str) -> list[Any]:
    """The JSON frames of a stream; the last is `[DONE]` as a string."""
    found = []
    for block in body.split("\n\n"):
        for line in block.split("\n"):
            if line.startswith("data: "):
                data = line.removeprefix("data: ")
                found.append(data if data == "[DONE]" else json.loads(data))
    return found


def answer(body: str) -> str:
    """All deltas of a stream joined."""
    return "".join(frame.get("content", "") for frame in frames(body)[:-1])
