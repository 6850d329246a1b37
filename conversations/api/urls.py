"""All routes, and the OpenAPI page at `/api/docs`, whose assets are served from here."""

from __future__ import annotations

import json
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.urls import path, re_path
from django.views.decorators.csrf import csrf_exempt
from ninja import NinjaAPI
from ninja.parser import Parser

from conversations.api import (
    account,
    attachments,
    chatkit,
    errors,
    exports,
    feedback,
    messages,
    ops,
    reads,
    sign_in,
    threads,
    turns,
)
from conversations.api.auth import TokenOrSession
from conversations.errors import Invalid


class JsonParser(Parser):
    """JSON objects only, whatever their depth and numbers: the rest is told what is wrong."""

    def parse_body(self, request: HttpRequest) -> Any:
        if request.content_type not in ("", "application/json"):
            raise Invalid("Send JSON with Content-Type: application/json.")
        try:
            body = json.loads(request.body)
        except (ValueError, RecursionError):
            raise Invalid("The body is not valid JSON.") from None
        if not isinstance(body, dict):
            raise Invalid("The body is not a JSON object.")
        return body


api = NinjaAPI(
    title="Chatsite",
    version="1",
    description="Conversations with an AI assistant that are remembered, isolated and erased.",
    docs_url="/api/docs",
    openapi_url="/api/openapi.json",
    auth=TokenOrSession(),
    parser=JsonParser(),
)
errors.add_handlers(api)
api.add_router("/api/auth", sign_in.router)
api.add_router("/chatkit", chatkit.router)
api.add_router("/chatkit/threads", threads.router)
api.add_router("/chatkit/threads", messages.router)
api.add_router("/chatkit/threads", turns.router)
api.add_router("/chatkit/threads", feedback.router)
api.add_router("/chatkit/threads", reads.router)
api.add_router("/chatkit/attachments", attachments.router)
api.add_router("/chatkit", exports.router)
api.add_router("/chatkit", account.router)
api.add_router("", ops.router)


@csrf_exempt
async def nothing_here(request: HttpRequest) -> HttpResponse:
    """All other addresses of the API, whichever handler they come through."""
    return errors.from_status(404)


urlpatterns = [
    path("", api.urls),
    re_path(r"^(?:api|chatkit)(?:/|\Z)", nothing_here),
]
