"""Word that something was written, from whichever process, so that waiting is not polling.

PostgreSQL sends notifications. SQLite tells nobody, but its files change: looking at them often is
cheap. Either way word may come too often; what to do about it is seen only by reading again.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import os
import random
import time
from bisect import bisect
from contextvars import Context
from types import TracebackType
from typing import Any, Final, Self

from django.db import DEFAULT_DB_ALIAS, connection, connections

from conversations.lanes.database import Database
from conversations.lanes.lane import limit_waiting

logger = logging.getLogger(__name__)

CHANNEL: Final = "chatsite"
UNUSED_SECONDS: Final = 60.0
FIRST_PAUSE_SECONDS: Final = 0.1
LONGEST_PAUSE_SECONDS: Final = 5.0

LOOK_SECONDS: Final = 0.004
TOLD_AT_ONCE: Final = 4
# A file's time has changed before its commit is done, and two commits may share one tick of it:
# whoever was told is told again when the time is this old.
AGES_SECONDS: Final = (0.004, 0.012, 0.04, 0.15)

Stamp = tuple[Any, ...]


def notify(db: Database, key: str) -> None:
    """Tell whoever waits for `key`, in all processes, when this write is committed."""
    if not db.is_sqlite:
        db.one("SELECT pg_notify(%s, %s)", (CHANNEL, key))


def subscribe(key: str) -> Subscription:
    """`with lanes.subscribe(key) as word:` look, then `await word.news(within=...)`, look again.

    What was written before the block began is not told; all that was written since then is.
    """
    loop = asyncio.get_running_loop()
    source = _sources.get(loop)
    if source is None:
        for other in [known for known in _sources if known.is_closed()]:
            del _sources[other]
        kind = FileWatch if connection.vendor == "sqlite" else Listener
        source = _sources.setdefault(loop, kind(loop))
    return Subscription(source, key)


def close() -> None:
    """End what listens, in every loop; a subscription that is still in use starts it again."""
    for loop, source in list(_sources.items()):
        try:
            loop.call_soon_threadsafe(source.end)
        except RuntimeError:  # that loop is closed: nothing listens there any more
            _sources.pop(loop, None)


class Subscription:
    """What one waiter has heard about its key."""

    def __init__(self, source: Source, key: str) -> None:
        self.key = key
        self.seen: Stamp = ()
        self.told_at = 0.0
        self._source = source
        self._heard = False
        self._waiter: asyncio.Future[None] | None = None

    def __enter__(self) -> Self:
        self._source.add(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._source.remove(self)

    @property
    def is_waiting(self) -> bool:
        return self._waiter is not None and not self._waiter.done()

    async def news(self, *, within: float) -> bool:
        """True: something was perhaps written, look again. False: `within` seconds are over.

        While word cannot come (a server that is away) only the time ends the waiting.
        """
        if not self._heard:
            loop = asyncio.get_running_loop()
            waiter = self._waiter = loop.create_future()
            self._source.start()
            over = loop.call_later(within, self._wake)
            try:
                await waiter
            finally:
                over.cancel()
                self._waiter = None
        heard, self._heard = self._heard, False
        return heard

    def tell(self) -> None:
        self._heard = True
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class Source:
    """Where word comes from in one event loop; all of it happens in that loop's thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def add(self, subscription: Subscription) -> None:
        raise NotImplementedError

    def remove(self, subscription: Subscription) -> None:
        raise NotImplementedError

    def start(self) -> None:
        """Somebody is about to wait."""
        raise NotImplementedError

    def end(self) -> None:
        raise NotImplementedError


class FileWatch(Source):
    """Looks at the file's times while anybody waits.

    Each look tells only a few of a change, whoever was told longest ago first: the more there are
    who wait at a busy file, the more rarely each of them reads it. Nothing here opens the files:
    closing a descriptor would drop the locks that SQLite holds in this process.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self._context = Context()  # not that of the request that happens to wait first
        self._subscriptions: set[Subscription] = set()
        self._next: asyncio.TimerHandle | None = None

    def add(self, subscription: Subscription) -> None:
        subscription.seen = self._stamp()
        self._subscriptions.add(subscription)

    def remove(self, subscription: Subscription) -> None:
        self._subscriptions.discard(subscription)

    def start(self) -> None:
        if self._next is None:
            self._next = self._loop.call_later(LOOK_SECONDS, self._look, context=self._context)

    def end(self) -> None:
        if self._next is not None:
            self._next.cancel()
            self._next = None

    def _look(self) -> None:
        self._next = None
        waiting = [one for one in self._subscriptions if one.is_waiting]
        if not waiting:
            return
        stamp = self._stamp()
        if due := [one for one in waiting if one.seen != stamp]:
            now = self._loop.time()
            for subscription in heapq.nsmallest(TOLD_AT_ONCE, due, key=lambda one: one.told_at):
                subscription.seen, subscription.told_at = stamp, now
                subscription.tell()
        self.start()

    def _stamp(self) -> Stamp:
        # Not `connection`: in a context of its own that is a new one, each time.
        name = str(connections.settings[DEFAULT_DB_ALIAS]["NAME"])
        log = _times(f"{name}-wal")
        if log is not None:
            return log
        # A commit in the rollback journal is done when the journal is gone.
        return (_times(name), _times(f"{name}-journal"))


def _times(path: str) -> Stamp | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    age = bisect(AGES_SECONDS, time.time() - found.st_mtime)
    return (found.st_ino, found.st_mtime_ns, found.st_size, age)


class Listener(Source):
    """One connection that listens to PostgreSQL, as long as anybody has use for it.

    It connects again when the server went away, and then tells everybody: something may have been
    written meanwhile.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self._by_key: dict[str, set[Subscription]] = {}
        self._task: asyncio.Task[None] | None = None
        self._unused: asyncio.TimerHandle | None = None

    def add(self, subscription: Subscription) -> None:
        self._by_key.setdefault(subscription.key, set()).add(subscription)
        if self._unused is not None:
            self._unused.cancel()
            self._unused = None
        self.start()

    def remove(self, subscription: Subscription) -> None:
        listeners = self._by_key.get(subscription.key, set())
        listeners.discard(subscription)
        if not listeners:
            self._by_key.pop(subscription.key, None)
        if not self._by_key and self._unused is None:
            self._unused = self._loop.call_later(UNUSED_SECONDS, self.end, context=Context())

    def start(self) -> None:
        if self._task is None or self._task.done():
            # In a context of its own: it must not keep alive what a request has in its own.
            self._task = self._loop.create_task(self._work(), name="store-news", context=Context())

    def end(self) -> None:
        if self._unused is not None:
            self._unused.cancel()
            self._unused = None
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def _work(self) -> None:
        wrapper: Any = connection.copy()
        driver = wrapper.Database
        pause = FIRST_PAUSE_SECONDS
        while True:
            try:
                listening = await driver.AsyncConnection.connect(**_parameters(wrapper))
                try:
                    await listening.execute(f"LISTEN {CHANNEL}")
                    pause = FIRST_PAUSE_SECONDS
                    for key in list(self._by_key):
                        self._tell(key)
                    async for word in listening.notifies():
                        self._tell(word.payload)
                finally:
                    await listening.close()
            except (driver.Error, OSError) as error:
                if pause == FIRST_PAUSE_SECONDS:  # once, not as long as the server is away
                    logger.warning("no news of other processes' writes: %s", type(error).__name__)
            await asyncio.sleep(pause * random.uniform(0.75, 1.25))  # noqa: S311 - no secret
            pause = min(pause * 2, LONGEST_PAUSE_SECONDS)

    def _tell(self, key: str) -> None:
        for subscription in self._by_key.get(key, ()):
            subscription.tell()


def _parameters(wrapper: Any) -> dict[str, Any]:
    """How Django would connect, without what only its own synchronous connections understand."""
    limit_waiting(wrapper)
    ours = {"context", "cursor_factory", "autocommit"}
    parameters = wrapper.get_connection_params()
    return {n: v for n, v in parameters.items() if n not in ours} | {"autocommit": True}


_sources: dict[asyncio.AbstractEventLoop, Source] = {}
_left_to_the_parent: list[Any] = []


def _forget_after_fork() -> None:
    """A child listens for itself; the parent's sockets are neither used nor closed here."""
    _left_to_the_parent.append(dict(_sources))
    _sources.clear()


os.register_at_fork(after_in_child=_forget_after_fork)
