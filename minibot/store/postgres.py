"""The store on PostgreSQL, for any number of instances: verbs wait in queues, a few threads take them.

Not here: the threads and their transactions (`postgres_lane.py`), what the verbs write (`sql_intake.py`, `sql.py`,
`upkeep.py`), the tables (`postgres_file.py`). The law: webhooks have one thread, so that they keep their order, and
the workers have the others; leases count by the server's clock; a promise is kept only after its COMMIT has returned.

Next: `upkeep.py`, what the operator and the clock ask for.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any, Concatenate, ParamSpec, TypeVar

from minibot.config import Settings
from minibot.errors import StoreDown
from minibot.model import Event
from minibot.promise import Promise, keep
from minibot.store import sql, sql_export, upkeep
from minibot.store.postgres_file import CLOCK, prepare
from minibot.store.postgres_lane import Job, Jobs, Lane, Results, Yard
from minibot.store.postgres_link import Numbers
from minibot.store.schema import DAY, HOUR, Database
from minibot.store.sql_intake import accept
from minibot.work import Accepted, Step

INTAKE, WORK = 256, (8, 8, 8)  # verbs in one transaction, for each thread
P = ParamSpec("P")
Result = TypeVar("Result")


def _verb(verb: Callable[Concatenate[Database, P], Result]
          ) -> Callable[Concatenate[PostgresStore, P], Coroutine[Any, Any, Result]]:
    async def ask(self: PostgresStore, /, *args: P.args, **named: P.kwargs) -> Result:
        result: Result = await self._ask(verb.__name__, verb, *args, *named.values())
        return result
    return ask


class PostgresStore:
    """A `contract.Store`, and the operator's verbs. Raises SettingsFault, StoreDown or StoreDamaged.

    `ahead` is how many ms the server's clock is ahead of the caller's. `point` and `die` as in `SqliteStore`.
    """

    renew, next_due, health, forget = _verb(sql.renew), _verb(sql.next_due), _verb(sql.health), _verb(upkeep.forget)
    finish, settle, refresh, postpone = _verb(sql.finish), _verb(sql.settle), _verb(sql.refresh), _verb(sql.postpone)
    retry, exports, exported = _verb(upkeep.retry), _verb(sql_export.exports), _verb(sql_export.exported)
    export_failed, export_at_once = _verb(sql_export.export_failed), _verb(sql_export.export_at_once)

    def __init__(self, settings: Settings, now: int, *, point: Callable[[str], None] = lambda name: None,
                 die: Callable[[], object] = lambda: os._exit(70)) -> None:
        meta = prepare(settings.database_url, now, point)
        self._clock, self.ahead, self._owners = meta["clock"], meta["clock"] - now, set[str]()
        known = {"name": meta["database"], "turns": settings.history_turns,
                 "pace": settings.messages_per_minute, "pause": round(settings.human_pause_hours * HOUR),
                 "keep": settings.retention_days * DAY, "clock": now,
                 "destinations": tuple(settings.destinations)}
        self._yard = Yard(settings.database_url, Numbers(settings.database_url), known, point, die, self._deliver)
        self._intake, self._work = Jobs(), Jobs()
        self._lanes = [Lane(self._yard, self._intake, INTAKE), *(Lane(self._yard, self._work, most) for most in WORK)]

    def accept(self, events: Sequence[Event], now: int) -> Promise[Accepted]:
        """See `contract.Store`."""
        return self._ask("accept", accept, events, now)

    async def claim(self, owner: str, now: int, lease: int, limit: int, alone: bool = False) -> list[Step]:
        """See `contract.Store`."""
        self._owners.add(owner)
        steps: list[Step] = await self._ask("claim", sql.claim, owner, now, lease, limit, alone)
        return steps

    async def maintain(self, now: int) -> None:
        """See `contract.Store`; the server's clock is looked at as well."""
        def tend(db: Database) -> int:
            db.clock = self._clock
            upkeep.maintain(db, now)
            return int(db.one(f"SELECT {CLOCK}")[0])

        self.ahead += await self._ask("maintain", tend) - now
        self._clock = now

    async def backup(self, path: str) -> None:
        """Raises StoreDown: PostgreSQL has tools for that."""
        raise StoreDown("PostgreSQL is copied by its own tool: pg_dump --format=custom --file=FILE, given the address "
                        "in DATABASE_URL (pg_restore brings it back)")

    async def close(self, now: int) -> None:
        """See `contract.Store`. A lease that cannot be given back, because the server is away, passes."""
        if self._yard.open:
            release = self._ask("release", upkeep.release, [*self._owners])
            self._yard.open = False
            with suppress(StoreDown):
                await release
            for lane in self._lanes:
                (self._intake if lane is self._lanes[0] else self._work).put(None)
            for lane in self._lanes:
                lane.join()
            self._yard.numbers.close()

    def _ask(self, name: str, verb: Callable[..., Any], *args: Any) -> Promise[Any]:
        promise: Promise[Any] = Promise()
        if self._yard.open:
            self._loop = asyncio.get_running_loop()
            (self._intake if name == "accept" else self._work).put(Job(name, verb, args, promise))
        else:
            promise.set_exception(StoreDown("the store is closed"))
        return promise

    def _deliver(self, results: Results) -> None:
        """Wake the loop once for a whole transaction."""
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(keep, [(job.promise, result) for job, result in results])
