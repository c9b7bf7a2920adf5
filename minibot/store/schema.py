"""The tables, as numbered migrations, and the handle through which the verbs read and write them.

Not here: any verb (`sql.py` and its neighbours), opening a database (`sqlite.py`). The law: a migration that has
been released is never changed, a new one is added; every column is TEXT or BIGINT (times are milliseconds, truth
is 0 or 1), so that SQLite and PostgreSQL run the same statements.

    meta          the schema's number, the database's id, how far intake has been filed
    inbound       one row per message, written before the 200 and in order of arrival: two pages a message
    conversation  a chat: when it is due, who holds its lease, its fence
    history       which messages belong to which conversation; written behind the door (`sql_intake.file`)
    waiting       of these, the ones without an outcome
    turn          what we (or, kind `human`, our people) said
    part          the outbox: one row per platform message
    spend         tokens per UTC day and person; the person '' is everybody
    export        finished exchanges on their way to the CRM and the spreadsheet; empty where there is neither

All ids come from one counter: a number names one row of the whole database, and a greater one came later.

Next: `sql_intake.py`, how a message comes in; `sql.py`, how it is worked.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

# {id} is the key of a table whose rows lie in order of arrival; {clustered} keeps rows in the order of their key.
MIGRATIONS = ("""
CREATE TABLE meta (k TEXT PRIMARY KEY, v TEXT NOT NULL);
INSERT INTO meta VALUES ('ids', '0'), ('filed', '0'), ('retained', '0'), ('database', '{name}');
CREATE TABLE inbound (id {id}, conversation BIGINT NOT NULL, event TEXT NOT NULL UNIQUE, chat TEXT NOT NULL,
  kind TEXT NOT NULL, text TEXT NOT NULL, notice TEXT NOT NULL, person TEXT NOT NULL, name TEXT NOT NULL,
  alias TEXT NOT NULL, message_id TEXT NOT NULL, sent_at BIGINT NOT NULL, media TEXT NOT NULL,
  forwarded BIGINT NOT NULL, quoted TEXT NOT NULL, quotes TEXT NOT NULL, album TEXT NOT NULL, phone TEXT NOT NULL,
  username TEXT NOT NULL, received_at BIGINT NOT NULL, outcome TEXT, turn BIGINT);
CREATE INDEX inbound_turn ON inbound (turn) WHERE turn IS NOT NULL;
CREATE INDEX inbound_failed ON inbound (id) WHERE outcome >= 'ai_failed' AND outcome < 'ai_failee';
CREATE INDEX inbound_erased ON inbound (id) WHERE kind = 'erased';
CREATE TABLE conversation (id {id}, platform TEXT NOT NULL, account TEXT NOT NULL, chat TEXT NOT NULL, alias TEXT,
  due_at BIGINT, lease_owner TEXT NOT NULL DEFAULT '', lease_until BIGINT NOT NULL DEFAULT 0,
  epoch BIGINT NOT NULL DEFAULT 0, tries BIGINT NOT NULL DEFAULT 0, crashes BIGINT NOT NULL DEFAULT 0,
  paused_until BIGINT NOT NULL DEFAULT 0, blocked BIGINT NOT NULL DEFAULT 0, noticed_at BIGINT NOT NULL DEFAULT 0,
  reset_id BIGINT NOT NULL DEFAULT 0, error TEXT NOT NULL DEFAULT '',
  UNIQUE (platform, account, chat), UNIQUE (platform, account, alias));
CREATE INDEX conversation_due ON conversation (due_at) WHERE due_at IS NOT NULL;
CREATE TABLE history (conversation BIGINT NOT NULL, id BIGINT NOT NULL, PRIMARY KEY (conversation, id)){clustered};
CREATE TABLE waiting (conversation BIGINT NOT NULL, id BIGINT NOT NULL, PRIMARY KEY (conversation, id)){clustered};
CREATE TABLE turn (conversation BIGINT NOT NULL, id BIGINT NOT NULL, kind TEXT NOT NULL, text TEXT NOT NULL,
  message_id TEXT NOT NULL, model TEXT NOT NULL, tokens_in BIGINT NOT NULL, tokens_out BIGINT NOT NULL,
  milliseconds BIGINT NOT NULL, error TEXT NOT NULL, created_at BIGINT NOT NULL,
  PRIMARY KEY (conversation, id)){clustered};
CREATE TABLE part (id {id}, conversation BIGINT NOT NULL, turn BIGINT NOT NULL, place BIGINT NOT NULL,
  text TEXT NOT NULL, plain BIGINT NOT NULL DEFAULT 0, threadless BIGINT NOT NULL DEFAULT 0,
  state TEXT NOT NULL DEFAULT 'pending', tries BIGINT NOT NULL DEFAULT 0, unsure BIGINT NOT NULL DEFAULT 0,
  due_at BIGINT NOT NULL DEFAULT 0, expires_at BIGINT NOT NULL, created_at BIGINT NOT NULL,
  called_at BIGINT NOT NULL DEFAULT 0, done_at BIGINT NOT NULL DEFAULT 0, delivered_at BIGINT NOT NULL DEFAULT 0,
  read_at BIGINT NOT NULL DEFAULT 0, reply_to TEXT NOT NULL, message_id TEXT NOT NULL DEFAULT '',
  error TEXT NOT NULL DEFAULT '');
CREATE INDEX part_turn ON part (turn, place);
CREATE INDEX part_live ON part (conversation, turn, place) WHERE state IN ('pending', 'sending');
CREATE INDEX part_dead ON part (id) WHERE state IN ('dead', 'maybe');
CREATE INDEX part_message ON part (message_id) WHERE message_id <> '';
CREATE TABLE spend (day BIGINT NOT NULL, person TEXT NOT NULL, tokens BIGINT NOT NULL DEFAULT 0,
  told BIGINT NOT NULL DEFAULT 0, PRIMARY KEY (day, person)){clustered};
""", """
CREATE TABLE export (id {id}, destination TEXT NOT NULL, conversation BIGINT NOT NULL, turn BIGINT NOT NULL,
  state TEXT NOT NULL DEFAULT 'pending', tries BIGINT NOT NULL DEFAULT 0, due_at BIGINT NOT NULL,
  created_at BIGINT NOT NULL, error TEXT NOT NULL DEFAULT '');
CREATE INDEX export_due ON export (destination, due_at, id) WHERE state = 'pending';
CREATE INDEX export_conversation ON export (conversation, destination, id);
CREATE INDEX export_parked ON export (id) WHERE state = 'parked';
""")


HOUR, DAY = 3_600_000, 86_400_000
FIELDS = ("id, conversation, event, chat, kind, text, notice, person, name, alias, message_id, sent_at, media, "
          "forwarded, quoted, quotes, album, phone, username, received_at, outcome")
LIVE = "state IN ('pending', 'sending')"  # word for word the condition of `part_live`


@dataclass(slots=True)
class Database:
    """An open connection as the verbs see it. `execute` and `executemany` are those of the DB-API, with `?`."""

    execute: Callable[..., Any]
    executemany: Callable[..., Any]
    later: Callable[..., Any]  # the same at the end of the transaction, for rows that all conversations share
    new_id: Callable[[], int]
    name: str  # the database's id, part of every tag we send
    turns: int  # exchanges of history that a step carries
    pace: int  # messages a minute that one conversation may send
    pause: int  # ms of silence after a person took over
    keep: int  # ms until what was said is removed; 0: never
    clock: int  # the last time that `maintain` was told
    destinations: tuple[str, ...] = ()  # that want finished exchanges
    filed: int = 0  # messages up to this id are entered under their conversations
    last: int = (1 << 63) - 1  # and those after this one are another instance's business
    skip_locked: str = ""  # what a claim adds so that instances do not wait for each other
    packs: bool = False  # rows as one JSON text: sqlite3 gives the interpreter's lock away for every single row
    known: dict[tuple[str, ...], tuple[int, int, str]] = field(default_factory=dict)
    # ... (platform, account, chat) -> (conversation, paused until, alias): saves the door a look-up a message.
    # Whatever changes an address, a pause or a block empties it, and so does a transaction that fails.

    def one(self, sql: str, *values: object) -> Any:
        """The first row, or None."""
        return self.execute(sql, values).fetchone()

    def all(self, sql: str, *values: object) -> list[Any]:
        """Every row."""
        return list(self.execute(sql, values))

    def many(self, columns: str, source: str, *values: object) -> list[Any]:
        """Every row of `SELECT columns source`, fetched at once; `columns` are names, "a, b"."""
        if not self.packs:
            return self.all(f"SELECT {columns} {source}", *values)
        names = [f"c{place}" for place in range(columns.count(",") + 1)]
        inner = ", ".join(f"{column} AS {name}" for column, name in zip(columns.split(", "), names))
        packed = f"json_group_array(json_array({', '.join(names)}))"
        return list(json.loads(self.one(f"SELECT {packed} FROM (SELECT {inner} {source})", *values)[0]))

    def run(self, sql: str, *values: object) -> int:
        """Change something; how many rows."""
        return int(self.execute(sql, values).rowcount)
