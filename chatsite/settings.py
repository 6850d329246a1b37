"""Django's settings, all derived from the table in `chatsite.env`."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import environ
from csp.constants import NONE, SELF

from chatsite.env import BASE_DIR, load
from conversations import sqlite

ENV = load()

SECRET_KEY = ENV["SECRET_KEY"]
DEBUG = ENV["DEBUG"]
SITE_URL = ENV["SITE_URL"]
HTTPS = SITE_URL.startswith("https://")
ALLOWED_HOSTS = sorted(
    {urlsplit(SITE_URL).hostname or "localhost", "localhost", "127.0.0.1", "[::1]"}
    | set(ENV["ALLOWED_HOSTS"])
)

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "corsheaders",
    "csp",
    "django_q",
    "ninja",  # serves the API documentation's assets from here, not from a CDN
    "conversations",
    "chatsite.todo",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "servestatic.middleware.ServeStaticMiddleware",
    "corsheaders.middleware.CorsMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "csp.middleware.CSPMiddleware",
]

ROOT_URLCONF = "chatsite.urls"
ASGI_APPLICATION = "chatsite.asgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    }
]


def _database() -> dict[str, Any]:
    url = ENV["DATABASE_URL"]
    if url.startswith("postgres"):
        config = dict(environ.Env.db_url_config(url))
        config["CONN_MAX_AGE"] = 0
        config.setdefault("OPTIONS", {})
        config["OPTIONS"] |= {"pool": {"min_size": 0, "max_size": 20, "timeout": 5}}
        return config
    path = url.removeprefix("sqlite:///") or ENV["AGENT_SESSION_DB_PATH"]
    return sqlite.database_settings(BASE_DIR / path, synchronous=ENV["SQLITE_SYNCHRONOUS"])


DATABASES = {"default": _database()}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in (
        "UserAttributeSimilarityValidator",
        "MinimumLengthValidator",
        "CommonPasswordValidator",
        "NumericPasswordValidator",
    )
]

LANGUAGE_CODE = "en"
TIME_ZONE = "UTC"  # libraries below us use naive local times: local must mean UTC
USE_TZ = True
USE_I18N = True

STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"},
    "attachments": {  # private: nothing in it has an address
        "BACKEND": "django.core.files.storage.FileSystemStorage",
        "OPTIONS": {
            "location": BASE_DIR / ENV["CHAT_ATTACHMENT_DIR"],
            "file_permissions_mode": 0o600,
            "directory_permissions_mode": 0o700,
        },
    },
}
STATIC_URL = "static/"
SERVESTATIC_USE_FINDERS = True  # served from the packages: there is no collectstatic step
DATA_UPLOAD_MAX_MEMORY_SIZE = 2_621_440

# The conversations app
AGENT_SESSION_MAX_MESSAGES = ENV["AGENT_SESSION_MAX_MESSAGES"]
AGENT_SESSION_RETENTION_DAYS = ENV["AGENT_SESSION_RETENTION_DAYS"]
AGENT_SESSION_CLEANUP_HOUR = ENV["AGENT_SESSION_CLEANUP_HOUR"]
CONVERSATIONS_AGENT = ENV["CONVERSATIONS_AGENT"]
CONVERSATIONS_CHATKIT_SERVER = ENV["CONVERSATIONS_CHATKIT_SERVER"]
AGENT_TRACING = ENV["AGENT_TRACING"]
CHAT_TURN_TIMEOUT_SECONDS = ENV["CHAT_TURN_TIMEOUT_SECONDS"]
CHAT_MAX_MESSAGE_CHARS = ENV["CHAT_MAX_MESSAGE_CHARS"]
CHAT_MAX_BODY_BYTES = ENV["CHAT_MAX_BODY_BYTES"]
CHAT_MAX_QUEUED_TURNS = ENV["CHAT_MAX_QUEUED_TURNS"]
CHAT_LEASE_SECONDS = ENV["CHAT_LEASE_SECONDS"]
CHAT_SHUTDOWN_GRACE_SECONDS = ENV["CHAT_SHUTDOWN_GRACE_SECONDS"]
CHAT_STORE_BUDGET_SECONDS = ENV["CHAT_STORE_BUDGET_SECONDS"]
CHAT_EVENTS_KEPT_SECONDS = ENV["CHAT_EVENTS_KEPT_SECONDS"]
CHAT_ATTACHMENT_MAX_BYTES = ENV["CHAT_ATTACHMENT_MAX_BYTES"]
CHAT_ATTACHMENT_MIME_TYPES = ENV["CHAT_ATTACHMENT_MIME_TYPES"]
ACCESS_TOKEN_DAYS = ENV["ACCESS_TOKEN_DAYS"]
LOGIN_ATTEMPTS_PER_MINUTE = ENV["LOGIN_ATTEMPTS_PER_MINUTE"]
CHAT_WORKER_SILENT_SECONDS = ENV["CHAT_WORKER_SILENT_SECONDS"]
READINESS_KEPT_SECONDS = ENV["READINESS_KEPT_SECONDS"]
METRICS_TOKEN = ENV["METRICS_TOKEN"]

# The assistant that ships
OPENAI_API_KEY = ENV["OPENAI_API_KEY"]
OPENAI_BASE_URL = ENV["OPENAI_BASE_URL"]
CHAT_MODEL = ENV["CHAT_MODEL"]
CHAT_API = ENV["CHAT_API"]

# The page of OpenAI's ChatKit component
CHATKIT_PAGE = ENV["CHATKIT_PAGE"]
CHATKIT_DOMAIN_KEY = ENV["CHATKIT_DOMAIN_KEY"]

# Browsers
CORS_ALLOWED_ORIGINS = ENV["CORS_ALLOWED_ORIGINS"]
CORS_URLS_REGEX = r"^/(api|chatkit)(/.*)?$"
CORS_ALLOW_HEADERS = [
    "authorization",
    "content-type",
    "idempotency-key",
    "last-event-id",
    "accept-language",
    "x-csrftoken",
    "chatkit-frame-instance-id",
    "x-upload-token",
]
CORS_EXPOSE_HEADERS = ["X-Turn-Id"]
CSRF_TRUSTED_ORIGINS = [SITE_URL] if HTTPS else []
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = SECURE_SSL_REDIRECT = HTTPS
SECURE_HSTS_SECONDS = 31_536_000 if HTTPS else 0
SECURE_HSTS_INCLUDE_SUBDOMAINS = SECURE_HSTS_PRELOAD = HTTPS
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if HTTPS else None
SECURE_REFERRER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": [SELF],
        "img-src": [SELF, "data:"],
        "object-src": [NONE],
        "base-uri": [SELF],
        "form-action": [SELF],
        "frame-ancestors": [NONE],
    }
}

# Background work
Q_CLUSTER = {
    "name": "chatsite",
    "orm": "default",
    "workers": 1,
    "poll": 1,
    "timeout": 300,
    "retry": 360,
    "max_attempts": 3,
    "ack_failures": True,
    "save_limit": 250,
    "catch_up": False,
    "time_zone": "UTC",
    "label": "Background work",
}

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(name)s %(message)s"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["stderr"], "level": "INFO"},
    "loggers": {
        # At DEBUG these hold what people said and their tokens.
        "openai": {"level": "WARNING"},
        "openai.agents": {"level": "ERROR"},
        "httpx": {"level": "WARNING"},
        "httpx2": {"level": "WARNING"},
        "django.request": {"level": "ERROR"},
    },
}
