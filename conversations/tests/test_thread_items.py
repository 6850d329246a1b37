"""Rows and ChatKit's items: nothing is lost on the way, and damage costs only itself."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from chatkit import types

from conversations.ids import new_id
from conversations.store.thread_items import ItemRow
from conversations.thread_items import item_from_row, row_from_item

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
SESSION = new_id()
NAMES: dict[str, Any] = {"id": str(new_id()), "thread_id": str(SESSION), "created_at": NOW}
OPTIONS = types.InferenceOptions()
TEXT = types.UserMessageTextContent(text="Hi")
DOMAIN = "https://a.example/x.png"

ITEMS: dict[str, Any] = {
    "a message": types.UserMessageItem(**NAMES, content=[TEXT], inference_options=OPTIONS),
    "a message of many parts": types.UserMessageItem(
        **NAMES,
        content=[
            TEXT,
            types.UserMessageTagContent(id="t", text="@Ann", data={"a": None}, group="g"),
        ],
        attachments=[
            types.ImageAttachment(
                id="a",
                name="x.png",
                mime_type="image/png",
                preview_url=DOMAIN,
                metadata={"a": None},
                upload_descriptor=types.AttachmentUploadDescriptor(url=DOMAIN, method="PUT"),
            ),
            types.FileAttachment(id="b", name="b", mime_type="text/plain", thread_id="t"),
        ],
        quoted_text="He said",
        inference_options=types.InferenceOptions(
            model="m", tool_choice=types.ToolChoice(id="search")
        ),
    ),
    "a message of nothing": types.UserMessageItem(**NAMES, content=[], inference_options=OPTIONS),
    "a message no engine stores": types.UserMessageItem(
        **NAMES,
        content=[types.UserMessageTextContent(text="a\x00\ud800")],
        inference_options=OPTIONS,
    ),
    "an answer": types.AssistantMessageItem(
        **NAMES, content=[types.AssistantMessageContent(text="Yes")]
    ),
    "an answer with sources": types.AssistantMessageItem(
        **NAMES,
        content=[
            types.AssistantMessageContent(text="Yes"),
            types.AssistantMessageContent(
                text="No",
                annotations=[
                    types.Annotation(
                        index=1, source=types.URLSource(title="t", url=DOMAIN, attribution=None)
                    ),
                    types.Annotation(source=types.FileSource(title="t", filename="f")),
                    types.Annotation(source=types.EntitySource(title="t", id="e", data={"a": 1})),
                ],
            ),
        ],
    ),
    "a client's tool": types.ClientToolCallItem(
        **NAMES,
        call_id="c",
        name="n",
        arguments={"q": [1, None, 1e22]},
        status="completed",
        output={"a": {"b": None}},
    ),
    "a widget": types.WidgetItem.model_validate(
        {
            **NAMES,
            "copy_text": "Hi",
            "widget": {
                "type": "Card",
                "size": "sm",
                "children": [
                    {"type": "Text", "value": "Hi", "streaming": True, "id": "t"},
                    {
                        "type": "Button",
                        "label": "Go",
                        "onClickAction": {"type": "go", "payload": 1},
                    },
                ],
            },
        }
    ),
    "a widget of its own kind": types.WidgetItem.model_validate(
        {**NAMES, "widget": {"type": "Basic", "children": [{"type": "Own", "own": [1]}]}}
    ),
    "an image": types.GeneratedImageItem(**NAMES, image=types.GeneratedImage(id="i", url=DOMAIN)),
    "no image yet": types.GeneratedImageItem(**NAMES),
    "questions": types.StructuredInputItem(
        **NAMES,
        status="answered",
        inputs=[
            types.StructuredInputMultipleChoice(
                id="color",
                question="Which?",
                options=[types.StructuredInputMultipleChoiceOption(value="red")],
                answer=types.StructuredInputAnswer(values=["red"]),
            ),
            types.StructuredInputFreeform(id="notes", question="What?", description="d"),
        ],
    ),
    "a workflow": types.WorkflowItem(
        **NAMES,
        workflow=types.Workflow(
            type="reasoning",
            expanded=True,
            summary=types.DurationSummary(duration=3),
            tasks=[
                types.CustomTask(title="t", icon="book-open", status_indicator="loading"),
                types.SearchTask(queries=["q"], sources=[types.URLSource(title="t", url=DOMAIN)]),
                types.ThoughtTask(content="c"),
                types.FileTask(sources=[types.FileSource(title="t", filename="f")]),
                types.ImageTask(),
            ],
        ),
    ),
    "a task": types.TaskItem(**NAMES, task=types.CustomTask(title="t")),
    "hidden": types.HiddenContextItem(**NAMES, content={"a": [None, 1.5, "\x00"]}),
    "hidden by the library": types.SDKHiddenContextItem(**NAMES, content="stop"),
    "an end": types.EndOfTurnItem(**NAMES),
}


def stored(item: Any, **changes: Any) -> ItemRow:
    """The row of an item as it is read again."""
    row = row_from_item(item, message_id=UUID(item.id))
    values = {
        "id": row.id,
        "session_id": SESSION,
        "kind": row.kind,
        "role": row.role,
        "text": row.text,
        "shown": row.shown,
        "thread_item": row.thread_item,
        "created_at": NOW,
    }
    return ItemRow(**values | changes)


def test_every_kind_of_item_is_among_these():
    kinds = {kind.model_fields["type"].default for kind in types.ThreadItem.__args__[0].__args__}  # type: ignore[attr-defined]
    assert {item.type for item in ITEMS.values()} == kinds


@pytest.mark.parametrize("name", ITEMS)
def test_an_item_comes_back_as_it_was(name):
    item = ITEMS[name]
    row = stored(item)
    assert item_from_row(row) == item
    assert type(item_from_row(row)) is type(item)
    assert "\x00" not in row.text + (row.thread_item or "")
    assert (row.thread_item or "").isascii()


@pytest.mark.parametrize("name", ["a message", "an answer"])
def test_what_a_text_says_is_not_stored_twice(name):
    assert stored(ITEMS[name]).thread_item is None


def test_what_people_see_in_every_frontend_is_what_was_said():
    shown = {name for name, item in ITEMS.items() if stored(item).shown}
    assert shown == {name for name in ITEMS if name.startswith(("a message", "an answer"))}
    kinds = {stored(item).kind for name, item in ITEMS.items() if name in shown}
    assert kinds == {"message"}
    assert stored(ITEMS["a widget"]).kind == "widget"
    assert stored(ITEMS["a message of many parts"]).text == "Hi@Ann"


def test_what_json_cannot_hold_is_refused():
    with pytest.raises(ValueError, match="serialize"):
        stored(types.HiddenContextItem(**NAMES, content=object()))


@pytest.mark.parametrize(
    "damage",
    [
        "",
        "{",
        "[]",
        "null",
        '{"type": "nonsense"}',
        '{"type": "widget"}',
        '{"type": "user_message", "content": 1}',
        '{"type": "user_message", "content": ' + "[" * 2_000 + "]" * 2_000 + "}",
    ],
    ids=range(8),
)
def test_an_item_that_is_damaged_is_its_text_or_nothing(damage):
    message = stored(ITEMS["a message of many parts"], thread_item=damage)
    found = item_from_row(message)
    assert isinstance(found, types.UserMessageItem)
    assert found.content == [types.UserMessageTextContent(text="Hi@Ann")]
    assert item_from_row(stored(ITEMS["a widget"], thread_item=damage)) is None
    assert item_from_row(stored(ITEMS["a message of nothing"], thread_item=damage)) is None


def test_what_is_hidden_stays_so_whatever_is_in_it():
    told = json.dumps({"type": "end_of_turn"})
    assert item_from_row(stored(ITEMS["hidden"], thread_item=told)) is None


@pytest.mark.parametrize("role", ["", "system", "tool"])
def test_a_row_that_nobody_said_is_no_item(role):
    assert item_from_row(stored(ITEMS["a message"], role=role)) is None


def test_a_row_that_only_the_model_sees_is_no_item():
    assert item_from_row(stored(ITEMS["a message"], shown=False)) is None
