"""A thread with a connection to PostgreSQL: takes the verbs that wait and runs them in one transaction.

Not here: the connection (`postgres_link.py`), what a verb writes. The law: a transaction locks its conversations
first, in the order of their ids, so that two of them never wait for each other in a circle, and all that concerns one
conversation happens one after the other, wherever it runs. What the server refuses for the moment is run again; verbs
that fail together are run one by one; while the server is away they fail at once; a commit in doubt is looked up.

Next: `postgres.py`.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import psycopg

from minibot.errors import LeaseLost, MinibotError, StoreDown
from minibot.model import Aside, Echo, Receipt
from minibot.promise import Promise
from minibot.store.postgres_link import AWAY, InDoubt, Link, Numbers, committed, words
from minibot.store.schema import Database
from minibot.store.sql_chat import file
from minibot.store.sql_intake import accept
from minibot.work import Conversation, Fate, Finish

log = logging.getLogger("minibot.store")
ALONE = ("renew", "maintain", "retry", "forget", "release")  # these lock what they find: no transaction with others
LOOKS = ("claim", "exports", "next_due", "health")  # without a result they wrote nothing that matters
IDS_EACH = 12  # more than a verb uses, besides one a part; an event uses at most half of it
AGAIN = ("40001", "40P01", "23505")  # serialization, deadlock, two instances made the same chat
TRIES, PAUSE = 10, 0.01  # of a transaction; seconds, more with each
SOON, LATE = 0.25, 5.0  # seconds until the next try to connect: the first, the longest
HOLD = {"held": "id = ANY(?)", "renew": "due_at IS NOT NULL AND lease_owner = ?", "forget": "? IN (chat, alias)",
        "accept": """id IN (SELECT c.id FROM unnest(CAST(? AS TEXT[]), CAST(? AS TEXT[]), CAST(? AS TEXT[]))
  AS named (platform, account, name) JOIN conversation c ON c.platform = named.platform AND c.account = named.account
  AND c.chat = named.name UNION SELECT c.id FROM unnest(CAST(? AS TEXT[]), CAST(? AS TEXT[]), CAST(? AS TEXT[]))
  AS named (platform, account, name) JOIN conversation c ON c.platform = named.platform AND c.account = named.account
  AND c.alias = named.name UNION SELECT conversation FROM part WHERE message_id = ANY(CAST(? AS TEXT[]))
  AND message_id <> '' UNION SELECT conversation FROM part WHERE id = ANY(CAST(? AS BIGINT[])))"""}
HELD = "SELECT id, platform, account, chat, COALESCE(alias, ''), paused_until, blocked FROM conversation WHERE {} " \
    "ORDER BY id FOR UPDATE"


class Job(NamedTuple):
    """A verb that waits for its transaction."""

    name: str
    verb: Callable[..., Any]
    args: tuple[Any, ...]
    promise: Promise[Any]

    @property
    def ids(self) -> int:
        """How many ids it may use."""
        parts = sum(len(each.parts) if isinstance(each, Finish) else len(each.replace) for each in self.args
                    if isinstance(each, Finish | Fate))
        return IDS_EACH * (1 + len(self.args[0]) if self.name == "accept" else 1) + parts


Jobs = queue.SimpleQueue[Job | None]  # None: the end
Results = list[tuple[Job, Any]]


@dataclass(slots=True)
class Yard:
    """What all lanes share. `known` is what a `Database` is made with."""

    url: str
    numbers: Numbers
    known: dict[str, Any]
    point: Callable[[str], None]
    die: Callable[[], object]
    deliver: Callable[[Results], None]
    open: bool = True


class Lane(threading.Thread):
    """One thread; `most` verbs share a transaction."""

    def __init__(self, yard: Yard, jobs: Jobs, most: int) -> None:
        super().__init__(name="minibot-store", daemon=True)
        self._yard, self._jobs, self._most = yard, jobs, most
        self._rest: list[Job | None] = []
        self._link: Link | None = None
        self._later, self._wait = 0.0, SOON  # when to connect again, and how long the wait after that
        self.start()

    def run(self) -> None:
        """Until the end comes out of the queue."""
        try:
            while batch := self._next():
                self._yard.deliver(self._transact(batch))
            if self._link is not None:
                self._link.close(forget=True)
        except BaseException:  # whatever it was: without this thread no webhook is ever answered again
            log.critical("a database thread cannot go on", exc_info=True)
            self._yard.die()

    def _next(self) -> list[Job]:
        """What goes into the next transaction; nothing at the end."""
        waiting = self._rest or [self._jobs.get()]
        with suppress(queue.Empty):  # the other lane was quicker
            while len(waiting) < self._most and waiting[-1] is not None:
                waiting.append(self._jobs.get_nowait())
        batch: list[Job] = []
        for job in waiting:
            if job is None or job.name in ALONE and batch:
                break
            batch.append(job)
            if job.name in ALONE:
                break
        self._rest = waiting[len(batch):]
        return batch

    def _transact(self, jobs: list[Job]) -> Results:
        """Each job with its result, or with the error that befell it."""
        fault: Exception
        for attempt in range(1, TRIES + 1):
            try:
                return self._attempt(jobs)
            except MinibotError as away:  # no connection, or no ids
                return [(job, StoreDown(str(away))) for job in jobs]
            except psycopg.Error as refused:
                fault = StoreDown(words(refused))
                if self._lost():
                    if attempt > 1:
                        return [(job, fault) for job in jobs]
                elif refused.sqlstate not in AGAIN:
                    break
                elif attempt > 1:
                    time.sleep(PAUSE * attempt)
            except Exception as own:  # a fault of ours in one verb: no other verb may suffer from it
                fault = StoreDown(f"a message was not taken: {own}") if jobs[0].name == "accept" else own
                break
        return [(jobs[0], fault)] if len(jobs) == 1 else [pair for job in jobs for pair in self._transact([job])]

    def _attempt(self, jobs: list[Job]) -> Results:
        """The transaction. Raises what went wrong; then nothing of it has happened."""
        link, names = self._linked(), [*dict.fromkeys(job.name for job in jobs)]
        try:
            link.begin(sum(job.ids for job in jobs))
            _hold(link.db, jobs)
            results = _run(link.db, jobs)
            for name in names:
                self._yard.point(f"{name}:commit")
            link.commit(marked=any(job.name not in LOOKS or isinstance(result, list) and result
                                   for job, result in results))
        except InDoubt:
            if not self._committed(link):
                raise psycopg.OperationalError("lost before the commit") from None
        except BaseException:
            link.rollback()
            raise
        for name in names:
            self._yard.point(f"{name}:committed")
        return results

    def _committed(self, link: Link) -> bool:
        """Look until it is known, as long as the server is away; who comes meanwhile hears so at once."""
        wait = SOON
        while self._yard.open:
            with suppress(psycopg.Error, MinibotError):
                return committed(self._yard.url, link.mark, link.number + 1)
            time.sleep(wait)
            wait = min(2 * wait, LATE)
            while (self._rest or self._jobs.qsize()) and (batch := self._next()):
                self._yard.deliver([(job, StoreDown(AWAY)) for job in batch])
        raise StoreDown(AWAY)

    def _linked(self) -> Link:
        """The connection, made anew if it was lost; raises StoreDown while it is not yet time to try that again."""
        if self._link is None:
            if time.monotonic() < self._later:
                raise StoreDown(AWAY)
            self._later, self._wait = time.monotonic() + self._wait, min(2 * self._wait, LATE)
            self._link = Link(self._yard.url, self._yard.numbers, **self._yard.known)
            self._later, self._wait = 0.0, SOON
        return self._link

    def _lost(self) -> bool:
        """Whether there is no connection (any more)."""
        if self._link is not None and self._link.connection.closed:
            self._link = None
        return self._link is None


def _hold(db: Database, jobs: list[Job]) -> None:
    """Lock the conversations that the jobs name; of what webhooks name, remember who is who."""
    name, first = jobs[0].name, jobs[0].args
    held = sorted({job.args[0].id for job in jobs if job.args and isinstance(job.args[0], Conversation)})
    values = list(_named(jobs)) if name == "accept" else [first[0]] if name in HOLD else [held] if held else []
    if values:
        rows = db.all(HELD.format(HOLD.get(name, HOLD["held"])), *values)
        aliases = {(row[1], row[2], row[4]) for row in rows if row[4] != row[3]}
        db.known.update({row[1:4]: (row[0], row[5], row[4]) for row in rows if not row[6] and row[1:4] not in aliases})


def _named(jobs: list[Job]) -> Iterator[Sequence[object]]:
    """The values for `HOLD["accept"]`: who is named, twice, then the messages and the parts that are."""
    events: list[Any] = [each.inbound if isinstance(each, Aside) else each for job in jobs for each in job.args[0]]
    names = sorted({(each.platform, each.account, name) for each in events if hasattr(each, "account")
                    for name in (getattr(each, field, "") for field in ("chat", "alias", "old", "new")) if name})
    columns = [[name[at] for name in names] for at in range(3)]
    yield from columns + columns
    yield sorted({each.message_id for each in events if isinstance(each, Receipt | Echo) and each.message_id})
    tags = {each.tag.rpartition(":")[2] for each in events if isinstance(each, Receipt | Echo)}
    yield sorted({int(tag) for tag in tags if tag.isdecimal() and len(tag) < 19})


def _run(db: Database, jobs: list[Job]) -> Results:
    """All intake in as few statements as possible, and entered under its conversations; or the workers' verbs."""
    if jobs[0].name == "accept":
        results: list[Any] = list(accept(db, [job.args for job in jobs]))
        file(db)
        return list(zip(jobs, results))
    results = []
    for job in jobs:
        try:
            results.append(job.verb(db, *job.args))
        except LeaseLost as lost:  # raised before anything was written
            results.append(lost)
    return list(zip(jobs, results))
