"""Which conversation is meant: every identifier of a chat leads to the same one, and its messages are filed there.

Not here: storing a message (`sql_intake.py`). The law: a chat has one conversation, however it is named; two that
turn out to be one become one, and the worker that held the other loses its lease.

Next: `sql_intake.py`.
"""

from __future__ import annotations

from typing import Any

from minibot.model import Inbound
from minibot.store.schema import Database

ALBUM = 1_500  # ms for the other pictures of an album to arrive
MINE = (("inbound", "id IN (SELECT id FROM history WHERE conversation = ?)"),
        ("part", "turn IN (SELECT id FROM turn WHERE conversation = ?)"),
        *((table, "conversation = ?") for table in ("history", "waiting", "turn", "export")))
MOST_KNOWN = 10_000  # chats whose ids are kept in memory, some 3 MB


def same_chat(db: Database, platform: str, account: str, chat: str, alias: str = "") -> list[Any]:
    """(id, chat, alias, paused until, blocked) of what `chat` or `alias` names, what is called `chat` first."""
    here = (platform, account, chat, alias or chat)
    return db.all("""SELECT id, chat, COALESCE(alias, ''), paused_until, blocked FROM conversation WHERE id IN (
        SELECT id FROM conversation WHERE platform = ? AND account = ? AND chat IN (?, ?) UNION
        SELECT id FROM conversation WHERE platform = ? AND account = ? AND alias IN (?, ?))
        ORDER BY CASE WHEN chat = ? THEN 0 ELSE 1 END, id""", *here, *here, chat)


def find(db: Database, platform: str, account: str, chat: str, alias: str, now: int) -> tuple[int, int, str]:
    """(conversation, paused until, alias), made if need be; learns the alias, and that who writes is not blocked."""
    rows = same_chat(db, platform, account, chat, alias)
    for row in rows[1:]:
        absorb(db, rows[0][0], row[0], now)
    if rows:
        conversation, address, other, _, blocked = rows[0]
        if blocked or alias and (address, other) != (chat, alias):
            db.run("UPDATE conversation SET blocked = 0, chat = ?, alias = ? WHERE id = ?",
                   chat if alias else address, alias or other or None, conversation)
    else:
        conversation = db.new_id()
        db.run("INSERT INTO conversation (id, platform, account, chat, alias) VALUES (?, ?, ?, ?, ?)",
               conversation, platform, account, chat, alias or None)
    if len(db.known) >= MOST_KNOWN:
        db.known.clear()
    entry = db.known[platform, account, chat] = conversation, max((row[3] for row in rows), default=0), alias
    return entry


def in_waiting_album(db: Database, event: Inbound) -> bool:
    """Does another picture of the same album wait for an answer?"""
    file(db)
    rows = same_chat(db, event.platform, event.account, event.chat)
    return bool(rows and db.one("SELECT 1 FROM waiting w JOIN inbound i ON i.id = w.id WHERE w.conversation = ? AND "
                                "i.album = ?", rows[0][0], event.album))


def absorb(db: Database, kept: int, gone: int, now: int) -> None:
    """`kept` takes over all that belongs to `gone`."""
    file(db)
    db.known.clear()
    # subtle: first, since on PostgreSQL it waits for whoever is just filing a message there
    paused, = db.one("DELETE FROM conversation WHERE id = ? RETURNING paused_until", gone) or (0,)
    for table, whose in MINE:
        db.run(f"UPDATE {table} SET conversation = ? WHERE {whose}", kept, gone)
    db.run("UPDATE conversation SET due_at = ?, paused_until = CASE WHEN paused_until < ? THEN ? ELSE paused_until END "
           "WHERE id = ?", now, paused, paused, kept)


def rekey(db: Database, platform: str, account: str, old: str, new: str, now: int) -> None:
    """`old` is called `new` from now on; whoever has `old` in hand keeps it."""
    for kept in same_chat(db, platform, account, old)[:1]:
        for other in same_chat(db, platform, account, new):
            if other[0] != kept[0]:
                absorb(db, kept[0], other[0], now)
        db.run("UPDATE conversation SET chat = CASE WHEN chat = ? THEN ? ELSE chat END, alias = CASE WHEN alias = ? "
               "THEN ? ELSE alias END WHERE id = ?", old, new, old, new, kept[0])
        db.known.clear()


def file(db: Database, limit: int = 1 << 40) -> None:
    """Enter the messages stored since the last time under their conversations, and make those due.

    At most `limit` ids. Each step is one statement for all: a statement gives the interpreter's lock away.
    """
    newest = db.new_id()
    span = db.filed, min(db.filed + limit, db.last, newest)
    for table, which in ("history", ""), ("waiting", " AND outcome IS NULL"):  # after a crash some a second time
        db.run(f"INSERT INTO {table} (conversation, id) SELECT conversation, id FROM inbound WHERE id > ? AND id <= ?"
               f"{which} ON CONFLICT DO NOTHING", *span)
    db.run("UPDATE conversation SET due_at = found.due FROM (SELECT conversation AS chat, MIN(received_at + CASE WHEN "
           "album = '' THEN 0 ELSE ? END) AS due FROM inbound WHERE id > ? AND id <= ? AND outcome IS NULL GROUP BY "
           "conversation) AS found WHERE id = found.chat AND (due_at IS NULL OR due_at > found.due)", ALBUM, *span)
    db.filed = span[1]
