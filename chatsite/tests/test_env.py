"""The table of settings: good values are read, bad ones named with their cure."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured

from chatsite import env
from chatsite.env import VARIABLES, load, write_secret_key

KEY = {"SECRET_KEY": "k" * 50}
VARIABLE_OF = {variable.name: variable for variable in VARIABLES}

GOOD: dict[str, list[tuple[str, Any]]] = {
    "SECRET_KEY": [(f"  {'k' * 50}  ", "k" * 50)],
    "DEBUG": [("true", True), ("YES", True), (" on ", True), ("1", True)]
    + [(no, False) for no in ("", "0", "false", "No", "off")],
    "SITE_URL": [
        ("https://chat.example.com", "https://chat.example.com"),
        ("http://localhost:8000/", "http://localhost:8000"),
        ("https://[::1]:8443", "https://[::1]:8443"),
    ],
    "ALLOWED_HOSTS": [("", []), ("a.example, b.example,", ["a.example", "b.example"])],
    "CORS_ALLOWED_ORIGINS": [
        ("", []),
        (
            "https://a.example/, http://localhost:3000",
            ["https://a.example", "http://localhost:3000"],
        ),
    ],
    "DATABASE_URL": [
        ("", ""),
        ("sqlite:///x.db", "sqlite:///x.db"),
        (" postgresql://u:p@h/n ", "postgresql://u:p@h/n"),
        ("postgres://h/n", "postgres://h/n"),
    ],
    "SQLITE_SYNCHRONOUS": [("FULL", "FULL"), (" NORMAL ", "NORMAL")],
    "AGENT_SESSION_MAX_MESSAGES": [("1", 1), ("100000", 100_000)],
    "AGENT_SESSION_CLEANUP_HOUR": [("0", 0), ("23", 23)],
    "CONVERSATIONS_AGENT": [("shop.assistant.build", "shop.assistant.build")],
    "OPENAI_BASE_URL": [
        ("", ""),
        ("https://api.example.com/v1", "https://api.example.com/v1"),
        ("http://localhost:11434/v1", "http://localhost:11434/v1"),
        ("http://127.0.0.1:1", "http://127.0.0.1:1"),
        ("http://[::1]:1", "http://[::1]:1"),
    ],
    "CHAT_ATTACHMENT_MIME_TYPES": [
        ("", ()),
        (" image/png, text/csv,image/png,", ("image/png", "text/csv")),
    ],
    "CHAT_ATTACHMENT_DIR": [(" data/files ", "data/files"), ("/srv/files", "/srv/files")],
    "CHAT_API": [("chat_completions", "chat_completions")],
    "CHAT_WORKER_SILENT_SECONDS": [("0", 0.0), ("86400", 86_400.0)],
    "METRICS_TOKEN": [("", ""), (f" {'k' * 16} ", "k" * 16)],
    "CHAT_STORE_BUDGET_SECONDS": [("0.1", 0.1), ("30", 30.0), ("1e0", 1.0)],
}

BAD: dict[str, tuple[str, list[str]]] = {
    "DEBUG": ("write true or false", ["maybe", "2", "truee"]),
    "SITE_URL": (
        "write the address people use, such as https://chat.example.com",
        ["", "chat.example.com", "ftp://x", "https://", "https://x.example/chat"],
    ),
    "ALLOWED_HOSTS": (
        "write host names without scheme, separated by commas",
        ["https://a.example", "a.example/x"],
    ),
    "CORS_ALLOWED_ORIGINS": (
        "write exact origins such as https://app.example.com",
        ["*", "a.example", "https://a.example/path", "https://a.example?x=1", "null"],
    ),
    "DATABASE_URL": (
        "write sqlite:///path or postgresql://user:password@host:5432/name",
        ["mysql://h/n", "data/x.db", "sqlite://x.db"],
    ),
    "SQLITE_SYNCHRONOUS": ("write FULL or NORMAL", ["", "OFF", "full"]),
    "AGENT_SESSION_MAX_MESSAGES": (
        "write a whole number from 1 to 100000",
        ["", "0", "-1", "1.5", "100001", "many"],
    ),
    "AGENT_SESSION_CLEANUP_HOUR": ("write a whole number from 0 to 23", ["24", "-1"]),
    "CONVERSATIONS_AGENT": (
        "write the dotted path of a callable, such as shop.assistant.build_agent",
        ["", "build_agent", "shop.", "shop.build()", "shop/assistant.py"],
    ),
    "OPENAI_BASE_URL": (
        "write an https:// address, or http:// on localhost",
        ["http://api.example.com", "api.example.com", "https://", "http://localhost.example.com"],
    ),
    "CHAT_ATTACHMENT_MIME_TYPES": (
        "write media types such as image/png, separated by commas",
        ["png", "image/*", "image/png;charset=x", "Image/PNG", "image/png text/csv"],
    ),
    "CHAT_ATTACHMENT_DIR": (
        "write a folder of its own, such as data/attachments",
        ["", " ", ".", "/", "./", ".."],
    ),
    "METRICS_TOKEN": (
        "write 16 or more random characters without spaces",
        ["k" * 15, "k" * 16 + "\u00fc", "two words of many letters", "k" * 16 + "\x7f"],
    ),
    "CHAT_API": ("write responses or chat_completions", ["", "completions"]),
    "CHAT_STORE_BUDGET_SECONDS": (
        "write seconds from 0.1 to 30",
        ["", "0", "31", "nan", "inf", "-inf", "1s"],
    ),
}


@pytest.mark.parametrize(
    ("name", "raw", "value"), [(name, *pair) for name, pairs in GOOD.items() for pair in pairs]
)
def test_a_good_value_is_read(name, raw, value):
    assert load(KEY | {name: raw})[name] == value


@pytest.mark.parametrize(
    ("name", "cure", "raw"),
    [(name, cure, raw) for name, (cure, raws) in BAD.items() for raw in raws],
)
def test_a_bad_value_is_named_with_its_cure(name, cure, raw):
    with pytest.raises(ImproperlyConfigured) as refusal:
        load(KEY | {name: raw})
    assert str(refusal.value) == f"{name}: {cure}."


@pytest.mark.parametrize("url", ["https://[bad", "https://[::1"])
def test_an_address_that_cannot_even_be_split_is_named_too(url):
    for name in ("SITE_URL", "OPENAI_BASE_URL", "CORS_ALLOWED_ORIGINS"):
        with pytest.raises(ImproperlyConfigured, match=f"^{name}: "):
            load(KEY | {name: url})


def test_all_complaints_come_at_once():
    with pytest.raises(ImproperlyConfigured, match=r"^DEBUG: .*\. CHAT_API: .*\.$"):
        load({"DEBUG": "x", "CHAT_API": "y"})


def test_every_parser_has_good_and_bad_values_here():
    tested = {str(VARIABLE_OF[name].parse) for name in BAD} | {str(env.text)}
    kinds = {re.sub(r" at 0x.*", "", parse) for parse in tested}
    assert {re.sub(r" at 0x.*", "", str(variable.parse)) for variable in VARIABLES} <= kinds


def test_every_default_is_a_good_value():
    values = load(KEY)
    assert values.keys() == VARIABLE_OF.keys()


@pytest.mark.parametrize(
    "given", [{}, {"SECRET_KEY": ""}, {"SECRET_KEY": "   "}, {"SECRET_KEY": "k" * 49}]
)
def test_a_site_without_a_secret_key_does_not_start(given):
    with pytest.raises(ImproperlyConfigured, match=r"^SECRET_KEY: write 50 or more random"):
        load(given)


def test_development_needs_no_secret_key():
    assert load({"DEBUG": "true"})["SECRET_KEY"].startswith("insecure-development-key-")


def test_the_real_environment_wins_over_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(env, "BASE_DIR", tmp_path)
    monkeypatch.setattr("environ.Env.ENVIRON", KEY | {"CHAT_MODEL": "from the environment"})
    (tmp_path / ".env").write_text("CHAT_MODEL=from the file\nCHAT_API=chat_completions\n")
    values = load()
    assert values["CHAT_MODEL"] == "from the environment"
    assert values["CHAT_API"] == "chat_completions"


def test_a_bad_setting_stops_the_start_with_its_name():
    started = subprocess.run(
        [sys.executable, "manage.py", "check"],
        cwd=env.BASE_DIR,
        env=os.environ | KEY | {"DJANGO_SETTINGS_MODULE": "chatsite.settings", "CHAT_API": "soap"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert started.returncode != 0
    assert "CHAT_API: write responses or chat_completions." in started.stderr


# The secret key of a fresh checkout


def mode_of(path: Any) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_fresh_checkout_gets_a_key_in_a_private_file(tmp_path):
    path = tmp_path / ".env"
    assert write_secret_key(path)
    assert mode_of(path) == 0o600
    (line,) = path.read_text().splitlines()
    name, _, key = line.partition("=")
    assert name == "SECRET_KEY"
    assert len(key) >= 50


def test_a_key_is_written_once(tmp_path):
    path = tmp_path / ".env"
    write_secret_key(path)
    first = path.read_text()
    assert not write_secret_key(path)
    assert path.read_text() == first


@pytest.mark.parametrize("before", ["DEBUG=true\n", "DEBUG=true", "SECRET_KEY=\nDEBUG=true\n"])
def test_what_the_file_held_stays_and_the_key_is_read_from_it(tmp_path, monkeypatch, before):
    path = tmp_path / ".env"
    path.write_text(before)
    path.chmod(0o644)
    assert write_secret_key(path)
    assert mode_of(path) == 0o600
    monkeypatch.setattr(env, "BASE_DIR", tmp_path)
    monkeypatch.setattr("environ.Env.ENVIRON", {})
    values = load()
    assert values["DEBUG"] is True
    assert len(values["SECRET_KEY"]) >= 50
    assert not values["SECRET_KEY"].startswith("insecure")


def test_two_checkouts_have_different_keys(tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    write_secret_key(one)
    write_secret_key(other)
    assert one.read_text() != other.read_text()
