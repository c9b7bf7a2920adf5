"""Which database DATABASE_URL means: the one place that decides between SQLite and PostgreSQL.

Not here: either of them. The law: what is not used is not imported; PostgreSQL's driver is an extra, and where it is
missing one line names the command that installs it.

Next: `schema.py`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any

from minibot.config import Settings
from minibot.errors import SettingsFault

if TYPE_CHECKING:
    from minibot.store.postgres import PostgresStore
    from minibot.store.sqlite import SqliteStore

NO_DRIVER = "DATABASE_URL: names PostgreSQL, whose driver is missing; .venv/bin/pip install 'psycopg[binary]'"


def open_store(settings: Settings, now: int, point: Callable[[str], None] = lambda name: None,
               die: Callable[[], object] = lambda: os._exit(70)) -> SqliteStore | PostgresStore:
    """The store, for verbs. Raises SettingsFault, StoreDown or StoreDamaged; `point` and `die`: see `SqliteStore`."""
    if settings.sqlite_path:
        from minibot.store.sqlite import SqliteStore
        return SqliteStore(settings, now, point=point, die=die)
    demand_driver()
    from minibot.store.postgres import PostgresStore
    return PostgresStore(settings, now, point=point, die=die)


def open_reader(settings: Settings) -> Any:
    """A `ledger.Reader` to be closed after use. Raises as `open_store` does."""
    if settings.sqlite_path:
        from minibot.store import sqlite_file
        return sqlite_file.open_reader(settings.sqlite_path)
    demand_driver()
    from minibot.store.postgres_file import PostgresReader
    return PostgresReader(settings.database_url)


def demand_driver() -> None:
    """Raises SettingsFault where psycopg is not installed."""
    try:
        import_module("psycopg")
    except ImportError:  # or its library is
        raise SettingsFault([NO_DRIVER]) from None
