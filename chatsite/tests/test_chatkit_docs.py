"""docs/chatkit.md tells of every request there is, and what it says to send can be sent."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from typing import Any, get_args

import pytest
from chatkit.types import ChatKitReq, NonStreamingReq, StreamingReq
from django.conf import settings
from pydantic import TypeAdapter

from chatsite.env import BASE_DIR
from chatsite.views import CHATKIT_POLICY, CHATKIT_SCRIPT

PAGE = (BASE_DIR / "docs" / "chatkit.md").read_text()
SHELL = "".join(re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL))
SENT = re.findall(r"^ask '(.*)'$", SHELL, re.MULTILINE)


def types_of(union: Any) -> set[str]:
    return {request.model_fields["type"].default for request in get_args(union)}


def rows_after(words: str) -> set[str]:
    table = PAGE.partition(words)[2].partition("|---|")[2].partition("\n\n")[0]
    return set(re.findall(r"^\| `([\w.]+)` \|", table, re.MULTILINE))


def test_the_tables_name_every_request_of_the_installed_library():
    assert rows_after("Streaming: `200 text/event-stream`.") == types_of(StreamingReq)
    assert rows_after("The others: `200 application/json`.") == types_of(NonStreamingReq)


def test_there_are_requests_to_try():
    assert len(SENT) > 5


@pytest.mark.parametrize("body", SENT, ids=[json.loads(body)["type"] for body in SENT])
def test_a_request_to_try_is_one_the_library_knows(body):
    TypeAdapter(ChatKitReq).validate_json(body)


def test_the_headers_another_origin_may_send_are_named():
    told = PAGE.partition("Then its pages may send")[2].partition("which the component adds")[0]
    assert {name.lower() for name in re.findall(r"`([\w-]+)`", told)} == set(
        settings.CORS_ALLOW_HEADERS
    )


def test_what_the_component_loads_is_what_its_page_allows():
    assert CHATKIT_SCRIPT in PAGE
    table = PAGE.partition("| Directive |")[2].partition("\n\n")[0]
    assert set(re.findall(r"^\| `([\w-]+)` \|", table, re.MULTILINE)) == set(CHATKIT_POLICY)


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_the_plain_snippet_is_a_script():
    snippets = re.findall(r"```js\n(.*?)```", PAGE, re.DOTALL)
    assert snippets
    for snippet in snippets:
        checked = subprocess.run(
            ["node", "--check", "-"], input=snippet, capture_output=True, text=True, check=False
        )
        assert checked.returncode == 0, checked.stderr


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\(#([\w-]+)\)", PAGE))))
def test_a_link_on_the_page_leads_somewhere(link):
    headings = re.findall(r"^#+ (.+)$", PAGE, re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}
    assert link in anchors
