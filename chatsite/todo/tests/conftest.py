"""What the assistant's tests share: people, a day, and a conversation with the real Runner."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from datetime import date
from typing import Any
from uuid import uuid4

import pytest
from agents import Agent, RunConfig, Runner, SQLiteSession
from django.contrib.auth import get_user_model

from chatsite.todo.agent import build_agent
from conversations import lanes
from conversations.assistant import TurnContext

MONDAY = date(2026, 11, 23)


@pytest.fixture(scope="session", autouse=True)
def _lanes_end_before_the_database(django_db_setup: None) -> Iterator[None]:
    yield
    lanes.close()


@pytest.fixture
def ada(transactional_db: None) -> Any:
    return get_user_model().objects.create_user("ada")


@pytest.fixture
def stranger(transactional_db: None) -> Any:
    return get_user_model().objects.create_user("stranger")


@dataclass
class Talk:
    """One conversation of one person, and how each answer arrived."""

    agent: Agent[Any]
    owner: Any
    session: SQLiteSession
    deltas: list[str] = field(default_factory=list)
    pruned_count: int = 0

    async def say(self, text: str) -> str:
        self.deltas = []
        result = Runner.run_streamed(
            self.agent,
            text,
            session=self.session,
            context=TurnContext(
                user_id=self.owner.pk,
                session_id=uuid4(),
                turn_id=uuid4(),
                pruned_count=self.pruned_count,
            ),
            run_config=RunConfig(tracing_disabled=True),
        )
        async for event in result.stream_events():
            if event.type == "raw_response_event" and (
                event.data.type == "response.output_text.delta"
            ):
                self.deltas.append(event.data.delta)
        return str(result.final_output)

    async def forget_before(self, message: str) -> None:
        """Prune the memory: it begins at this message of the person from now on."""
        items = await self.session.get_items()
        start = next(
            place
            for place, item in enumerate(items)
            if item.get("role") == "user" and item.get("content") == message
        )
        await self.session.clear_session()
        await self.session.add_items(items[start:])
        self.pruned_count += start


@pytest.fixture
def talk(ada: Any) -> Iterator[Talk]:
    session = SQLiteSession("a-conversation")
    yield Talk(build_agent(today=lambda: MONDAY), ada, session)
    session.close()


@pytest.fixture
def say(talk: Talk) -> Callable[[str], Awaitable[str]]:
    return talk.say
