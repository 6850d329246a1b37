"""The floor: a bare ASGI application that runs the agent and streams, and does nothing else."""

from __future__ import annotations

import json
from typing import Any

from agents import RunConfig, Runner

from benchmarks.model import build_agent

AGENT = build_agent()
CONFIG = RunConfig(tracing_disabled=True)


async def application(scope: Any, receive: Any, send: Any) -> None:
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    headers = [(b"content-type", b"text/event-stream")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    result = Runner.run_streamed(AGENT, json.loads(body)["text"], run_config=CONFIG)
    async for event in result.stream_events():
        if event.type == "raw_response_event" and event.data.type == "response.output_text.delta":
            frame = f"data: {json.dumps({'content': event.data.delta})}\n\n".encode()
            await send({"type": "http.response.body", "body": frame, "more_body": True})
    await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})
