"""What `secure_delete` leaves: copies of rows in pages that were rebuilt while rows moved.

SQLite keeps no promise about the space between the cells of a page, and when it moves rows to
another page it does not clear where they were (measured: some 2 of 1,000 deleted rows were still
there, with 3.53). Only a full `VACUUM` would remove them, which keeps everybody from writing for as
long as it takes. Here that space, which nobody reads, is filled with zeros in place.

It is done in the file itself, and safe because nothing else writes there meanwhile: the write lock
is held and the log is empty, so that there is nothing to be moved into the file. Only bytes that no
page uses are changed, by its own header, so a crash in the middle leaves a whole database.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

_CHUNK: Final = 1_048_576
PAGES_AT_ONCE: Final = 100
_HEADER_BYTES: Final = 100
_LEAF_INDEX, _LEAF_TABLE, _INTERIOR_INDEX = 10, 13, 2
_HEADS: Final = {_LEAF_INDEX: 8, _LEAF_TABLE: 8, _INTERIOR_INDEX: 12}
"""Pages whose cells hold content, and how long their headers are."""
_LOCK_BYTE: Final = 1 << 30
_MOST_PAGES: Final = 1 << 24
"""In a larger file the first byte of an overflow page may look like such a header's."""

_opened: dict[tuple[int, int], int] = {}


@dataclass(frozen=True, slots=True)
class Layout:
    """How a file is divided, as its first bytes say."""

    page_size: int
    usable: int
    has_pointer_map: bool

    def gap_of(self, page: int, content: bytes | memoryview) -> tuple[int, int] | None:
        """Where a page, counted from 1, has nothing between its pointers and its cells.

        None where it is no page of that kind, or does not look like one.
        """
        head = _HEADS.get(content[0])
        if head is None or page == 1 or self._is_special(page):
            return None
        first_free, cells, begin, fragments = struct.unpack_from(">HHHB", content, 1)
        begin = begin or 65_536
        end_of_pointers = head + 2 * cells
        if not end_of_pointers <= begin <= self.usable or fragments > 60:
            return None
        if first_free and not begin <= first_free < self.usable:
            return None
        return end_of_pointers, begin

    def _is_special(self, page: int) -> bool:
        """A map of pointers, or the page of the file's locks."""
        locks, every = _LOCK_BYTE // self.page_size + 1, self.usable // 5 + 1
        if page == locks:
            return True
        if page == locks + 1 and (locks - 2) % every == 0:
            page = locks  # the map that would be there is one page on
        return self.has_pointer_map and (page - 2) % every == 0


def read_layout(descriptor: int) -> Layout | None:
    """None where it is no file that this may be done to."""
    header = os.pread(descriptor, _HEADER_BYTES, 0)
    if len(header) < _HEADER_BYTES or not header.startswith(b"SQLite format 3\x00"):
        return None
    (size,) = struct.unpack_from(">H", header, 16)
    page_size = 65_536 if size == 1 else size
    if os.fstat(descriptor).st_size // page_size >= _MOST_PAGES:
        return None
    (largest_root,) = struct.unpack_from(">I", header, 52)
    return Layout(page_size, page_size - header[20], largest_root > 0)


def open_beside(name: str) -> int:
    """The file, for what is not SQLite's: opened once per process, and never closed.

    To close it would take away all locks that SQLite holds on the file in this process.
    """
    key = _identity(os.stat(name))
    if key not in _opened:
        descriptor = os.open(name, os.O_RDWR)
        _opened[_identity(os.fstat(descriptor))] = descriptor
        return descriptor
    return _opened[key]


def find_remnants(descriptor: int, layout: Layout) -> Iterator[int]:
    """Pages that seem to have something where nothing should be; reads beside everybody."""
    size, step = layout.page_size, _CHUNK // layout.page_size or 1
    first = 1
    while chunk := os.pread(descriptor, size * step, (first - 1) * size):
        for index in range(len(chunk) // size):
            at = index * size
            if chunk[at] in _HEADS:
                gap = layout.gap_of(first + index, memoryview(chunk)[at : at + size])
                if gap and chunk.count(0, at + gap[0], at + gap[1]) < gap[1] - gap[0]:
                    yield first + index
        first += step


def clear(descriptor: int, layout: Layout, pages: list[int]) -> int:
    """Fill what these pages do not use with zeros; how many had something there.

    Whoever calls it sees to it that nobody writes to the file meanwhile.
    """
    cleared = 0
    for page in pages:
        offset = (page - 1) * layout.page_size
        content = os.pread(descriptor, layout.page_size, offset)
        gap = layout.gap_of(page, content) if len(content) == layout.page_size else None
        if gap and content.count(0, *gap) < gap[1] - gap[0]:
            os.pwrite(descriptor, bytes(gap[1] - gap[0]), offset + gap[0])
            cleared += 1
    return cleared


def scrub(
    raw: Any,
    *,
    name: str,
    file: tuple[int, int],
    until: float,
    attempt: Callable[[Callable[[], bool]], bool],
) -> int | None:
    """Clear all pages of a file that need it; how many that were.

    None where that could not be done, or not until that moment of the monotonic clock; what was
    done stays done.

    `raw` is a connection to it, and `file` its device and number; `attempt` repeats a step, under
    the lock of this process's writers, until it is true.
    """
    try:
        descriptor = open_beside(name)
    except OSError:
        return None  # it may only be read
    if _identity(os.fstat(descriptor)) != file:
        return None  # another is at its place, and that one is not locked by us
    layout = read_layout(descriptor)
    if layout is None:
        return None
    in_wal = raw.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    cleared = 0
    waiting: list[int] = []

    def step() -> bool:
        nonlocal cleared
        if in_wal and raw.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] != 0:
            return False
        raw.execute("BEGIN IMMEDIATE" if in_wal else "BEGIN EXCLUSIVE")
        try:
            if in_wal and _size(f"{name}-wal") > 0:
                return False  # somebody was faster
            if read_layout(descriptor) != layout:
                return False  # somebody has divided the file anew, by a VACUUM
            cleared += clear(descriptor, layout, waiting)
            # Others drop the pages they have in memory: they are not to write them once more.
            (version,) = raw.execute("PRAGMA user_version").fetchone()
            raw.execute(f"PRAGMA user_version={version}")
            raw.execute("COMMIT")
        finally:
            if raw.in_transaction:
                raw.execute("ROLLBACK")
        return True

    found = find_remnants(descriptor, layout)
    while waiting := list(islice(found, PAGES_AT_ONCE)):
        if in_wal:
            raw.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()  # without any lock
        if time.monotonic() > until or not attempt(step):
            return None
    if cleared:
        os.fsync(descriptor)
    return cleared


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _size(name: str) -> int:
    try:
        return os.stat(name).st_size
    except OSError:
        return 0
