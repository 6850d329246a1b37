"""The todo assistant: its instructions, its tools, and the model the settings ask for."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import Any, Final

from agents import (
    Agent,
    Model,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    RunContextWrapper,
)
from agents.models import get_default_model, get_default_model_settings
from django.conf import settings
from openai import AsyncOpenAI

from chatsite.todo.instructions import write_instructions
from chatsite.todo.offline.model import OfflineModel
from chatsite.todo.tools import TOOLS, Person

OPENAI_URL: Final = "https://api.openai.com/v1"


def today_in_utc() -> date:
    return datetime.now(UTC).date()


def build_agent(*, today: Callable[[], date] = today_in_utc) -> Agent[Person]:
    """The assistant as the settings describe it: a provider's model with a key, else offline."""

    def instructions(context: RunContextWrapper[Person], agent: Agent[Person]) -> str:
        # A run outside of a conversation may have no context.
        pruned_count = getattr(context.context, "pruned_count", 0)
        return write_instructions(today(), pruned_count=pruned_count)

    model, model_settings = _build_model(today)
    return Agent(
        name="Todo assistant",
        instructions=instructions,
        tools=list(TOOLS),
        model=model,
        model_settings=model_settings,
    )


async def close_provider() -> None:
    """Close the connections to the provider; call it where their event loop ends."""
    while _clients:
        await _clients.popitem()[1].close()


def _build_model(today: Callable[[], date]) -> tuple[Model, ModelSettings]:
    if not settings.OPENAI_API_KEY:
        return OfflineModel(today=today), ModelSettings()
    name = settings.CHAT_MODEL or get_default_model()
    classes: dict[str, Any] = {
        "responses": OpenAIResponsesModel,
        "chat_completions": OpenAIChatCompletionsModel,
    }
    model: Model = classes[settings.CHAT_API](model=name, openai_client=_get_client())
    return model, get_default_model_settings(name)


_clients: Final[dict[tuple[str, str], AsyncOpenAI]] = {}


def _get_client() -> AsyncOpenAI:
    """One pool of connections per process, however often the agent is built."""
    # Never None: the client would take the address from the environment, even an empty one.
    api_key, base_url = settings.OPENAI_API_KEY, settings.OPENAI_BASE_URL or OPENAI_URL
    if (api_key, base_url) not in _clients:
        _clients[api_key, base_url] = AsyncOpenAI(api_key=api_key, base_url=base_url)
    return _clients[api_key, base_url]
