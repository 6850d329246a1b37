"""Names and media types of files that people send: what may be believed of them."""

from __future__ import annotations

import re
import unicodedata
from typing import Final

INLINE_TYPES: Final = frozenset({"image/png", "image/jpeg", "image/gif", "image/webp"})
"""What a browser may show by itself: it draws them and executes nothing that is in them."""

MAX_NAME_CHARS: Final = 255
HEAD_BYTES: Final = 1_024
"""So much of a file's beginning is looked at to tell what it is."""

_SERVED_TYPES: Final = INLINE_TYPES | {
    "application/pdf",
    "application/json",
    "text/plain",
    "text/markdown",
    "text/csv",
}
_MEDIA_TYPE: Final = re.compile(r"[a-z0-9][a-z0-9!#$&^_.+-]*/[a-z0-9][a-z0-9!#$&^_.+-]*")
_BEGINNINGS: Final = {
    "image/png": re.compile(rb"\x89PNG\r\n\x1a\n"),
    "image/jpeg": re.compile(rb"\xff\xd8\xff"),
    "image/gif": re.compile(rb"GIF8[79]a"),
    "image/webp": re.compile(rb"RIFF....WEBP", re.DOTALL),
    "application/pdf": re.compile(rb"%PDF-"),
}
# What turns or hides the text around it: with these, a name may end in what looks like .pdf.
_MISLEADING: Final = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def read_media_type(text: str) -> str:
    """`image/png` of `Image/PNG; charset=x`; empty where it is no media type."""
    found = text.partition(";")[0].strip().lower()
    return found if _MEDIA_TYPE.fullmatch(found) else ""


def clean_name(name: str) -> str:
    """A file's name that is safe to show, to send in a header and to save under.

    No path, no control characters, nothing that turns the direction of text. It may be empty.
    """
    shown = _MISLEADING.sub("", name)
    # Also what separates lines and paragraphs: nothing that is one line here is two elsewhere.
    kept = (
        "_" if char in "/\\" or unicodedata.category(char) in {"Cc", "Zl", "Zp"} else char
        for char in shown
    )
    return "".join(kept).strip().strip(".").strip()


def is_what_it_says(media_type: str, head: bytes) -> bool:
    """Whether a file that begins with `head` may be of that type.

    Known types begin as they must; no other type begins like one of them; and text is text.
    """
    beginning = _BEGINNINGS.get(media_type)
    if beginning is not None:
        return beginning.match(head) is not None
    if any(other.match(head) for other in _BEGINNINGS.values()):
        return False
    is_text = media_type.startswith("text/") or media_type == "application/json"
    return not (is_text and b"\x00" in head)


def served_type(media_type: str) -> str:
    """By which type a file is handed out: none that a browser would execute."""
    return media_type if media_type in _SERVED_TYPES else "application/octet-stream"
