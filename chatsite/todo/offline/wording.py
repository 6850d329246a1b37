"""Small rules of English: quotes, sentences, word stems, "my" to "your"."""

from __future__ import annotations

import re
from typing import Final

MAX_CHARS: Final = 4000  # of one message are looked at: rules must not cost more than a moment

_STRAIGHT: Final = str.maketrans(
    {"\u2018": "'", "\u2019": "'", "\u02bc": "'", "“": '"', "”": '"', "„": '"', "«": '"', "»": '"'}
    | {
        "\u2010": "-",
        "\u2011": "-",
        "\u2013": "-",
        "—": "-",
        "\u00a0": " ",
        "\u202f": " ",
        "…": "...",
    }
)
_ABBREVIATIONS: Final = (
    r"(?<!\bdr)(?<!\bmr)(?<!\bms)(?<!\bmrs)(?<!\bst)(?<!\bvs)(?<!\bno)(?<!\betc)"
)
_BREAK: Final = re.compile(
    rf"{_ABBREVIATIONS}(?<!\be\.g)(?<!\bi\.e)(?<!\bprof)(?<!\bapprox)[.!?]+\s+|\s*\n\s*"
    r"|,?\s+(?:and|then|and then)\s+(?=(?:please\s+)?(?:make|set|mark|change|rename|move|delete"
    r"|remove|complete|postpone)\s+(?:it|its|that|this)\b)",
    re.IGNORECASE,
)
_LEAD_IN: Final = re.compile(
    r"(?:(?:please|pls|kindly|actually|ok(?:ay)?|alright|all right|well|so|now|then|also|and|but"
    r"|oh|hmm+|um+|right|great|cool|perfect|nice|no|nope|wait|sorry|yes|sure|hey|by the way|btw"
    r"|next|finally|first|again|just|fyi)\b(?!\s+(?:one|task|you|name|is"
    r"|of|time)\b)"
    r"[\s,.!:;-]*"
    r"|(?:thanks|thank you)(?: so much| a lot)?\s*[,;:-]\s*"
    r"|(?:can|could|would|will) you(?: please| kindly| also| now| just)*\s+"
    r"|(?:i want you to|i'd like you to|i would like you to|i need you to|let's|let us"
    r"|go ahead and|you can|you should|you may|help me(?: to)?)\s+"
    r"|i(?:'d| would) like to (?=add|create|see|rename|change|delete|remove|know|make|mark)"
    r"|i (?:want|need) to (?=add|create|see|rename|change|delete|remove|know|make|mark))",
    re.IGNORECASE,
)
_TAIL: Final = re.compile(
    r"(?:[\s,]+(?:please|thanks|thank you|for me|ok|okay|again|instead|then|now|though|too))+$",
    re.IGNORECASE,
)
_CORRECTION: Final = re.compile(
    r"\s*(?:no\b|nope\b|actually|sorry|wait|oops|correction|i meant|i mean)", re.IGNORECASE
)
_PERSONS: Final = {
    "i": "you", "me": "you", "my": "your", "mine": "yours", "myself": "yourself", "am": "are",
    "i'm": "you are", "i've": "you have", "i'd": "you would", "i'll": "you will",
    "we": "you", "our": "your", "us": "you", "ours": "yours", "we're": "you are",
}  # fmt: skip
_SMALL_WORDS: Final = frozenset(
    re.findall(
        r"\w+",
        """a an the my your our of to in on at for and or is are was were be do does did i you me we
        it that this what which who when where how why whose s t m re ve with about from by will
        would can could should have has had tell know remember say said again please any some
        there am no not so called task tasks todo item one give answer still""",
    )
)
_SPELLINGS: Final = {"color": "colour", "favorite": "favourite", "fav": "favourite"}


def straighten(text: str) -> str:
    """Straight quotes, plain dashes, no stray blanks; new lines stay."""
    text = text[:MAX_CHARS].translate(_STRAIGHT)
    return re.sub(r"[^\S\n]+", " ", text).strip()


def sentences(text: str) -> list[str]:
    """The sentences of straightened text, each with its closing mark; quoted parts stay whole."""
    quoted = [match.span() for match in re.finditer(r'"[^"\n]*"', text)]
    found, start = [], 0
    for match in _BREAK.finditer(text):
        if any(first < match.start() < last - 1 for first, last in quoted):
            continue
        mark = match.group().strip()
        end = match.start() + (len(mark) if mark and mark[0] in ".!?" else 0)
        found.append(text[start:end].strip())
        start = match.end()
    return [sentence for sentence in [*found, text[start:].strip()] if sentence.strip(" .!?,;")]


def core(sentence: str) -> str:
    """The sentence without politeness around it and marks at its end."""
    sentence = sentence.strip(" \t,;")
    while (match := _LEAD_IN.match(sentence)) and match.end() < len(sentence):
        sentence = sentence[match.end() :]
    return _TAIL.sub("", sentence.rstrip(" .!?,;")).strip()


def is_correction(sentence: str) -> bool:
    return bool(_CORRECTION.match(sentence))


def to_second_person(text: str) -> str:
    """ "my bike" becomes "your bike"."""
    words = re.sub(
        r"[A-Za-z']+", lambda match: _PERSONS.get(match.group().lower(), match.group()), text
    )
    return re.sub(r"\byou was\b", "you were", words, flags=re.IGNORECASE)


def capitalize(text: str) -> str:
    return text[:1].upper() + text[1:]


def quote(text: str, *, limit: int = 300) -> str:
    text = " ".join(text.split())
    return f"“{text}”" if len(text) <= limit else f"“{text[: limit - 1]}…”"


def stems(text: str) -> set[str]:
    """The words that carry meaning, cut so that "allergies" meets "allergic"."""
    words = re.findall(r"[^\W_]+", straighten(text).lower().replace("'s", ""))
    return {_stem(_SPELLINGS.get(word, word)) for word in words if word not in _SMALL_WORDS}


def _stem(word: str) -> str:
    if len(word) > 3:
        word = re.sub(r"(?:ing|ies|ied|ed|es|s|e|y)$", "", word)
    return word[:6] if len(word) > 6 else word
