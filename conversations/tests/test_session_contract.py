"""The contract, held against ours, the SDK's own, and the SDK's wrappers around ours."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
from agents import SQLiteSession
from agents.extensions.memory import EncryptedSession
from agents.memory import OpenAIResponsesCompactionSession

from conversations.agents_session import AgentSession
from conversations.tests.session_contract import OpenSession, SessionContract

on_our_tables = pytest.mark.django_db(transaction=True, available_apps=["conversations"])
"""To empty all tables after each test would take longer than most of them."""


@on_our_tables
class TestAgentSession(SessionContract):
    @pytest.fixture
    def open_session(self) -> OpenSession:
        return AgentSession


class TestTheSDKsOwn(SessionContract):
    """So that we know that the contract is fair."""

    @pytest.fixture
    def open_session(self, tmp_path: Any) -> Iterator[OpenSession]:
        opened: list[SQLiteSession] = []

        def build(session_id: str, **settings: Any) -> SQLiteSession:
            opened.append(SQLiteSession(session_id, tmp_path / "sdk.db", **settings))
            return opened[-1]

        yield build
        for session in opened:
            session.close()


def sealed(session_id: str, inner: Any) -> EncryptedSession:
    return EncryptedSession(session_id, inner, encryption_key="k" * 32, ttl=600)


def compacting(session_id: str, **settings: Any) -> OpenAIResponsesCompactionSession:
    """One that never finds it time to sum up."""
    return OpenAIResponsesCompactionSession(
        session_id,
        AgentSession(session_id, **settings),
        client=None,
        should_trigger_compaction=lambda _: False,
    )


SEALED_CANNOT = {
    "test_what_json_can_say_and_text_cannot_comes_back_exactly": "it seals UTF-8",
    "test_an_item_json_cannot_hold_stores_nothing": "it seals the str() of any object",
}
COMPACTING_CANNOT = {
    "test_it_has_settings_that_ask_for_nothing": "it hides the settings of what it wraps",
    "test_settings_may_be_a_dict": "it hides the settings of what it wraps",
    **dict.fromkeys(
        [
            f"test_a_limit_cuts_what_the_model_sees_and_no_output_loses_its_call[{run}-session]"
            for run in ("run", "run_streamed")
        ],
        "the Runner does not see the limit, so it does not mend what it cut: set it by RunConfig",
    ),
}


@on_our_tables
class TestEncryptedAroundOurs(SessionContract):
    CANNOT: ClassVar[dict[str, str]] = SEALED_CANNOT

    @pytest.fixture
    def open_session(self) -> OpenSession:
        return lambda name, **settings: sealed(name, AgentSession(name, **settings))


@on_our_tables
class TestCompactionAroundOurs(SessionContract):
    CANNOT: ClassVar[dict[str, str]] = COMPACTING_CANNOT

    @pytest.fixture
    def open_session(self) -> OpenSession:
        return compacting
