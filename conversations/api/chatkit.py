"""The official ChatKit frontend's one address. The library is loaded with the first request."""

from __future__ import annotations

import base64
import binascii
import logging
from collections.abc import AsyncGenerator
from typing import Any, Final
from urllib.parse import urlsplit

from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from ninja import Router
from pydantic import TypeAdapter, ValidationError

from conversations.api.auth import TokenOrSession, principal, verifier
from conversations.api.errors import place_of
from conversations.api.feeding import Feed
from conversations.api.schemas import ErrorOut, Title
from conversations.api.sse import WAITING, event_stream
from conversations.conf import get_conf
from conversations.errors import ConversationsError, Invalid, ItemNotFound, StoreError

logger = logging.getLogger(__name__)
router = Router(tags=["ChatKit"])

REQUESTS: Final = (
    "threads.create",
    "threads.add_user_message",
    "threads.add_client_tool_output",
    "threads.add_structured_input",
    "threads.retry_after_item",
    "threads.custom_action",
    "threads.sync_custom_action",
    "threads.get_by_id",
    "threads.list",
    "threads.update",
    "threads.delete",
    "items.list",
    "items.feedback",
    "attachments.create",
    "attachments.delete",
    "input.transcribe",
)
_OBJECT: Final[dict[str, Any]] = {"type": "object", "additionalProperties": True}
PROTOCOL: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["type", "params"],
                    "properties": {
                        "type": {"type": "string", "enum": list(REQUESTS)},
                        "params": _OBJECT,
                        "metadata": _OBJECT,
                    },
                }
            }
        },
    },
    "responses": {
        200: {
            "description": "What the request's type is answered with: an object, or a stream of "
            "events. See docs/chatkit.md.",
            "headers": {"X-Turn-Id": {"schema": {"type": "string", "format": "uuid"}}},
            "content": {
                "application/json": {
                    "schema": {
                        **_OBJECT,
                        "required": [],
                        "properties": {
                            "id": {"type": "string"},
                            "title": {"type": "string"},
                            "created_at": {"type": "string", "format": "date-time"},
                            "status": _OBJECT,
                            "items": _OBJECT,
                            "data": {"type": "array", "items": _OBJECT},
                            "has_more": {"type": "boolean"},
                            "after": {"type": "string"},
                            "updated_item": _OBJECT,
                            "text": {"type": "string"},
                        },
                    }
                },
                "text/event-stream": {"schema": {"type": "string"}},
            },
        }
    },
}
REFUSED: Final[Any] = {(401, 403, 404, 409, 413, 422, 429, 501, 503): ErrorOut}
_TITLE: Final[TypeAdapter[str]] = TypeAdapter(Title)
_LOOPBACK: Final = {"localhost", "127.0.0.1", "::1"}


@router.post(
    "", response=REFUSED, openapi_extra=PROTOCOL, auth=TokenOrSession(is_enough_signed=True)
)
async def post_chatkit(request: HttpRequest) -> HttpResponseBase:
    """One request of the ChatKit protocol, of any of its types.

    Refusals are plain JSON, before a stream opens. Leaving a stream stops the answer; what was said
    so far stays. While the store is away, a message is answered all the same, with a notice.
    """
    from chatkit.types import is_streaming_req  # noqa: PLC0415 - imports the SDK

    from conversations.chatkit_context import ChatKitContext  # noqa: PLC0415
    from conversations.chatkit_server import get_server  # noqa: PLC0415

    parsed = _parse(request)
    _check(parsed)
    server, who = get_server(), principal(request)
    if not who.is_verified and parsed.type != "threads.add_user_message":
        raise StoreError
    context = ChatKitContext(who.user_id, address=address_of(request))
    if parsed.type == "threads.sync_custom_action":
        await server.check_action(parsed, context)
    if is_streaming_req(parsed):
        verify = None if who.is_verified else verifier(request)
        return await _stream(server, parsed, context, verify)
    answer = await _answer(server, parsed, context)
    return HttpResponse(answer, content_type="application/json")


@router.post(
    "/", response=REFUSED, include_in_schema=False, auth=TokenOrSession(is_enough_signed=True)
)
async def post_chatkit_slash(request: HttpRequest) -> HttpResponseBase:
    """The same: a redirect would lose the body."""
    return await post_chatkit(request)


def address_of(request: HttpRequest) -> str:
    """What the addresses begin with that a client is given: the site's own, where it has one.

    On the machine it runs on, the address that was asked for: the port may be any.
    """
    site, asked = get_conf().site_url, f"{request.scheme}://{request.get_host()}"
    is_local = {urlsplit(site).hostname, urlsplit(asked).hostname} <= _LOOPBACK
    return asked if is_local or not site else site.rstrip("/")


def _parse(request: HttpRequest) -> Any:
    from conversations.chatkit_server import parse_request  # noqa: PLC0415

    if request.content_type not in ("", "application/json"):
        raise Invalid("Send JSON with Content-Type: application/json.")
    try:
        return parse_request(request.body)
    except ValidationError as error:
        raise _invalid(error) from None


def _check(request: Any) -> None:
    """Refuse what the library takes without a word."""
    if request.type == "threads.update":
        try:
            _TITLE.validate_python(request.params.title)
        except ValidationError as error:
            raise _invalid(error, field="params.title") from None
    elif request.type == "input.transcribe":
        try:
            base64.b64decode(request.params.audio_base64, validate=True)
        except (binascii.Error, ValueError):
            field = {"field": "params.audio_base64", "message": "is not base64"}
            raise Invalid(fields=[field]) from None


async def _answer(server: Any, parsed: Any, context: Any) -> bytes:
    from conversations.turns.hooks import OwnThreads  # noqa: PLC0415

    try:
        async with OwnThreads():
            result = await server.answer(parsed, context)
    except Exception as error:
        raise _refusal(error) from error
    answer: bytes = result.json
    return answer


async def _stream(server: Any, parsed: Any, context: Any, verify: Any) -> StreamingHttpResponse:
    """The events of a request, once the first of them is there: until then it may be refused."""
    from conversations import chatkit_turns  # noqa: PLC0415

    try:
        await chatkit_turns.prepare(server, parsed, context, verify=verify)
        feed = Feed(_events(server, parsed, context), failed=_error_event)
        if not await feed.begin():
            raise ItemNotFound
    except Exception as error:
        raise _refusal(error) from error
    frames = feed.read(heartbeat=get_conf().chat_heartbeat_seconds, comment=WAITING)
    turn = context.prepared.turn if context.prepared else None
    response = event_stream(frames, turn_id=turn.id if turn else None)
    response.end = feed.close  # type: ignore[attr-defined]
    return response


async def _events(server: Any, parsed: Any, context: Any) -> AsyncGenerator[bytes, None]:
    from conversations.turns.hooks import OwnThreads  # noqa: PLC0415

    async with OwnThreads():
        result = await server.answer(parsed, context)
        async for event in result.json_events:
            yield event


def _refusal(error: Exception) -> Exception:
    """What is told of an error while nothing of an answer was sent."""
    from chatkit.store import NotFoundError  # noqa: PLC0415

    if isinstance(error, ConversationsError):
        return error
    if isinstance(error, NotFoundError):
        return ItemNotFound()
    if isinstance(error, ValueError) and not isinstance(error, ValidationError | UnicodeError):
        logger.warning("refused: %s at %s", type(error).__name__, place_of(error))
        return Invalid("This request does not fit what is there.")
    return error


def _error_event(error: Exception) -> bytes:
    """What is told of an error when the stream is open already: an event, never its text."""
    from chatkit.errors import ErrorCode  # noqa: PLC0415
    from chatkit.types import ErrorEvent  # noqa: PLC0415

    if isinstance(error, ConversationsError):
        event = ErrorEvent(message=error.message, allow_retry=error.retryable)
    else:
        logger.error("unexpected %s at %s", type(error).__name__, place_of(error))
        event = ErrorEvent(code=ErrorCode.STREAM_ERROR, allow_retry=True)
    return b"data: " + event.model_dump_json(exclude_none=True).encode() + b"\n\n"


def _invalid(error: ValidationError, *, field: str = "") -> Invalid:
    """What is wrong with a request, without what was said in it."""
    fields = []
    for detail in error.errors(include_url=False, include_context=False, include_input=False)[:20]:
        kind = detail["type"]
        if kind == "json_invalid":
            return Invalid("The body is not valid JSON.")
        message = detail["msg"].removeprefix("Value error, ")
        if kind == "union_tag_invalid":  # it tells what was sent
            message = "is not one of those there are"
        place = [part for part in detail["loc"] if part not in REQUESTS]
        name = field or ".".join(str(part) for part in place if _is_name(part)) or "type"
        fields.append({"field": name, "message": message, "code": kind})
    return Invalid(
        "; ".join(f"{each['field']}: {each['message']}" for each in fields[:3]), fields=fields
    )


def _is_name(part: str | int) -> bool:
    """Whether a part of a place is of the protocol, not a key that the client made up."""
    return isinstance(part, int) or (part.isidentifier() and len(part) <= 30)
