"""A copy of a database that is in use: whole, private, and ready to be put in its place."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path
from typing import Any

from conversations.sqlite import FILE_MODE, driver, journal_mode


def copy_to(raw: Any, path: Path) -> int:
    """Write what the database holds now to a new file, and look whether it is whole; its size.

    Nobody waits for it; the log grows as long as it takes. It holds nothing that was deleted.
    Raises FileExistsError, OSError, and the driver's errors: then there is no file.
    """
    if path.exists():  # also where it names no file
        raise FileExistsError
    draft = path.with_name(f".{path.name}.{os.urandom(4).hex()}")
    descriptor = os.open(draft, os.O_CREAT | os.O_EXCL | os.O_RDWR, FILE_MODE)
    try:
        raw.execute("VACUUM INTO ?", (str(draft),))  # takes an empty file as none
        with closing(driver().connect(draft, isolation_level=None)) as copy:
            ((verdict,),) = copy.execute("PRAGMA quick_check(1)").fetchall()
            if verdict != "ok":
                raise driver().DatabaseError("the copy is damaged")
            copy.execute(f"PRAGMA journal_mode={journal_mode()}")
        os.fsync(descriptor)
        os.link(draft, path)  # fails where there is one
        return path.stat().st_size
    finally:
        os.close(descriptor)
        draft.unlink(missing_ok=True)
