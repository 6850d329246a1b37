"""What is said beside a text: kept with the ticket, moved to the log, answered exactly once."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import pytest
from django.utils import timezone

from conversations import lanes
from conversations.errors import Invalid, ThreadNotFound
from conversations.ids import new_id
from conversations.items import Row, encode_item
from conversations.models import ChatMessage
from conversations.store import closing, line, rewinding, tickets
from conversations.store import log as store_log
from conversations.store.inputs import Settlement, TurnInput, decode_input
from conversations.store.leases import Holder
from conversations.tests import factories
from conversations.tests.turns_helpers import counters_fit, log, rows, shown, stored

HERE = Holder("here", 15_000)
GIVEN = TurnInput(
    thread_item='{"type":"user_message"}',
    agent_items=[{"role": "user", "content": [{"type": "input_text", "text": "hi"}]}],
)
PENDING = '{"type":"client_tool_call","status":"pending"}'
DONE = '{"type":"client_tool_call","status":"completed"}'


async def submit(session: Any, text: str = "hi", **changes: Any) -> Any:
    options = {
        "holder": HERE,
        "session_id": session.id,
        "owner_id": session.owner_id,
        "turn_id": new_id(),
        "text": text,
        "idempotency_key": None,
        "now": timezone.now(),
        "max_queued": 5,
    }
    return await lanes.write(partial(tickets.submit, **options | changes))


async def start(ticket: Any) -> Any:
    now = timezone.now()
    return await lanes.write(partial(tickets.start, ticket=ticket, holder=HERE, now=now))


async def give_up(turn_id: Any, status: str = "cancelled") -> Any:
    return await lanes.write(
        partial(
            closing.give_up,
            turn_id=turn_id,
            process="here",
            status=status,
            error_code="",
            now=timezone.now(),
        )
    )


async def put(session: Any, *rows: Row) -> None:
    """Entries at the end of the session's log."""

    def write(db: lanes.Database) -> None:
        key = lanes.from_uuid(session.id, is_sqlite=db.is_sqlite)
        closing.append_rows(db, session_id=key, turn_id=None, rows=rows, now=timezone.now())

    await lanes.write(write)


def test_an_input_comes_back_as_it_was_encoded():
    given = TurnInput(attachment_ids=(new_id(), new_id()), agent_items=[{"content": "\x00\ud800"}])
    assert decode_input(given.encode()) == given
    assert decode_input(TurnInput(is_said=False).encode()).is_said is False


@pytest.mark.parametrize("stored", [None, "", "{", "[]", "{}", '{"message_id": 3}', b"\xff"])
def test_what_cannot_be_read_is_no_input(stored):
    assert decode_input(stored) is None


async def test_a_message_that_starts_at_once_is_stored_as_it_was_given(session):
    await submit(session, given=GIVEN)
    (row,) = await log(session)
    assert (row.id, row.text, row.thread_item) == (GIVEN.message_id, "hi", GIVEN.thread_item)
    (turn,) = await rows(session)
    assert turn.user_message_id == GIVEN.message_id
    assert decode_input(turn.input_item) == GIVEN  # until the model remembers it


async def test_a_message_that_waits_is_stored_as_it_was_given(session):
    first = await submit(session, "first")
    second = await submit(session, given=GIVEN)
    assert decode_input((await rows(session))[1].input_item) == GIVEN
    await give_up(first.turn_id)
    await start(second)
    *_, row = await log(session)
    assert (row.id, row.text, row.thread_item) == (GIVEN.message_id, "hi", GIVEN.thread_item)
    assert decode_input((await rows(session))[1].input_item) == GIVEN
    await give_up(second.turn_id)
    assert (await rows(session))[1].input_item is None


async def test_a_message_that_never_starts_is_kept_as_it_was_given(session):
    await submit(session, "first")
    second = await submit(session, given=GIVEN)
    assert await give_up(second.turn_id) == GIVEN.message_id
    *_, row = await log(session)
    assert (row.id, row.thread_item) == (GIVEN.message_id, GIVEN.thread_item)


async def test_a_turn_that_broke_off_leaves_the_model_all_that_was_given(session):
    ticket = await submit(session, given=GIVEN)
    await give_up(ticket.turn_id, "interrupted")
    question = (await log(session))[0]
    assert [json.loads(question.agent_item)] == GIVEN.agent_items
    assert (await rows(session))[0].input_item is None
    await counters_fit(session)


async def test_a_text_alone_is_kept_with_no_ticket_that_runs(session):
    await submit(session, given=TurnInput(thread_item="{}"))
    assert (await rows(session))[0].input_item is None


@pytest.mark.parametrize("is_remembered", [True, False])
async def test_what_a_person_did_is_remembered_once_where_its_turn_breaks_off(
    session, is_remembered
):
    told = {"role": "user", "content": "red"}
    given = TurnInput(agent_items=[told], is_said=False)
    ticket = await submit(session, "", given=given)
    if is_remembered:
        row = Row("message", "user", agent_item=encode_item(told))
        batch = store_log.Batch(rows=[row])
        lease = ticket.started.lease
        append = partial(store_log.append_for_turn, lease=lease, batch=batch, now=timezone.now())
        await lanes.write(append)
    await give_up(ticket.turn_id, "interrupted")
    (row,) = await log(session)
    assert (json.loads(row.agent_item), row.shown) == (told, False)
    await counters_fit(session)


async def test_an_abandoned_message_is_adopted_as_it_was_given(session):
    await submit(session, "first")
    await submit(session, given=GIVEN, holder=Holder("gone", 0))
    orphans = await lanes.write(
        partial(
            line.recover,
            session_id=session.id,
            holder=HERE,
            now=timezone.now(),
            adopts=True,
        )
    )
    assert [(orphan.text, orphan.given) for orphan in orphans] == [("hi", GIVEN)]


async def test_a_turn_that_nobody_spoke_in_has_no_message(session):
    ticket = await submit(session, "", given=TurnInput(is_said=False))
    assert ticket.started.user_message_id is None
    assert await log(session) == []
    await counters_fit(session)


async def test_what_the_model_was_to_be_told_is_remembered_where_its_turn_never_starts(session):
    await submit(session, "first")
    told = {"role": "user", "content": "red"}
    second = await submit(session, "", given=TurnInput(agent_items=[told], is_said=False))
    await give_up(second.turn_id)
    *_, row = await log(session)
    assert json.loads(row.agent_item) == told
    assert not row.shown
    assert await shown(session) == [("user", "first")]


async def test_an_answer_is_stored_with_the_ticket_and_told_to_the_model(session):
    call = Row("client_tool_call", thread_item=PENDING)
    output = {"type": "function_call_output", "call_id": "c1", "output": "None"}
    await put(
        session,
        Row("function_call_output", call_id="c1", agent_item=encode_item(output)),
        call,
    )
    settlement = Settlement(call.id, DONE, call_id="c1", output='{"a": 1}')
    await submit(session, "", given=TurnInput(is_said=False), settlement=settlement)
    told, item = await log(session)
    assert json.loads(told.agent_item) == output | {"output": '{"a": 1}'}
    assert item.thread_item == DONE


async def test_an_answer_counts_once(session):
    call = Row("client_tool_call", thread_item=PENDING)
    await put(session, call)
    settlement = Settlement(call.id, DONE)
    await submit(session, "", given=TurnInput(is_said=False), settlement=settlement)
    with pytest.raises(Invalid):
        await submit(session, "", given=TurnInput(is_said=False), settlement=settlement)
    assert len(await rows(session)) == 1


async def test_an_item_of_another_conversation_is_not_answered(session):
    other = await lanes.call(factories.ChatSessionFactory)
    call = Row("client_tool_call", thread_item=PENDING)
    await put(other, call)
    with pytest.raises(ThreadNotFound):
        await submit(session, "", settlement=Settlement(call.id, DONE))
    assert await rows(session) == []


async def test_the_output_of_a_call_that_was_forgotten_is_told_to_people_only(session):
    call = Row("client_tool_call", thread_item=PENDING)
    await put(session, call)
    await submit(session, "", settlement=Settlement(call.id, DONE, call_id="c1", output="1"))
    assert (await log(session))[0].thread_item == DONE


async def test_a_message_said_once_more_is_what_it_was(session):
    ticket = await submit(session, given=GIVEN)
    await remember(GIVEN)
    found = await said_in(session, ticket.turn_id)
    assert (found.text, found.given) == ("hi", GIVEN)
    assert (await said_in(session, ticket.turn_id, text="hi")).given == GIVEN
    assert (await said_in(session, ticket.turn_id, text="other")).given is None


async def test_a_waiting_message_said_once_more_is_what_it_was(session):
    await submit(session, "first")
    ticket = await submit(session, given=GIVEN)
    assert (await said_in(session, ticket.turn_id)).given == GIVEN


async def test_a_running_message_said_once_more_is_what_it_was(session):
    ticket = await submit(session, given=GIVEN)
    assert (await said_in(session, ticket.turn_id)).given == GIVEN


async def said_in(session: Any, turn_id: Any, text: str | None = None) -> Any:
    return await lanes.read(
        partial(
            rewinding.find_said,
            session_id=session.id,
            owner_id=session.owner_id,
            turn_id=turn_id,
            text=text,
            idempotency_key=None,
            now=timezone.now(),
        )
    )


async def remember(given: TurnInput) -> None:
    """As the run does with its first batch."""
    item = encode_item((given.agent_items or [])[0])
    await lanes.call(
        lambda: ChatMessage.objects.filter(id=given.message_id).update(agent_item=item)
    )


async def test_the_turn_of_a_message_is_found(session):
    ticket = await submit(session, given=GIVEN)
    find = partial(rewinding.find_turn_of, message_id=GIVEN.message_id)
    assert await lanes.read(partial(find, session_id=session.id)) == ticket.turn_id
    assert await lanes.read(partial(find, session_id=new_id())) is None


async def test_rewinding_keeps_the_message_it_says_once_more(session):
    ticket = await submit(session, given=GIVEN)
    await submit(session, given=GIVEN, rewinds_to=ticket.turn_id)
    (row,) = await log(session)
    assert (row.id, row.thread_item) == (GIVEN.message_id, GIVEN.thread_item)
    assert (await stored(session)).message_count == 1
