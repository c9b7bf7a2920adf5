"""The store on SQLite: one thread owns the one connection and commits whatever waits in one transaction.

Not here: what the verbs write (`sql_intake.py`, `sql.py`, `upkeep.py`), opening the file (`sqlite_file.py`). The
law: a future is resolved only after its COMMIT has returned with `synchronous=FULL`; a batch in which something
fails is rolled back and run again verb by verb, so that no verb fails with another; a thread that cannot go on ends
the process rather than leave webhooks waiting.

Next: `upkeep.py`, what the operator and the clock ask for.
"""

from __future__ import annotations

import asyncio
import logging
import os
import queue
import sqlite3
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import count
from typing import Any, Concatenate, NamedTuple, ParamSpec, TypeVar

from minibot.config import Settings
from minibot.errors import LeaseLost, StoreDown
from minibot.model import Event
from minibot.promise import Promise, keep
from minibot.store import sql, sql_export, sqlite_file, upkeep
from minibot.store.schema import DAY, HOUR, Database
from minibot.store.sql_chat import file
from minibot.store.sql_intake import accept
from minibot.work import Accepted

log = logging.getLogger("minibot.store")
MOST = 256  # verbs in one transaction, or some more
FLOOR = 50 << 20  # bytes of free disk below which no webhook is taken any more
RESERVE = 1_000  # ids set aside at once, so that none is given twice, whatever happens
FILE_AT, FILE_MUST, FILE_STEP = 256, 8_192, 512  # messages not yet filed: at a quiet moment, at once; how many at once
CHECKPOINT_AT = 400  # commits until a checkpoint at a quiet moment
WAL_CAP = 64 << 20  # bytes; then the checkpoint is everybody's business
GATHER = 0.002  # seconds at most that a verb waits for others to come along
IDLE = 0.25  # seconds without a verb
P = ParamSpec("P")
Result = TypeVar("Result")


class _Job(NamedTuple):
    name: str
    verb: Callable[..., Any]
    args: tuple[Any, ...] = ()  # of intake only, which is run for all webhooks at once
    promise: Promise[Any] | None = None
    bare: bool = False  # outside a transaction


def _verb(verb: Callable[Concatenate[Database, P], Result]
          ) -> Callable[Concatenate[SqliteStore, P], Promise[Result]]:
    return lambda self, /, *args, **named: self._ask(verb.__name__, lambda db: verb(db, *args, **named))


class SqliteStore:
    """A `contract.Store`, and the operator's verbs. Raises StoreDamaged, or StoreDown while another process has it.

    `point` is called before and after each commit with "<verb>:commit", "<verb>:committed"; `die` must not return.
    """

    ahead = 0  # ms: its clock is ours
    claim, renew, next_due, health = _verb(sql.claim), _verb(sql.renew), _verb(sql.next_due), _verb(sql.health)
    finish, settle, refresh, postpone = _verb(sql.finish), _verb(sql.settle), _verb(sql.refresh), _verb(sql.postpone)
    maintain, retry, forget = _verb(upkeep.maintain), _verb(upkeep.retry), _verb(upkeep.forget)
    exports, exported = _verb(sql_export.exports), _verb(sql_export.exported)
    export_failed, export_at_once = _verb(sql_export.export_failed), _verb(sql_export.export_at_once)

    def __init__(self, settings: Settings, now: int, *, floor: int = FLOOR,
                 point: Callable[[str], None] = lambda name: None, die: Callable[[], object] = lambda: os._exit(70)
                 ) -> None:
        self._path, self._floor, self._point, self._die = settings.sqlite_path, floor, point, die
        self._lock, self._connection = sqlite_file.open_writer(self._path, point)
        execute, executemany = self._connection.execute, self._connection.executemany
        meta = dict(execute("SELECT k, v FROM meta"))
        self._taken = self._reserved = int(meta["ids"])
        self._db = Database(execute, executemany, executemany, count(self._reserved + 1).__next__, meta["database"],
                            settings.history_turns, settings.messages_per_minute,
                            round(settings.human_pause_hours * HOUR), settings.retention_days * DAY, now,
                            tuple(settings.destinations), int(meta["filed"]), packs=True)
        self._commits, self._fresh, self._open, self._ended = 0, True, True, False
        self._fatal: Exception | None = None  # after it only a new start knows what is on disk
        self._jobs, self._asked = queue.SimpleQueue[list[_Job]](), list[_Job]()  # the thread's; on their way there
        self._thread = threading.Thread(target=self._work, name="minibot-store", daemon=True)
        self._thread.start()

    def accept(self, events: Sequence[Event], now: int) -> Promise[Accepted]:
        """See `contract.Store`."""
        return self._ask("accept", accept, (events, now))

    async def backup(self, path: str) -> None:
        """An online copy at `path`, checked. Raises StoreDown if that failed; `path` is then as it was."""
        await self._ask("backup", lambda db: sqlite_file.copy(
            self._connection, path, between=lambda: self._transact(self._waiting())), bare=True)

    async def close(self, now: int) -> None:
        """See `contract.Store`."""
        if self._open:
            closing = self._ask("close", self._shut, bare=True)
            self._open = False
            await closing
            self._thread.join()

    def _ask(self, name: str, verb: Callable[..., Any], args: tuple[Any, ...] = (), bare: bool = False
             ) -> Promise[Any]:
        promise: Promise[Any] = Promise()
        if not self._open:
            promise.set_exception(StoreDown("the store is closed"))
            return promise
        if not self._asked:
            self._loop = loop = asyncio.get_running_loop()
            loop.call_soon(self._hand_over, 1, loop.time() + GATHER)
        self._asked.append(_Job(name, verb, args, promise, bare))
        return promise

    def _hand_over(self, seen: int, until: float) -> None:
        """Wake the thread once for all that comes together: as long as each turn of the loop brings more."""
        if seen < len(self._asked) < MOST and self._loop.time() < until:
            self._loop.call_soon(self._hand_over, len(self._asked), until)
        else:
            self._jobs.put(self._asked)
            self._asked = []

    # --- the database thread ------------------------------------------------------------------------------------

    def _work(self) -> None:
        try:
            while not self._ended:
                jobs = list[_Job]()
                with suppress(queue.Empty):
                    jobs = self._jobs.get(timeout=IDLE if self._commits else None)
                self._round(jobs + self._queued())
                if not self._ended:
                    self._tidy(quiet=not jobs)
        except BaseException:  # whatever it was: without this thread no webhook is ever answered again
            log.critical("the database thread cannot go on", exc_info=True)
            self._die()

    def _queued(self) -> list[_Job]:
        jobs = list[_Job]()
        while len(jobs) < MOST and not self._jobs.empty():
            jobs += self._jobs.get_nowait()
        return jobs

    def _waiting(self) -> list[_Job]:
        """What is queued, but for what runs outside a transaction."""
        jobs = self._queued()
        for job in jobs:
            if job.bare:
                self._jobs.put([job])
        return [job for job in jobs if not job.bare]

    def _round(self, jobs: list[_Job]) -> None:
        self._transact([job for job in jobs if not job.bare])
        for job in jobs:
            if job.bare:
                try:
                    self._deliver([(job, job.verb(self._db))])
                except (OSError, sqlite3.Error, StoreDown) as fault:
                    if self._fatal:
                        raise
                    self._deliver([(job, StoreDown(f"{job.name}: {fault}"))])

    def _transact(self, jobs: list[_Job]) -> None:
        """One transaction for all jobs; each is told its result, or the error that befell it."""
        if not jobs:
            return
        filed, clock = self._db.filed, self._db.clock
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            results = self._run(jobs)
            self._commit([*dict.fromkeys(job.name for job in jobs)])
        except Exception as fault:  # our own faults as well: no verb may suffer from another's
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            self._db.filed, self._db.clock = filed, clock
            self._db.known.clear()
            if getattr(fault, "sqlite_errorcode", 0) in sqlite_file.FATAL:
                self._fatal = fault
                raise
            if isinstance(fault, sqlite3.OperationalError):  # disk full, locked: it concerns all, and those that
                jobs = jobs + self._waiting()  # came meanwhile have waited long enough as well
                results = [(job, StoreDown(f"{self._path}: {fault}")) for job in jobs]
            elif len(jobs) == 1:
                results = [(jobs[0], StoreDown(f"a message was not taken: {fault}") if jobs[0].args else fault)]
            else:
                for job in jobs:
                    self._transact([job])
                return
        self._deliver(results)

    def _run(self, jobs: list[_Job]) -> list[tuple[_Job, Any]]:
        """All intake in as few statements as possible, then the others, who find it filed."""
        intake, others = [job for job in jobs if job.args], [job for job in jobs if not job.args]
        if self._fresh:
            upkeep.start(self._db)
        if intake and sqlite_file.free(self._path) < self._floor:
            results: list[tuple[_Job, Any]] = [(job, StoreDown("the disk is almost full")) for job in intake]
        else:
            results = list(zip(intake, accept(self._db, [job.args for job in intake])))
        if (intake or self._taken > self._db.filed) and others and others[0].name != "file":  # it takes small steps
            file(self._db)
        for job in others:
            try:
                results.append((job, job.verb(self._db)))
            except LeaseLost as lost:  # raised before anything was written
                results.append((job, lost))
        return results

    def _commit(self, names: list[str]) -> None:
        newest, reserved = self._db.new_id(), self._reserved
        if "accept" in names:
            self._taken = newest
        if newest > reserved:
            reserved = newest + RESERVE
            marks = [(str(reserved), "ids"), (str(self._db.filed), "filed")]
            self._db.executemany("UPDATE meta SET v = ? WHERE k = ?", marks)
        for name in names:
            self._point(f"{name}:commit")
        self._connection.execute("COMMIT")
        self._reserved = reserved  # not before: where it is not on disk, the next start would give ids a second time
        for name in names:
            self._point(f"{name}:committed")
        self._fresh = False
        self._commits += 1

    def _tidy(self, quiet: bool) -> None:
        """What the door has put off: filing, and copying the log back into the database."""
        empty, unfiled = self._jobs.empty(), self._taken - self._db.filed
        if unfiled > 0 and (quiet or unfiled >= FILE_MUST or unfiled >= FILE_AT and empty):
            self._transact([_Job("file", lambda db: file(db, FILE_STEP))])
        elif quiet or self._commits >= CHECKPOINT_AT and empty or sqlite_file.log_size(self._path) > WAL_CAP:
            self._commits = 0
            sqlite_file.copy_back(self._connection)

    def _deliver(self, results: list[tuple[_Job, Any]]) -> None:
        """Wake the loop once for a whole batch."""
        if pairs := [(job.promise, result) for job, result in results if job.promise is not None]:
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                self._loop.call_soon_threadsafe(keep, pairs)

    def _shut(self, db: Database) -> None:
        self._ended = True
        self._transact([_Job("close", upkeep.stop)])
        self._connection.close()  # SQLite copies the log back and removes it
        self._lock.close()
