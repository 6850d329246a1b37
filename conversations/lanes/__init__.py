"""The way to the database for async code: one thread that writes, a few that read.

Django's own async ORM opens a thread and a connection per request; here each thread keeps its
connection. On SQLite all writes of the process share one thread, which commits what is waiting in
one transaction, and short reads need no thread at all. On PostgreSQL the same calls run in a few
threads of their own.

    rows = await lanes.read(lambda db: db.all(SQL, params))      # no transaction
    await lanes.write(lambda db: db.run(SQL, params))            # its own atomic unit
    user = await lanes.call(find_user, name)                     # any sync ORM function
    with lanes.subscribe(key) as word:                           # what other processes wrote
        await word.news(within=1)

Failures of the engine arrive as `errors.StoreError`, told apart by their primary code.
"""

from __future__ import annotations

import asyncio
import math
import os
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final, ParamSpec, TypeVar, cast

from asgiref.sync import AsyncToSync, sync_to_async
from django.db import connection, connections

from conversations.conf import get_conf
from conversations.errors import StoreBusy, StoreSilent, TransactionOpen
from conversations.lanes import news
from conversations.lanes.database import (
    Database,
    from_moment,
    from_uuid,
    store_error,
    to_moment,
    to_uuid,
)
from conversations.lanes.embedded import Inline, SqliteWriteLane
from conversations.lanes.lane import CallLane, DjangoWriteLane, Lane, Road, Task
from conversations.lanes.news import Subscription, notify, subscribe
from conversations.lanes.synchronous import look_up, perform

P = ParamSpec("P")
T = TypeVar("T")
Job = Callable[[Database], T]

READERS: Final = 2
CALLERS: Final = 3
PATIENT_CALLERS: Final = 2
PATIENT_SECONDS: Final = 15.0
POSTGRESQL_THREADS: Final = 8
GRACE_SECONDS: Final = 0.25  # an engine that is only busy says so itself, a little after the budget
OVERSLEPT_SECONDS: Final = 0.1
END_SECONDS: Final = 10
LOOK_AGAIN_SECONDS: Final = 1


class _Roads:
    """All lanes of this process, started when first used."""

    def __init__(self) -> None:
        self.inline: Inline | None = None
        self._look_at = 0.0  # when to look (again) whether there may be one
        self._roads: dict[str, Road] = {}
        self._guard, self._looking = threading.Lock(), threading.Lock()

    def get(self, name: str) -> Road:
        road = self._roads.get(name)
        if road is None:
            with self._guard:
                road = self._roads.get(name) or self._roads.setdefault(name, self._build(name))
        return road

    def find_inline(self) -> None:
        """Open the inline reader where the engine allows one; runs in a lane's thread.

        One that is no longer good is closed. Where it cannot be opened, the lanes say why.
        """
        with self._looking:
            if not self.may_find_inline:
                return
            old, self.inline = self.inline, None
            if old is not None:
                old.close()
            self._look_at = math.inf
            if connection.vendor != "sqlite":
                return
            try:
                self.inline = Inline.open()
            except Exception as error:
                self._look_at = time.monotonic() + LOOK_AGAIN_SECONDS
                if store_error(error) is None:
                    raise

    @property
    def may_find_inline(self) -> bool:
        if self.inline is None:
            return time.monotonic() >= self._look_at
        return not self.inline.is_good

    def close(self) -> None:
        with self._guard:
            roads, self._roads = list(self._roads.values()), {}
        with self._looking:
            inline, self.inline, self._look_at = self.inline, None, 0.0
        if inline is not None:
            inline.close()
        for road in roads:
            road.end()
        deadline = time.monotonic() + END_SECONDS
        for road in roads:
            road.join(deadline)

    def _build(self, name: str) -> Road:
        on_sqlite = connection.vendor == "sqlite"
        if name == "call":
            return Road(CallLane, "store-call", CALLERS)
        if name == "patient":
            return Road(CallLane, "store-patient", PATIENT_CALLERS)
        if name == "write":
            kind: type[Lane] = SqliteWriteLane if on_sqlite else DjangoWriteLane
            return Road(kind, "store-write", 1 if on_sqlite else POSTGRESQL_THREADS)
        return Road(Lane, "store-read", READERS if on_sqlite else POSTGRESQL_THREADS)


_roads = _Roads()
_left_to_the_parent: list[Any] = []
_waiting_writes: dict[asyncio.AbstractEventLoop, list[Task]] = {}


def _forget_after_fork() -> None:
    """Threads do not survive a fork; the child starts its own.

    Connections do survive, but are the parent's: the child does not use them, nor close them.
    """
    global _roads  # noqa: PLW0603 - the one piece of process-wide state here
    _left_to_the_parent.append(_roads)
    _roads = _Roads()
    postgresql = sys.modules.get("django.db.backends.postgresql.base")
    if postgresql is not None:
        pools = postgresql.DatabaseWrapper._connection_pools
        _left_to_the_parent.append(dict(pools))
        pools.clear()


os.register_at_fork(after_in_child=_forget_after_fork)


async def _once_more_if_paused(attempt: Callable[[], Awaitable[T]]) -> T:
    """A store that was busy for longer than it is waited for: it was this process that slept.

    What was busy is undone, so it may be asked again; what is silent may yet be done.
    """
    begun = time.monotonic()
    try:
        return await attempt()
    except StoreSilent:
        raise
    except StoreBusy:
        waited = time.monotonic() - begun
        if waited <= get_conf().chat_store_budget_seconds + GRACE_SECONDS + OVERSLEPT_SECONDS:
            raise
    return await attempt()


async def read(job: Job[T]) -> T:
    """Run a reading job, which may run twice.

    Raises StoreError when the engine fails, StoreBusy when it has not answered within the budget
    (`CHAT_STORE_BUDGET_SECONDS`).
    """
    await _refuse_open_transaction()
    return await _once_more_if_paused(partial(_read, job))


async def _read(job: Job[T]) -> T:
    deadline = _deadline()
    inline = await _find_inline(deadline)
    if inline is not None:
        done, result = inline.read(job)
        if done:
            return cast(T, result)
    return cast(T, await _settled(_queued("read", job, deadline)))


async def write(job: Job[T], *, late: Callable[[T], object] | None = None) -> T:
    """Run a writing job as one atomic unit.

    A cancelled caller learns of it only after the write has settled: all of it is stored or none.
    An error the job raises undoes its writes and reaches the caller. Raises StoreError when the
    engine fails or stays busy beyond the budget (`CHAT_STORE_BUDGET_SECONDS`).

    An engine that hangs leaves no certainty: a commit that was under way when the budget was over
    may still succeed, though its caller got StoreBusy (or its cancellation). Then `late` is called
    with the job's result, in the caller's loop, for those who must undo it. A job that had not
    come to its commit is undone.
    """
    await _refuse_open_transaction()
    return await _once_more_if_paused(partial(_write, job, late))


async def _write(job: Job[T], late: Callable[[T], object] | None) -> T:
    deadline = _deadline()
    if await _find_inline(deadline) is None:
        return cast(T, await _settled(_queued("write", job, deadline), late))
    task = Task(job, deadline=deadline)
    waiting = _waiting_writes.setdefault(task.loop, [])
    waiting.append(task)
    if len(waiting) == 1:
        task.loop.call_soon(_send_writes, task.loop)
    return cast(T, await _settled(task, late))


def write_soon(job: Job[T]) -> asyncio.Future[T]:
    """Run a writing job beside what the caller does; the outcome may be left unread.

    It belongs to no task, so it outlives the caller's, and the end of the loop leaves nothing open.
    """
    task = _queued("write", job, _deadline())
    task.future.add_done_callback(lambda future: future.cancelled() or future.exception())
    return task.future


async def call(function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Run any sync function that uses the ORM, in a thread whose connections are looked after.

    Raises StoreError when the engine fails. When it raises StoreBusy, the function may still be
    running: what it writes by itself may be stored later.
    """
    await _refuse_open_transaction()
    task = _queued("call", lambda: function(*args, **kwargs), _deadline())
    return cast(T, await _settled(task))


async def call_patiently(function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """The same for what is slow by itself, such as a password's hash, in threads of its own.

    Raises StoreBusy only after `PATIENT_SECONDS`; the store itself is waited for no longer than by
    `call`.
    """
    await _refuse_open_transaction()
    deadline = time.monotonic() + PATIENT_SECONDS
    return cast(T, await _settled(_queued("patient", lambda: function(*args, **kwargs), deadline)))


def close() -> None:
    """Finish what is queued and close all connections of this process's lanes."""
    news.close()
    _roads.close()


async def _refuse_open_transaction() -> None:
    """Whoever waits for us inside `atomic()`, in this thread or behind `async_to_sync`, is told."""
    if _is_transaction_open() or (
        getattr(AsyncToSync.executors, "current", None) is not None
        and await sync_to_async(_is_transaction_open)()
    ):
        raise TransactionOpen


def _is_transaction_open() -> bool:
    # Django hides a thread's connections from the loop that runs in it: look as sync code does.
    loop = asyncio._get_running_loop()
    asyncio._set_running_loop(None)
    try:
        # Only wrappers that exist: asking for one makes one, for every fresh context anew.
        wrappers = connections.all(initialized_only=True)
        return any(wrapper.in_atomic_block for wrapper in wrappers)
    finally:
        asyncio._set_running_loop(loop)


async def _find_inline(deadline: float) -> Inline | None:
    if _roads.may_find_inline:
        await _settled(_queued("call", _roads.find_inline, deadline))
    return _roads.inline


def _send_writes(loop: asyncio.AbstractEventLoop) -> None:
    """What was asked for in one step of the loop: a lone write is done here, more go together."""
    tasks = _waiting_writes.pop(loop, [])
    inline, road = _roads.inline, _roads.get("write")
    if len(tasks) == 1 and inline is not None and road.is_idle and inline.write(tasks[0]):
        return
    for task in tasks:
        road.put(task)


def _deadline() -> float:
    return time.monotonic() + get_conf().chat_store_budget_seconds


def _queued(name: str, job: Callable[..., Any], deadline: float) -> Task:
    task = Task(job, deadline=deadline)
    _roads.get(name).put(task)
    return task


async def _settled(task: Task, late: Callable[[Any], object] | None = None) -> Any:
    """The task's outcome; a cancellation is passed on only after it is known, or given up."""
    future = task.future
    cancelled: asyncio.CancelledError | None = None
    while not future.done():
        left = task.deadline + GRACE_SECONDS - time.monotonic()
        if left < -OVERSLEPT_SECONDS:
            # This process was paused, not the store: its threads wake up, too, and will know.
            task.deadline = _deadline()
            continue
        if left <= 0:
            task.give_up(late)
            raise cancelled or StoreSilent()
        try:
            await asyncio.wait([future], timeout=left)
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        if not future.cancelled():
            future.exception()  # the outcome is settled; the caller is leaving
        raise cancelled
    return future.result()


__all__ = [
    "Database",
    "Job",
    "Subscription",
    "call",
    "call_patiently",
    "close",
    "from_moment",
    "from_uuid",
    "look_up",
    "notify",
    "perform",
    "read",
    "subscribe",
    "to_moment",
    "to_uuid",
    "write",
    "write_soon",
]
