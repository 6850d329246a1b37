"""Markdown that somebody else wrote, as HTML that does nothing but show it.

Not a sanitiser: nothing of the text is ever passed on as HTML. The parser's tokens are walked, and
only what is named here is written, with attributes of our own. Images are named, not loaded; links
lead to http, https and mailto only, and say where. Nothing of the text is hidden by its marks.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cache
from html import escape
from typing import Any, Final
from urllib.parse import urlsplit

from conversations.ids import storable

SCHEMES: Final = frozenset({"http", "https", "mailto"})
_TAGS: Final = {
    "paragraph": "p",
    "bullet_list": "ul",
    "ordered_list": "ol",
    "list_item": "li",
    "blockquote": "blockquote",
    "strong": "strong",
    "em": "em",
    "s": "s",
    "table": "table",
    "thead": "thead",
    "tbody": "tbody",
    "tr": "tr",
    "th": "th",
    "td": "td",
}
_SIMPLE: Final = {
    "heading_open": '<p class="heading"><strong>',  # the page's own headings stay in order
    "heading_close": "</strong></p>",
    "softbreak": "<br>",
    "hardbreak": "<br>",
    "hr": "<hr>",
}
# Without any of this, Markdown is paragraphs and lines.
_IS_MARKED: Final = re.compile(
    r"[\\`*_\[\]<>#|~&]|^[ \t]*(?:[-+=]|\d+[.)])|^(?: {4}| *\t)|[ ]{2}$", re.MULTILINE
)
_TURNING: Final = re.compile("[\x01-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_MOST_LEVELS: Final = 40  # what is deeper, the parser leaves out
_MOST_CELLS: Final = 2_000  # a short text may ask for very many


def spelled(text: str) -> str:
    """The text with what would turn the direction of others spelled out, and what none can show."""
    return _TURNING.sub(lambda found: f"\u27e6U+{ord(found[0]):04X}\u27e7", storable(text))


def to_html(text: str) -> str:
    """The text as HTML. Its cost grows with its length: cut what is long before."""
    text = spelled(text)
    if not _IS_MARKED.search(text):
        return plain_to_html(text)
    cells = text.count("\n") * max(line.count("|") for line in text.split("\n"))
    tokens = _parser(with_tables=cells <= _MOST_CELLS).parse(text)
    if any(token.level >= _MOST_LEVELS - 1 for token in tokens):
        return plain_to_html(text)
    return "".join(_blocks(tokens))


def plain_to_html(text: str) -> str:
    """Text that is no Markdown: paragraphs and lines."""
    paragraphs = re.split(r"\n[ \t]*\n", spelled(text).strip("\n"))
    return "".join(f"<p>{_lines(paragraph)}</p>" for paragraph in paragraphs)


@cache
def _parser(*, with_tables: bool) -> Any:
    from markdown_it import MarkdownIt  # noqa: PLC0415 - only staff need it

    parser = MarkdownIt("commonmark", {"html": False, "maxNesting": _MOST_LEVELS})
    parser.enable(["table", "strikethrough"] if with_tables else ["strikethrough"])
    return parser.disable("reference")  # a definition is read and not shown


def _blocks(tokens: Sequence[Any]) -> Iterator[str]:
    """The HTML of tokens; those of no known kind are shown as the text they hold."""
    links: list[tuple[str, str]] = []  # those that are open: where they lead ("": nowhere), title
    for token in tokens:
        kind, _, end = token.type.rpartition("_")
        tag = _TAGS.get(kind)
        if tag and end in {"open", "close"}:
            if not token.hidden:
                yield f"</{tag}>" if end == "close" else f"<{tag}>"
            continue
        if token.type in _SIMPLE:
            yield _SIMPLE[token.type]
            continue
        match token.type:
            case "inline":
                yield from _blocks(token.children or ())
            case "code_inline":
                yield f"<code>{escape(token.content)}</code>"
            case "fence" | "code_block":
                yield _beside([token.info.strip()])
                yield f'<pre tabindex="0"><code>{escape(token.content)}</code></pre>'
            case "link_open":
                target = _target(str(token.attrGet("href") or ""))
                links.append((target, str(token.attrGet("title") or "")))
                if target:
                    yield f'<a href="{escape(target)}" rel="noopener noreferrer nofollow">'
            case "link_close":
                target, title = links.pop() if links else ("", "")
                yield "</a>" if target else ""
                yield _beside([_place(target), title])
            case "image":
                named = (str(token.attrGet(name) or "") for name in ("src", "title"))
                yield _beside(["image", token.content, *named])
            case _:
                yield escape(token.content)


def _beside(words: Sequence[str]) -> str:
    """What the marks say and Markdown would not show."""
    text = ", ".join(word for word in words if word)
    return f' <span class="beside">({escape(text)})</span>' if text else ""


def _target(href: str) -> str:
    """Where a link leads; nothing where it does not lead to a page or an address."""
    try:
        parts = urlsplit(href)
        return href if parts.scheme.lower() in SCHEMES else ""
    except ValueError:
        return ""


def _place(target: str) -> str:
    """What a reader should know of where a link leads."""
    parts = urlsplit(target)
    return parts.netloc.rpartition("@")[2] or parts.path


def _lines(text: str) -> str:
    return escape(text).replace("\n", "<br>")
