"""All requests of the installed library, and where each is proven: a new one fails here."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any, Final, get_args

import pytest
from chatkit.types import (
    Attachment,
    NonStreamingReq,
    Page,
    StreamingReq,
    SyncCustomActionResponse,
    Thread,
    ThreadItem,
    ThreadStreamEvent,
    TranscriptionResult,
)
from pydantic import TypeAdapter

EVENT: Final[TypeAdapter[Any]] = TypeAdapter(ThreadStreamEvent)
ANSWERS: Final[dict[str, TypeAdapter[Any]]] = {
    "threads.get_by_id": TypeAdapter(Thread),
    "threads.list": TypeAdapter(Page[Thread]),
    "threads.update": TypeAdapter(Thread),
    "threads.delete": TypeAdapter(dict[str, None]),
    "threads.sync_custom_action": TypeAdapter(SyncCustomActionResponse),
    "items.list": TypeAdapter(Page[ThreadItem]),
    "items.feedback": TypeAdapter(dict[str, None]),
    "attachments.create": TypeAdapter(Attachment),
    "attachments.delete": TypeAdapter(dict[str, None]),
    "input.transcribe": TypeAdapter(TranscriptionResult),
}
"""What each request that does not stream is answered with."""

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


def request_types(*unions: Any) -> set[str]:
    """The names of the requests in a union of the library's."""
    return {kind.model_fields["type"].default for union in unions for kind in get_args(union)}


def test_every_request_of_the_installed_library_is_proven():
    assert set(PROVEN) == request_types(StreamingReq, NonStreamingReq)
    assert set(ANSWERS) == request_types(NonStreamingReq)


@pytest.mark.parametrize("kind", sorted(PROVEN))
def test_the_module_that_proves_a_request_sends_it(kind):
    module = Path(__file__).with_name(f"{PROVEN[kind]}.py")
    if not module.exists():
        pytest.skip("not there yet")
    assert f'"{kind}"' in module.read_text()
    assert import_module(f"conversations.tests.{PROVEN[kind]}")
