"""Keeps the processes of a site running: starts them, restarts what dies, leaves nothing behind.

Standard library only: the parent stays small and cannot be broken by what it looks after.

    python -m conversations.supervisor site --manage manage.py --fd 3 --url http://127.0.0.1:8000
    python -m conversations.supervisor bound manage.py qcluster

`site` is what `manage.py serve` becomes. `bound` runs a script so that it, and every process it
forks, is killed by the kernel when its parent dies (Linux; elsewhere its group is, by a watch).
"""

from conversations.supervisor.address import BACKLOG, CannotListen, open_listener, url_of
from conversations.supervisor.bound import PARENT_VARIABLE, bound_command, die_with_parent
from conversations.supervisor.family import Program, Supervisor, pause_after
from conversations.supervisor.processes import LINUX, say
from conversations.supervisor.watch import Watch, worker_is_silent

__all__ = [
    "BACKLOG",
    "LINUX",
    "PARENT_VARIABLE",
    "CannotListen",
    "Program",
    "Supervisor",
    "Watch",
    "bound_command",
    "die_with_parent",
    "open_listener",
    "pause_after",
    "say",
    "url_of",
    "worker_is_silent",
]
