"""What is believed of files that people send: their names and their types."""

from __future__ import annotations

import pytest

from conversations.media import (
    INLINE_TYPES,
    clean_name,
    is_what_it_says,
    read_media_type,
    served_type,
)
from conversations.tests.factories import PNG


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("image/png", "image/png"),
        (" Image/PNG ; charset=x", "image/png"),
        ("application/vnd.ms-excel", "application/vnd.ms-excel"),
        ("image/svg+xml", "image/svg+xml"),
        ("", ""),
        ("image", ""),
        ("image/", ""),
        ("image/png/x", ""),
        ("*/*", ""),
        ("text/html\r\nX-Evil: 1", ""),
        ("image/p\x00ng", ""),
        ("\ud800/png", ""),
    ],
    ids=ascii,
)
def test_a_media_type_is_read_or_is_none(written, meant):
    assert read_media_type(written) == meant


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("a.png", "a.png"),
        ("Übung (1) 👩‍🚀.pdf", "Übung (1) 👩‍🚀.pdf"),
        ("../../etc/passwd", "_.._etc_passwd"),
        ("C:\\temp\\a.png", "C:_temp_a.png"),
        ("..", ""),
        (" . ", ""),
        ("a\r\nSet-Cookie: x=1", "a__Set-Cookie: x=1"),
        ("a\x00b\x7f", "a_b_"),
        ("a\u2028b\u2029c\x85", "a_b_c_"),
        ("invoice\u202efdp.exe", "invoicefdp.exe"),
        ("\u2066a\u2069\u200e\u061c", "a"),
        (".htaccess", "htaccess"),
    ],
    ids=ascii,
)
def test_a_name_is_safe_to_show_and_to_send(given, kept):
    assert clean_name(given) == kept


JPEG, GIF, WEBP, PDF = b"\xff\xd8\xff\xe0", b"GIF89a", b"RIFF\n\n\x00\x01WEBPVP8 ", b"%PDF-1.7"


@pytest.mark.parametrize(
    ("media_type", "head", "is_it"),
    [
        ("image/png", PNG, True),
        ("image/jpeg", JPEG, True),
        ("image/gif", GIF, True),
        ("image/gif", b"GIF87a", True),
        ("image/webp", WEBP, True),
        ("application/pdf", PDF, True),
        ("image/png", JPEG, False),
        ("image/png", b"<svg onload='x'>", False),
        ("image/png", b"", False),
        ("image/webp", b"RIFF\x00\x00\x00\x00WAVE", False),
        ("application/pdf", b"<html>%PDF-1.7", False),
        ("text/plain", b"Hello", True),
        ("text/plain", "Grüße".encode("latin-1"), True),
        ("text/plain", b"MZ\x90\x00", False),
        ("text/csv", PNG, False),
        ("application/json", PDF, False),
        ("application/json", b"{}", True),
        ("application/octet-stream", b"MZ\x90\x00", True),
        ("application/octet-stream", PNG, False),
    ],
    ids=ascii,
)
def test_a_file_begins_as_its_type_does(media_type, head, is_it):
    assert is_what_it_says(media_type, head) is is_it


@pytest.mark.parametrize("media_type", [*sorted(INLINE_TYPES), "application/pdf", "text/plain"])
def test_what_is_harmless_is_handed_out_by_its_type(media_type):
    assert served_type(media_type) == media_type


@pytest.mark.parametrize(
    "media_type",
    ["text/html", "image/svg+xml", "application/xhtml+xml", "text/xml", "text/javascript", ""],
)
def test_what_a_browser_would_execute_is_handed_out_as_bytes(media_type):
    assert media_type not in INLINE_TYPES
    assert served_type(media_type) == "application/octet-stream"
