"""The site without the records of its streams: what they cost, `benchmarks.recording` measures.

python -m benchmarks.unrecorded --port N
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

importlib.import_module("chatsite")  # first of all: the SQLite library

from conversations import web  # noqa: E402


def main() -> int:
    application = web.load_application

    def load_without_records() -> Any:
        loaded = application()
        records = importlib.import_module("conversations.store.records")
        live = importlib.import_module("conversations.turns.live")
        live.LiveTurn.unrecorded = lambda turn: []
        records.record = lambda db, recordings: set()
        return loaded

    web.load_application = load_without_records
    return web.main()


if __name__ == "__main__":
    sys.exit(main())
