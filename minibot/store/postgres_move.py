"""A SQLite database copied into an empty PostgreSQL one, whole or not at all.

Not here: arguments and the progress line (`desk/move.py`). The law: one transaction; the counts of every table are
compared before it is committed; the copy keeps all ids and the database's own id, so that receipts for messages sent
before still find them; nothing is ever copied over another database's rows, and a copy that is there is recognised.

Next: `desk/move.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg

from minibot.errors import StoreDown
from minibot.store.ledger import Reader
from minibot.store.postgres_file import PATIENT, prepare
from minibot.store.postgres_link import connect, storable, words

TABLES = ("inbound", "conversation", "history", "waiting", "turn", "part", "spend", "export")
OCCUPIED = "the target holds messages of its own{}: name an empty database"


def move(source: Reader, url: str, tell: Callable[[str, int], None]) -> dict[str, int]:
    """Rows by table; {} if this very copy is there already. `tell` hears (table, rows so far).

    Raises SettingsFault, StoreDown or StoreDamaged; the target is then as it was.
    """
    prepare(url, 0)
    if source.execute("SELECT 1 FROM inbound WHERE id > (SELECT CAST(v AS INTEGER) FROM meta WHERE k = 'filed') LIMIT 1"
                      ).fetchone():
        raise StoreDown("the SQLite file could not be brought in order (disk full?), so nothing was copied")
    counts = {table: int(source.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0]) for table in TABLES}
    meta = dict(source.execute("SELECT k, v FROM meta WHERE k <> 'schema'").fetchall())
    with connect(url, f"{PATIENT}; SET idle_in_transaction_session_timeout = 0") as target:
        try:
            with target.transaction():
                there = dict(target.execute("SELECT k, v FROM meta FOR UPDATE").fetchall())
                if there["database"] == meta["database"] and there.get("moved") == there["ids"]:
                    return {}  # and nobody has used it since
                if any(_counted(target).values()):
                    raise StoreDown(OCCUPIED.format(", newer than the move" * (there["database"] == meta["database"])))
                for table in TABLES:
                    _copy(source, target, table, tell)
                for key, value in {**meta, "moved": meta["ids"]}.items():
                    target.execute("INSERT INTO meta VALUES (%s, %s) ON CONFLICT (k) DO UPDATE SET v = excluded.v",
                                   (key, value))
                if _counted(target) != counts:
                    raise StoreDown("not every row arrived, so none was kept: does a bot run on either database?")
        except psycopg.Error as fault:
            raise StoreDown(words(fault)) from None
    return counts


def _counted(target: psycopg.Connection[Any]) -> dict[str, int]:
    rows = target.execute(" UNION ALL ".join(f"SELECT '{table}', COUNT(*) FROM {table}" for table in TABLES).encode())
    return {table: int(count) for table, count in rows}


def _copy(source: Reader, target: psycopg.Connection[Any], table: str, tell: Callable[[str, int], None]) -> None:
    rows = source.execute(f"SELECT * FROM {table}")
    names = ", ".join(column[0] for column in rows.description)
    with target.cursor().copy(f"COPY {table} ({names}) FROM STDIN".encode()) as copy:
        for count, row in enumerate(rows, 1):
            copy.write_row(storable(row))
            if not count % 1000:
                tell(table, count)
