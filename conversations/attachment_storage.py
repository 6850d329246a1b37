"""The bytes of attachments: the storage `attachments` of Django's `STORAGES`, not to be public.

What is async raises FileNotFoundError where they are not there, and StoreError for all else.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import os
from collections.abc import Callable
from typing import IO, Any, Final, ParamSpec, TypeVar

from django.core.files import File
from django.core.files.storage import FileSystemStorage, Storage, storages

from conversations.errors import StoreError

logger = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

STORAGE: Final = "attachments"


async def save(name: str, spool: IO[bytes]) -> str:
    """Save the bytes under this name or one like it; the name they have."""
    return await _within(_save, name, spool)


async def open_file(name: str) -> File[Any]:
    """The bytes, to be closed."""
    return await _within(lambda: _storage().open(name))


async def read_url(name: str, mime_type: str) -> str:
    """The bytes as `data:<type>;base64,...`."""
    return await _within(_read_url, name, mime_type)


def erase(name: str) -> bool:
    """Erase the bytes; False where they cannot be erased now. Sync."""
    try:
        _storage().delete(name)
    except Exception as error:  # any storage, any of its errors
        logger.warning("an attachment is not erased yet: %s", type(error).__name__)
        return False
    return True


async def _within(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run what waits for the storage in a thread."""
    try:
        return await asyncio.to_thread(function, *args, **kwargs)
    except FileNotFoundError:
        raise
    except Exception as error:  # any storage, any of its errors
        logger.error("attachments cannot be reached: %s", type(error).__name__)
        raise StoreError from error


def _save(name: str, spool: IO[bytes]) -> str:
    """Save, and where that is a file, see that it survives a power cut, as the row does."""
    storage = _storage()
    saved = storage.save(name, File(spool))
    if isinstance(storage, FileSystemStorage):
        path = storage.path(saved)
        for place in (path, os.path.dirname(path)):
            descriptor = os.open(place, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
    return saved


def _read_url(name: str, mime_type: str) -> str:
    with _storage().open(name) as file:
        data = base64.b64encode(file.read()).decode()
    return f"data:{mime_type};base64,{data}"


def _storage() -> Storage:
    return storages[STORAGE]
