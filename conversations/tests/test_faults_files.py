"""The file is gone, replaced or broken while it is in use: nobody else's turn, no process suffers.

Faults 4 to 8 of the table of faults, in both journals.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator

import pytest
from django.db import connection

from conversations import sqlite
from conversations.tests.faults import files
from conversations.tests.faults.servers import Site
from conversations.tests.faults.world import (
    World,
    assert_saved,
    assert_unsaved,
    is_unsaved,
    remembers,
    until,
    world,
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(120),
    pytest.mark.skipif(connection.vendor != "sqlite", reason="the embedded engine"),
]

NOTICED_WITHIN = 5.0
GARBAGE = b"This is no database. " * 5


@pytest.fixture(scope="module", params=["wal", pytest.param("delete", marks=pytest.mark.long)])
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    if request.param == "wal" and sqlite.journal_mode() != "wal":
        pytest.skip("WAL is not safe here")
    with Site(request.param) as site:
        yield site


@pytest.fixture
def found(site: Site) -> Iterator[World]:
    with world(site) as found:
        yield found


# --- Gone, and back ------------------------------------------------------------------------


def move_away(found: World) -> Callable[[], None]:
    away = found.path.with_name("away.db")
    found.path.rename(away)
    return lambda: away.rename(found.path)


def delete(found: World) -> Callable[[], None]:
    backup = files.back_up(found.site, found.path)
    found.path.unlink()
    return lambda: files.put(found.path, backup)


def delete_all(found: World) -> Callable[[], None]:
    backup = files.back_up(found.site, found.path)
    for file in found.path.parent.iterdir():
        file.unlink()
    return lambda: files.put(found.path, backup)


@pytest.mark.parametrize("take", [move_away, delete, delete_all])
async def test_a_file_that_is_gone_is_noticed_and_used_again_when_it_is_back(found, take):
    """Fault 4."""
    before = await found.transcript()
    assert await found.is_ready()
    begun = time.monotonic()
    put_back = take(found)

    async def is_noticed() -> bool:
        return not await found.is_ready()

    await until(is_noticed, within=NOTICED_WITHIN)
    found.seconds.append(time.monotonic() - begun)
    for deed in ("memory", "tool", "memory"):
        sending = await found.say(deed)
        assert_unsaved(sending, with_context=False)
        assert deed != "memory" or remembers(sending) == []
    assert not found.path.exists()  # nothing is written into an empty file either
    status, _ = await found.client.ask(
        found.server.port, "GET", f"/chatkit/threads/{found.thread_id}"
    )
    assert status == 503
    put_back()
    assert await found.is_ready()
    assert (await found.transcript())[: len(before)] == before
    assert_saved(await found.say("tool"))
    sending = await found.say("memory")
    assert_saved(sending)
    assert len(remembers(sending)) >= 2
    await found.assert_whole()


async def test_an_answer_under_way_when_the_file_goes_is_told_and_saved_when_it_is_back(found):
    """Fault 4, in the middle of an answer."""
    answer = await found.begin_answer()
    put_back = move_away(found)
    sending = await answer.finish()
    assert is_unsaved(sending)
    assert sending.closing["status"] == "completed"
    put_back()

    async def is_saved() -> bool:
        return sending.said in await found.transcript()

    await until(is_saved)
    assert_saved(await found.say("memory"))
    await found.assert_whole()


async def test_the_next_request_after_a_restored_backup_finds_what_is_in_it(found):
    """Fault 5."""
    backup = files.back_up(found.site, found.path)
    before = await found.transcript()
    said = len(found.sendings)
    for deed in ("say", "tool"):
        assert_saved(await found.say(deed))
    files.put(found.path, backup)
    found.forget_saved(since=said)
    assert await found.transcript() == before
    sending = await found.say("memory")
    assert_saved(sending)
    assert remembers(sending) == [before[0].split()[-1]]
    assert_saved(await found.say("memory", is_other=True))
    await found.assert_whole()


async def test_an_answer_under_way_when_a_backup_is_restored_is_told_to_its_end(found):
    """Fault 5, in the middle of an answer: the backup knows nothing of it."""
    backup = files.back_up(found.site, found.path)
    answer = await found.begin_answer()
    files.put(found.path, backup)
    sending = await answer.finish()
    assert sending.closing["status"] in {"completed", "failed"}
    found.forget_saved(since=2)
    assert_saved(await found.say("memory"))
    await found.assert_whole()


# --- Broken --------------------------------------------------------------------------------


async def test_a_garbage_header_costs_the_context_and_the_file_is_left_as_it_is(found):
    """Fault 6, found at the start."""
    await found.stop()
    good = found.path.read_bytes()
    bad = GARBAGE[:100] + good[100:]
    found.path.write_bytes(bad)
    await found.start()
    assert not await found.is_ready()
    for deed in ("memory", "tool", "memory"):
        assert_unsaved(await found.say(deed), with_context=False)
    assert found.path.read_bytes() == bad
    files.put(found.path, good)
    assert await found.is_ready()
    assert_saved(await found.say("tool"))
    sending = await found.say("memory")
    assert_saved(sending)
    assert len(remembers(sending)) >= 2
    await found.assert_whole()


def spoil_header(found: World) -> None:
    """Fault 6."""
    with found.path.open("r+b") as file:
        file.write(GARBAGE[:100])


def cut_in_half(found: World) -> None:
    """Fault 8."""
    os.truncate(found.path, found.path.stat().st_size // 8192 * 4096)


def cut_to_a_page_and_a_half(found: World) -> None:
    """Fault 8."""
    os.truncate(found.path, 6000)


def cut_to_nothing(found: World) -> None:
    """Fault 8."""
    os.truncate(found.path, 0)


@pytest.mark.parametrize(
    "spoil", [spoil_header, cut_in_half, cut_to_a_page_and_a_half, cut_to_nothing]
)
async def test_a_file_broken_while_it_is_open_ends_no_process_and_no_answer(found, spoil):
    backup = files.back_up(found.site, found.path)
    answer = await found.begin_answer()
    spoil(found)
    assert (await answer.finish()).closing["status"] in {"completed", "failed"}
    for deed in ("memory", "tool", "memory"):
        for is_other in (False, True):
            await found.say(deed, is_other=is_other)
    await found.is_ready()
    found.assert_alive()
    found.forget_saved(since=2)
    files.put(found.path, backup)
    assert await found.is_ready()
    assert_saved(await found.say("tool"))
    assert_saved(await found.say("memory"))
    assert_saved(await found.say("memory", is_other=True))
    await found.assert_whole()


async def test_a_damaged_page_of_one_conversation_costs_no_other_one(found):
    """Fault 7."""
    mine, others = "m" * 700, "o" * 700
    for number in range(12):
        assert_saved(await found.say("say", f"{mine}{number}"))
    for number in range(2):
        assert_saved(await found.say("say", f"{others}{number}", is_other=True))
    said = len(found.sendings)
    await found.stop()
    good = found.path.read_bytes()
    in_messages = (mine.encode(), b'"role"')
    files.damage_page(found.path, having=in_messages, without=others.encode())
    await found.start()
    before = await found.transcript(is_other=True)
    assert len(before) == 6
    mine_after = [await found.say("memory"), await found.say("tool")]  # answered in any case
    for deed in ("memory", "tool"):
        sending = await found.say(deed, is_other=True)
        assert_saved(sending)
        assert deed == "tool" or len(remembers(sending)) == 3
    assert len(await found.transcript(is_other=True)) == len(before) + 4
    assert any(sending.warnings for sending in mine_after)
    found.assert_alive()
    found.forget_saved(since=said)
    files.put(found.path, good)
    assert_saved(await found.say("memory"))
    assert_saved(await found.say("memory", is_other=True))
    await found.assert_whole()
