"""The PostgreSQL database itself: its tables, made by one instance while the others wait, and read by the operator.

Not here: the verbs' connections (`postgres_link.py`), their threads (`postgres.py`). The law: a row of `meta` decides
who migrates, each migration is whole or not at all; a database that is newer or another program's is left alone, and
one plain line says what to do. Every text is compared byte by byte (COLLATE "C"), as SQLite does.

Next: `postgres_link.py`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import psycopg

from minibot.errors import SettingsFault, StoreDamaged, StoreDown
from minibot.store.postgres_link import SESSION, connect, query, words
from minibot.store.schema import MIGRATIONS

DIALECT = {"CREATE TABLE meta (k TEXT PRIMARY KEY, v TEXT NOT NULL);": "", "{id}": "BIGINT PRIMARY KEY",
           "{clustered}": "", " TEXT": ' TEXT COLLATE "C"',
           "'{name}'": "substr(md5(CAST(random() AS TEXT) || CAST(clock_timestamp() AS TEXT)), 1, 12)"}
META = 'CREATE TABLE IF NOT EXISTS meta (k TEXT COLLATE "C" PRIMARY KEY, v TEXT COLLATE "C" NOT NULL)'
# Beside the tables of `schema.py`: each connection's last committed transaction, see `postgres_link.py`.
OURS = "CREATE TABLE mark (connection BIGINT PRIMARY KEY, number BIGINT NOT NULL);"
CLOCK = "CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT)"
PATIENT = f"{SESSION}; SET lock_timeout = 60000; SET statement_timeout = 600000"
READING = "SET default_transaction_read_only = on; SET statement_timeout = 600000"
LEASED = 120_000  # ms: what another instance may be posting now is due within that time
TRIES = 20  # ten instances make the first table at once
FOREIGN = "DATABASE_URL: the database holds tables of another program; make one for minibot alone: createdb"
READ_ONLY = ("DATABASE_URL: that server only reads; name the primary (where several hosts are named, add "
             "target_session_attrs=read-write)")
FORBIDDEN = ("DATABASE_URL: this user may not make tables there; make it the database's owner, or GRANT CREATE ON "
             "SCHEMA public TO it")
FAULTS = {"42P07": StoreDamaged(FOREIGN), "42703": StoreDamaged(FOREIGN), "25006": SettingsFault([READ_ONLY]),
          "42501": SettingsFault([FORBIDDEN])}


def prepare(url: str, now: int, point: Callable[[str], None] = lambda name: None) -> dict[str, Any]:
    """Bring the tables up to date; what stands in `meta`, and the server's `clock` in ms.

    Exports that wait for long go again at once: an address that was wrong may have been mended.
    Raises SettingsFault, StoreDown or StoreDamaged.
    """
    with connect(url, PATIENT) as connection:
        try:
            _found(connection)
            _migrate(connection, point)
            connection.execute("UPDATE export SET due_at = 0 WHERE due_at > %s", (now + LEASED,))
            meta = dict(connection.execute("SELECT k, v FROM meta").fetchall())
            meta |= connection.execute(f"SELECT 'clock', {CLOCK}".encode()).fetchall()
        except psycopg.Error as fault:
            raise FAULTS.get(fault.sqlstate or "", StoreDown(words(fault))) from None
    return meta


def _found(connection: psycopg.Connection[Any]) -> None:
    """Make the table whose row decides, if it is not there."""
    for attempt in range(TRIES):
        try:
            connection.execute("INSERT INTO meta VALUES ('schema', '0') ON CONFLICT DO NOTHING")
            return
        except psycopg.errors.UndefinedTable:
            try:
                connection.execute(META.encode())
            except (psycopg.IntegrityError, psycopg.InternalError, psycopg.errors.DuplicateObject,
                    psycopg.errors.DuplicateTable):  # all of these are said of the same race
                time.sleep(0.02 * attempt)


def _migrate(connection: psycopg.Connection[Any], point: Callable[[str], None]) -> None:
    with connection.transaction():
        row = connection.execute("SELECT v FROM meta WHERE k = 'schema' FOR UPDATE").fetchone()
        version = int(row[0]) if row else 0
        if version > len(MIGRATIONS):
            raise StoreDamaged(f"the database was written by a newer minibot (schema {version}): update minibot")
        for script in MIGRATIONS[version:]:
            for word, meaning in DIALECT.items():
                script = script.replace(word, meaning)
            connection.execute(script.encode())
        if not version:
            connection.execute(OURS)
        if version < len(MIGRATIONS):
            connection.execute("UPDATE meta SET v = %s WHERE k = 'schema'", (str(len(MIGRATIONS)),))
            point("migrate:commit")


class PostgresReader:
    """A connection that only reads, a few hundred rows at a time, all of one moment. A `ledger.Reader`."""

    def __init__(self, url: str) -> None:
        self._connection, self._cursors = connect(url, READING), list[Any]()
        try:
            self._connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
            self._connection.execute("SELECT v FROM meta WHERE k = 'schema'")
        except psycopg.Error as fault:
            self.close()
            raise StoreDown("nothing of minibot is in that database yet: python run.py begins it"
                            if fault.sqlstate == "42P01" else words(fault)) from None

    def execute(self, sql: str, values: Sequence[Any] = (), /) -> Any:
        """Run a query; its rows, as they are asked for."""
        cursor = self._connection.cursor(f"c{len(self._cursors)}")
        cursor.itersize = 500
        self._cursors.append(cursor)
        cursor.execute(query(sql), list(values))
        return cursor

    def close(self) -> None:
        """End the connection."""
        with suppress(psycopg.Error):
            for cursor in self._cursors:
                cursor.close()
        self._connection.close()
