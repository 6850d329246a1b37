"""People with a word of their own in every column, and where such words are left."""

from __future__ import annotations

import json
import secrets
import subprocess
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from django.apps import apps
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.auth import SESSION_KEY
from django.contrib.contenttypes.models import ContentType
from django.contrib.sessions.backends.db import SessionStore
from django.contrib.sessions.models import Session as BrowserSession
from django.core.files.storage import storages
from django.db import connection
from django.utils import timezone
from django_q.models import OrmQ
from django_q.models import Task as Result
from django_q.signing import SignedPackage

from conversations import models
from conversations.tests import factories

PRIVATE: Final = (
    models.AccessToken,
    models.Attachment,
    models.ChatMessage,
    models.ChatSession,
    models.ChatTurn,
    models.Feedback,
    models.RecordedEvents,
    apps.get_model("todo", "Task"),
)
"""Tables of rows that are somebody's."""
PUBLIC: Final = {
    "Throttle",  # digests, for a minute
    "LedgerEntry",  # numbers and pseudonyms
    "OpenRemoval",
    "StaffRead",  # keys; they go with the conversation
    "TaskRun",  # names of tasks, and times
    "Measurement",  # numbers
    "Cleanup",  # numbers
    "CleanupPage",  # ids and times
    "UserHold",  # who has one is not erased
    "QuarantinedMessage",  # of the table of messages
}
"""Models of ours without a word of anybody's."""
FIXED: Final = {"status", "kind", "storage_name", "agent_session_id", "lease_owner"}
"""Columns that hold words and names of ours."""


class Person:
    """Somebody with a word that is nowhere else."""

    def __init__(self) -> None:
        self.word = word = f"canary-{secrets.token_hex(6)}"
        self.user: Any = factories.UserFactory(
            username=word, email=f"{word}@example.com", first_name=word, last_name=word
        )
        self.session = self.speak()

    def speak(self, **fields: Any) -> Any:
        """A conversation with all that may belong to one."""
        word, item = self.word, json.dumps({"type": "widget", "copy_text": self.word})
        session = factories.ChatSessionFactory(
            owner=self.user,
            title=word,
            metadata={word: word},
            thread_extras=json.dumps({"reason": word}),
            last_position=1,
            last_turn_number=1,
            **{"hold_reason": word} | fields,
        )
        turn = models.ChatTurn.objects.create(
            session=session,
            number=1,
            status="completed",
            input=word,
            input_item=item,
            idempotency_key=word,
            model=word,
            error_code=word,
            warning=word,
        )
        models.RecordedEvents.objects.create(
            turn=turn, first_number=1, last_number=1, events=json.dumps([word])
        )
        message = models.ChatMessage.objects.create(
            session=session,
            turn=turn,
            position=1,
            kind=word,
            role=word,
            call_id=word,
            caller_id=word,
            text=word,
            shown=True,
            agent_item=json.dumps({"content": word}),
            thread_item=item,
            quarantine_reason=word,
        )
        models.Feedback.objects.create(
            message=message, user=self.user, kind="negative", comment=word
        )
        factories.AttachmentFactory(
            owner=self.user,
            session=session,
            message_id=message.id,
            name=word,
            mime_type=word,
            data=word.encode() * 20,
        )
        return session

    def settle(self, other: Any) -> None:
        """What they leave elsewhere: `other` is another's conversation."""
        word, now = self.word, timezone.now()
        models.Feedback.objects.create(
            message=other.messages.first(), user=self.user, kind="positive", comment=word
        )
        factories.AttachmentFactory(owner=self.user, name=word, mime_type=word, data=word.encode())
        token = models.AccessToken.objects.create(
            user=self.user, name=word, expires_at=now + timedelta(days=1)
        )
        apps.get_model("todo", "Task").objects.create(owner=self.user, title=word)
        OrmQ.objects.create(key="other", payload=SignedPackage.dumps({"args": (self.session.id,)}))
        Result.objects.create(
            id=word[:32], name=word, func="x", args=(str(self.session.id), word),
            result=word, started=now, stopped=now, success=True,
        )  # fmt: skip
        browser = SessionStore()
        browser[SESSION_KEY], browser["word"] = str(self.user.pk), word
        browser.create()
        for row in (self.user, token):
            LogEntry.objects.create(
                user=factories.UserFactory(),
                content_type=ContentType.objects.get_for_model(row),
                object_id=str(row.pk),
                object_repr=word,
                action_flag=CHANGE,
                change_message=word,
            )


def unnamed(person: Person) -> list[str]:
    """Columns of words in which theirs is not: the test would not see it left there."""
    missing = []
    for model in PRIVATE:
        for field in model._meta.concrete_fields:
            if field.get_internal_type() not in {"CharField", "TextField", "JSONField"}:
                continue
            values = model._default_manager.values_list(field.name, flat=True)
            if field.name not in FIXED and not any(person.word in str(each) for each in values):
                missing.append(f"{model.__name__}.{field.name}")
    return missing


def count(word: str) -> int:
    """How often a word is in the database and among the files."""
    return _in_files(word) + _in_database(word)


def _in_files(word: str) -> int:
    storage: Any = storages["attachments"]
    folder = Path(storage.location)
    files = [file for file in folder.rglob("*") if file.is_file()] if folder.exists() else []
    return sum(file.read_bytes().count(word.encode()) for file in files)


def _in_database(word: str) -> int:
    if connection.vendor == "sqlite":
        path = Path(connection.settings_dict["NAME"])
        files = [file for file in path.parent.iterdir() if file.name.startswith(path.name)]
        # By another process: to close a file here would drop the locks SQLite holds on it.
        found = subprocess.run(["cat", *files], capture_output=True, check=True).stdout
        return found.count(word.encode())
    total = 0
    with connection.cursor() as cursor:
        for table in connection.introspection.table_names():
            cursor.execute(f'SELECT "{table}"::text FROM "{table}"')
            total += sum(row[0].count(word) for row in cursor.fetchall())
    return total


def signed_in(person: Person) -> int:
    """In how many browsers."""
    rows = BrowserSession.objects.all()
    return sum(row.get_decoded().get("word") == person.word for row in rows)
