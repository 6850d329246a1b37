"""What the model is given, as its page shows it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from uuid import UUID

from conversations.admin.pieces import Piece, Pieces, visible
from conversations.admin.transcript import memory_begins
from conversations.conf import get_conf
from conversations.errors import ItemNotFound, TurnNotFound
from conversations.history import REASONS
from conversations.lanes import Database
from conversations.store import review, transcript_turns, transcripts, windows
from conversations.store.review import ReviewedSession
from conversations.store.transcript_turns import ReviewedTurn
from conversations.store.transcripts import Entry
from conversations.store.windows import PastWindow, Window, WindowEntry

_STATES: Final = {
    windows.GIVEN: "given",
    windows.MAYBE: "cannot be told",
    windows.LEFT_OUT: "left out",
    windows.NEVER: "never remembered",
}
_WHY: Final = {
    "pruned": "pruned since, or before; its item is gone, its text stayed",
    "forgotten later": "forgotten later; a hold keeps it",
    "forgotten before": "forgotten before; a hold keeps it",
}


@dataclass(frozen=True, slots=True)
class Shown:
    """One entry of the window: whether it is given, and the piece that shows it."""

    number: int | None
    state: str
    word: str
    why: str
    piece: Piece


@dataclass(frozen=True, slots=True)
class WindowPage:
    """The window of the next turn, or of an earlier one, which may not be certain."""

    session: ReviewedSession
    turn: ReviewedTurn | None
    entries: list[Shown]
    said: list[Shown]
    given_count: int
    left_out_count: int
    is_certain: bool = True
    gone_count: int = 0
    earlier_count: int = 0
    budget: int = 0


def read_window(
    db: Database, *, session_id: UUID, turn_id: UUID | None, sees_hidden: bool
) -> WindowPage:
    """The window of a turn; without one, of the next. Raises ThreadNotFound, TurnNotFound."""
    session = review.find_session(db, session_id=session_id)
    if turn_id is None:
        return _next(windows.next_window(db, session_id=session_id), session, sees_hidden)
    try:
        turn = transcript_turns.find_turn(db, session_id=session_id, turn_id=turn_id)
    except ItemNotFound:
        raise TurnNotFound from None
    remembered = transcripts.remembered_places(
        db, session_id=session_id, remembered_count=session.remembered_count
    )
    begins = memory_begins(remembered)
    past = windows.window_of_turn(
        db,
        session_id=session_id,
        turn=turn,
        begins_at=begins[-1] if begins else None,
        limit=get_conf().agent_session_max_messages,
    )
    return _past(past, session, turn, sees_hidden)


def _next(window: Window, session: ReviewedSession, sees_hidden: bool) -> WindowPage:
    pieces = Pieces([each.entry for each in window.entries], sees_hidden=sees_hidden)
    shown = _shown(window.entries, pieces)
    given = sum(each.state == windows.GIVEN for each in shown)
    return WindowPage(
        session,
        None,
        shown,
        [],
        given,
        len(shown) - given,
        budget=get_conf().agent_session_max_messages,
    )


def _past(
    past: PastWindow, session: ReviewedSession, turn: ReviewedTurn, sees_hidden: bool
) -> WindowPage:
    entries: list[Entry] = [each.entry for each in past.entries] + past.said
    pieces = Pieces(entries, sees_hidden=sees_hidden)
    shown = _shown(past.entries, pieces)
    said = [WindowEntry(entry, windows.GIVEN) for entry in past.said if entry.is_remembered]
    given = sum(each.state == windows.GIVEN for each in shown)
    return WindowPage(
        session,
        turn,
        shown,
        _shown(said, pieces),
        given,
        sum(each.state == windows.LEFT_OUT for each in shown),
        past.is_certain,
        past.gone_count,
        past.earlier_count,
        get_conf().agent_session_max_messages,
    )


def _shown(entries: list[WindowEntry], pieces: Pieces) -> list[Shown]:
    shown = []
    number = 0
    for each in entries:
        is_given = each.state == windows.GIVEN
        number += is_given
        shown.append(
            Shown(
                number if is_given else None,
                each.state.replace(" ", "-"),
                _STATES[each.state],
                _why(each.reason),
                pieces.exact(each.entry),
            )
        )
    return shown


def _why(reason: str) -> str:
    first, _, rest = reason.partition(": ")
    if rest:
        return f"{first}: {REASONS.get(rest, visible(rest))}"
    return _WHY.get(reason) or REASONS.get(reason) or visible(reason)
