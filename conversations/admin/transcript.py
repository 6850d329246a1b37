"""The transcript as its page shows it: turns, what was said in them, and what is missing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import groupby, pairwise
from typing import Final
from uuid import UUID

from conversations import errors
from conversations.admin.pieces import Piece, Pieces, waiting_piece
from conversations.lanes import Database
from conversations.store import review, transcript_turns, transcripts
from conversations.store.review import ReviewedSession
from conversations.store.transcript_turns import ReviewedTurn
from conversations.store.transcripts import Entry, EntryPage

PAGE: Final = 200
BEFORE_A_MARK: Final = 20
"""How many entries are shown before the one that a link leads to."""
MANY: Final = 4
"""So many turns in a row of which nothing is left are told in one line."""
_CLEARED: Final = "taken back, or cleared"
_SENTENCES: Final = {
    kind.code: " ".join((kind.__doc__ or "").split())
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, errors.ConversationsError)
}


@dataclass(slots=True)
class Group:
    """A turn with the pieces of it that are on the page; entries without a turn have none."""

    turn: ReviewedTurn | None
    pieces: list[Piece] = field(default_factory=list)
    facts: list[str] = field(default_factory=list)
    ends: list[tuple[str, str]] = field(default_factory=list)
    """How it ended, where that is not plain: a word for the stylesheet, and a sentence."""


@dataclass(frozen=True, slots=True)
class TranscriptPage:
    """One page. `previous` and `next` are positions that the neighbouring pages end, begin at."""

    session: ReviewedSession
    groups: list[Group]
    odd: list[Piece]
    previous: int | None
    next: int | None
    first: int | None
    last: int | None
    is_mark_missing: bool = False


@dataclass(frozen=True, slots=True)
class Where:
    """Which page: from a position on, up to one, or around an entry; else the newest."""

    since: int | None = None
    until: int | None = None
    at: UUID | None = None


def read_transcript(
    db: Database, *, session_id: UUID, where: Where, sees_hidden: bool
) -> TranscriptPage:
    """A page of a conversation. Raises ThreadNotFound."""
    session = review.find_session(db, session_id=session_id)
    since, is_mark_missing = where.since, False
    if where.at is not None:
        try:
            since = transcripts.place_of(
                db, session_id=session_id, message_id=where.at, before=BEFORE_A_MARK
            )
        except errors.ItemNotFound:
            is_mark_missing = True
    page = transcripts.read_entries(
        db, session_id=session_id, limit=PAGE, since=since, until=where.until
    )
    odd = transcripts.read_odd_entries(db, session_id=session_id) if page.has_odd else []
    entries = page.entries
    turn_ids = list(dict.fromkeys(entry.turn_id for entry in entries if entry.turn_id))
    turns = transcript_turns.read_turns(
        db,
        session_id=session_id,
        ids=turn_ids,
        from_first=page.previous is None,
        to_last=page.next is None,
    )
    ids = [entry.id for entry in entries if entry.id]
    remembered = transcripts.remembered_places(
        db, session_id=session_id, remembered_count=session.remembered_count
    )
    pieces = Pieces(
        [*entries, *odd],
        sees_hidden=sees_hidden,
        feedback=transcripts.read_feedback(db, message_ids=ids),
        files=transcripts.read_files(db, session_id=session_id, message_ids=ids),
    )
    begins = memory_begins(remembered)
    groups = _groups(page, turns, pieces, session=session, begins=begins)
    return TranscriptPage(
        session,
        groups,
        [pieces.of(entry) for entry in odd],
        page.previous,
        page.next,
        entries[0].position if entries else None,
        entries[-1].position if entries else None,
        is_mark_missing,
    )


def memory_begins(remembered: Sequence[tuple[int, str]]) -> list[int]:
    """Where the memory begins: with a summary that is kept, and then with the rest of it."""
    if not remembered:
        return []
    begins = [remembered[0][0]]
    for (position, kind), (following, _) in pairwise(remembered):
        if kind == "compaction" and following > position + 1:
            begins.append(following)
        if kind not in {"compaction", "reasoning"}:
            break
    return begins


def _groups(
    page: EntryPage,
    turns: Sequence[ReviewedTurn],
    pieces: Pieces,
    *,
    session: ReviewedSession,
    begins: Sequence[int],
) -> list[Group]:
    """The entries by their turns, in the order of the log; turns without entries in between."""
    by_id = {turn.id: turn for turn in turns}
    present = {entry.turn_id for entry in page.entries}
    absent = [turn for turn in turns if turn.id not in present]
    groups: list[Group] = []
    before = page.previous or 0
    last: Entry | None = None
    for entry in page.entries:
        turn = by_id.get(entry.turn_id) if entry.turn_id else None
        lost = _gap(before, last, entry, session=session, begins=begins)
        is_same = bool(groups) and last is not None and last.turn_id == entry.turn_id
        if lost and not is_same:
            groups.append(Group(None, [lost]))
        if not is_same:
            if turn:
                earlier = [each for each in absent if each.number < turn.number]
                groups += _without_entries(earlier)
                absent = absent[len(earlier) :]
            groups.append(Group(turn, facts=_facts(turn), ends=_ends(turn)))
        elif lost:
            groups[-1].pieces.append(lost)
        if entry.position in begins and (last or before or lost):
            is_summary = len(begins) > 1 and entry.position == begins[0]
            groups[-1].pieces.append(_memory_mark(is_summary=is_summary))
        groups[-1].pieces.append(pieces.of(entry))
        before, last = entry.position or 0, entry
    groups += _without_entries(absent)
    if page.next is None and session.last_position > before:
        count = session.last_position - before
        groups.append(Group(None, [_tombstone(count, _CLEARED)]))
    return groups


def _gap(
    before: int,
    last: Entry | None,
    entry: Entry,
    *,
    session: ReviewedSession,
    begins: Sequence[int],
) -> Piece | None:
    """What stands for the positions between two entries, with as much as is known of why."""
    count = (entry.position or 0) - before - 1
    if count <= 0:
        return None
    is_forgotten = not begins or (entry.position or 0) <= begins[-1]
    is_within = last is not None and last.turn_id is not None and last.turn_id == entry.turn_id
    if not (is_forgotten and session.pruned_count):
        return _tombstone(count, "taken back: the turn was tried again, or rewound")
    if is_within:
        return _tombstone(count, "pruned: only the model saw them, and its memory was full")
    return _tombstone(count, "pruned when the memory was full, or taken back")


def _tombstone(count: int, why: str) -> Piece:
    what = "1 entry is" if count == 1 else f"{count:,} entries are"
    return Piece("gap", f"{what} gone: {why}.")


def _memory_mark(*, is_summary: bool) -> Piece:
    text = (
        "A summary that the memory keeps of what came before"
        if is_summary
        else "The memory begins here: the model is given nothing from above"
    )
    return Piece("memory", text)


def _without_entries(turns: Sequence[ReviewedTurn]) -> Iterator[Group]:
    """Turns of which the log holds nothing; many that are gone make one mark."""
    for is_gone, run in groupby(turns, key=_is_gone):
        some = list(run)
        if is_gone and len(some) >= MANY:
            text = (
                f"Of turns {some[0].number:,} to {some[-1].number:,} nothing is left: {_CLEARED}."
            )
            yield Group(None, [Piece("gap", text)])
        else:
            yield from map(_empty, some)


def _is_gone(turn: ReviewedTurn) -> bool:
    return turn.user_message_id is None and turn.status not in {"queued", "running"}


def _empty(turn: ReviewedTurn) -> Group:
    """A turn of which the log holds nothing."""
    if turn.waiting:
        piece = waiting_piece(turn.waiting)
    elif turn.status in {"queued", "running"}:
        piece = Piece("gap", "Nothing is stored yet.")
    elif _is_gone(turn):
        piece = Piece("gap", f"What was said is gone: {_CLEARED}.")
    else:
        piece = Piece("gap", "Nothing of it is stored.")
    return Group(turn, [piece], _facts(turn), _ends(turn))


def _facts(turn: ReviewedTurn | None) -> list[str]:
    """What a turn cost and how long it took."""
    if turn is None:
        return []
    tokens = f"{turn.input_tokens:,} tokens in, {turn.output_tokens:,} out"
    return [
        *([visible_model] if (visible_model := turn.model) else []),
        *([f"{turn.requests} requests"] if turn.requests > 1 else []),
        *([tokens] if turn.input_tokens or turn.output_tokens else []),
        *_spans(turn),
    ]


def _spans(turn: ReviewedTurn) -> Iterable[str]:
    begun = turn.started_at
    for name, start, end in (
        ("waited {}", turn.queued_at, begun),
        ("first word after {}", begun, turn.first_token_at),
        ("took {}", begun, turn.finished_at),
    ):
        if start and end and (name != "waited {}" or (end - start).total_seconds() >= 1):
            yield name.format(_seconds(start, end))


def _seconds(start: datetime, end: datetime) -> str:
    seconds = max(0.0, (end - start).total_seconds())
    return f"{seconds:.1f} s" if seconds < 60 else f"{seconds / 60:.1f} min"


def _ends(turn: ReviewedTurn | None) -> list[tuple[str, str]]:
    if turn is None:
        return []
    ends = [("warning", f"Warning: {turn.warning}")] if turn.warning else []
    why = _SENTENCES.get(turn.error_code, "")
    code = f" ({turn.error_code})" if turn.error_code else ""
    match turn.status:
        case "failed":
            ends.append(("error", f"Failed{code}. {why}".strip()))
        case "interrupted":
            ends.append(("error", f"Interrupted. {_SENTENCES['interrupted']}"))
        case "cancelled":
            ends.append(("warning", "Stopped: the rest of the answer was not wanted."))
        case "queued" | "running":
            ends.append(("note", "Waits in the line." if turn.status == "queued" else "Runs now."))
    return ends
