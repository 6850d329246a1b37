"""Which server answers the ChatKit frontend, and what it does where nobody overrides it."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from chatkit import types
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

from conversations import chatkit_answers, web
from conversations.chatkit_server import ConversationServer, UnknownAction, get_server
from conversations.chatkit_store import ChatKitContext
from conversations.checks import check_chatkit_server
from conversations.errors import NotConfigured
from conversations.tests.chatkit_actions import ActingServer

ACTING = "conversations.tests.chatkit_actions.ActingServer"
WRONG = ["conversations.tests.nowhere.Server", "conversations.nowhere", "conversations.ids.new_id",
         "conversations.chatkit_store.ConversationStore"]  # fmt: skip


def test_the_server_is_ours_unless_another_is_named():
    assert type(get_server()) is ConversationServer
    assert get_server() is get_server()
    with override_settings(CONVERSATIONS_CHATKIT_SERVER=ACTING):
        assert type(get_server()) is ActingServer
        assert check_chatkit_server(None) == []
    assert check_chatkit_server(None) == []


@pytest.mark.parametrize("path", WRONG)
def test_a_server_that_is_none_is_told_before_it_is_needed(path, caplog):
    with override_settings(CONVERSATIONS_CHATKIT_SERVER=path):
        (error,) = check_chatkit_server(None)
        assert error.id == "conversations.E007"
        assert path in error.msg
        with pytest.raises(ImproperlyConfigured, match="CONVERSATIONS_CHATKIT_SERVER"):
            get_server()
        web.load_chatkit()
    assert "CONVERSATIONS_CHATKIT_SERVER" in caplog.text


async def test_what_nobody_overrides_is_refused():
    server, nothing = ConversationServer(), ChatKitContext(1)
    thread: Any = None
    with pytest.raises(UnknownAction):
        server.action(thread, thread, None, nothing)
    with pytest.raises(UnknownAction):
        await server.sync_action(thread, thread, None, nothing)
    with pytest.raises(NotConfigured):
        await server.transcribe(types.AudioInput(data=b"", mime_type="audio/webm"), nothing)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b'{"text":"hidden_context_item"}', b'{"text": "hidden_context_item"}'),
        (b'{"data":[{"type":"hidden_context_item"}]}', b'{"data": []}'),
        (b'{"items":{"data":[{"type":"sdk_hidden_context"},1]}}', b'{"items": {"data": [1]}}'),
        (b'{"updated_item":{"type":"sdk_hidden_context"}}', b"{}"),
        (b'{"a":"\\"sdk_hidden_context\\""}', b'{"a":"\\"sdk_hidden_context\\""}'),
    ],
    ids=range(5),
)
def test_what_is_hidden_is_left_out_wherever_it_is(answer, expected):
    assert chatkit_answers.without_hidden(answer) == expected


def test_the_librarys_log_says_what_failed_and_not_what_was_said(caplog):
    logger = logging.getLogger("chatkit")
    with caplog.at_level(logging.INFO, "chatkit"):
        try:
            raise KeyError("a secret")
        except KeyError as error:
            logger.exception(error)
        logger.info("Received request op: %s", "items.list")
    assert "secret" not in caplog.text
    assert "KeyError while answering" in caplog.text
    assert "items.list" in caplog.text
