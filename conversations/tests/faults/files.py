"""What happens to a database file from outside: locks, full disks, lost modes, damage."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Final

from conversations import sqlite
from conversations.tests.faults.servers import PATIENCE, Site

LEAF: Final = 0x0D
"""How a page of rows begins, https://sqlite.org/fileformat2.html#b_tree_pages"""


class CannotMount(Exception):
    """A file system of one's own cannot be had here."""


def are_modes_binding(*, path: str) -> bool:
    """Whether a site's process may only do what the modes of its own files say."""
    return not os.access(path, os.R_OK)


@contextlib.contextmanager
def locked(site: Site, path: Path, *, kind: str) -> Iterator[None]:
    """Another process holds the file's lock (IMMEDIATE or EXCLUSIVE); it is killed at the end."""
    sign = site.folder / f"locked-{os.urandom(4).hex()}"
    work = "conversations.tests.faults.files:hold_lock"
    nothing = os.open(os.devnull, os.O_WRONLY)
    life = site.zygote.fork(
        nothing, work=work, arguments={"path": str(path), "kind": kind, "sign": str(sign)}
    )
    os.close(nothing)
    try:
        deadline = time.monotonic() + PATIENCE
        while not sign.exists():
            assert time.monotonic() < deadline, "the lock was not to be had"
            time.sleep(0.01)
        yield
    finally:
        os.killpg(life.pid, signal.SIGKILL)
        life.ended.result(timeout=PATIENCE)


def hold_lock(*, path: str, kind: str, sign: str) -> None:
    """Runs in a child of the zygote, until it is killed."""
    raw = sqlite.driver().connect(path, isolation_level=None, timeout=PATIENCE)
    raw.execute(f"BEGIN {kind}")
    Path(sign).touch()
    signal.pause()


@contextlib.contextmanager
def on_small_disk(folder: Path, *, size: str = "4m") -> Iterator[None]:
    """The folder, with all that is in it, on a file system of that size. Raises CannotMount."""
    files = {file.name: file.read_bytes() for file in folder.iterdir()}
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=700", "tmpfs", str(folder)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        raise CannotMount
    try:
        for name, content in files.items():
            put(folder / name, content)
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Leave no room for a byte; returns the file that takes it."""
    filler = folder / f"filler-{os.urandom(4).hex()}"
    with filler.open("wb", buffering=0) as file:
        for size in (65536, 4096, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(b"x" * size)
    return filler


def put(path: Path, content: bytes) -> None:
    """A new file, which takes the place of what was there."""
    draft = path.with_name(f"{path.name}.new")
    draft.write_bytes(content)
    draft.chmod(sqlite.FILE_MODE)
    draft.rename(path)


def back_up(site: Site, path: Path) -> bytes:
    """What a backup of the file holds that was made as one should."""
    copy = site.folder / "backup.db"
    work = "conversations.tests.faults.files:write_backup"
    site.zygote.call(work, path=str(path), copy=str(copy))
    content = copy.read_bytes()
    copy.unlink()
    return content


def write_backup(*, path: str, copy: str) -> None:
    """Runs in a child of the zygote."""
    with (
        closing(sqlite.driver().connect(path)) as source,
        closing(sqlite.driver().connect(copy)) as target,
    ):
        source.backup(target)


def damage_page(path: Path, *, having: tuple[bytes, ...], without: bytes) -> None:
    """Overwrite a page of rows in the middle of those that hold these words and not the other."""
    content = path.read_bytes()
    size = int.from_bytes(content[16:18], "big")
    pages = [content[start : start + size] for start in range(0, len(content), size)]
    found = [
        number
        for number, page in enumerate(pages)
        if page[0] == LEAF and all(word in page for word in having) and without not in page
    ]
    assert len(found) > 2, "too little is stored to hit only one conversation"
    number = found[len(found) // 2]
    with path.open("r+b") as file:
        file.seek(number * size)
        file.write(b"\xff" * size)
