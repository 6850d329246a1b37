"""What a person says about themselves and how they like things, read from their own messages."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from chatsite.todo.offline.wording import (
    capitalize,
    core,
    is_correction,
    sentences,
    stems,
    straighten,
    to_second_person,
)


@dataclass(frozen=True, slots=True)
class Fact:
    """A statement, in the second person. A later one with the same key replaces it, unless such
    things add up (one may like tea and also cake) and it does not correct the earlier one.
    """

    key: str
    sentence: str
    adds_up: bool = False
    remembered: bool = False
    """They asked for it to be remembered."""
    forgets: bool = False


@dataclass(frozen=True, slots=True)
class Preference:
    kind: Literal["sort", "length", "other"]
    value: str
    sentence: str


_NAME: Final = re.compile(
    r"(?:my (?:first |full |real |new )?name(?:'s| is)(?: now)?|(?:you can |you may |please )?"
    r"(?:just )?call me|i(?:'m| am) (?:called|named)|i go by|people call me)\s+(?P<name>[^,;:]+)$",
    re.IGNORECASE,
)
# Here the capital decides: "I'm Ada" is a name, "I'm tired" is not.
_BARE_NAME: Final = re.compile(
    r"(?:I'm|I am|i'm|i am|This is|this is|It's|it's)\s+(?P<name>[A-Z][\w'-]+(?: [A-Z][\w'-]+)?)$"
)
_NO_NAME: Final = re.compile(
    r"(?:OK|Okay|Fine|Good|Well|Sorry|Sure|Done|Here|Back|\w+(?:ish|ese)|German|American|Canadian"
    r"|Italian|Russian|Indian|African|Asian|European|Australian|Austrian|Norwegian"
    r"|Brazilian|Mexican"
    r"|Korean|Belgian|Ukrainian|Hungarian|Romanian|French|Dutch|Greek|Swiss|Czech|Catholic|Muslim"
    r"|Christian|Jewish|Hindu|Monday|Tuesday|Wednesday|Thursday|Friday|Saturday|Sunday)\b"
)
_MINE: Final = re.compile(
    r"(?P<whose>my|our|the|his|her|their)\s+(?P<key>[^,;:?]{1,60}?)"
    r"\s*(?P<verb>'s|\bis now\b|\bare now\b|\bis\b|\bare\b|\bwas\b|\bwere\b|\bwill be\b|\bstarts\b"
    r"|\bbegins\b|\bends\b|\btakes place\b|\bcosts\b|\bhappens\b|\blives\b|\bworks\b|\barrives\b"
    r"|\bcomes\b|\bleaves\b)\s+(?P<value>.+)$",
    re.IGNORECASE,
)
_DOING: Final = re.compile(
    r"(?P<who>i(?:'m|'ve)?|we(?:'re|'ve)?)\s+(?P<rest>.+)$",
    re.IGNORECASE,
)
_HOMES: Final = re.compile(
    r"(?:now )?(?:moved to|live in|am living in|am based in|reside in|now live"
    r" in)\s+(?P<place>.+)$",
    re.IGNORECASE,
)
_ADDS_UP: Final = frozenset(
    {"like", "love", "hate", "dislike", "enjoy", "have", "own", "speak", "play", "use", "know"}
    | {"eat", "drink", "need", "want", "am", "can", "can't", "cannot", "don't", "allergic"}
)
_NOT_A_FACT: Final = re.compile(
    r"(?:what|who|when|where|which|why|how|do|does|did|is|are|am|was|can|could|would|will|should"
    r"|have i|has|tell|show|list|if)\b",
    re.IGNORECASE,
)
_REMEMBER: Final = re.compile(
    r"(?:remember|note|keep in mind|bear in mind|know|don't forget|do not forget|never forget"
    r"|take note|make a note|i(?:'d| would) like you to (?:remember|know)|you should know)"
    r"(?:\s+that|\s*:|,|\s+(?=my |i |i'm |i've |the |our |we |[A-Z]))\s*(?P<what>.+)$",
    re.IGNORECASE,
)
_FORGET: Final = re.compile(
    r"forget (?:about )?(?:that )?(?P<what>(?:my|i|the|our)\b.+)$", re.IGNORECASE
)
_CLAUSES: Final = re.compile(
    r"(?:,\s*|\s+)(?:and|but)\s+(?=(?:i|my|our)\b)|,\s*(?=(?:i|my)\b)", re.I
)

SORTS: Final = (
    ("priority", re.compile(r"\b(?:priority|importance|urgency|most important|most urgent)", re.I)),
    ("due", re.compile(r"\b(?:due|deadline|date|day|soonest|earliest)", re.I)),
    ("title", re.compile(r"\b(?:title|name|alphabet\w*|letter|a to z|a-z)", re.I)),
    ("newest", re.compile(r"\b(?:newest|latest|most recent|recent|reverse)", re.I)),
    ("oldest", re.compile(r"\b(?:oldest|creation|created|age|when i added)", re.I)),
)
_SORTING: Final = re.compile(
    r"\b(?:sort(?:ed|ing)?|order(?:ed|ing)?|arranged?|ranked?|grouped?)\b", re.I
)
_PREFERS: Final = re.compile(
    r"(?:i(?:'d| would)? (?:prefer|rather|favou?r)|i(?:'d| would) (?:like|love|want)|i"
    r" (?:like|want)"
    r"|my preference is|always|never(?! ?mind)|from now on,?|in (?:the )?future,?|by default,?"
    r"|please always)\s+(?P<what>.+)$",
    re.IGNORECASE,
)
_STRONG: Final = re.compile(
    r"(?:i(?:'d| would)? (?:prefer|rather)|my preference is|always|never(?! ?mind)|from"
    r" now on|in (?:the )?future"
    r"|by default)",
    re.IGNORECASE,
)
_SHORT: Final = re.compile(
    r"\b(?:short|shorter|brief|concise|terse|to the point|few words)\b", re.IGNORECASE
)
_LONG: Final = re.compile(r"\b(?:detailed|longer|long answers|more detail|verbose|in full)\b", re.I)
_ANSWERS: Final = re.compile(
    r"\b(?:keep|answers?|repl(?:y|ies)|responses?|be|it|sentences|talk|speak|write)\b",
    re.IGNORECASE,
)


def find_preference(sentence: str) -> Preference | None:
    """How the person wants things from now on, or None."""
    if sentence.rstrip().endswith("?") or _FORGET.match(core(sentence)):
        return None
    text = core(sentence)
    if match := _REMEMBER.match(text):
        text = match["what"]
    told = _PREFERS.match(text)
    said = to_second_person(text)
    if _SORTING.search(text) and (sort := find_sort(text)):
        lasting = told or re.match(r"(?:sort|order|arrange)\b", text, re.I)
        return Preference("sort", sort, said) if lasting else None
    ranks = told and re.search(r"\b(?:by|first|on top)\b", text, re.I)
    if ranks and re.search(r"\b(?:tasks?|list|todos?)\b", text, re.I) and (sort := find_sort(text)):
        return Preference("sort", sort, said)
    for length, pattern in (("short", _SHORT), ("long", _LONG)):
        asks = told or re.match(r"(?:be|keep|make|answer|reply|use|give)\b", text, re.I)
        if asks and pattern.search(text) and _ANSWERS.search(text):
            return Preference("length", length, said)
    if _STRONG.match(text):
        return Preference("other", text, said)
    return None


def find_sort(text: str) -> str | None:
    after = re.search(r"\b(?:by|in order of)\s+(.+)$", text, re.IGNORECASE)
    for part in ([after[1]] if after else []) + [text]:
        for sort, pattern in SORTS:
            if pattern.search(part):
                return sort
    return None


def find_facts(sentence: str) -> tuple[Fact, ...]:
    """What one sentence states; nothing for a question."""
    text = core(sentence)
    if sentence.rstrip().endswith("?"):
        return ()
    if match := _FORGET.match(text):
        inner = match["what"]
        found = _find_fact(f"{inner} is x") if inner.lower().startswith(("my", "the")) else None
        found = found or _find_fact(inner)
        return (Fact(key=found.key, sentence="", forgets=True),) if found else ()
    remembered = _REMEMBER.match(text)
    text = remembered["what"] if remembered else text
    if not remembered and _NOT_A_FACT.match(text):
        return ()
    facts = []
    for clause in _CLAUSES.split(text):
        fact = _find_fact(clause.strip(" .,!"))
        if fact is None and remembered:
            fact = Fact(key=clause.lower(), sentence=_sentence(clause), adds_up=True)
        if fact is not None:
            facts.append(
                Fact(
                    key=fact.key,
                    sentence=fact.sentence,
                    adds_up=fact.adds_up and not is_correction(sentence),
                    remembered=remembered is not None,
                )
            )
    return tuple(facts)


def known_facts(messages: Iterable[str]) -> list[Fact]:
    """All that still holds, in the order it was said."""
    known: list[Fact] = []
    for message in messages:
        for sentence in sentences(straighten(message)):
            if find_preference(sentence):
                continue
            for fact in find_facts(sentence):
                if fact.adds_up:
                    known = [old for old in known if old.sentence != fact.sentence]
                else:
                    known = [old for old in known if old.key != fact.key]
                if not fact.forgets:
                    known.append(fact)
    return known


def known_preferences(messages: Iterable[str]) -> list[Preference]:
    """All that still holds: the latest order, the latest length, and everything else."""
    known: list[Preference] = []
    for message in messages:
        for sentence in sentences(straighten(message)):
            preference = find_preference(sentence)
            if preference is not None:
                known = [old for old in known if old.kind == "other" or old.kind != preference.kind]
                known.append(preference)
    return known


def facts_about(question: str, facts: Sequence[Fact]) -> list[Fact]:
    """The facts that answer a question, best first; nothing where no fact speaks of it."""
    wanted = stems(question)
    if wanted & {"birthd"}:
        wanted -= {"born"}
    named = re.search(
        r"\b(?:my|the|our|his|her)\s+(?P<key>.+?)(?:\s+(?:called|named|again|start|begin"
        r"|end|take place))*$",
        core(question),
        re.IGNORECASE,
    )
    if named and (key := stems(re.sub(r"\bnames?\b", "", named["key"]) or named["key"])):
        answers = [fact for fact in facts if key <= stems(fact.sentence)]
        best = [fact for fact in answers if key <= stems(fact.key)] or answers
        return best[-1:]
    scores = [(len(wanted & stems(fact.sentence)), fact) for fact in facts]
    top = max((score for score, _ in scores), default=0)
    best = [fact for score, fact in scores if score == top and top]
    return best if all(fact.adds_up for fact in best) else best[-1:]


def _find_fact(clause: str) -> Fact | None:
    if match := _NAME.match(clause):
        return _name(match["name"])
    if (match := _BARE_NAME.match(clause)) and not _NO_NAME.match(match["name"]):
        return _name(match["name"])
    if (match := _MINE.match(clause)) and not _is_about_tasks(match["key"]):
        whose = match["whose"].lower()
        key = " ".join(sorted(stems(match["key"]))) or match["key"].lower()
        return Fact(key=f"{'my' if whose == 'our' else whose} {key}", sentence=_sentence(clause))
    match = _DOING.match(clause)
    if match is None or _is_about_tasks(clause):
        return None
    rest = match["rest"]
    who = match["who"].lower()
    if who.endswith("'m") or who.endswith("'re"):
        rest = f"am {rest}"
    if place := _HOMES.match(rest):
        return Fact(key="live in", sentence=f"You live in {place['place']}")
    words = rest.lower().split()
    if not words or words[0] in {"see", "mean", "meant", "think", "guess", "thought", "wonder"}:
        return None
    key = " ".join(words[:2])
    adds_up = words[0] in _ADDS_UP and not key.startswith(("am from", "have to"))
    allergic = "allergic to" in rest.lower()
    return Fact(
        key="allergic" if allergic else key,
        sentence=_sentence(clause),
        adds_up=adds_up and not (allergic and re.search(r"\bnot|no longer\b", rest, re.I)),
    )


def _name(name: str) -> Fact:
    name = re.sub(
        r"\s+(?:now|from now on|instead|and|by the way)$", "", name.strip(" \"'"), flags=re.I
    )
    return Fact(key="name", sentence=f"Your name is {name}")


def _sentence(clause: str) -> str:
    return capitalize(to_second_person(clause.strip()))


def _is_about_tasks(text: str) -> bool:
    return bool(re.search(r"\b(?:tasks?|list|todos?|to-dos?|first one|last one|it)\b", text, re.I))
