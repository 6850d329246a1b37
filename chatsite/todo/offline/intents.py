"""What a sentence can mean to the offline model."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import Literal, TypeAlias

from chatsite.todo.offline.dates import Span
from chatsite.todo.offline.facts import Fact, Preference


@dataclass(frozen=True, slots=True)
class Target:
    """Which task is meant: `focus` "it", `nth` "the second one" (-1 is the last), `created` the
    nth one added here, `number` "task 12", `all` (2: both), or `title` words of its title.
    """

    kind: Literal["focus", "nth", "created", "number", "all", "title"]
    number: int = 0
    words: str = ""


@dataclass(frozen=True, slots=True)
class Create:
    title: str
    due: date | None = None
    priority: str | None = None


@dataclass(frozen=True, slots=True)
class Change:
    target: Target
    title: str | None = None
    due: date | None = None
    priority: str | None = None
    removes_due: bool = False


@dataclass(frozen=True, slots=True)
class Complete:
    target: Target
    done: bool = True


@dataclass(frozen=True, slots=True)
class Delete:
    target: Target


@dataclass(frozen=True, slots=True)
class Show:
    """List tasks, or count them."""

    status: Literal["all", "open", "done"] = "all"
    sort: str | None = None
    priority: str | None = None
    span: Span | None = None
    counts: bool = False


@dataclass(frozen=True, slots=True)
class RecallMessage:
    """A message of the person: `request` the first thing asked for, `nth`, `previous`, `before`
    ("and before that?"), `about` a topic, `every` one.
    """

    which: Literal["request", "nth", "previous", "before", "about", "every"]
    number: int = 0
    topic: str = ""


@dataclass(frozen=True, slots=True)
class RecallTasks:
    """The tasks created, completed or deleted here: one of them, all, or how many."""

    done_to_them: Literal["created", "completed", "deleted"]
    number: int | None = None
    counts: bool = False


@dataclass(frozen=True, slots=True)
class RecallAnswer:
    """What the assistant said last."""


@dataclass(frozen=True, slots=True)
class CountMessages:
    """How many messages the person has sent."""


@dataclass(frozen=True, slots=True)
class State:
    """The person tells something to be remembered."""

    facts: tuple[Fact, ...]


@dataclass(frozen=True, slots=True)
class Prefer:
    preference: Preference


@dataclass(frozen=True, slots=True)
class AskFact:
    """A question that only an earlier statement can answer; `about` narrows it."""

    question: str
    about: Literal["fact", "name", "everything", "remembered", "preference"] = "fact"


@dataclass(frozen=True, slots=True)
class SmallTalk:
    kind: Literal["greeting", "thanks", "help", "farewell", "wellbeing", "dismissal"]


@dataclass(frozen=True, slots=True)
class Unknown:
    text: str


Action: TypeAlias = Create | Change | Complete | Delete | Show
Intent: TypeAlias = (
    Action
    | RecallMessage
    | RecallTasks
    | RecallAnswer
    | CountMessages
    | State
    | Prefer
    | AskFact
    | SmallTalk
    | Unknown
)
