"""All routes, and the OpenAPI page at `/api/docs`, whose assets are served from here."""

from __future__ import annotations

import json
from typing import Any

from django.http import HttpRequest
from django.urls import path
from ninja import NinjaAPI
from ninja.parser import Parser

from conversations.api import errors, messages, sign_in, threads
from conversations.api.auth import TokenOrSession
from conversations.api.schemas import HealthOut
from conversations.errors import Invalid


class JsonParser(Parser):
    """JSON objects only, whatever their depth and numbers: the rest is told what is wrong."""

    def parse_body(self, request: HttpRequest) -> Any:
        if request.content_type not in ("", "application/json"):
            raise Invalid("Send JSON with Content-Type: application/json.")
        try:
            return json.loads(request.body)
        except (ValueError, RecursionError):
            raise Invalid("The body is not valid JSON.") from None


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
api.add_router("/chatkit/threads", threads.router)
api.add_router("/chatkit/threads", messages.router)


@api.get("/healthz", auth=None, response=HealthOut, tags=["Operations"])
async def healthz(request: HttpRequest) -> dict[str, str]:
    """The process is up. Touches no database."""
    return {"status": "ok"}


urlpatterns = [path("", api.urls)]
