"""Questions about the conversation itself: what was asked first, said last, told earlier."""

from __future__ import annotations

import re
from typing import Final, Literal

from chatsite.todo.offline.intents import (
    AskFact,
    CountMessages,
    Intent,
    RecallAnswer,
    RecallMessage,
    RecallTasks,
)
from chatsite.todo.offline.targets import NTH, read_nth

_FLAGS: Final = re.IGNORECASE
QUESTION: Final = re.compile(
    r"(?:what|who|when|where|which|why|how|whose|do|does|did|is|are|am|was|were|can|have"
    r"|has|(?:tell|remind) me (?:what|who|when|where|my|about))\b",
    _FLAGS,
)
_SAID: Final = (
    r"(?:say|said|ask|asked|write|wrote|tell|told|request|requested|type|typed|send|sent"
    r"|want|wanted"
    r"|mention|mentioned)"
)
_THING: Final = r"(?:thing|question|message|request|command|sentence|instruction|statement)"
_EVERY: Final = re.compile(
    r"(?:summari[sz]e|recap|list|show|repeat|what are)\b.*\b(?:conversation|chat|my"
    rf" (?:messages|questions|requests)|(?:everything|all|what) i(?:'ve| have)? {_SAID})"
    rf"|what (?:did|have) i {_SAID}(?: you)? to do$"
    r"|what (?:have|did) (?:i|we) (?:talk|talked|discuss|discussed|said|asked|say)(?:"
    r" about)?(?: so far| today| until now| here| all)*$"
    rf"|what have i (?:said|asked)(?: you)?(?: so far)?",
    _FLAGS,
)
_COUNT_MESSAGES: Final = re.compile(
    r"how many (?:messages|questions|things|times|requests)\b.*\b(?:i|we|my|conversation"
    r"|chat|so far)\b|count my messages"
    r"|what number (?:is this|message)",
    _FLAGS,
)
_COUNT_TASKS: Final = re.compile(
    r"how many (?:tasks|todos|to-dos|items|things|reminders)\b.*?\b(?P<verb>creat\w+"
    r"|add\w*|made|make|ask\w*|complet\w+|finish\w*|delet\w+|remov\w+)\b",
    _FLAGS,
)
_WHICH_TASKS: Final = re.compile(
    r"(?:did|have) i (?:already )?(?P<verb3>creat\w+|add\w*|complet\w+|finish\w*|delet\w+|remov\w+)"
    r" (?:any|a) (?:tasks?|todos?|items?)|"
    r"(?:what|which)\b.*?\b(?:tasks?|todos?|items?|one)\b.*?\b(?:i|you"
    r"|we)\b.*?\b(?P<verb>creat\w+|add\w*|made|complet\w+|finish\w*|delet\w+|remov\w+)\b"
    r"|(?:what|which)(?: \w+)? (?:did|have) (?:i|you|we) (?:just )?(?P<verb2>creat\w+"
    r"|add\w*|complet\w+|finish\w*|delet\w+|remov\w+)$",
    _FLAGS,
)
_NTH_TASK: Final = re.compile(rf"(?:what|which)\b.*?\b{NTH} (?:task|todo|item|one)\b", _FLAGS)
_BEFORE: Final = re.compile(
    rf"(?:and |what about |what did i {_SAID} |what was )?(?:the (?:one|message|question)"
    r" )?before that(?: one)?$"
    rf"|what did i {_SAID}(?: you)? before that$|what did i {_SAID}.*\bbefore that$",
    _FLAGS,
)
# Whole sentences only: these may open like a statement ("The last thing I said?").
_TELL_ME: Final = (
    r"(?:(?:do|can) you (?:still )?(?:remember|know|recall) |(?:show|tell|give|remind|read) "
    r"(?:me )?(?:of )?|(?:repeat|quote|recall) |what(?: is|'s| was) |which (?:is|was) )?"
)
_IN_WORDS: Final = (
    rf"(?: (?:that )?(?:i|we)(?:'ve| have| had| ever| just)* (?:{_SAID}|talked about|discussed)"
    r"(?: to)?(?: you)?(?: to do)?)?"
)
_HERE: Final = r"(?: (?:in|of) (?:this|our|the) (?:conversation|chat)| here| today| was what)*"
_AT_LAST: Final = (
    r"(?:(?:very )?last(?: time)?|just|previously|most recently|(?:a|one) (?:moment|minute|second)"
    r" ago|(?:right |just )?before (?:this|now)(?: (?:one|message|question))?|right before that)"
)
_LATEST: Final = re.compile(
    rf"{_TELL_ME}(?:(?:the|my|our) )?(?:very )?(?:last|previous|latest|most recent) {_THING}"
    rf"{_IN_WORDS}{_HERE}$"
    rf"|{_TELL_ME}(?:the|my) {_THING} (?:right |just )?before (?:this|now)(?: one)?$"
    rf"|{_TELL_ME}what i(?:'ve| have)?(?: just| last) {_SAID}(?: to)?(?: you)?(?: to do)?$"
    rf"|(?:{_TELL_ME}what i|(?:what|which)(?: {_THING})?(?: did|'d) i) {_SAID}(?: to)?(?: you)?"
    rf"(?: to do)? {_AT_LAST}$"
    r"|what (?:was said|did we (?:talk about|discuss)) last$"
    r"|what (?:came|was) (?:right |just )?before this(?: (?:message|question))?$",
    _FLAGS,
)
_BEGINNING: Final = re.compile(
    rf"{_TELL_ME}(?:(?:the|my|our) )?(?:very )?(?:first|earliest|original|initial|opening) {_THING}"
    rf"(?:{_IN_WORDS}| (?:that )?you(?: can)?(?: still)? (?:remember|recall|know|have)){_HERE}$"
    r"|(?:do you (?:still )?(?:remember|know) )?how (?:did )?(?:i|we|(?:this|our|the)"
    r" (?:conversation|chat)) (?:start|begin|started|began)(?: (?:this|our|the)"
    r" (?:conversation|chat))?$"
    r"|(?:where|with what|what) did (?:we|i) (?:start|begin)(?: with)?$"
    r"|what (?:started|opened) (?:this|our|the) (?:conversation|chat)$"
    r"|what (?:was said|did (?:we|i) (?:talk about|discuss)) (?:first|(?:at|in) the"
    r" (?:beginning|start))$"
    rf"|what did i {_SAID}(?: to)?(?: you)? in the beginning$",
    _FLAGS,
)
_PREVIOUS: Final = re.compile(
    r"(?:what|which|repeat|tell me)\b.*\b(?:my|the|i)\b.*\b(?:last|previous|latest|most"
    rf" recent)\b.*\b(?:{_THING}|{_SAID})"
    rf"|what did i (?:just|last) {_SAID}|what(?: have| had|'ve)? i (?:just|last) {_SAID}"
    r"|what was i (?:just )?(?:saying|asking)"
    rf"|what did i {_SAID}(?: to)?(?: you)?(?: just| right)?(?: now| a moment ago| last|"
    r" earlier| before)$|repeat my (?:last )?(?:message|question)",
    _FLAGS,
)
_FIRST: Final = re.compile(
    r"\b(?:first|1st|very first|initially|originally|at the (?:beginning|start)"
    rf"|earliest)\b.*\b(?:{_SAID}|{_THING}|i)\b"
    rf"|\b(?:{_SAID}|start|begin|{_THING})\b.*\b(?:first|initially|originally|at the"
    r" (?:beginning|start)|start(?:ed)? with|begin with)",
    _FLAGS,
)
_NTH_MESSAGE: Final = re.compile(
    rf"(?:what|which|repeat|tell me|do you)\b.*\b{NTH} {_THING}\b", _FLAGS
)
_ABOUT: Final = re.compile(
    rf"what (?:did|have) i {_SAID}(?: you)? (?:about|regarding|on) (?P<topic>.+)$"
    r"|(?:did|have) i (?:ever )?(?:say|said|mention|mentioned|tell you|told you)(?:"
    r" anything)? (?:about )?(?P<topic2>.+)$",
    _FLAGS,
)
_LAST_ANSWER: Final = re.compile(
    r"what did you (?:just |last )?(?:say|answer|reply|tell me)|(?:repeat|say) (?:that|it"
    r"|your (?:last )?answer)(?: again)?$"
    r"|what was your (?:last |previous )?(?:answer|reply|message|response)|come again$|pardon$",
    _FLAGS,
)
_EVERYTHING: Final = re.compile(
    r"what (?:do|did|else do) you (?:know|remember|learn\w*)(?: about (?:me|us))?(?: so"
    r" far)?$|what have you learned"
    r"|(?:tell me )?(?:everything|all|what) you (?:know|remember)(?: about me)?$|what do"
    r" you remember"
    r"|do you (?:know|remember) (?:anything|something)?\s*about me|do you (?:know"
    r"|remember) me$|what do you know of me",
    _FLAGS,
)
_REMEMBERED: Final = re.compile(
    r"what (?:did|have) i (?:tell|told|ask\w*|say|said)(?: you)? (?:you )?to (?:remember"
    r"|note|keep in mind|not forget)"
    r"|what (?:did|have) (?:you|i) (?:note|noted|remember\w*)|what (?:should|were|are"
    r"|must) you (?:supposed )?(?:to )?(?:remember|remembering)",
    _FLAGS,
)
_PREFERENCE: Final = re.compile(
    r"\bmy (?:\w+ )?preferences?\b|(?:what|how|which)\b.*\bdo i prefer\b|how do i (?:like"
    r"|want|prefer)\b.*\b(?:tasks?|list|sorted|answers?|things|it)\b"
    r"|how (?:should|do) you (?:sort|order|answer)\b|how are my tasks (?:sorted|ordered)"
    r"|do i (?:have a |prefer)",
    _FLAGS,
)
_MY_NAME: Final = re.compile(
    r"\bmy name\b|who am i\b|what (?:do|should|will) you call me|(?:what|how) am i"
    r" (?:called|named)|who is (?:talking|speaking|this)"
    r"|do you know who i am",
    _FLAGS,
)


def read_recall(text: str) -> Intent | None:
    """The recollection a sentence asks for; `text` is the sentence's core."""
    if _LAST_ANSWER.match(text):
        return RecallAnswer()
    if match := _COUNT_TASKS.search(text):
        return RecallTasks(_done_to(match["verb"]), counts=True)
    if _COUNT_MESSAGES.search(text):
        return CountMessages()
    if match := _WHICH_TASKS.match(text):
        nth = re.search(rf"\b{NTH}\b", text, _FLAGS)
        just = re.search(r"\bjust\b", text, _FLAGS)
        number = read_nth(nth["nth"]) if nth else (-1 if just else None)
        return RecallTasks(
            _done_to(match["verb"] or match["verb2"] or match["verb3"]), number=number
        )
    return _read_recall_of_messages(text) or _read_recall_of_facts(text)


def _read_recall_of_messages(
    text: str,
) -> Intent | None:
    if _LATEST.match(text):
        return RecallMessage("previous")
    if _BEGINNING.match(text):
        return _read_first(text)
    asks = re.match(
        r"(?:what|which|who|do you|tell|repeat|remind|how|before|and|can|the|show|list"
        r"|recap|summar)",
        text,
        _FLAGS,
    )
    if not asks or re.match(r"remind me (?:to|about)\b", text, _FLAGS):
        return None
    if _REMEMBERED.search(text):
        return AskFact(text, about="remembered")
    if _EVERY.search(text):
        return RecallMessage("every")
    if _BEFORE.search(text):
        return RecallMessage("before")
    if re.match(r"(?:the|show|list)\b", text, _FLAGS):
        return None
    if (match := _NTH_MESSAGE.match(text)) and read_nth(match["nth"]) > 1:
        return RecallMessage("nth", number=read_nth(match["nth"]))
    if _PREVIOUS.match(text):
        return RecallMessage("previous")
    if _FIRST.search(text) and re.search(r"\b(?:i|my)\b", text, _FLAGS):
        return _read_first(text)
    if match := _ABOUT.match(text):
        return RecallMessage("about", topic=match["topic"] or match["topic2"])
    if (match := _NTH_TASK.match(text)) and not re.search(r"\bdue\b", text, _FLAGS):
        return RecallTasks("created", number=read_nth(match["nth"]))
    return None


def _read_first(text: str) -> Intent:
    """The first task, the first message, or the first thing that was asked for."""
    if re.search(r"\b(?:task|todo|item)\b", text, _FLAGS):
        return RecallTasks("created", number=1)
    topic = "to do" if re.search(r"\bto do\b", text, _FLAGS) else ""
    literal = re.search(
        r"\bmessage|\bsay\b|\bsaid\b|\bwrite|\bwrote|\btype|\bsen[dt]|\bhow\b", text, _FLAGS
    )
    asked = re.search(r"\b(?:i|my|question|request|command|instruction)\b", text, _FLAGS)
    if literal or not asked:
        return RecallMessage("nth", number=1)
    return RecallMessage("request", topic=topic)


def _read_recall_of_facts(text: str) -> Intent | None:
    if _EVERYTHING.match(text):
        return AskFact(text, about="everything")
    if not QUESTION.match(text):
        return None
    if _PREFERENCE.search(text):
        return AskFact(text, about="preference")
    if _MY_NAME.search(text):
        return AskFact(text, about="name")
    return None


def _done_to(verb: str) -> Literal["created", "completed", "deleted"]:
    verb = verb.lower()
    if verb.startswith(("complet", "finish")):
        return "completed"
    return "deleted" if verb.startswith(("delet", "remov")) else "created"
