"""All requests of the installed library, and where each is proven: a new one fails here."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Final

import pytest
from chatkit.types import NonStreamingReq, StreamingReq

from conversations.tests.chatkit_client import ANSWERS, request_types

PROVEN: Final[dict[str, str]] = {
    "threads.create": "test_chatkit_turns",
    "threads.add_user_message": "test_chatkit_turns",
    "threads.add_client_tool_output": "test_chatkit_turns",
    "threads.add_structured_input": "test_chatkit_turns",
    "threads.retry_after_item": "test_chatkit_turns",
    "threads.custom_action": "test_api_chatkit",
    "threads.sync_custom_action": "test_api_chatkit",
    "threads.get_by_id": "test_api_chatkit",
    "threads.list": "test_api_chatkit",
    "threads.update": "test_api_chatkit",
    "threads.delete": "test_api_chatkit",
    "items.list": "test_api_chatkit",
    "items.feedback": "test_api_chatkit",
    "attachments.create": "test_chatkit_attachments",
    "attachments.delete": "test_chatkit_attachments",
    "input.transcribe": "test_api_chatkit",
}
"""The test module that proves each request."""


def test_every_request_of_the_installed_library_is_proven():
    assert set(PROVEN) == request_types(StreamingReq, NonStreamingReq)
    assert set(ANSWERS) == request_types(NonStreamingReq)


@pytest.mark.parametrize("kind", sorted(PROVEN))
def test_the_module_that_proves_a_request_sends_it(kind):
    module = Path(__file__).with_name(f"{PROVEN[kind]}.py")
    assert f'"{kind}"' in module.read_text()
    assert import_module(f"conversations.tests.{PROVEN[kind]}")
