"""A thread with a connection of its own, and the tasks that pass through it."""

from __future__ import annotations

import asyncio
import queue
import select
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from django.db import connection, connections, transaction

from conversations.conf import get_conf
from conversations.errors import StoreBusy, StoreError
from conversations.lanes.database import Database, DjangoDatabase, SqliteDatabase, in_our_words


class Task:
    """A job on its way through a lane, and how its outcome gets back to its event loop."""

    __slots__ = ("deadline", "future", "given_up", "job", "loop")

    def __init__(self, job: Callable[..., Any], *, deadline: float) -> None:
        self.job = job
        self.deadline = deadline
        self.given_up = False
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[Any] = self.loop.create_future()

    def give_up(self, late: Callable[[Any], object] | None) -> None:
        """Nobody waits any more: what is not committed yet never will be, or `late` is told."""
        self.given_up = True
        self.future.add_done_callback(partial(_too_late, late))

    def refuse_if_given_up(self) -> None:
        """Raises StoreBusy, before a commit, where nobody waits for it any more."""
        if self.given_up:
            raise StoreBusy


# A server that is gone without a word: the thread that waits for it gets free by itself.
PATIENCE: Final[dict[str, Any]] = {
    "connect_timeout": 2,  # seconds, the least that libpq knows
    "tcp_user_timeout": 5000,  # milliseconds
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
}

Outcome = tuple[Task, Any, BaseException | None]


def deliver(outcomes: list[Outcome]) -> None:
    """Hand results to their loops, one wake-up per loop."""
    by_loop: dict[asyncio.AbstractEventLoop, list[Outcome]] = {}
    for outcome in outcomes:
        by_loop.setdefault(outcome[0].loop, []).append(outcome)
    for loop, settled in by_loop.items():
        try:
            loop.call_soon_threadsafe(_settle, settled)
        except RuntimeError:  # that loop is closed: nobody waits any more
            continue


def _too_late(late: Callable[[Any], object] | None, future: asyncio.Future[Any]) -> None:
    if not future.cancelled() and future.exception() is None and late is not None:
        late(future.result())


def _settle(outcomes: list[Outcome]) -> None:
    for task, result, error in outcomes:
        if task.future.done():
            continue
        if error is not None:
            task.future.set_exception(error)
        else:
            task.future.set_result(result)


class Lane:
    """One thread that serves tasks in their order. A task may fail; the thread goes on."""

    def __init__(self, name: str) -> None:
        self._tasks: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        self.waiting = 0  # only a hint for `Road`: not exact between threads
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def put(self, task: Task) -> None:
        self.waiting += 1
        self._tasks.put(task)

    def end(self) -> None:
        """Serve what is queued, then end the thread and its connection."""
        self._tasks.put(None)

    def join(self, deadline: float) -> None:
        """Wait for the end; a thread that waits for a server that hangs is left alone."""
        self._thread.join(timeout=max(0.0, deadline - time.monotonic()))

    def _work(self) -> None:
        try:
            while (task := self._tasks.get()) is not None:
                self._serve(task)
                self.waiting = self._tasks.qsize()
        finally:
            connections.close_all()

    def _serve(self, task: Task) -> None:
        if task.future.cancelled() or task.given_up:
            return
        try:
            outcome: Outcome = (task, self._perform(task), None)
        except BaseException as error:
            outcome = (task, None, self._failed(error))
        deliver([outcome])

    def _perform(self, task: Task) -> Any:
        return task.job(self._database())

    def _database(self) -> Database:
        drop_if_ended()
        if connection.connection is None:
            open_within_budget(connection)
        if connection.vendor != "sqlite":
            return DjangoDatabase()
        return SqliteDatabase(connection.connection)

    def _failed(self, error: BaseException) -> BaseException:
        """What the caller is told. A connection that met an engine failure is not used again."""
        translated = in_our_words(error)
        if isinstance(translated, StoreError) and not isinstance(translated, StoreBusy):
            connections.close_all()
        return translated


class CallLane(Lane):
    """Runs plain sync functions; every one leaves its connection usable or closed."""

    def _perform(self, task: Task) -> Any:
        drop_if_ended()
        if connection.connection is None:
            limit_waiting(connection)  # opened by the first function that needs it
        try:
            return task.job()
        finally:
            for wrapper in connections.all(initialized_only=True):
                wrapper.close_if_unusable_or_obsolete()


class DjangoWriteLane(Lane):
    """Each job in a transaction of its own: the engine orders writers by row locks."""

    def _perform(self, task: Task) -> Any:
        database = self._database()
        with transaction.atomic():
            result = task.job(database)
            task.refuse_if_given_up()
            return result


def drop_if_ended() -> None:
    """Close this thread's connection if what it leads to is gone, so that no job finds out.

    Nothing is asked of an idle connection. SQLite's file is at its path, or it is not; where there
    is something to read from a server, it is the end.
    """
    raw = connection.connection
    if raw is None or not _has_ended(raw):
        return
    connections.close_all()


def _has_ended(raw: Any) -> bool:
    if connection.vendor == "sqlite":
        return not getattr(connection, "is_in_place", True)
    if connection.vendor != "postgresql":
        return False
    if raw.closed:
        return True
    poll = select.poll()
    poll.register(raw.fileno(), select.POLLIN)
    return bool(poll.poll(0))


def open_within_budget(wrapper: Any) -> Any:
    """Open a connection on which no statement waits for a lock longer than a turn may."""
    limit_waiting(wrapper)
    wrapper.ensure_connection()
    return wrapper.connection


def limit_waiting(wrapper: Any) -> None:
    """Let the wrapper's next connection wait for a lock no longer than a turn may.

    Nor do the first statements on it: set afterwards, the limit would come too late. It is this
    lane's own: a pool would hand the limit to others, and its sockets to a forked child.
    """
    budget = get_conf().chat_store_budget_seconds
    settings = connections.settings[wrapper.alias]  # not the wrapper's own: it may open again
    options = {name: value for name, value in settings["OPTIONS"].items() if name != "pool"}
    if wrapper.vendor == "sqlite":
        options["timeout"] = budget
    elif wrapper.vendor == "postgresql":
        limit = f"-c lock_timeout={round(budget * 1000)}"
        options = PATIENCE | options
        options["options"] = f"{options.get('options', '')} {limit}".strip()
    # Kept open between tasks; whoever has it closes it when it is no longer good.
    wrapper.settings_dict = settings | {"OPTIONS": options, "CONN_MAX_AGE": None}


class Road:
    """Lanes of one kind. The first idle one is taken: a thread that is warm answers faster."""

    def __init__(self, kind: type[Lane], name: str, lanes: int) -> None:
        self._lanes = [kind(f"{name}-{index}") for index in range(lanes)]

    @property
    def is_idle(self) -> bool:
        return all(lane.waiting == 0 for lane in self._lanes)

    def put(self, task: Task) -> None:
        for lane in self._lanes:
            if lane.waiting == 0:
                break
        else:
            lane = min(self._lanes, key=lambda lane: lane.waiting)
        lane.put(task)

    def end(self) -> None:
        for lane in self._lanes:
            lane.end()

    def join(self, deadline: float) -> None:
        for lane in self._lanes:
            lane.join(deadline)
