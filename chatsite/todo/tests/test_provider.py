"""The assistant on a real provider: real HTTP to an OpenAI-compatible server on loopback."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator, Iterator
from datetime import date
from typing import Any

import openai
import pytest
from agents import SQLiteSession
from agents.exceptions import ModelBehaviorError

from chatsite.todo import agent
from chatsite.todo.instructions import BEGINNING_IS_FORGOTTEN
from chatsite.todo.models import Task
from chatsite.todo.offline.model import OfflineModel
from chatsite.todo.tests.conftest import MONDAY, Talk
from chatsite.todo.tests.provider import (
    ChatCompletionsScript,
    Provider,
    ResponsesScript,
    running_provider,
)
from conversations import lanes

pytestmark = pytest.mark.django_db(transaction=True)

Script = type[ResponsesScript] | type[ChatCompletionsScript]
KEY = "sk-test-of-the-provider"
DELTAS = ["I ", "added ", "“Buy milk”", "."]


@pytest.fixture
def provider() -> Iterator[Provider]:
    with running_provider() as provider:
        yield provider


@pytest.fixture(params=[ResponsesScript, ChatCompletionsScript], ids=lambda script: script.api)
def script(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def contacted(monkeypatch: pytest.MonkeyPatch) -> set[Any]:
    """Every address this process connected to."""
    addresses: set[Any] = set()

    class Watched(socket.socket):
        def connect(self, address: Any) -> None:
            addresses.add(address)
            super().connect(address)

        def connect_ex(self, address: Any) -> int:
            addresses.add(address)
            return super().connect_ex(address)

    monkeypatch.setattr(socket, "socket", Watched)
    return addresses


@pytest.fixture
async def talk(ada: Any, provider: Provider, script: Script, settings: Any) -> AsyncIterator[Talk]:
    settings.OPENAI_API_KEY = KEY
    settings.OPENAI_BASE_URL = provider.url
    settings.CHAT_MODEL = "test-model"
    settings.CHAT_API = script.api
    session = SQLiteSession("a-conversation")
    yield Talk(agent.build_agent(today=lambda: MONDAY), ada, session)
    session.close()
    await agent.close_provider()


async def test_a_tool_call_and_the_answer_stream_through_the_provider(
    talk: Talk, provider: Provider, script: Script, ada: Any, contacted: set[Any]
) -> None:
    provider.answers = [
        script.tool_call("create_task", {"title": "Buy milk", "due": "2026-11-24"}),
        script.message(DELTAS),
    ]
    assert await talk.say("Add a task: Buy milk, due tomorrow") == "".join(DELTAS)
    assert talk.deltas == DELTAS
    task = await lanes.call(Task.objects.get)
    assert (task.owner_id, task.title, task.due_date) == (ada.pk, "Buy milk", date(2026, 11, 24))
    assert json.loads(script.tool_output(provider.requests[1]))["task"]["id"] == task.pk
    for request in provider.requests:
        assert request.path == script.path
        assert request.headers["authorization"] == f"Bearer {KEY}"
        assert request.body["model"] == "test-model"
        assert request.body["stream"] is True
        assert "Today is Monday, 2026-11-23" in json.dumps(request.body)
        assert KEY not in json.dumps(request.body)
    port = int(provider.url.rsplit(":", 1)[1].removesuffix("/v1"))
    assert contacted == {("127.0.0.1", port)}


async def test_the_next_message_carries_the_history(
    talk: Talk, provider: Provider, script: Script
) -> None:
    provider.answers = [script.message(["Hello ", "Ada."]), script.message(["Ada."])]
    await talk.say("My name is Ada")
    await talk.say("What is my name?")
    assert "My name is Ada" in json.dumps(provider.requests[1].body)
    assert "Hello Ada." in json.dumps(provider.requests[1].body)


async def test_a_forgotten_beginning_is_told_to_the_model(
    talk: Talk, provider: Provider, script: Script
) -> None:
    provider.answers = [script.message(["One."]), script.message(["Two."])]
    await talk.say("one")
    talk.pruned_count = 2
    await talk.say("two")
    told = [
        json.dumps(BEGINNING_IS_FORGOTTEN)[1:-1] in json.dumps(request.body)
        for request in provider.requests
    ]
    assert told == [False, True]


@pytest.mark.parametrize(
    ("status", "error", "attempts"),
    [
        (401, openai.AuthenticationError, 1),
        (429, openai.RateLimitError, 3),
        (500, openai.InternalServerError, 3),
    ],
)
async def test_a_refusal_of_the_provider_surfaces(
    talk: Talk, provider: Provider, status: int, error: type[openai.APIStatusError], attempts: int
) -> None:
    provider.answers = [status] * attempts
    with pytest.raises(error) as caught:
        await talk.say("Hello")
    assert caught.value.status_code == status
    assert len(provider.requests) == attempts


async def test_a_stream_that_is_cut_surfaces_after_its_last_word(
    talk: Talk, provider: Provider, script: Script
) -> None:
    provider.cut = True
    provider.answers = [script.message(DELTAS)[: script.events_of_two_deltas]]
    with pytest.raises(openai.APIConnectionError):
        await talk.say("Hello")
    assert talk.deltas == DELTAS[:2]
    assert len(provider.requests) == 1  # what was half said is not asked for again


@pytest.mark.parametrize("script", [ResponsesScript], indirect=True)
async def test_a_stream_that_ends_too_early_surfaces(
    talk: Talk, provider: Provider, script: Script
) -> None:
    provider.answers = [script.message(DELTAS)[: script.events_of_two_deltas]]
    with pytest.raises(ModelBehaviorError):
        await talk.say("Hello")


@pytest.mark.parametrize("script", [ChatCompletionsScript], indirect=True)
async def test_the_sdk_takes_an_early_but_clean_end_of_chat_completions_for_the_whole_answer(
    talk: Talk, provider: Provider, script: Script
) -> None:
    """Known and not ours: that API has no event which closes a response."""
    provider.answers = [script.message(DELTAS)[: script.events_of_two_deltas]]
    assert await talk.say("Hello") == "".join(DELTAS[:2])


async def test_a_provider_that_is_not_there_surfaces(talk: Talk, settings: Any) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        settings.OPENAI_BASE_URL = f"http://127.0.0.1:{unused.getsockname()[1]}/v1"
        talk.agent = agent.build_agent()
        with pytest.raises(openai.APIConnectionError):
            await talk.say("Hello")


def test_without_a_key_the_offline_model_answers() -> None:
    assert isinstance(agent.build_agent().model, OfflineModel)


async def test_an_empty_base_url_means_the_official_one(
    settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://elsewhere.invalid/v1")
    settings.OPENAI_API_KEY = KEY
    settings.OPENAI_BASE_URL = ""
    model: Any = agent.build_agent().model
    assert str(model._client.base_url) == "https://api.openai.com/v1/"
    await agent.close_provider()
