"""The web process: what a stop promises, and what it lets in."""

from __future__ import annotations

import asyncio
import gc
import http.client
import json
import select
import signal
import socket
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest

from conversations import supervisor, web
from conversations.tests.supervisor_processes import Command, running

SITE = {"DJANGO_SETTINGS_MODULE": "conversations.tests.supervisor_site"}


@contextmanager
def serving(**environment: str) -> Iterator[tuple[Command, int]]:
    """A web process over the small site, once it answers; and its port."""
    with supervisor.open_listener(host="127.0.0.1", port=0) as listener:
        port = listener.getsockname()[1]
        code = (
            "import os, sys; from conversations import web; fd = os.dup(0);"
            "sys.exit(web.main(['--fd', str(fd)]))"
        )
        process = running("-c", code, stdin=listener.fileno(), **SITE, **environment)
        with process as command:
            listener.close()
            assert get(port, "/healthz")[0] == 200
            yield command, port
            if command.process.poll() is None:
                command.send(signal.SIGTERM)
                assert command.ends(within=10) == 0


def get(port: int, path: str, **headers: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    with closing(connection):
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read()


def open_stream(port: int) -> Any:
    """A stream whose first event has arrived."""
    answer = urllib.request.urlopen(f"http://127.0.0.1:{port}/stream", timeout=30)
    assert answer.readline() == b"data: first\n"
    return answer


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_tells_every_stream_and_exits_with_0(number):
    with serving() as (command, port):
        streams = [open_stream(port) for _ in range(20)]
        began = time.monotonic()
        command.send(number)
        assert [stream.read() for stream in streams] == [b"\ndata: interrupted\n\n"] * 20
        assert command.ends(within=10) == 0
        assert time.monotonic() - began < 4
        assert command.output.endswith("lanes closed\n")
        for stream in streams:
            stream.close()


def test_the_socket_answers_while_turns_are_drained():
    with serving(SITE_DRAIN="1.5") as (command, port):
        stream = open_stream(port)
        command.send(signal.SIGTERM)
        answers = []
        while b"draining" not in answers:
            answers.append(get(port, "/healthz")[1])
        assert stream.read() == b"\ndata: interrupted\n\n"
        assert command.ends(within=10) == 0
        stream.close()


def test_a_drain_that_fails_does_not_keep_the_process():
    with serving(SITE_DRAIN="fails") as (command, _port):
        command.send(signal.SIGTERM)
        assert command.ends(within=10) == 0
        assert "Turns could not be drained" in command.output
        assert "lanes closed" in command.output


def test_a_second_ctrl_c_cuts_the_drain_short():
    with serving(SITE_DRAIN="hangs", SITE_GRACE="60") as (command, port):
        command.send(signal.SIGINT)
        while get(port, "/healthz")[1] != b"draining":
            continue
        command.send(signal.SIGINT)
        assert command.ends(within=10) == 0
        assert "lanes closed" in command.output


def test_a_broken_assistant_does_not_keep_the_site_from_starting():
    with serving(SITE_AGENT="broken") as (command, port):
        assert get(port, "/healthz") == (200, b"ok")
        command.says("The assistant could not be built")
        command.says("no such model")


def test_forwarded_headers_of_a_local_proxy_are_believed_and_the_server_is_not_named():
    with serving() as (_command, port):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        with closing(connection):
            headers = {"X-Forwarded-For": "203.0.113.7", "X-Forwarded-Proto": "https"}
            connection.request("GET", "/whoami", headers=headers)
            answer = connection.getresponse()
            told = json.loads(answer.read())
        assert told["client"] == "203.0.113.7"
        assert told["secure"] is True
        assert answer.getheader("server") is None


@pytest.mark.parametrize("endless", [b"x", b"x-line: y\r\n"], ids=["value", "lines"])
def test_an_endless_head_is_refused(endless):
    with serving() as (_command, port), socket.create_connection(("127.0.0.1", port)) as client:
        client.settimeout(10)
        client.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nx-endless: ")
        sent = 0
        while not select.select([client], [], [], 0.005)[0]:
            client.sendall(endless * 100)
            sent += 100 * len(endless)
            assert sent < 1_000_000
        assert client.recv(1000).startswith(b"HTTP/1.1 431")
        assert get(port, "/healthz") == (200, b"ok")


def test_a_large_body_after_a_small_head_is_not_mistaken_for_a_head():
    with serving() as (_command, port), socket.create_connection(("127.0.0.1", port)) as client:
        client.settimeout(10)
        head = b"POST /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 300000\r\n\r\n"
        for _ in range(3):
            client.sendall(head[:20])
            client.sendall(head[20:] + b"b" * 300_000)
            answer = b""
            while not answer.endswith(b"ok\r\n0\r\n\r\n"):
                answer += client.recv(65_536)
            assert answer.startswith(b"HTTP/1.1 200")


def test_a_port_in_use_is_one_line_and_exit_code_1(capfd, monkeypatch):
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    with supervisor.open_listener(host="127.0.0.1", port=0) as listener:
        port = listener.getsockname()[1]
        assert web.main(["--port", str(port)]) == 1
    told = capfd.readouterr()
    assert told.err.count("\n") == 1
    assert f"Port {port} on 127.0.0.1 is already in use" in told.err


def test_a_stop_before_the_site_is_loaded_is_a_clean_exit():
    with pytest.raises(SystemExit) as leaving:
        web._leave_quietly(signal.SIGTERM, None)
    assert leaving.value.code == 0


def test_without_httptools_h11_bounds_the_head(monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn.protocols.http.httptools_impl", None)
    config = web.build_config(None)
    assert config.http == "h11"
    assert config.h11_max_incomplete_event_size == web.MAX_HEAD_BYTES


def test_what_is_loaded_is_frozen():
    gc.unfreeze()
    try:
        web.freeze_loaded_objects()
        assert gc.get_freeze_count() > 1000
    finally:
        gc.unfreeze()
        gc.set_threshold(700)


def make_server(drain: web.Drain, *, grace_seconds: float) -> web.Server:
    return web.Server(
        web.build_config(None), begin=web.begin_turns, drain=drain, grace_seconds=grace_seconds
    )


async def test_a_drain_beyond_its_time_is_cut_off(monkeypatch, caplog):
    monkeypatch.setattr(web, "DRAIN_MARGIN_SECONDS", 0.1)
    cancelled = asyncio.Event()

    async def drain(grace_seconds: float) -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            cancelled.set()

    await make_server(drain, grace_seconds=0.1)._drain_in_time()
    assert cancelled.is_set()
    assert "still running" in caplog.text


async def test_the_drain_gets_the_grace():
    told: list[float] = []

    async def drain(grace_seconds: float) -> None:
        told.append(grace_seconds)

    await make_server(drain, grace_seconds=7.5)._drain_in_time()
    assert told == [7.5]
