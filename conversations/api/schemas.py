"""What goes in and out over REST, as the contract names it."""

from __future__ import annotations

import math
from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from ninja import Schema
from pydantic import AfterValidator, ConfigDict, Field, StrictStr, model_validator

from conversations.conf import get_conf
from conversations.ids import is_storable

MAX_METADATA_VALUES = 1_000
MAX_METADATA_DEPTH = 20
MAX_COMMENT_CHARS = 2_000
MAX_SAFE_INTEGER = 2**63


def _storable(text: str) -> str:
    if not is_storable(text):
        raise ValueError("must not hold NUL characters or lone surrogates")
    return text


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("must not be empty")
    return text


def _message(text: str) -> str:
    limit = get_conf().chat_max_message_chars
    if len(text) > limit:
        raise ValueError(f"must be at most {limit} characters, not {len(text)}")
    return text


def _metadata(value: dict[str, Any]) -> dict[str, Any]:
    _check_value(value, depth=0, count=[0])
    return value


def _check_value(value: Any, *, depth: int, count: list[int]) -> None:
    """Only what both engines store alike."""
    count[0] += 1
    if depth > MAX_METADATA_DEPTH or count[0] > MAX_METADATA_VALUES:
        raise ValueError("is too large or too deep")
    if isinstance(value, str):
        _storable(value)
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError("must hold finite numbers only")
    elif isinstance(value, int) and abs(value) >= MAX_SAFE_INTEGER:
        raise ValueError("must hold numbers of at most 63 bits")
    elif isinstance(value, dict):
        for key, inner in value.items():
            _storable(key)
            _check_value(inner, depth=depth + 1, count=count)
    elif isinstance(value, list):
        for inner in value:
            _check_value(inner, depth=depth + 1, count=count)


Title = Annotated[
    StrictStr,
    Field(min_length=1, max_length=200),
    AfterValidator(_storable),
    AfterValidator(_not_blank),
]
Metadata = Annotated[dict[str, Any], AfterValidator(_metadata)]
MessageText = Annotated[
    StrictStr, AfterValidator(_message), AfterValidator(_not_blank), AfterValidator(_storable)
]


Comment = Annotated[StrictStr, Field(max_length=MAX_COMMENT_CHARS), AfterValidator(_storable)]


class In(Schema):
    """Unknown fields are refused: what is not understood must not look accepted."""

    model_config = ConfigDict(extra="forbid")


class LoginIn(In):
    email: Annotated[StrictStr, Field(max_length=254), AfterValidator(_storable)] | None = None
    username: Annotated[StrictStr, Field(max_length=254), AfterValidator(_storable)] | None = None
    password: Annotated[StrictStr, Field(min_length=1, max_length=4096)]

    @model_validator(mode="after")
    def _one_name(self) -> LoginIn:
        if bool((self.email or "").strip()) == bool((self.username or "").strip()):
            raise ValueError("give email or username")
        return self


class UserOut(Schema):
    user_id: UUID
    email: str
    username: str


class LoginOut(UserOut):
    access_token: str
    expires_at: datetime


class ThreadIn(In):
    title: Title | None = None
    metadata: Metadata | None = None


class ThreadPatch(In):
    title: Title | None = None
    metadata: Metadata | None = None
    status: Literal["active", "locked", "closed"] | None = None


class ThreadCreated(Schema):
    thread_id: UUID
    title: str
    created_at: datetime


class ThreadOut(ThreadCreated):
    updated_at: datetime
    message_count: int
    status: str


class ThreadPage(Schema):
    data: list[ThreadOut]
    has_more: bool
    after: str | None


class FeedbackIn(In):
    kind: Literal["positive", "negative"]
    comment: Comment | None = None


class FeedbackOut(Schema):
    kind: Literal["positive", "negative"]
    comment: str


class MessageOut(Schema):
    message_id: UUID
    role: Literal["user", "assistant"]
    content: str
    created_at: datetime
    turn_id: UUID | None
    incomplete: bool
    feedback: FeedbackOut | None = None
    """Only there where the message has some."""


class SessionOut(Schema):
    """How much the assistant remembers, and until when the conversation is kept."""

    remembered_count: int
    message_count: int
    age_seconds: int
    last_active_at: datetime
    expires_at: datetime


class TranscriptOut(Schema):
    thread_id: UUID
    title: str
    created_at: datetime
    updated_at: datetime
    status: str
    messages: list[MessageOut]
    has_more: bool
    session: SessionOut


class ExportOut(Schema):
    """A conversation as a file, with all that its owner could read."""

    thread_id: UUID
    title: str
    status: str
    metadata: dict[str, Any]
    created_at: datetime
    updated_at: datetime
    last_active_at: datetime
    exported_at: datetime
    messages: list[dict[str, Any]]
    """As in a transcript; with `item` where ChatKit's thread item says more than the text."""
    turns: list[dict[str, Any]]
    attachments: list[dict[str, Any]]


class ErasedOut(Schema):
    """What was erased, in numbers: the receipt."""

    erased_at: datetime
    receipt: int | None
    """The number of the ledger's row; null where there was nothing to erase."""
    subject: str
    """What stands for the person in the ledger, which names nobody."""
    counts: dict[str, int]


class ReadOut(Schema):
    """One read by somebody of the staff; `reader` is null where their account is gone."""

    read_id: UUID
    read_at: datetime
    how: Literal["page", "model", "export", "search"]
    reader: str | None


class ReadPage(Schema):
    data: list[ReadOut]
    has_more: bool
    after: UUID | None


class ClearedOut(Schema):
    cleared: int


class MessageIn(In):
    text: MessageText


class RetryIn(In):
    text: MessageText | None = None


class AttachmentOut(Schema):
    id: UUID
    type: Literal["image", "file"]
    name: str
    mime_type: str
    size: int


class UsageOut(Schema):
    requests: int
    input_tokens: int
    output_tokens: int
    total_tokens: int


class TurnOut(Schema):
    turn_id: UUID
    thread_id: UUID
    status: Literal["queued", "running", "completed", "failed", "cancelled", "interrupted"]
    ahead: int
    model: str
    usage: UsageOut
    error: str | None
    warning: str | None
    message_id: UUID | None
    user_message_id: UUID | None
    queued_at: datetime
    started_at: datetime | None
    first_token_at: datetime | None
    finished_at: datetime | None


class StopOut(Schema):
    turn_id: UUID
    status: Literal["queued", "running", "completed", "failed", "cancelled", "interrupted"]


class ErrorDetail(Schema):
    code: str
    message: str
    retryable: bool
    fields: list[dict[str, str]] | None = None


class ErrorOut(Schema):
    """Every error looks like this."""

    error: ErrorDetail
    detail: str


class HealthOut(Schema):
    status: Literal["ok"]


class CheckOut(Schema):
    """How a part is; `ok` is null for one that is not asked after here."""

    ok: bool | None
    status: Literal["ok", "failed", "skipped"]
    detail: str
    hint: str
    """What to do about it; empty where there is nothing to do."""


class ReadyOut(Schema):
    """Each part by name; `ready` when all are well."""

    ready: bool
    checks: dict[str, CheckOut]
