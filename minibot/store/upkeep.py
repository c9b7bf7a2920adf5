"""What the clock and the operator ask of the store: start, stop, retention, retry, forget.

Not here: reading for the operator (`desk/ledger.py`). The law: small steps, each bounded, so that no webhook
waits for housekeeping; what a person wanted gone is gone, while its event key stays for as long as a platform
may deliver it again; a clock that was set back makes nobody wait.

Next: `desk/ledger.py`, how all of it is read.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import takewhile

from minibot.store.schema import DAY, LIVE, Database
from minibot.store.sql_events import mended
from minibot.store.sql_export import retry_export

STEP = 500  # rows a call
KEYS_KEPT = 14 * DAY  # WhatsApp repeats for 7 days
CLOCK_STEP = 30_000  # ms that the clock may go back without anybody setting it


def start(db: Database) -> None:
    """A new process owns the file: nobody else holds a lease, and an address that was wrong may have been mended."""
    db.run("UPDATE export SET due_at = 0 WHERE due_at > 0")
    db.run("UPDATE conversation SET lease_until = 0, lease_owner = '' WHERE due_at IS NOT NULL AND lease_until > 0")


def stop(db: Database) -> None:
    """A clean end is no death of the conversations in hand."""
    db.run("UPDATE conversation SET crashes = crashes - 1 WHERE due_at IS NOT NULL AND lease_until > 0 AND crashes > 0")
    start(db)
    db.run("UPDATE meta SET v = ? WHERE k = 'filed'", str(db.filed))


def release(db: Database, owners: Sequence[str]) -> None:
    """A clean end of one instance among others."""
    for owner in owners:
        db.run("UPDATE conversation SET crashes = CASE WHEN crashes > 0 THEN crashes - 1 ELSE 0 END, lease_until = 0, "
               "lease_owner = '' WHERE due_at IS NOT NULL AND lease_until > 0 AND lease_owner = ?", owner)


def maintain(db: Database, now: int) -> None:
    """Called about once a minute."""
    latest, db.clock = now if now < db.clock - CLOCK_STEP else now + DAY, now
    db.run("UPDATE conversation SET due_at = ? WHERE due_at > ?", now, latest)
    db.run(f"UPDATE part SET due_at = ? WHERE {LIVE} AND due_at > ?", now, latest)
    db.run("UPDATE export SET due_at = ? WHERE due_at > ?", now, latest)
    db.run("DELETE FROM spend WHERE day < ?", now // DAY - 1)
    if db.keep:
        _retain(db, now - db.keep)
    stale = [row for row in db.all("SELECT id, conversation, received_at FROM inbound WHERE kind = 'erased' "
                                   "ORDER BY id LIMIT ?", STEP) if row[2] < now - KEYS_KEPT]
    db.executemany("DELETE FROM inbound WHERE id = ?", [(row[0],) for row in stale])
    db.executemany("DELETE FROM conversation WHERE id = ? AND due_at IS NULL AND NOT EXISTS (SELECT 1 FROM history "
                   "WHERE history.conversation = conversation.id)", [(row[1],) for row in stale])
    if stale:
        db.known.clear()


def _retain(db: Database, oldest: int) -> None:
    done, = db.one("SELECT v FROM meta WHERE k = 'retained'")
    rows = db.all("SELECT id, conversation, received_at, outcome FROM inbound WHERE id > ? ORDER BY id LIMIT ?",
                  int(done), STEP)
    old = list(takewhile(lambda row: row[2] < oldest and row[3] is not None, rows))
    if old:
        chats = [(conversation, oldest) for conversation in {row[1] for row in old}]
        _blank(db, [(row[0],) for row in old])
        db.executemany("DELETE FROM history WHERE conversation = ? AND id = ?", [(row[1], row[0]) for row in old])
        db.executemany(f"DELETE FROM part WHERE NOT ({LIVE}) AND turn IN (SELECT id FROM turn WHERE conversation = ? "
                       "AND created_at < ?)", chats)
        db.executemany("DELETE FROM export WHERE conversation = ? AND created_at < ?", chats)
        db.executemany("DELETE FROM turn WHERE conversation = ? AND created_at < ? AND NOT EXISTS (SELECT 1 FROM part "
                       "WHERE part.turn = turn.id)", chats)  # not that of a part which has yet to leave
        db.run("UPDATE meta SET v = ? WHERE k = 'retained'", str(old[-1][0]))


def erase(db: Database, conversation: int, last: int = 1 << 62) -> None:
    """All that was said here is gone, but for messages after `last`. Today's count of tokens stays until tomorrow,
    or /forget would be a way around the daily limit."""
    _blank(db, db.all("SELECT id FROM history WHERE conversation = ? AND id <= ?", conversation, last))
    db.run("DELETE FROM part WHERE turn IN (SELECT id FROM turn WHERE conversation = ?)", conversation)
    for table, newest in ("history", last), ("waiting", last), ("turn", 1 << 62), ("export", 1 << 62):
        db.run(f"DELETE FROM {table} WHERE conversation = ? AND id <= ?", conversation, newest)


def _blank(db: Database, ids: Iterable[Sequence[int]]) -> None:
    db.executemany("UPDATE inbound SET kind = 'erased', chat = '', text = '', notice = '', person = '', name = '', "
                   "alias = '', message_id = '', media = '', quoted = '', quotes = '', phone = '', username = '', "
                   "turn = NULL, outcome = CASE WHEN outcome IS NULL OR outcome >= 'ai_failed' AND outcome < "
                   "'ai_failee' THEN 'ignored:forgotten' ELSE outcome END WHERE id = ?", ids)  # nothing for `retry`


def forget(db: Database, chat: str) -> int:
    """Erase every conversation that `chat` names, by any identifier; says how many. A worker in it loses its lease."""
    rows = db.all("SELECT id FROM conversation WHERE chat = ? OR alias = ?", chat, chat)
    for conversation, in rows:
        erase(db, conversation)
        db.run("UPDATE conversation SET due_at = NULL, lease_until = 0, lease_owner = '', epoch = epoch + 1 "
               "WHERE id = ?", conversation)
    return len(rows)


def retry(db: Database, ids: Sequence[int], force: bool, now: int) -> int:
    """Re-drive these parts, messages and exports that were given up on (none named: all); says how many.

    What is past its window is left alone without `force`.
    """
    ids = ids or [row[0] for row in db.all(
        "SELECT id FROM part WHERE state IN ('dead', 'maybe') UNION SELECT id FROM inbound WHERE "
        "outcome >= 'ai_failed' AND outcome < 'ai_failee' UNION SELECT id FROM export WHERE state = 'parked'")]
    return sum(_retry_part(db, number, force, now) or _retry_message(db, number, force, now)
               or retry_export(db, number) for number in ids)


def _retry_part(db: Database, number: int, force: bool, now: int) -> bool:
    row = db.one("SELECT conversation, turn FROM part WHERE id = ? AND state IN ('dead', 'maybe', 'expired') AND "
                 "(? = 1 OR expires_at = 0 OR expires_at > ?)", number, int(force), now)
    if row:
        db.run("UPDATE part SET state = 'pending', tries = 0, unsure = 0, due_at = 0, expires_at = CASE WHEN ? = 1 "
               "THEN 0 ELSE expires_at END WHERE id = ?", int(force), number)
        mended(db, row[1])
        _again(db, row[0], now)
    return bool(row)


def _retry_message(db: Database, number: int, force: bool, now: int) -> bool:
    row = db.one("SELECT conversation FROM inbound WHERE id = ? AND outcome >= 'ai_failed' AND outcome < 'ai_failee' "
                 "AND (? = 1 OR sent_at > ?)", number, int(force), now - DAY)
    if row:
        db.run("UPDATE inbound SET outcome = NULL, turn = NULL, sent_at = CASE WHEN ? = 1 THEN ? ELSE sent_at END "
               "WHERE id = ?", int(force), now, number)  # subtle: forced, its window counts from now on
        db.run("INSERT INTO waiting (conversation, id) VALUES (?, ?) ON CONFLICT DO NOTHING", row[0], number)
        _again(db, row[0], now)
    return bool(row)


def _again(db: Database, conversation: int, now: int) -> None:
    db.run("UPDATE conversation SET due_at = ?, crashes = 0, blocked = 0 WHERE id = ?", now, conversation)
    db.known.clear()
