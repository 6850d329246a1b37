"""python -m conversations.tests.supervisor_run JSON: a supervisor over the programs described."""

from __future__ import annotations

import json
import sys
import threading

from conversations.supervisor import Program, Supervisor

if __name__ == "__main__":
    plan = json.loads(sys.argv[1])
    supervisor = Supervisor(
        [
            Program(name=name, command=tuple(command), stop_seconds=plan.get("stop_seconds", 5))
            for name, command in plan["programs"].items()
        ]
    )
    if "replace" in plan:  # once, after so many seconds
        threading.Timer(
            plan["replace"], lambda: supervisor.replace("tree", min_age=plan.get("min_age", 0))
        ).start()
    sys.exit(supervisor.run())
