"""`python run.py move --to URL`: the SQLite database of DATABASE_URL copied into an empty PostgreSQL one.

Not here: the copying (`store/postgres_move.py`). The law: no bot runs meanwhile, which the file's lock proves; the
SQLite file stays as it was; the address, which holds a password, is not shown; safe to repeat.

Next: `unit.py`.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace

from minibot.config import Settings, load
from minibot.store import opening
from minibot.store.sqlite_file import open_writer

USAGE = "usage: python run.py move --to postgresql://user:password@host/name"
TELL_EVERY = 0.2  # seconds


def main(arguments: list[str], settings: Callable[[], Settings]) -> int:
    """The command. Exit code 0: all is there; 1: nothing was changed, and a line says why; 2: wrong arguments."""
    words = [part for word in arguments for part in word.split("=", 1 if word.startswith("--to=") else 0)]
    if len(words) != 2 or words[0] != "--to":
        print(USAGE, file=sys.stderr)
        return 2
    here, there = settings(), load({"DATABASE_URL": words[1]}, complete=False)[0]
    if there.sqlite_path or not here.sqlite_path:
        print(f"move: from SQLite to PostgreSQL only, and DATABASE_URL names what is moved\n{USAGE}", file=sys.stderr)
        return 2
    opening.demand_driver()
    from minibot.store.postgres_move import move

    opening.open_reader(here).close()  # a database that is not there is not made
    asyncio.run(_filed(here))
    lock, source = open_writer(here.sqlite_path, lambda name: None)
    with closing(lock), closing(source):
        try:
            counts = move(source, there.database_url, _teller())
        finally:
            print("\r\x1b[K" if sys.stderr.isatty() else "", end="", file=sys.stderr, flush=True)
    done = f"{sum(counts.values())} rows copied and counted" if counts else "this copy is there already"
    print(f"{done}; now set DATABASE_URL to that address and start; {here.sqlite_path} stays as it was, do not start a "
          "bot on it again")
    return 0


async def _filed(settings: Settings) -> None:
    """A start and an end of the store bring everything in order; raises StoreDown while a bot runs."""
    now = time.time_ns() // 1_000_000
    await opening.open_store(replace(settings, retention_days=0), now).close(now)


def _teller() -> Callable[[str, int], None]:
    """Shows how far it has come, where somebody looks on."""
    tell_at = 0.0

    def tell(table: str, count: int) -> None:
        nonlocal tell_at
        if sys.stderr.isatty() and time.monotonic() >= tell_at:
            tell_at = time.monotonic() + TELL_EVERY
            print(f"\rmove: {table}, {count} rows \x1b[K", end="", file=sys.stderr, flush=True)

    return tell
