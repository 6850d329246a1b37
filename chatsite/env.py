"""Every setting the environment (or `.env`) may hold: the one table of names, defaults and gates.

`docs/settings.md` and `.env.example` are written from it: `python -m chatsite.env`.
"""

from __future__ import annotations

import secrets
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import environ
from django.core.exceptions import ImproperlyConfigured

from conversations.media import read_media_type

SECRET_KEY_CHARS = 50
BASE_DIR = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True)
class Variable:
    """One environment variable: `parse` raises ValueError with what to write instead."""

    name: str
    default: str
    parse: Callable[[str], Any]
    help: str
    group: str


def text(value: str) -> str:
    return value.strip()


def whole(low: int, high: int) -> Callable[[str], int]:
    def parse(value: str) -> int:
        try:
            number = int(value)
        except ValueError:
            number = low - 1
        if not low <= number <= high:
            raise ValueError(f"write a whole number from {low} to {high}")
        return number

    return parse


def seconds(low: float, high: float) -> Callable[[str], float]:
    def parse(value: str) -> float:
        try:
            number = float(value)
        except ValueError:
            number = low - 1
        if not low <= number <= high:
            raise ValueError(f"write seconds from {low:g} to {high:g}")
        return number

    return parse


def yes_or_no(value: str) -> bool:
    words = {"1": True, "true": True, "yes": True, "on": True}
    words |= {"": False, "0": False, "false": False, "no": False, "off": False}
    try:
        return words[value.strip().lower()]
    except KeyError:
        raise ValueError("write true or false") from None


def one_of(*choices: str) -> Callable[[str], str]:
    def parse(value: str) -> str:
        if value.strip() not in choices:
            raise ValueError("write " + " or ".join(choices))
        return value.strip()

    return parse


def host_names(value: str) -> list[str]:
    names = [name.strip() for name in value.split(",") if name.strip()]
    if any("/" in name for name in names):
        raise ValueError("write host names without scheme, separated by commas")
    return names


def origins(value: str) -> list[str]:
    found = [origin.strip().rstrip("/") for origin in value.split(",") if origin.strip()]
    for origin in found:
        parts = urlsplit(origin)
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.path or parts.query:
            raise ValueError("write exact origins such as https://app.example.com")
    return found


def site_url(value: str) -> str:
    parts = urlsplit(value.strip())
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.path.strip("/"):
        raise ValueError("write the address people use, such as https://chat.example.com")
    return f"{parts.scheme}://{parts.netloc}"


def provider_url(value: str) -> str:
    """https, or plain http on this machine: the key travels in a header."""
    if not value.strip():
        return ""
    parts = urlsplit(value.strip())
    loopback = {"localhost", "127.0.0.1", "::1"}
    if not parts.hostname or not (
        parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in loopback)
    ):
        raise ValueError("write an https:// address, or http:// on localhost")
    return value.strip()


def database_url(value: str) -> str:
    schemes = ("sqlite:///", "postgres://", "postgresql://")
    if value.strip() and not value.strip().startswith(schemes):
        raise ValueError("write sqlite:///path or postgresql://user:password@host:5432/name")
    return value.strip()


def dotted_path(value: str) -> str:
    names = value.strip().split(".")
    if len(names) < 2 or not all(name.isidentifier() for name in names):
        raise ValueError("write the dotted path of a callable, such as shop.assistant.build_agent")
    return value.strip()


def secret(value: str) -> str:
    """None, or one that nobody guesses and every header can hold."""
    word = value.strip()
    if word and (len(word) < 16 or not word.isascii() or not word.isprintable() or " " in word):
        raise ValueError("write 16 or more random characters without spaces")
    return word


def folder(value: str) -> str:
    if not value.strip().strip("./"):
        raise ValueError("write a folder of its own, such as data/attachments")
    return value.strip()


def media_types(value: str) -> tuple[str, ...]:
    names = [name.strip() for name in value.split(",") if name.strip()]
    if not all(name == read_media_type(name) for name in names):
        raise ValueError("write media types such as image/png, separated by commas")
    return tuple(dict.fromkeys(names))


VARIABLES: tuple[Variable, ...] = (
    Variable("SECRET_KEY", "", text, "Signs sessions and access tokens. Required unless `DEBUG`; "
             "50 characters or more. `make run` writes one into `.env`.", "Site"),
    Variable("DEBUG", "false", yes_or_no, "Development mode: error pages with details.", "Site"),
    Variable("SITE_URL", "http://localhost:8000", site_url,
             "The address people use. With https, cookies become secure, plain http is redirected "
             "and HSTS is sent.", "Site"),
    Variable("ALLOWED_HOSTS", "", host_names,
             "Further host names this site answers to, separated by commas. The host of "
             "`SITE_URL` and this machine's loopback names always count.", "Site"),
    Variable("CORS_ALLOWED_ORIGINS", "", origins,
             "Exact origins whose browser frontends may call the API, separated by commas.",
             "Site"),
    Variable("AGENT_SESSION_DB_PATH", "data/agent_sessions.db", text,
             "The SQLite file, relative to the project. Its folder is made private.", "Storage"),
    Variable("DATABASE_URL", "", database_url,
             "Overrides the file: `sqlite:///path` or `postgresql://user:password@host/name`.",
             "Storage"),
    Variable("SQLITE_SYNCHRONOUS", "FULL", one_of("FULL", "NORMAL"),
             "`FULL`: what was acknowledged survives a power cut. `NORMAL`: faster, may lose the "
             "last commits then (never on a crash of the process).", "Storage"),
    Variable("AGENT_SESSION_MAX_MESSAGES", "200", whole(1, 100_000),
             "Messages of a session the assistant remembers.", "Retention"),
    Variable("AGENT_SESSION_RETENTION_DAYS", "7", whole(1, 36_500),
             "Days without activity after which a session is deleted.", "Retention"),
    Variable("AGENT_SESSION_CLEANUP_HOUR", "2", whole(0, 23),
             "Hour (UTC) of the daily cleanup.", "Retention"),
    Variable("CONVERSATIONS_AGENT", "chatsite.todo.agent.build_agent", dotted_path,
             "Dotted path of the callable that builds the `agents.Agent` people talk to.",
             "Assistant"),
    Variable("CONVERSATIONS_CHATKIT_SERVER", "conversations.chatkit_server.ConversationServer",
             dotted_path, "Dotted path of the subclass of `ConversationServer` that answers the "
             "ChatKit frontend at `/chatkit`: for actions of your own widgets.", "Assistant"),
    Variable("OPENAI_API_KEY", "", text,
             "Key of the model provider. Without one the offline model answers.", "Assistant"),
    Variable("OPENAI_BASE_URL", "", provider_url,
             "Another OpenAI-compatible endpoint: https, or http on this machine.", "Assistant"),
    Variable("CHAT_MODEL", "", text,
             "The model's name at the provider; empty takes the SDK's default.", "Assistant"),
    Variable("CHAT_API", "responses", one_of("responses", "chat_completions"),
             "Which API of the provider is spoken: `responses` or `chat_completions`.",
             "Assistant"),
    Variable("AGENT_TRACING", "false", yes_or_no,
             "Let the SDK send traces, which hold what people said, to the provider.", "Assistant"),
    Variable("CHAT_TURN_TIMEOUT_SECONDS", "300", seconds(1, 86_400),
             "How long one turn may run before it ends with an error.", "Turns"),
    Variable("CHAT_MAX_MESSAGE_CHARS", "2000", whole(1, 1_000_000),
             "Characters in one message.", "Turns"),
    Variable("CHAT_MAX_BODY_BYTES", "262144", whole(1_024, 104_857_600),
             "Bytes in one API request; more is refused with 413 before it is read.", "Turns"),
    Variable("CHAT_MAX_QUEUED_TURNS", "5", whole(0, 1_000),
             "Messages of one thread that may wait for their turn; more are refused with 429.",
             "Turns"),
    Variable("CHAT_LEASE_SECONDS", "15", seconds(0.5, 3_600),
             "How long a turn may go without a sign of life from its process before another "
             "takes over.", "Turns"),
    Variable("CHAT_SHUTDOWN_GRACE_SECONDS", "10", seconds(0, 3_600),
             "How long running turns may go on when the server stops; what is not finished then is "
             "kept and marked.", "Turns"),
    Variable("CHAT_EVENTS_KEPT_SECONDS", "600", seconds(0, 86_400),
             "How long after a turn's end its stream can be picked up in its middle.", "Turns"),
    Variable("CHAT_STORE_BUDGET_SECONDS", "1.5", seconds(0.1, 30),
             "How long a turn waits for a busy database before it answers without it.", "Turns"),
    Variable("CHAT_ATTACHMENT_MAX_BYTES", "10485760", whole(1, 1_073_741_824),
             "Bytes in one file that is attached to a message.", "Attachments"),
    Variable("CHAT_ATTACHMENT_MIME_TYPES", "image/png,image/jpeg,image/gif,image/webp,"
             "application/pdf,text/plain,text/markdown,text/csv,application/json", media_types,
             "Types of files that may be attached, separated by commas. Empty: none may.",
             "Attachments"),
    Variable("CHAT_ATTACHMENT_DIR", "data/attachments", folder,
             "Where attached files are kept, relative to the project. Private, and for this site "
             "alone. Another storage is set by the alias `attachments` of Django's `STORAGES`.",
             "Attachments"),
    Variable("ACCESS_TOKEN_DAYS", "30", whole(1, 3_650),
             "Days an access token from sign-in is valid.", "Sign-in"),
    Variable("LOGIN_ATTEMPTS_PER_MINUTE", "10", whole(1, 10_000),
             "Failed sign-ins per minute for one account from one address before 429.", "Sign-in"),
    Variable("CHAT_WORKER_SILENT_SECONDS", "150", seconds(0, 86_400),
             "How long the background worker may go without a task that ran before `/readyz` says "
             "so and `serve` restarts it; its heartbeat runs every 60 to 90 seconds. 0: this site "
             "has no worker, and neither it nor the cleanup is asked after.", "Operations"),
    Variable("READINESS_KEPT_SECONDS", "1", seconds(0, 60),
             "For how long `/readyz` tells what it has found, however many ask.",
             "Operations"),
    Variable("METRICS_TOKEN", "", secret,
             "What `/metrics` is read with, as `Authorization: Bearer ...`. Empty: it is read from "
             "this machine only. Set it where a proxy runs on this machine.", "Operations"),
    Variable("CHATKIT_PAGE", "false", yes_or_no,
             "Offer OpenAI's own ChatKit component at `/chatkit-page/`. It loads a program from "
             "OpenAI's CDN; see docs/chatkit.md.", "ChatKit page"),
    Variable("CHATKIT_DOMAIN_KEY", "", text,
             "The key of this site's domain, from the domain allowlist of an OpenAI organization. "
             "Not a secret: the page shows it. On localhost any will do.", "ChatKit page"),
)  # fmt: skip


def load(environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """All settings, parsed. Raises ImproperlyConfigured with each bad variable's name and the cure.

    Reads `.env` beside `manage.py` first, where it exists; the real environment wins.
    """
    if environment is None:
        environ.Env.read_env(BASE_DIR / ".env")
        environment = environ.Env.ENVIRON
    values: dict[str, Any] = {}
    complaints = []
    for variable in VARIABLES:
        raw = environment.get(variable.name, variable.default)
        try:
            values[variable.name] = variable.parse(raw)
        except ValueError as error:
            complaints.append(f"{variable.name}: {error}.")
    if not complaints and len(values["SECRET_KEY"]) < SECRET_KEY_CHARS:
        if values["DEBUG"]:
            values["SECRET_KEY"] = values["SECRET_KEY"] or "insecure-development-key-" + "x" * 40
        else:
            complaints.append(
                "SECRET_KEY: write 50 or more random characters into .env, for example "
                'the output of: python -c "import secrets; print(secrets.token_urlsafe(50))".'
            )
    if complaints:
        raise ImproperlyConfigured(" ".join(complaints))
    return values


def write_secret_key(path: Path) -> bool:
    """Give a fresh checkout a `.env` with a secret key of its own; False if it has one."""
    before = path.read_text() if path.exists() else ""
    lines = before.splitlines()
    if any(line.startswith("SECRET_KEY=") and line != "SECRET_KEY=" for line in lines):
        return False
    with path.open("a") as file:
        if before and not before.endswith("\n"):
            file.write("\n")
        file.write(f"SECRET_KEY={secrets.token_urlsafe(50)}\n")
    path.chmod(0o600)
    return True


def settings_page() -> str:
    """`docs/settings.md`: a heading for every setting."""
    page = "# Settings\n\nFrom the environment, or from `.env` beside `manage.py`. "
    page += "A bad value stops the start with the variable's name and what to write instead.\n"
    page += "This page is written by `python -m chatsite.env`.\n"
    group = ""
    for variable in VARIABLES:
        if variable.group != group:
            group = variable.group
            page += f"\n## {group}\n"
        default = f"`{variable.default}`" if variable.default else "empty"
        page += f"\n### `{variable.name}`\n{variable.help}\n\nDefault: {default}\n"
    return page


def example_file() -> str:
    """`.env.example`: every setting with its default, commented out."""
    lines = ["# Copy to .env and change what you need. Written by: python -m chatsite.env"]
    group = ""
    for variable in VARIABLES:
        if variable.group != group:
            group = variable.group
            lines += ["", f"# --- {group} ---"]
        lines += [f"# {variable.help}", f"#{variable.name}={variable.default}"]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    (BASE_DIR / "docs" / "settings.md").write_text(settings_page())
    (BASE_DIR / ".env.example").write_text(example_file())
    sys.stdout.write("docs/settings.md and .env.example written\n")
