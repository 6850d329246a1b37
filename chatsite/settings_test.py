"""Settings of the tests: another database, a scripted assistant, cheap passwords.

`TEST_DATABASE_URL` names a PostgreSQL server to run the same tests on that engine.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

# Nothing of a developer's own .env or key may reach a test.
os.environ["SECRET_KEY"] = "test-secret-key-" + "t" * 40
os.environ["OPENAI_API_KEY"] = ""
os.environ["OPENAI_BASE_URL"] = ""
os.environ["DATABASE_URL"] = os.environ.get("TEST_DATABASE_URL", "")
_folder = Path(os.environ.get("TEST_DATA_DIR") or tempfile.mkdtemp(prefix="chatsite-tests-"))
os.environ["TEST_DATA_DIR"] = str(_folder)
# Each of several workers has a file of its own, named as pytest-django names its test database.
_worker = os.environ.get("PYTEST_XDIST_WORKER", "")
os.environ["AGENT_SESSION_DB_PATH"] = str(_folder / ("test.db" + f"_{_worker}" * bool(_worker)))
# Inherited by every server that a test starts: none may touch a developer's files.
os.environ["CHAT_ATTACHMENT_DIR"] = str(_folder / ("attachments" + f"_{_worker}" * bool(_worker)))
# Servers of the tests have no worker; a test that has one says so.
os.environ.setdefault("CHAT_WORKER_SILENT_SECONDS", "0")
os.environ.setdefault("READINESS_KEPT_SECONDS", "0")  # a test breaks something, and asks at once

from chatsite.settings import *  # noqa: E402, F403
from chatsite.settings import DATABASES  # noqa: E402

if DATABASES["default"]["ENGINE"] == "conversations.sqlite":
    DATABASES["default"]["TEST"] = {"NAME": str(_folder / "test.db")}
else:  # runs side by side must not meet in one database
    DATABASES["default"]["TEST"] = {"NAME": f"test_chatsite_{os.getpid()}"}

PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
