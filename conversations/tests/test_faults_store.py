"""The store takes nothing: there is an answer and a warning, and no restart when it is back.

Faults 1 to 3 of the table of faults, in both journals; what befalls the file itself is in
`test_faults_files`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
from django.db import connection

from conversations import sqlite
from conversations.tests.faults import files
from conversations.tests.faults.servers import Site
from conversations.tests.faults.world import (
    World,
    assert_saved,
    assert_truthful,
    assert_unsaved,
    is_unsaved,
    remembers,
    until_seen,
    world,
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(120),
    pytest.mark.skipif(connection.vendor != "sqlite", reason="the embedded engine"),
]


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


@pytest.mark.parametrize("kind", ["IMMEDIATE", "EXCLUSIVE"])
async def test_while_another_program_holds_the_lock_there_are_answers_and_warnings(found, kind):
    """Fault 1: the lock is held as long as it takes, and no longer than that."""
    with files.locked(found.site, found.path, kind=kind):
        for deed in ("memory", "tool", "memory"):
            sending = await found.say(deed)
            # In the rollback journal who holds the file for himself keeps readers out, too.
            can_read = kind == "IMMEDIATE" or found.site.engine == "wal"
            assert_unsaved(sending, with_context=can_read)
            if deed == "memory":
                assert bool(remembers(sending)) is can_read
    assert_saved(await found.say("tool"))
    sending = await found.say("memory")
    assert_saved(sending)
    assert len(remembers(sending)) >= 2
    assert_saved(await found.say("memory", is_other=True))
    await found.assert_whole()


@pytest.mark.parametrize("kind", ["IMMEDIATE", "EXCLUSIVE"])
async def test_an_answer_under_way_when_the_lock_is_taken_is_told_at_once_and_saved_after(
    found, kind
):
    """Fault 1, in the middle of an answer."""
    answer = await found.begin_answer()
    with files.locked(found.site, found.path, kind=kind):
        sending = await answer.finish()
        assert is_unsaved(sending)
    assert sending.closing["status"] == "completed"
    await until_seen(found, sending.said)
    assert_saved(await found.say("memory"))
    await found.assert_whole()


@pytest.fixture
def small(site: Site) -> Iterator[World]:
    """The same on a disk that can be filled."""
    try:
        with files.on_small_disk(site.folder / "data"), world(site) as found:
            yield found
    except files.CannotMount:
        pytest.skip("a file system cannot be mounted here")


async def test_on_a_full_disk_there_are_answers_and_warnings_and_all_can_be_read(small):
    """Fault 2. A log that is closed for good gives its room back: some may be saved after all."""
    before = await small.transcript()
    fillers, unsaved = [], 0
    for deed in ("memory", "tool", "memory"):
        fillers.append(files.fill(small.path.parent))
        sending = await small.say(deed)
        assert_truthful(sending)
        unsaved += is_unsaved(sending)
        assert deed != "memory" or remembers(sending)
        assert (await small.transcript())[: len(before)] == before
    assert unsaved
    for filler in fillers:
        filler.unlink()
    assert_saved(await small.say("tool"))
    assert_saved(await small.say("memory"))
    assert_saved(await small.say("memory", is_other=True))
    await small.assert_whole()


async def test_an_answer_under_way_when_the_disk_fills_is_saved_when_there_is_room(small):
    """Fault 2, in the middle of an answer."""
    answer = await small.begin_answer()
    filler = files.fill(small.path.parent)
    sending = await answer.finish()
    assert sending.closing["status"] == "completed"
    filler.unlink()
    await until_seen(small, sending.said)
    assert_saved(await small.say("memory"))
    await small.assert_whole()


@contextlib.contextmanager
def unwritable(found: World, what: str) -> Iterator[None]:
    """The file or its folder may not be written."""
    place, mode, before = (
        (found.path, 0o400, 0o600) if what == "file" else (found.path.parent, 0o500, 0o700)
    )
    place.chmod(mode)
    try:
        yield
    finally:
        place.chmod(before)


@pytest.fixture
def bound(found: World) -> World:
    """The server may only do what the modes say."""
    forbidden = found.site.folder / "forbidden"
    forbidden.touch(mode=0o000)
    work = "conversations.tests.faults.files:are_modes_binding"
    if not found.site.zygote.call(work, path=str(forbidden)):
        pytest.skip("modes bind nobody here")
    return found


@pytest.mark.parametrize("what", ["file", "folder"])
async def test_where_nothing_may_be_written_there_are_answers_and_warnings(bound, what):
    """Fault 3, found at the start."""
    found = bound
    await found.stop()
    with unwritable(found, what):
        await found.start()
        for deed in ("memory", "tool", "memory"):
            sending = await found.say(deed)
            assert is_unsaved(sending)
            can_read = len(set(sending.warnings)) == 1
            assert_unsaved(sending, with_context=can_read)
            assert deed != "memory" or bool(remembers(sending)) is can_read
            # Only a log that is not there and may not be made keeps readers out.
            assert can_read or (what == "folder" and found.site.engine == "wal")
    assert_saved(await found.say("tool"))
    assert_saved(await found.say("memory"))
    await found.assert_whole()


@pytest.mark.parametrize("what", ["file", "folder"])
async def test_a_mode_that_changes_while_it_serves_is_answered_with_or_without_a_warning(
    bound, what
):
    """Fault 3, while serving: what is open already may still be written."""
    found = bound
    with unwritable(found, what):
        for deed in ("memory", "tool", "memory"):
            sending = await found.say(deed)
            assert_truthful(sending)
    assert_saved(await found.say("tool"))
    assert_saved(await found.say("memory"))
    await found.assert_whole()
