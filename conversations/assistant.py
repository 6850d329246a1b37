"""The agent people talk to: the one the setting `CONVERSATIONS_AGENT` names.

Importing the SDK costs seconds, so it happens when the agent is first built: a server builds it
before it answers, a management command never.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any
from uuid import UUID

from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed
from django.utils.module_loading import import_string

from conversations.conf import get_conf

if TYPE_CHECKING:
    from agents import Agent, RunConfig
    from chatkit.agents import AgentContext


@dataclass(frozen=True, slots=True)
class TurnContext:
    """What every tool of the agent is told about the run: `wrapper.context`.

    The owner of what a tool touches comes from here, never from the model's arguments.
    """

    user_id: Any
    session_id: UUID
    turn_id: UUID
    pruned_count: int = 0
    """How many items of this conversation the model no longer remembers. More than 0: its memory
    begins later than the conversation, so what it remembers as the earliest was not the first.
    """
    chatkit: AgentContext[Any] | None = None
    """What tools show more than text with; None only in tests that build a context by hand."""


@cache
def get_agent() -> Agent[TurnContext]:
    """The configured agent, built once per process."""
    build = import_string(get_conf().conversations_agent)
    agent: Agent[TurnContext] = build()
    return agent


@cache
def get_chatkit_server() -> Any:
    """The server of the ChatKit door, `CONVERSATIONS_CHATKIT_SERVER`, built once per process.

    Raises ImproperlyConfigured.
    """
    try:
        return import_string(get_conf().conversations_chatkit_server)()
    except ImportError as error:
        raise ImproperlyConfigured(f"CONVERSATIONS_CHATKIT_SERVER: {error}.") from error


@cache
def run_config() -> RunConfig:
    """How every turn is run: traces stay here unless the operator asked for them."""
    from agents import RunConfig  # noqa: PLC0415 - see above

    return RunConfig(
        tracing_disabled=not get_conf().agent_tracing,
        trace_include_sensitive_data=get_conf().agent_tracing,
        workflow_name="conversation",
    )


def model_name(agent: Agent[Any]) -> str:
    """A name for the usage record."""
    model = agent.model
    if model is None:
        return "default"
    return model if isinstance(model, str) else str(getattr(model, "model", type(model).__name__))


def _forget(**_: Any) -> None:
    get_agent.cache_clear()
    get_chatkit_server.cache_clear()
    run_config.cache_clear()


setting_changed.connect(_forget, dispatch_uid="conversations.assistant")
