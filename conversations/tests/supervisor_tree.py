"""A stand-in for the worker: python supervisor_tree.py NOTES [option...]

It forks a child that forks a child, writes all pids to NOTES, one line per generation started, and
waits. Options: `deaf` ignores SIGTERM, `stray` starts one process in a session of its own, `quick`
ends at once, `own-time` takes 0.3 s to stop.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType


def main(notes: str, *options: str) -> int:
    if "quick" in options:
        with Path(notes).open("a") as file:
            file.write(f"{os.getpid()}\n")
        return 0
    pids = [os.getpid()]
    reading, writing = os.pipe()
    if os.fork() == 0:
        grandchild = os.fork()
        if grandchild:
            os.write(writing, f"{os.getpid()} {grandchild}".encode())
        wait_for_ever()
    pids += [int(pid) for pid in os.read(reading, 100).split()]
    if "stray" in options:
        stray = subprocess.Popen(
            [sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True
        )
        pids.append(stray.pid)

    def stop(number: int, frame: FrameType | None) -> None:
        if "deaf" in options:
            return
        time.sleep(0.3 if "own-time" in options else 0)
        os._exit(0)  # leaves its own children behind, as a killed sentinel does

    signal.signal(signal.SIGTERM, stop)
    with Path(notes).open("a") as file:
        file.write(" ".join(map(str, pids)) + "\n")
    wait_for_ever()
    return 0


def wait_for_ever() -> None:
    while True:
        time.sleep(600)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
