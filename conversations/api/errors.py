"""Every error, everywhere in the same shape: where the core's words become status codes."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from typing import Any, Final

from django.core.exceptions import RequestDataTooBig
from django.db import DatabaseError, InterfaceError
from django.http import Http404, HttpRequest, HttpResponse
from ninja import NinjaAPI
from ninja.errors import AuthenticationError, HttpError, ValidationError

from conversations import errors

logger = logging.getLogger(__name__)

STATUS: Final[dict[type[errors.ConversationsError], int]] = {
    errors.Unauthenticated: 401,
    errors.CsrfFailed: 403,
    errors.NotFound: 404,
    errors.Conflict: 409,
    errors.TooLarge: 413,
    errors.Invalid: 422,
    errors.Throttled: 429,
    errors.NotConfigured: 501,
    errors.StoreError: 503,
}
_CODES: Final = {
    400: "invalid",
    401: "unauthenticated",
    403: "csrf",
    404: "not_found",
    405: "method_not_allowed",
    413: "too_large",
    422: "invalid",
    429: "throttled",
    503: "store_unavailable",
}


def error_response(
    *,
    status: int,
    code: str,
    message: str,
    retryable: bool = False,
    fields: Sequence[dict[str, str]] = (),
) -> HttpResponse:
    """The contract's error: an object for programs, and `detail` for older clients."""
    error: dict[str, Any] = {"code": code, "message": message, "retryable": retryable}
    if fields:
        error["fields"] = list(fields)
    response = HttpResponse(
        json.dumps({"error": error, "detail": message}),
        status=status,
        content_type="application/json",
    )
    response["Cache-Control"] = "no-store"
    return response


def from_core(error: errors.ConversationsError) -> HttpResponse:
    """One of our errors as an answer."""
    status = next((STATUS[kind] for kind in type(error).__mro__ if kind in STATUS), 500)
    response = error_response(
        status=status,
        code=error.code,
        message=error.message,
        retryable=error.retryable,
        fields=getattr(error, "fields", ()),
    )
    if isinstance(error, errors.Throttled):
        response["Retry-After"] = str(error.retry_after)
    elif isinstance(error, errors.StoreError):
        response["Retry-After"] = "1"
    elif isinstance(error, errors.Unauthenticated):
        response["WWW-Authenticate"] = "Bearer"
    return response


def from_status(status: int) -> HttpResponse:
    """An answer of Django's own, such as a 404 of the URL resolver, in our shape."""
    messages = {
        400: "This request is not valid.",
        404: "There is nothing at this address.",
        405: "This address does not take this method.",
        413: "The request is too large.",
    }
    return error_response(
        status=status,
        code=_CODES.get(status, "error"),
        message=messages.get(status, "Something went wrong."),
        retryable=status >= 500,
    )


def add_handlers(api: NinjaAPI) -> None:
    """Teach ninja our shape for everything that may be raised in a route."""

    @api.exception_handler(errors.ConversationsError)
    def ours(request: HttpRequest, error: errors.ConversationsError) -> HttpResponse:
        return from_core(error)

    @api.exception_handler(ValidationError)
    def validation(request: HttpRequest, error: ValidationError) -> HttpResponse:
        fields = [_field(detail) for detail in error.errors]
        return from_core(errors.Invalid(_sentence(fields), fields=fields))

    @api.exception_handler(AuthenticationError)
    def unauthenticated(request: HttpRequest, error: AuthenticationError) -> HttpResponse:
        return from_core(errors.Unauthenticated())

    @api.exception_handler(HttpError)
    def http(request: HttpRequest, error: HttpError) -> HttpResponse:
        cause = error.__cause__ or error.__context__
        if isinstance(cause, errors.ConversationsError):
            return from_core(cause)
        if isinstance(cause, RequestDataTooBig):
            return from_core(errors.TooLarge())
        if error.status_code == 400:  # ninja could not parse the body
            return from_core(errors.Invalid("The body is not valid JSON."))
        return from_status(error.status_code)

    @api.exception_handler(RequestDataTooBig)
    def too_big(request: HttpRequest, error: RequestDataTooBig) -> HttpResponse:
        return from_core(errors.TooLarge())

    @api.exception_handler(Http404)
    def missing(request: HttpRequest, error: Http404) -> HttpResponse:
        return from_status(404)

    @api.exception_handler(DatabaseError)
    @api.exception_handler(InterfaceError)
    def store(request: HttpRequest, error: Exception) -> HttpResponse:
        logger.error("store failed: %s", type(error).__name__)
        return from_core(errors.StoreError())

    @api.exception_handler(Exception)
    def unexpected(request: HttpRequest, error: Exception) -> HttpResponse:
        # The type and where, never the text: it may hold what people said.
        place = place_of(error)
        logger.error("unexpected %s at %s", type(error).__name__, place)
        return from_status(500)


def _field(detail: dict[str, Any]) -> dict[str, str]:
    """One validation complaint, without the value it is about."""
    location = [str(part) for part in detail.get("loc", ())]
    location = location[2:] if location[:2] == ["body", "payload"] else location[1:]
    return {
        "field": ".".join(location[-2:]) or "body",
        "message": str(detail.get("msg", "is not valid")).removeprefix("Value error, "),
        "code": str(detail.get("type", "invalid")),
    }


def _sentence(fields: Sequence[dict[str, str]]) -> str:
    return "; ".join(f"{field['field']}: {field['message']}" for field in fields[:3])


def place_of(error: BaseException) -> str:
    """Where it was raised: what a log may hold of it."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return "?"
    return f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"
