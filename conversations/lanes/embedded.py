"""SQLite's own ways: group commit, short work without a hop, checkpoints beside the writers."""

from __future__ import annotations

import os
import queue
import random
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, Final

from django.db import connection, connections

from conversations import sqlite
from conversations.errors import StoreBusy, StoreDamaged
from conversations.lanes.database import Database, SqliteDatabase, in_our_words, store_error
from conversations.lanes.lane import (
    Lane,
    Outcome,
    Task,
    deliver,
    drop_if_ended,
    open_within_budget,
)

MAX_BATCH: Final = 64
CHECKPOINT_BYTES: Final = 4 * 1024 * 1024
COMMITS_BETWEEN_LOOKS: Final = 32
QUICK_SECONDS: Final = 0.001
REST_SECONDS: Final = 1.0


class SqliteWriteLane(Lane):
    """One thread, one connection: whatever waits is committed together.

    Durability is paid once per batch, and no two writers of a process ever meet.
    """

    def __init__(self, name: str) -> None:
        self._checkpointer: Checkpointer | None = None
        self._commits = 0
        super().__init__(name)

    def join(self, deadline: float) -> None:
        super().join(deadline)
        if self._checkpointer is not None:
            self._checkpointer.close()

    def _serve(self, task: Task) -> None:
        tasks = [task]
        while len(tasks) < MAX_BATCH:
            try:
                following = self._tasks.get_nowait()
            except queue.Empty:
                break
            if following is None:
                self._tasks.put(None)  # close() after this batch
                break
            tasks.append(following)
        tasks = [task for task in tasks if not (task.future.cancelled() or task.given_up)]
        if tasks:
            deliver(self._commit_together(tasks))
            self._look_at_log()

    def _commit_together(self, tasks: list[Task]) -> list[Outcome]:
        lock = sqlite.write_lock(str(connection.settings_dict["NAME"]))
        deadline = min(task.deadline for task in tasks)
        if not lock.acquire(timeout=max(0.001, deadline - time.monotonic())):
            return [(task, None, StoreBusy()) for task in tasks]
        try:
            return self._transaction(tasks, deadline)
        except BaseException as error:
            failure = self._failed(error)  # nothing of the batch is stored
        finally:
            lock.release()
        if isinstance(failure, StoreDamaged) and len(tasks) > 1:
            # After a look at a damaged page SQLite refuses the rest of the transaction: only the
            # task that looked at it is to fail.
            return [outcome for task in tasks for outcome in self._commit_together([task])]
        return [(task, None, failure) for task in tasks]

    def _transaction(self, tasks: list[Task], deadline: float) -> list[Outcome]:
        database = self._database()
        raw = connection.connection
        _patiently(lambda: raw.execute("BEGIN IMMEDIATE"), deadline)
        try:
            outcomes = _perform_all(tasks, database, raw)
            _patiently(lambda: raw.execute("COMMIT"), deadline)
        except BaseException:
            if raw.in_transaction:
                raw.execute("ROLLBACK")
            raise
        return outcomes

    def _database(self) -> Database:
        drop_if_ended()
        raw: Any = connection.connection
        if raw is None:
            raw = open_within_budget(connection)
            # The busy handler's pauses starve against another writer's rhythm: we retry ourselves.
            raw.execute("PRAGMA busy_timeout=0")
            if raw.execute("PRAGMA journal_mode").fetchone()[0] == "wal":
                raw.execute("PRAGMA wal_autocheckpoint=0")  # not within anybody's commit
                self._checkpointer = self._checkpointer or Checkpointer()
        return SqliteDatabase(raw)

    def _look_at_log(self) -> None:
        self._commits += 1
        if self._checkpointer is not None and self._commits % COMMITS_BETWEEN_LOOKS == 0:
            self._checkpointer.look()


def _perform_all(tasks: list[Task], database: Database, raw: Any) -> list[Outcome]:
    """Every job on its own savepoint; a lone one needs none: its failure undoes the batch."""
    if len(tasks) == 1:
        outcome: Outcome = (tasks[0], tasks[0].job(database), None)
        tasks[0].refuse_if_given_up()
        return [outcome]
    outcomes: list[Outcome] = []
    for task in tasks:
        raw.execute("SAVEPOINT job")
        try:
            task.refuse_if_given_up()
            result = task.job(database)
            task.refuse_if_given_up()
            outcomes.append((task, result, None))
        except Exception as error:
            if not raw.in_transaction:
                raise  # the engine has undone all of it: a full disk
            raw.execute("ROLLBACK TO job")
            outcomes.append((task, None, in_our_words(error)))
        raw.execute("RELEASE job")
    return outcomes


def _patiently(attempt: Callable[[], Any], deadline: float) -> None:
    """Try until the file's lock is free or the deadline is over."""
    while True:
        try:
            attempt()
        except sqlite.driver().OperationalError as error:
            if not isinstance(store_error(error), StoreBusy) or time.monotonic() > deadline:
                raise
            time.sleep(random.uniform(0.0005, 0.0015))  # noqa: S311 - no secret
        else:
            return


class Checkpointer:
    """Moves the write-ahead log into the file, on a connection of its own.

    First PASSIVE, beside the writers, which takes nearly all of it; then the rest under the write
    lock, so that the log begins anew: one that only grows makes every commit slower, because the
    file system must record its new length (https://sqlite.org/c3ref/wal_checkpoint_v2.html).
    """

    def __init__(self) -> None:
        self._log = str(connection.settings_dict["NAME"]) + "-wal"
        self._lock = sqlite.write_lock(str(connection.settings_dict["NAME"]))
        self._wanted = threading.Event()
        self._ended = False
        self._thread = threading.Thread(target=self._work, name="store-checkpoint", daemon=True)
        self._thread.start()

    def look(self) -> None:
        """Ask for a checkpoint if the log has grown."""
        try:
            grown = os.stat(self._log).st_size > CHECKPOINT_BYTES
        except OSError:
            return  # no log: nothing to move
        if grown:
            self._wanted.set()

    def close(self) -> None:
        self._ended = True
        self._wanted.set()
        self._thread.join(timeout=10)

    def _work(self) -> None:
        while self._wanted.wait() and not self._ended:
            self._wanted.clear()
            try:
                drop_if_ended()
                raw = connection.connection or open_within_budget(connection)
                raw.execute("PRAGMA busy_timeout=0")
                raw.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
                with self._lock:
                    raw.execute("PRAGMA wal_checkpoint(RESTART)").fetchall()
            except Exception as error:
                if store_error(error) is None:
                    raise
                connections.close_all()  # the next look tries again on a new connection
        connections.close_all()


class Inline:
    """Work on the event loop's own thread, where that is sure to be short.

    A hop to another thread and back costs more than most of what is done there. So, in WAL mode,
    a read (which waits for nobody) is done at once; so is a lone write while nobody else holds the
    lock and the disk is quick. All else is left to the lanes.
    """

    def __init__(self, reader: Any, writer: Any) -> None:
        self._wrappers = (reader, writer)
        self._reader = SqliteDatabase(reader.connection)
        self._writer = SqliteDatabase(writer.connection)
        self._reading, self._writing = threading.Lock(), threading.Lock()
        self._lock = sqlite.write_lock(str(connection.settings_dict["NAME"]))
        self._pace = 0.0  # recent writes took this long, the last ones counting most
        self._rest_until = 0.0
        self._commits = 0
        self._failed = False
        self._checkpointer = Checkpointer()

    @classmethod
    def open(cls) -> Inline | None:
        """On connections of its own; None where even a read may have to wait."""
        wrappers: list[Any] = [connection.copy(), connection.copy()]
        try:
            for wrapper in wrappers:
                raw = open_within_budget(wrapper)
                if raw.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
                    break
                raw.execute("PRAGMA busy_timeout=0")
            else:
                reader, writer = wrappers
                reader.connection.execute("PRAGMA query_only=ON")
                writer.connection.execute("PRAGMA wal_autocheckpoint=0")
                return cls(reader, writer)
        except BaseException:
            _close(wrappers)
            raise
        _close(wrappers)
        return None

    @property
    def is_good(self) -> bool:
        """Whether its connections may be used: none has failed, and the file is still in place."""
        # The reader was opened first: where its file is in place, so is the writer's.
        return not self._failed and getattr(self._wrappers[0], "is_in_place", True)

    def read(self, job: Callable[[Database], Any]) -> tuple[bool, Any]:
        """(True, the job's result), or (False, None) where a lane must do it."""
        if not self._reading.acquire(blocking=False):
            return False, None
        try:
            return True, job(self._reader)
        except Exception as error:
            failure = store_error(error)
            if failure is None:
                raise
            self._failed |= not isinstance(failure, StoreBusy)
            return False, None
        finally:
            self._reading.release()

    def write(self, task: Task) -> bool:
        """Do a lone write and settle its task; False where a lane must do it: nothing is stored."""
        begun = time.monotonic()
        if begun < self._rest_until or not self._writing.acquire(blocking=False):
            return False
        try:
            if not self._lock.acquire(blocking=False):
                return False
            try:
                done = self._commit(task)
            finally:
                self._lock.release()
        finally:
            self._writing.release()
        if done:
            self._pace += (time.monotonic() - begun - self._pace) / 8
            if self._pace > QUICK_SECONDS:
                self._rest_until, self._pace = begun + REST_SECONDS, 0.0
            self._commits += 1
            if self._commits % COMMITS_BETWEEN_LOOKS == 0:
                self._checkpointer.look()
        return done

    def _commit(self, task: Task) -> bool:
        raw = self._writer.raw
        try:
            raw.execute("BEGIN IMMEDIATE")
            result = task.job(self._writer)
            raw.execute("COMMIT")
        except BaseException as error:
            if raw.in_transaction:
                raw.execute("ROLLBACK")
            failure = store_error(error)
            if failure is not None:
                self._failed |= not isinstance(failure, StoreBusy)
                return False
            task.future.set_exception(in_our_words(error))
        else:
            task.future.set_result(result)
        return True

    def close(self) -> None:
        """Close its connections once nobody uses them."""
        self._failed = True
        self._checkpointer.close()
        with self._reading, self._writing:
            _close(self._wrappers)


def _close(wrappers: Iterable[Any]) -> None:
    for wrapper in wrappers:
        if wrapper.connection is not None:  # the wrapper belongs to the thread that made it
            wrapper.connection.close()
