"""What the operator reads: what became of a message, what was given up on, everything for the export, counts.

Not here: printing (`desk/`), changing anything (`upkeep.py`). The law: reading only, on a connection of its own
(`sqlite_file.open_reader`) beside a running server or without one; a row is shown as it is, also a failed one.

Next: `sqlite_file.py`, how a database is opened.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import takewhile
from typing import Any, NamedTuple, Protocol


MOST = 200  # messages of one chat, entries of one list


class Reader(Protocol):
    """A connection; `sqlite3.Connection` is one."""

    def execute(self, sql: str, values: Any = ..., /) -> Any:
        """Run a statement; its rows."""


class Hop(NamedTuple):
    """One row of `inbound`, `turn`, `part` or `export`. Times in ms, 0: not yet."""

    at: int  # received, said, created
    row: str  # "inbound", "turn", "part" or "export"
    id: int
    turn: int  # the same number: these belong together
    platform: str
    chat: str
    state: str  # a message's outcome ("": it waits), a turn's kind, a part's or an export's state
    text: str
    person: str  # who wrote; a turn's model; an export's destination
    message_id: str
    note: str  # a message's event key, a turn's cost
    tries: int
    unsure: int
    due_at: int
    done_at: int  # when a person sent the message, when a part was sent or given up
    delivered_at: int
    read_at: int
    error: str


class Exchange(NamedTuple):
    """A message and its answer ("" if none), for the export. Times in ms."""

    id: int
    platform: str
    chat: str
    person: str
    name: str
    phone: str
    username: str
    text: str
    answer: str
    outcome: str
    sent_at: int
    received_at: int
    answered_at: int
    message_id: str


def why(db: Reader, query: str) -> list[Hop]:
    """Everything about a message id (ours or the platform's), an event, a chat, a phone number, in order of time."""
    if not query:
        return []
    number = int(query) if query.isdecimal() and len(query) < 19 else 0
    chats = _ids(db, "SELECT id FROM conversation WHERE chat = ? OR alias = ? UNION SELECT conversation FROM inbound "
                     "WHERE phone = ?", query, query, query)
    messages = _ids(db, "SELECT id FROM inbound WHERE id = ? OR message_id = ? OR event = ?", number, query, query)
    turns = _ids(db, "SELECT turn FROM part WHERE id = ? OR message_id = ?", number, query)
    for chat in chats - {0}:
        messages |= _ids(db, "SELECT id FROM inbound WHERE conversation = ? ORDER BY id DESC LIMIT ?", chat, MOST)
        turns |= _ids(db, "SELECT id FROM turn WHERE conversation = ? ORDER BY id DESC LIMIT ?", chat, MOST)
    turns |= _ids(db, f"SELECT turn FROM inbound WHERE turn IS NOT NULL AND id IN {_list(messages)}")
    return _hops(db, f"i.id IN {_list(messages)} OR i.turn IN {_list(turns)}", f"t.id IN {_list(turns)}",
                 f"p.turn IN {_list(turns)}", f"e.turn IN {_list(turns)}")


def dead(db: Reader) -> list[Hop]:
    """What was given up on: parts, messages the model failed on, bodies nobody could read, exports."""
    return _hops(db, "i.outcome >= 'ai_failed' AND i.outcome < 'ai_failee' OR i.kind = 'unreadable'", "1 = 0",
                 "p.state IN ('dead', 'maybe')", "e.state = 'parked'")[-MOST:]


def exchanges(db: Reader, since: int = 0, platform: str = "") -> Iterator[Exchange]:
    """Every message received since then, oldest first, with what was answered."""
    for row in db.execute("""
            SELECT i.id, c.platform, c.chat, i.person, i.name, i.phone, i.username, i.text,
              CASE WHEN i.outcome = 'merged' THEN '' ELSE COALESCE(t.text, '') END, COALESCE(i.outcome, ''), i.sent_at,
              i.received_at, COALESCE(t.created_at, 0), i.message_id
            FROM inbound i JOIN conversation c ON c.id = i.conversation
            LEFT JOIN turn t ON t.conversation = i.conversation AND t.id = i.turn
            WHERE i.received_at >= ? AND i.kind <> 'erased' AND ? IN ('', c.platform) ORDER BY i.id""",
                          (since, platform)):
        yield Exchange(*row)


def interventions(db: Reader, since: int = 0, platform: str = "") -> Iterator[Exchange]:
    """Every message that a person of ours wrote since then, oldest first: an answer without a question."""
    for row in db.execute("SELECT t.id, c.platform, c.chat, '', '', '', '', '', t.text, 'human', 0, t.created_at, "
                          "t.created_at, t.message_id FROM turn t JOIN conversation c ON c.id = t.conversation WHERE "
                          "t.kind = 'human' AND t.created_at >= ? AND ? IN ('', c.platform) ORDER BY t.id",
                          (since, platform)):
        yield Exchange(*row)


def outcomes(db: Reader, since: int) -> Counter[tuple[str, str]]:
    """How often each (platform, outcome) since then; "" is still waiting."""
    rows = db.execute("SELECT received_at, event, COALESCE(outcome, '') FROM inbound ORDER BY id DESC")
    return Counter((row[1].split(":")[0], row[2]) for row in takewhile(lambda row: row[0] >= since, rows))


def tokens(db: Reader, day: int) -> int:
    """Tokens used on `day` (days since 1970, UTC)."""
    row = db.execute("SELECT tokens FROM spend WHERE day = ? AND person = ''", (day,)).fetchone()
    return int(row[0]) if row else 0


def _ids(db: Reader, sql: str, *values: object) -> set[int]:
    return {row[0] for row in db.execute(sql, values)}


def _list(ids: Iterable[int]) -> str:
    return f"({', '.join(map(str, ids)) or 0})"  # our own numbers, and too many for parameters


def _hops(db: Reader, inbound: str, turn: str, part: str, export: str) -> list[Hop]:
    return [Hop(*row) for row in db.execute(f"""
        SELECT i.received_at, 'inbound', i.id, COALESCE(i.turn, 0), COALESCE(c.platform, ''), i.chat,
          COALESCE(i.outcome, ''), i.text, i.person, i.message_id, i.event, 0, 0, COALESCE(c.due_at, 0), i.sent_at, 0,
          0, CASE WHEN i.outcome IS NULL THEN COALESCE(c.error, '') ELSE i.notice END
        FROM inbound i LEFT JOIN conversation c ON c.id = i.conversation WHERE {inbound} UNION ALL
        SELECT t.created_at, 'turn', t.id, t.id, c.platform, c.chat, t.kind, t.text, t.model, t.message_id,
          t.tokens_in || ' + ' || t.tokens_out || ' tokens, ' || t.milliseconds || ' ms', 0, 0, 0, 0, 0, 0, t.error
        FROM turn t JOIN conversation c ON c.id = t.conversation WHERE {turn} UNION ALL
        SELECT p.created_at, 'part', p.id, p.turn, c.platform, c.chat, p.state, p.text, '', p.message_id, '', p.tries,
          p.unsure, p.due_at, p.done_at, p.delivered_at, p.read_at, p.error
        FROM part p JOIN conversation c ON c.id = p.conversation WHERE {part} UNION ALL
        SELECT e.created_at, 'export', e.id, e.turn, c.platform, c.chat, e.state, '', e.destination, '', '', e.tries, 0,
          e.due_at, 0, 0, 0, e.error
        FROM export e JOIN conversation c ON c.id = e.conversation WHERE {export} ORDER BY 1, 3""")]
