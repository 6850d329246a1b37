"""The items of a run, read as a conversation: who said what, which tools answered what."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Call:
    """A tool call the model wants or wanted."""

    name: str
    arguments: Json


@dataclass(frozen=True, slots=True)
class Answered:
    """A tool call with what the tool answered."""

    call: Call
    output: Json


@dataclass(slots=True)
class Exchange:
    """One message of the person and what followed."""

    message: str
    answered: list[Answered] = field(default_factory=list)
    replies: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Conversation:
    """Everything given to the model; the last exchange is the one to answer."""

    exchanges: tuple[Exchange, ...]
    is_whole: bool = True
    """False: it began earlier, with what the model no longer remembers."""

    @property
    def now(self) -> Exchange:
        return self.exchanges[-1]

    @property
    def earlier(self) -> tuple[Exchange, ...]:
        return self.exchanges[:-1]

    @property
    def messages(self) -> list[str]:
        return [exchange.message for exchange in self.exchanges if exchange.message]

    @property
    def earlier_messages(self) -> list[str]:
        return [exchange.message for exchange in self.earlier if exchange.message]


def read_conversation(items: str | Iterable[Any], *, is_whole: bool = True) -> Conversation:
    """Items in any shape the SDK sends; what is not known here is passed over."""
    if isinstance(items, str):
        return Conversation((Exchange(items),), is_whole)
    exchanges: list[Exchange] = []
    calls: dict[str, Call] = {}
    for item in items:
        if not isinstance(item, Mapping):
            continue
        kind = item.get("type") or "message"
        if kind == "message" and item.get("role") == "user":
            exchanges.append(Exchange(_text_of(item.get("content"))))
            continue
        if not exchanges:
            exchanges.append(Exchange(""))  # what a lost beginning left over
        if kind == "message" and item.get("role") == "assistant":
            exchanges[-1].replies.append(_text_of(item.get("content")))
        elif kind == "function_call":
            call = Call(str(item.get("name")), _object(item.get("arguments")))
            calls[str(item.get("call_id"))] = call
        elif kind == "function_call_output":
            call = calls.get(str(item.get("call_id")), Call("", {}))
            exchanges[-1].answered.append(Answered(call, _output(item.get("output"))))
    return Conversation(tuple(exchanges or [Exchange("")]), is_whole)


def _text_of(content: Any) -> str:
    return content if isinstance(content, str) else " ".join(_texts(content))


def _texts(content: Any) -> Iterator[str]:
    for part in content if isinstance(content, list) else []:
        if isinstance(part, Mapping) and isinstance(text := part.get("text"), str):
            yield text


def _output(output: Any) -> Json:
    """A tool's answer; one that is not ours is an error in the tool's own words."""
    text = _text_of(output)
    return _object(text) or {"error": text or "The tool gave no answer."}


def _object(text: Any) -> Json:
    try:
        value = json.loads(text)
    except (TypeError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
