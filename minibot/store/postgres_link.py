"""One connection to PostgreSQL: made and understood when it fails, given its ids, and never in doubt about a commit.

Not here: verbs and threads (`postgres.py`), tables (`postgres_file.py`). The law: only what PostgreSQL-wire databases
share: no advisory locks, no LISTEN, no sequences; nothing of DATABASE_URL is ever shown, for it holds a password. Ids
are taken from their counter after the conversations are locked, so that a later message of a conversation has the
greater id whichever instance takes it. Each transaction raises its connection's mark: where the word about a COMMIT
was lost, whoever comes first to the mark decides what happened.

Next: `postgres.py`.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import cache
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg.types.numeric import Int8Dumper

from minibot.errors import SettingsFault, StoreDown
from minibot.store.schema import Database
from minibot.text import BROKEN

# A frozen instance keeps its locks no longer than this, and nobody waits longer for one; a dead network is noticed.
SESSION = "SET statement_timeout = 5000; SET lock_timeout = 2000; SET idle_in_transaction_session_timeout = 5000"
SOCKET = {"connect_timeout": 3, "keepalives": 1, "keepalives_idle": 5, "keepalives_interval": 2, "keepalives_count": 3,
          "tcp_user_timeout": 10_000, "application_name": "minibot"}
UNREADABLE = ("DATABASE_URL: is no address that PostgreSQL understands; write postgresql://user:password@host/name "
              "with % and hex digits for special characters, and only parameters that libpq knows")
WORDS = {  # what the server says when it refuses -> is it a wrong setting, and what to do
    "password|role|pg_hba": (True, "the server refuses this user or password; correct them"),
    "database .* does not exist": (True, "the server has no such database; make it: createdb NAME"),
    "certificate|SSL|sslmode": (True, "the server's TLS is not what sslmode asks for; correct sslmode"),
    "too many|slots": (False, "the PostgreSQL server has no connection left for us: raise its max_connections"),
    "starting up|shutting down|recovery": (False, "the PostgreSQL server is just starting or stopping"),
}
AWAY = "the PostgreSQL server of DATABASE_URL cannot be reached: does it run, are host and port right?"
RESERVE = "UPDATE meta SET v = CAST(CAST(v AS BIGINT) + %s AS TEXT) WHERE k = 'ids' RETURNING CAST(v AS BIGINT)"
MARK = "UPDATE mark SET number = CASE WHEN number = %s THEN %s END WHERE connection = %s"  # NULL, and it fails, if not


class InDoubt(Exception):
    """The connection broke during a COMMIT; ask `committed`."""


def address(url: str) -> dict[str, Any]:
    """DATABASE_URL as libpq takes it, with our socket settings where it has none. Raises SettingsFault."""
    plain = re.sub(r"^postgres(ql)?(\+\w+)?://", "postgresql://", url)
    plain = re.sub(r"(?<=[?&])ssl=(?=[a-z-]+(&|$))", "sslmode=", plain)  # as asyncpg has it
    try:
        return SOCKET | {key: value for key, value in conninfo_to_dict(plain).items() if value is not None}
    except psycopg.ProgrammingError:
        raise SettingsFault([UNREADABLE]) from None


def connect(url: str, session: str = SESSION) -> psycopg.Connection[Any]:
    """A connection without a transaction. Raises SettingsFault or StoreDown, in our words only."""
    try:
        connection = psycopg.connect(**address(url), autocommit=True)
        for kind in int, bool:  # one plan a statement, however small the number
            connection.adapters.register_dumper(kind, Int8Dumper)
        connection.execute(session.encode())
    except psycopg.Error as fault:
        setting, said = next((WORDS[sign] for sign in WORDS if re.search(sign, str(fault))), (False, AWAY))
        raise (SettingsFault([f"DATABASE_URL: {said}"]) if setting else StoreDown(said)) from None
    if connection.info.parameter_status("server_encoding") != "UTF8":
        connection.close()
        raise SettingsFault(["DATABASE_URL: that database does not store UTF-8; make one that does: createdb -E UTF8"])
    return connection


@cache
def query(sql: str) -> bytes:
    """Our SQL with its `?` as psycopg wants it."""
    return sql.replace("%", "%%").replace("?", "%s").encode()


def storable(values: Iterable[Any]) -> list[Any]:
    """The values without what UTF-8 or PostgreSQL cannot hold."""
    return [BROKEN.sub("\ufffd", value) if isinstance(value, str) and BROKEN.search(value) else value
            for value in values]


def words(fault: psycopg.Error) -> str:
    """An error of the server in one line, without the row it is about."""
    return f"PostgreSQL: {fault.sqlstate or 'connection lost'} {fault.diag.message_primary or ''}".strip()


def committed(url: str, mark: int, number: int) -> bool:
    """Whether transaction `number` of that connection was committed; if not, it never will be.

    Waits for a transaction that is just ending. Raises StoreDown, SettingsFault or psycopg.Error: ask again.
    """
    with connect(url) as looking:
        looking.execute("UPDATE mark SET number = -1 WHERE connection = %s AND number <> %s", (mark, number))
        return looking.execute("SELECT number FROM mark WHERE connection = %s", (mark,)).fetchone() == (number,)


class Numbers:
    """The counter of all ids, on a connection of its own: no transaction keeps it locked."""

    def __init__(self, url: str) -> None:
        self._url, self._lock = url, threading.Lock()
        self._connection: psycopg.Connection[Any] | None = None

    def reserve(self, count: int) -> int:
        """The first of `count` ids, greater than every id that was given before. Raises psycopg.Error, StoreDown."""
        with self._lock:
            try:
                return self._reserve(count)
            except psycopg.OperationalError:  # the server was away meanwhile
                self.close()
                return self._reserve(count)

    def _reserve(self, count: int) -> int:
        if self._connection is None:  # whatever is committed later takes the counter to the disk with it
            self._connection = connect(self._url, f"{SESSION}; SET synchronous_commit = off")
        row = self._connection.execute(RESERVE.encode(), (count,)).fetchone()
        assert row
        return int(row[0]) - count + 1

    def close(self) -> None:
        """End the connection; it comes back when it is needed."""
        if self._connection is not None:
            self._connection.close()
        self._connection = None


class Link:
    """A connection that runs transactions; `db` is what the verbs see of it."""

    def __init__(self, url: str, numbers: Numbers, **known: Any) -> None:
        self.connection, self._numbers = connect(url), numbers
        self.db = Database(self._execute, self._executemany, self._put_off, self._new_id,
                           skip_locked=" FOR UPDATE SKIP LOCKED", **known)
        self.mark, self.number, self._ids, self._need = numbers.reserve(1), 0, iter(range(0)), 0
        self._late: dict[str, list[Sequence[Any]]] = {}
        self.connection.execute("INSERT INTO mark VALUES (%s, 0)", (self.mark,))

    def begin(self, need: int) -> None:
        """A transaction that will not use more than `need` ids."""
        self._need, self._ids, self._late = need, iter(range(0)), {}
        self.db.known.clear()  # the other instances change conversations too
        self.db.filed = self.db.last = 0
        self.connection.execute("BEGIN")

    def commit(self, marked: bool) -> None:
        """Raises InDoubt, or psycopg.Error: then nothing has happened."""
        number = self.number + 1
        for sql, rows in self._late.items():
            self._executemany(sql, sorted(rows, key=tuple))
        try:
            with self.connection.pipeline():
                if marked:
                    self.connection.execute(MARK.encode(), (self.number, number, self.mark))
                self.connection.execute("COMMIT")
        except psycopg.Error:
            if marked and self.connection.closed:
                raise InDoubt from None
            raise
        self.number = number if marked else self.number

    def rollback(self) -> None:
        """Nothing of the transaction has happened; the connection may be lost with it."""
        with suppress(psycopg.Error):
            self.connection.execute("ROLLBACK")

    def close(self, forget: bool = False) -> None:
        """End the connection; `forget`: nobody will ask about it any more."""
        with suppress(psycopg.Error):
            if forget:
                self.connection.execute("DELETE FROM mark WHERE connection = %s", (self.mark,))
        self.connection.close()

    def _execute(self, sql: str, values: Sequence[Any] = ()) -> Any:
        return self.connection.execute(query(sql), storable(values))

    def _executemany(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        self.connection.cursor().executemany(query(sql), [storable(row) for row in rows])

    def _put_off(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        self._late.setdefault(sql, []).extend(rows)

    def _new_id(self) -> int:
        for number in self._ids:
            return number
        if not self._need:
            raise RuntimeError("a transaction used more ids than it was given")
        first = self._numbers.reserve(self._need)
        self.db.filed, self.db.last = first - 1, first + self._need - 1
        self._ids, self._need = iter(range(first + 1, first + self._need)), 0
        return first
