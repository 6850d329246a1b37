"""Markdown that somebody else wrote: readable, and nothing but readable."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conversations import markdown
from conversations.markdown import SCHEMES, plain_to_html, spelled, to_html

ALLOWED: Final[dict[str, set[str]]] = {
    "p": {"class"},
    "a": {"href", "rel"},
    "span": {"class"},
    "pre": {"tabindex"},
    **{tag: set() for tag in "ul ol li blockquote strong em s code hr br".split()},  # noqa: SIM905
    **{tag: set() for tag in "table thead tbody tr th td".split()},  # noqa: SIM905
}


class Checked(HTMLParser):
    """Fails for whatever is not allowed; keeps what people read."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text = ""
        self.links: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in ALLOWED, tag
        assert {name for name, _ in attrs} <= ALLOWED[tag], attrs
        if tag == "a":
            (href,) = [value or "" for name, value in attrs if name == "href"]
            assert href.partition(":")[0].lower() in SCHEMES
            self.links.append(href)

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_comment(self, data: str) -> None:
        raise AssertionError(data)


HOSTILE: Final = {
    "script": "<script>alert(1)</script>",
    "handler": '<img src=x onerror="alert(1)">',
    "svg": "<svg onload=alert(1)><a xlink:href='javascript:1'>x</a></svg>",
    "comment": "a <!-- hidden --> b",
    "javascript link": "[click](javascript:alert(1))",
    "mixed case": "[click](JaVaScRiPt:alert(1))",
    "entity": "[click](&#106;avascript:alert(1))",
    "tab in the scheme": "[click](java\tscript:alert(1))",
    "data link": "[click](data:text/html;base64,PHNjcmlwdD4=)",
    "vbscript": "<vbscript:msgbox(1)>",
    "file": "[click](file:///etc/passwd)",
    "image": "![pixel](https://evil.example/p.png 'title')",
    "image as link": "[![a](https://evil.example/1.png)](https://evil.example/)",
    "quote in the address": '[click](https://evil.example/"onmouseover="alert(1))',
    "quote in the title": '[click](https://evil.example "\\"><script>1</script>")',
    "reference": "[a][b]\n\n[b]: javascript:alert(1) 'hidden'",
    "fence": "```html\n<script>alert(1)</script>\n```",
    "info string": '```"><script>alert(1)</script>\nx\n```',
    "table": "|<b>|`<i>`|\n|:-|-:|\n|<script>|x|",
    "autolink": "<https://evil.example/<script>>",
    "broken address": "[a](http://[)",
    "style": "<style>*{display:none}</style>",
    "no text": "",
    "only newlines": "\n\n\n",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_text_is_inert(text):
    Checked(to_html(text))
    Checked(plain_to_html(text))


@given(st.text(alphabet="ab <>&\"'`*_[]()!:#|-\n~\\/=1.", max_size=120))
def test_whatever_is_written_is_inert(text):
    Checked(to_html(text))


@given(st.text(max_size=80))
def test_any_text_can_be_sent(text):
    to_html(text).encode()
    plain_to_html(text).encode()


def test_marks_are_what_they_mean():
    html = to_html("# Plan\n\n1. **one**\n2. *two* and `code`\n\n> said\n\n~~gone~~\n\n---")
    for tag in ("ol", "strong", "em", "code", "blockquote", "s", "hr"):
        assert f"<{tag}>" in html
    assert '<p class="heading"><strong>Plan</strong></p>' in html
    assert "<h1" not in html


def test_lines_are_kept_with_and_without_marks():
    assert to_html("one\ntwo\n\nthree") == "<p>one<br>two</p><p>three</p>"
    assert to_html("*one*\ntwo") == "<p><em>one</em><br>two</p>"


def test_a_link_says_where_it_leads():
    checked = Checked(to_html('[your bank](https://user@evil.example:8/x "a title")'))
    assert checked.links == ["https://user@evil.example:8/x"]
    assert checked.text == "your bank (evil.example:8, a title)"
    assert Checked(to_html("<mailto:a@example.com>")).text == "mailto:a@example.com (a@example.com)"


def test_a_link_that_leads_nowhere_good_is_its_text():
    checked = Checked(to_html("<file:///etc/passwd> and [a](ftp://x.example 'title')"))
    assert checked.links == []
    assert "file:///etc/passwd" in checked.text
    assert "title" in checked.text


def test_what_only_looks_like_an_address_is_text_and_still_said():
    checked = Checked(to_html("[a](https://x.example:99999999/ 'title')"))
    assert checked.links == []
    assert checked.text == "a (x.example:99999999, title)"


def test_an_image_is_named_and_not_loaded():
    html = to_html("![a cat](https://x.example/cat.png 'Tom')")
    assert "<img" not in html
    assert "(image, a cat, https://x.example/cat.png, Tom)" in html


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[x]: https://a.example 'threat'\n\nfine", ["threat", "a.example"]),
        ("```threat\ncode\n```", ["threat", "code"]),
        ("> " * 60 + "threat", ["threat"]),
        ("- " * 60 + "threat", ["threat"]),
        ("[" * 60 + "threat" + "]" * 60 + "(x)" * 60, ["threat"]),
        ("a <!-- threat -->", ["threat"]),
    ],
    ids=["definition", "info string", "quotes", "lists", "brackets", "comment"],
)
def test_nothing_is_hidden_by_its_marks(text, words):
    shown = Checked(to_html(text)).text
    assert [word for word in words if word not in shown] == []


def test_a_table_of_very_many_cells_is_shown_as_it_was_written():
    text = "|a" * 50 + "\n" + "|-" * 50 + "\n" + "x\n" * 2_000
    assert "<table" not in to_html(text)
    assert len(to_html(text)) < 10 * len(text)


def test_what_turns_the_direction_of_text_is_spelled_out():
    assert spelled("a\u202egnp.exe\u2066") == "a\u27e6U+202E\u27e7gnp.exe\u27e6U+2066\u27e7"
    assert "\u202e" not in to_html("*a* \u202egnp.exe") + plain_to_html("\u202egnp.exe")
    assert spelled("\u05e9\u05dc\u05d5\u05dd\u200f") == "\u05e9\u05dc\u05d5\u05dd\u200f"


def test_what_no_page_can_hold_is_replaced():
    assert to_html("a\x00\ud800b") == "<p>a\ufffd\ufffdb</p>"


def test_what_is_not_allowed_is_shown_as_text(monkeypatch):
    monkeypatch.setattr(markdown, "_TAGS", markdown._TAGS - {"strong"})
    assert "<strong>" not in to_html("**a**")
    assert re.sub(r"<[^>]*>", "", to_html("**a**")) == "a"
