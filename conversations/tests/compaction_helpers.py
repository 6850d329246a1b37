"""The SDK's compaction around a session, with a provider that sums up at once."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from agents import Runner
from agents.memory import OpenAIResponsesCompactionSession

from conversations.tests.session_contract_runs import agent_of, quiet, says, users


class Client:
    """OpenAI's, as far as compaction goes: what users said stays, the rest becomes one item."""

    def __init__(self) -> None:
        self.responses = self
        self.asked: list[dict[str, Any]] = []
        self.meanwhile: Callable[[], Any] | None = None
        """Done while the provider thinks."""

    async def compact(self, **asked: Any) -> Any:
        self.asked.append(asked)
        if self.meanwhile is not None:
            await self.meanwhile()
        kept = [
            {"type": "message", "role": "user", "status": "completed", "content": text}
            for text in users(asked.get("input", []))
        ]
        summary = {
            "type": "compaction",
            "id": f"cmp_{len(self.asked)}",
            "encrypted_content": "sealed",
        }
        return SimpleNamespace(output=[*kept, summary], usage=None)


def around(inner: Any, client: Client, **more: Any) -> OpenAIResponsesCompactionSession:
    """Sums up when four entries or more are not the user's."""
    return OpenAIResponsesCompactionSession(
        inner.session_id,
        inner,
        client=client,  # type: ignore[arg-type]
        compaction_mode=more.pop("mode", "input"),
        should_trigger_compaction=lambda seen: len(seen["compaction_candidate_items"]) >= 4,
        **more,
    )


async def talk(session: Any, *texts: str, **more: Any) -> Any:
    """Runs in which the agent answers each text with its number."""
    agent = agent_of(*[[says(f"Answer to {text}")] for text in texts])
    for text in texts:
        await Runner.run(agent, text, session=session, run_config=quiet(), **more)
    return agent


def spoken(*texts: str) -> list[tuple[str, str]]:
    """What people read of such runs."""
    return [line for text in texts for line in (("user", text), ("assistant", f"Answer to {text}"))]
