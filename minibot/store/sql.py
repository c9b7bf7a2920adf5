"""The verbs of the worker: claim a conversation, end a turn, settle a part, put off, release.

Not here: transactions and threads (`sqlite.py`), the door (`sql_intake.py`), what a step carries (`history.py`).
The law: every verb raises the fence first, so that a worker whose lease was taken over changes nothing; parts leave
strictly in order; what a step hands out is already on disk as `sending`; a conversation with nothing to send and
nothing to answer is released in the same transaction.

Next: `history.py`, then `sqlite.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from minibot.errors import LeaseLost
from minibot.store import history
from minibot.store.schema import DAY, LIVE, Database
from minibot.store.sql_chat import rekey
from minibot.store.sql_events import said
from minibot.store.sql_export import enqueue
from minibot.store.upkeep import erase
from minibot.work import Answer, Conversation, Fate, Finish, Health, Part, Step

SUSPECT = 2  # deaths in a row that make a conversation a suspect
# The columns of `work.Conversation`. A claim counts as a death until a verb proves that the process survived it.
CONVERSATION = """id, platform, account, chat, COALESCE(alias, ''), epoch, tries,
  CASE WHEN crashes > 0 THEN crashes - 1 ELSE 0 END, paused_until, blocked, noticed_at, COALESCE((SELECT i.sent_at
  FROM history h JOIN inbound i ON i.id = h.id WHERE h.conversation = conversation.id ORDER BY h.id DESC LIMIT 1), 0)"""


def claim(db: Database, owner: str, now: int, lease: int, limit: int, alone: bool = False) -> list[Step]:
    """See `contract.Store`. What turns out to need nothing is released again and left out."""
    whom = ">= ? ORDER BY crashes," if alone else "< ? ORDER BY"
    rows = db.all(f"""UPDATE conversation SET lease_owner = ?, lease_until = ?, epoch = epoch + 1, crashes = crashes + 1
        WHERE id IN (SELECT id FROM conversation WHERE due_at <= ? AND lease_until <= ? AND crashes {whom} due_at
        LIMIT ?{db.skip_locked}) RETURNING {CONVERSATION}, due_at""",
                  owner, now + lease, now, now, SUSPECT, limit)
    steps = [_step(db, _conversation(row), now) for row in sorted(rows, key=lambda row: int(row[-1]))]
    return [step for step in steps if step.part or step.waiting]


def renew(db: Database, owner: str, now: int, lease: int) -> None:
    """See `contract.Store`."""
    db.run("UPDATE conversation SET lease_until = ? WHERE due_at IS NOT NULL AND lease_until > 0 AND lease_owner = ?",
           now + lease, owner)


def refresh(db: Database, held: Conversation, now: int) -> Step:
    """See `contract.Store`. No proof of survival: the message may kill the process after this."""
    return _step(db, _fence(db, held, "tries = tries"), now)


def postpone(db: Database, held: Conversation, due_at: int, counted: bool, error: str, now: int) -> None:
    """See `contract.Store`."""
    _fence(db, held, "tries = tries + ?, error = ?", int(counted), error)
    _release(db, held, due_at)


def finish(db: Database, held: Conversation, end: Finish, now: int) -> Step:
    """See `contract.Store`."""
    held = _fence(db, held, "crashes = 0, error = ?, tries = tries * ?, noticed_at = ?, paused_until = COALESCE(?, "
                  "paused_until), reset_id = COALESCE(?, reset_id)", end.error, int(end.noticed),
                  now if end.noticed else 0, end.pause_until, db.new_id() if end.forget else None)
    if end.pause_until is not None:
        db.known.clear()
    if end.forget == "everything":
        erase(db, held.id, max(end.outcomes, default=0))  # what was written since is still to be answered
    turn = None
    if end.answer or end.parts:
        turn = said(db, held.id, "answer" if end.answer else "notice", end.answer or Answer(""), now, error=end.error)
        _put(db, held.id, turn, 0, end.parts, 0, 0, end.expires_at, now, end.reply_to, "")
        enqueue(db, held.id, turn, end, now)
    db.executemany("UPDATE inbound SET outcome = ?, turn = ? WHERE id = ? AND conversation = ?",
                   [(outcome, turn, number, held.id) for number, outcome in end.outcomes.items()])
    db.executemany("DELETE FROM waiting WHERE conversation = ? AND id = ?", [(held.id, key) for key in end.outcomes])
    db.executemany("UPDATE inbound SET text = ? WHERE id = ? AND conversation = ? AND media <> ''",  # not if erased
                   [(text, number, held.id) for number, text in end.transcripts.items()])
    if end.answer or end.told:
        spent = end.answer.tokens_in + end.answer.tokens_out if end.answer else 0
        db.later("INSERT INTO spend (day, person, tokens, told) VALUES (?, ?, ?, ?) ON CONFLICT (day, person) DO "
                 "UPDATE SET tokens = spend.tokens + excluded.tokens, told = spend.told + excluded.told",
                 [(now // DAY, f"{held.platform}:{end.person or held.chat}", spent, int(end.told)),
                  (now // DAY, "", spent, 0)])
    return _step(db, held, now)


def _put(db: Database, conversation: int, turn: int, place: int, texts: Sequence[str], *rest: object) -> None:
    db.executemany("INSERT INTO part (id, conversation, turn, place, text, plain, threadless, expires_at, created_at, "
                   "reply_to, error) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                   [(db.new_id(), conversation, turn, place + at, text, *rest) for at, text in enumerate(texts)])


def settle(db: Database, held: Conversation, number: int, fate: Fate, now: int) -> Step:
    """See `contract.Store`. Where a receipt or an echo was quicker, its word stands."""
    held = _fence(db, held, "crashes = 0")
    if fate.message_id:
        db.run("UPDATE part SET message_id = ? WHERE id = ? AND message_id = ''", fate.message_id, number)
    if db.run("UPDATE part SET state = ?, due_at = ?, error = ?, unsure = unsure + ?, tries = tries - ?, threadless = "
              "CASE WHEN ? = 1 THEN 1 ELSE threadless END, done_at = ? WHERE id = ? AND conversation = ? AND "
              "state = 'sending'", fate.state, fate.due_at, fate.error, int(fate.unsure), int(not fate.counted),
              int(fate.threadless), now, number, held.id) and (fate.replace or fate.rest or fate.blocked or fate.outcome
                                                               or fate.chat):
        _consequences(db, held, number, fate, now)
    return _step(db, _fence(db, held, "crashes = 0") if fate.chat or fate.blocked else held, now)


def _consequences(db: Database, held: Conversation, number: int, fate: Fate, now: int) -> None:
    turn, place, threadless, expires_at, reply_to = db.one(
        "SELECT turn, place, threadless, expires_at, reply_to FROM part WHERE id = ?", number)
    if fate.replace:
        db.run("DELETE FROM part WHERE id = ?", number)
        db.run("UPDATE part SET place = place + ? WHERE turn = ? AND place > ?", len(fate.replace) - 1, turn, place)
        _put(db, held.id, turn, place, fate.replace, int(fate.plain), threadless, expires_at, now, reply_to, fate.error)
    if fate.rest or fate.blocked:
        db.run(f"UPDATE part SET state = ?, error = ?, done_at = ? WHERE conversation = ? AND {LIVE} AND "
               "(turn = ? OR ? = 1)", fate.state, fate.error, now, held.id, turn, int(fate.blocked))
    if fate.blocked:
        db.run("UPDATE conversation SET blocked = 1 WHERE id = ?", held.id)
        db.known.clear()
    if fate.outcome:
        db.run("UPDATE inbound SET outcome = ? WHERE turn = ?", fate.outcome, turn)
    if fate.chat:
        rekey(db, held.platform, held.account, held.chat, fate.chat, now)


def next_due(db: Database, now: int) -> int | None:
    """See `contract.Store`. Suspects do not count: they are looked for when nothing else is due."""
    row = db.one("SELECT due_at FROM conversation WHERE due_at IS NOT NULL AND lease_until <= ? AND crashes < ? "
                 "ORDER BY due_at LIMIT 1", now, SUSPECT)
    return int(row[0]) if row else None


def health(db: Database, now: int) -> Health:
    """See `contract.Store`: waiting messages and unsent parts, the oldest of them, and what was given up on."""
    waiting, received = db.one("SELECT COUNT(*), (SELECT received_at FROM inbound WHERE id = (SELECT MIN(id) FROM "
                               "waiting)) FROM waiting")
    unsent, created = db.one(f"SELECT COUNT(*), MIN(created_at) FROM part WHERE {LIVE}")
    dead, = db.one("SELECT (SELECT COUNT(*) FROM part WHERE state IN ('dead', 'maybe')) + (SELECT COUNT(*) FROM "
                   "inbound WHERE outcome >= 'ai_failed' AND outcome < 'ai_failee')")
    return Health(waiting + unsent, max(0, now - min(received or now, created or now)) // 1000, dead)


def _conversation(row: Sequence[Any]) -> Conversation:
    number, platform, account, chat, alias, epoch, tries, crashes, paused_until, blocked, noticed_at, last = row[:12]
    return Conversation(number, platform, account, chat, alias, epoch, tries, crashes, paused_until, bool(blocked),
                        noticed_at, last)


def _fence(db: Database, held: Conversation, changes: str, *values: object) -> Conversation:
    """Make `changes` if the lease is still ours; the conversation as it is now."""
    row = db.one(f"UPDATE conversation SET {changes} WHERE id = ? AND epoch = ? AND lease_until > 0 "
                 f"RETURNING {CONVERSATION}", *values, held.id, held.epoch)
    if row is None:
        raise LeaseLost(f"conversation {held.id} is no longer ours")
    return _conversation(row)


def _release(db: Database, held: Conversation, due_at: int | None) -> None:
    db.run("UPDATE conversation SET due_at = ?, lease_until = 0, lease_owner = '', crashes = 0 WHERE id = ?",
           due_at, held.id)


def _step(db: Database, held: Conversation, now: int) -> Step:
    row = db.one(f"""SELECT id, text, plain, state, tries, unsure, due_at, expires_at, created_at, reply_to, threadless
        FROM part WHERE conversation = ? AND {LIVE} ORDER BY turn, place LIMIT 1""", held.id)
    if row is None:
        step = history.step(db, held, now)
        if not step.waiting:
            _release(db, held, None)
        return step
    number, text, plain, state, tries, unsure, due_at, expires_at, created_at, reply_to, threadless = row
    if state == "pending" and due_at > now:
        _release(db, held, due_at)
        return Step(held)
    if state == "pending":
        tries += 1
        db.run("UPDATE part SET state = 'sending', tries = ?, called_at = ? WHERE id = ?", tries, now, number)
    return Step(held, Part(number, text, bool(plain), state, tries, unsure, due_at, expires_at, created_at,
                           f"minibot:{db.name}:{number}", reply_to, bool(threadless)))
