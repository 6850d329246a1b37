"""Markdown that somebody else wrote, as HTML that does nothing but show it.

The parser reads no HTML, its renderer writes what it read, and nh3 lets through only what is named
here. Images are named, not loaded; links lead to http, https and mailto only, and say where.
Nothing of the text is hidden by its marks.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from html import escape
from typing import Any, Final
from urllib.parse import urlsplit

from conversations.ids import storable

SCHEMES: Final = frozenset({"http", "https", "mailto"})
_TEXT_TAGS: Final = ("a", "br", "code", "em", "hr", "p", "pre", "s", "span", "strong")
_BLOCK_TAGS: Final = ("blockquote", "li", "ol", "ul")
_TABLE_TAGS: Final = ("table", "tbody", "td", "th", "thead", "tr")
_TAGS: Final = frozenset({*_TEXT_TAGS, *_BLOCK_TAGS, *_TABLE_TAGS})
_ATTRIBUTES: Final = {"a": {"href"}, "p": {"class"}, "span": {"class"}}
_SET_ATTRIBUTES: Final = {"pre": {"tabindex": "0"}}  # what scrolls can be reached by keys
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
    parser = _parser(with_tables=cells <= _MOST_CELLS)
    tokens = parser.parse(text)
    if any(token.level >= _MOST_LEVELS - 1 for token in tokens):
        return plain_to_html(text)
    return _cleaned(parser.renderer.render(tokens, parser.options, {}))


def plain_to_html(text: str) -> str:
    """Text that is no Markdown: paragraphs and lines."""
    paragraphs = re.split(r"\n[ \t]*\n", spelled(text).strip("\n"))
    return "".join(f"<p>{_lines(paragraph)}</p>" for paragraph in paragraphs)


@cache
def _parser(*, with_tables: bool) -> Any:
    from markdown_it import MarkdownIt  # noqa: PLC0415 - only staff need it

    parser = MarkdownIt("commonmark", {"html": False, "maxNesting": _MOST_LEVELS})
    parser.enable(["table", "strikethrough"] if with_tables else ["strikethrough"])
    parser.disable("reference")  # a definition is read and not shown
    for token_type, rule in _RULES.items():
        parser.add_render_rule(token_type, rule)
    return parser


def _cleaned(html: str) -> str:
    """The HTML without what is not named above; the text of what is left out stays."""
    import nh3  # noqa: PLC0415 - only staff need it

    return nh3.clean(
        html,
        tags=set(_TAGS),
        clean_content_tags=set(),
        attributes=_ATTRIBUTES,
        set_tag_attribute_values=_SET_ATTRIBUTES,
        url_schemes=set(SCHEMES),
        url_relative="deny",
        link_rel="noopener noreferrer nofollow",
    ).strip("\n")


def _heading_open(*_: Any) -> str:
    return '<p class="heading"><strong>'  # the page's own headings stay in order


def _heading_close(*_: Any) -> str:
    return "</strong></p>"


def _break(*_: Any) -> str:
    return "<br>"


def _code(_renderer: Any, tokens: Sequence[Any], index: int, *_: Any) -> str:
    token = tokens[index]
    return f"{_beside([token.info.strip()])}<pre><code>{escape(token.content)}</code></pre>"


def _link_open(
    _renderer: Any, tokens: Sequence[Any], index: int, _options: Any, env: dict[str, Any]
) -> str:
    token = tokens[index]
    target = _target(str(token.attrGet("href") or ""))
    opening = f'<a href="{escape(target)}">'
    is_link = " href=" in _cleaned(f"{opening}</a>")  # else it would be a link that leads nowhere
    beside = _beside([_place(target), str(token.attrGet("title") or "")])
    env.setdefault("ends", []).append(f"{'</a>' if is_link else ''}{beside}")
    return opening if is_link else ""


def _link_close(
    _renderer: Any, _tokens: Any, _index: int, _options: Any, env: dict[str, Any]
) -> str:
    return str(env["ends"].pop())


def _image(_renderer: Any, tokens: Sequence[Any], index: int, *_: Any) -> str:
    token = tokens[index]
    named = (str(token.attrGet(name) or "") for name in ("src", "title"))
    return _beside(["image", token.content, *named])


# What the renderer writes otherwise than we want it: all else is its own.
_RULES: Final = {
    "heading_open": _heading_open,
    "heading_close": _heading_close,
    "softbreak": _break,
    "hardbreak": _break,
    "fence": _code,
    "code_block": _code,
    "link_open": _link_open,
    "link_close": _link_close,
    "image": _image,
}


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
