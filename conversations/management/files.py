"""Files that commands write: new ones, private, and whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from conversations.errors import ConversationsError

MODE: Final = 0o600
_THERE: Final = "{} is there already; name a new file."


class CannotWrite(ConversationsError):
    """The file cannot be written."""

    code = "cannot_write"


def write_new(name: str, pieces: Iterable[str]) -> int:
    """Write the pieces to a file that is not there yet, and see them on the disk; how many bytes.

    Where the pieces fail there is no file. Raises CannotWrite.
    """
    path = Path(name)
    if path.exists():  # before anything is read for it
        raise CannotWrite(_THERE.format(name))
    draft = path.with_name(f".{path.name}.{os.urandom(4).hex()}")
    size = 0
    try:
        descriptor = os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, MODE)
        try:
            with open(descriptor, "wb") as file:
                for piece in pieces:
                    size += file.write(piece.encode())
                file.flush()
                os.fsync(descriptor)
            os.link(draft, path)  # fails where there is one
        finally:
            draft.unlink(missing_ok=True)
        _keep_names(path.parent)
    except FileExistsError:
        raise CannotWrite(_THERE.format(name)) from None
    except OSError as error:
        raise CannotWrite(f"{name} cannot be written: {error.strerror}.") from error
    return size


def _keep_names(folder: Path) -> None:
    """See the names in a folder on the disk, too: what is in the file may be erased next."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
