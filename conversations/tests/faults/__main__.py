"""Run the harness at full size: python -m conversations.tests.faults [--engine ...] [--only ...]"""

from __future__ import annotations

import importlib
import sys

importlib.import_module("chatsite")  # first of all: the SQLite library

from conversations.tests.faults.command import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
