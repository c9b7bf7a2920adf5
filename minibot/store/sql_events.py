"""What a platform says about our own messages and our standing in a chat, one short function for each event.

Not here: messages that want a reaction (`sql_intake.py`). The law: every event may come twice, late, early or in
any order; a receipt or an echo resolves what was unsure; a message that left our account and is not ours was
written by a person, and then the bot keeps quiet.

Next: `sql.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from minibot.model import Echo, Erase, Handover, Presence, Receipt, Rekey
from minibot.store.schema import LIVE, Database
from minibot.store.sql_chat import file, find, rekey, same_chat
from minibot.work import Answer

UNSURE = "(state IN ('sending', 'maybe') OR state = 'pending' AND unsure > 0)"
WINDOW_CLOSED = "131047"  # WhatsApp: "Re-engagement message", more than 24 hours since the person wrote


def said(db: Database, conversation: int, kind: str, answer: Answer, now: int, message_id: str = "",
         error: str = "") -> int:
    """A turn's row; its id."""
    turn = db.new_id()
    db.run("INSERT INTO turn VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", conversation, turn, kind, answer.text,
           message_id, answer.model, answer.tokens_in, answer.tokens_out, answer.milliseconds, error, now)
    return turn


def mended(db: Database, turn: int) -> None:
    """What could not be sent is on its way after all."""
    db.run("UPDATE inbound SET outcome = 'replied' WHERE turn = ? AND (outcome >= 'send_failed' AND "
           "outcome < 'send_failee' OR outcome = 'window_closed')", turn)


def _receipt(db: Database, event: Receipt, now: int) -> int:
    part, column, at = _part(db, event), f"{event.state}_at", event.at or now
    if part is None:
        if event.chat and not event.message_id and event.state in ("delivered", "read"):
            for row in same_chat(db, event.platform, event.account, event.chat):  # everything up to `at`
                db.run(f"UPDATE part SET {column} = ? WHERE state = 'sent' AND {column} = 0 AND called_at <= ? AND "
                       "turn IN (SELECT id FROM turn WHERE conversation = ? ORDER BY id DESC LIMIT 20)", at, at, row[0])
        return 0
    if event.state == "failed":
        if not db.run("UPDATE part SET state = 'dead', error = ?, done_at = ? WHERE id = ? AND NOT (state = 'pending' "
                      "AND tries = 0 AND unsure = 0)", event.code, now, part[0]):
            return 0  # it was retried since: that word is an old one
        db.run("UPDATE inbound SET outcome = ? WHERE turn = ?",
               "window_closed" if event.code == WINDOW_CLOSED else f"send_failed:{event.code}", part[2])
        return _wake(db, part[1], now)
    if event.state != "sent":
        db.run(f"UPDATE part SET {column} = ? WHERE id = ? AND {column} = 0", at, part[0])
    return _arrived(db, part, event.message_id, now)


def _echo(db: Database, event: Echo, now: int) -> int:
    part = _part(db, event)
    if part is None and event.ours is not False:  # subtle: it may overtake the reply to our own call
        for row in same_chat(db, event.platform, event.account, event.chat)[:1]:
            part = db.one(f"SELECT id, conversation, turn FROM part WHERE conversation = ? AND {LIVE} AND {UNSURE} AND "
                          "text = ? ORDER BY id LIMIT 1", row[0], event.text)
    if part is not None:
        return _arrived(db, part, event.message_id, now)
    if event.ours or event.tag.startswith("minibot:"):
        return 0
    conversation = find(db, event.platform, event.account, event.chat, "", now)[0]
    if not db.one("SELECT id FROM turn WHERE conversation = ? AND kind = 'human' AND message_id = ?",
                  conversation, event.message_id):
        said(db, conversation, "human", Answer(event.text), now, event.message_id)
        return _pause(db, conversation, min(event.at or now, now) + db.pause)
    return 0


def _part(db: Database, event: Receipt | Echo) -> Any:
    """(id, conversation, turn) of our message with this tag, else with this id on the platform; or None."""
    number = event.tag.removeprefix(f"minibot:{db.name}:")
    if number != event.tag and number.isdecimal():
        return db.one("SELECT id, conversation, turn FROM part WHERE id = ?", int(number))
    return db.one("SELECT p.id, p.conversation, p.turn FROM part p JOIN conversation c ON c.id = p.conversation WHERE "
                  "p.message_id = ? AND p.message_id <> '' AND c.platform = ?", event.message_id, event.platform)


def _arrived(db: Database, part: Any, message_id: str, now: int) -> int:
    """The platform has it: an unsure part is sent, and its conversation goes on at once."""
    if not db.run("UPDATE part SET state = 'sent', done_at = ?, message_id = CASE WHEN message_id = '' THEN ? ELSE "
                  f"message_id END WHERE id = ? AND {UNSURE}", now, message_id, part[0]):
        return 0
    mended(db, part[2])
    return _wake(db, part[1], now)


def _wake(db: Database, conversation: int, now: int) -> int:
    woken = db.run("UPDATE conversation SET due_at = ? WHERE id = ? AND due_at > ?", now, conversation, now)
    return conversation if woken else 0


def _pause(db: Database, conversation: int, until: int) -> int:
    """Its worker must hear of it: no answer that is being made or waits to be sent talks over a person."""
    db.run("UPDATE conversation SET paused_until = ? WHERE id = ?", until, conversation)
    if until:
        unsent = (f"FROM part WHERE conversation = ? AND {LIVE} AND state = 'pending' AND unsure = 0 AND turn IN "
                  "(SELECT id FROM turn WHERE turn.conversation = part.conversation AND kind = 'answer')")
        db.run(f"UPDATE inbound SET outcome = 'paused' WHERE turn IN (SELECT turn {unsent} AND place = 0)",
               conversation)
        db.run(f"UPDATE part SET state = 'expired', error = 'paused' WHERE id IN (SELECT id {unsent})", conversation)
    db.known.clear()
    return conversation


def _handover(db: Database, event: Handover, now: int) -> int:
    conversation = find(db, event.platform, event.account, event.chat, "", now)[0]
    return _pause(db, conversation, now + db.pause if event.human else 0)


def _presence(db: Database, event: Presence, now: int) -> int:
    here = event.platform, event.account, event.chat
    for row in same_chat(db, *here):
        db.run("UPDATE conversation SET blocked = ? WHERE id = ?", int(event.blocked), row[0])
    db.run("UPDATE conversation SET blocked = ? WHERE platform = ? AND account = ? AND chat > ? || '/' AND "
           "chat < ? || '0'", int(event.blocked), *here, event.chat)  # its topics; '0' follows '/'
    db.known.clear()
    return 0


def _rekeyed(db: Database, event: Rekey, now: int) -> int:
    rekey(db, event.platform, event.account, event.old, event.new, now)
    return 0


def _erase(db: Database, event: Erase, now: int) -> int:
    file(db)
    rows = same_chat(db, event.platform, event.account, event.chat)
    for row in rows:
        here = (row[0], event.message_id)
        for number, in db.all("SELECT i.id FROM history h JOIN inbound i ON i.id = h.id WHERE h.conversation = ? "
                              "AND i.message_id = ?", *here):
            db.run("UPDATE inbound SET text = '', media = '', quoted = '', outcome = COALESCE(outcome, "
                   "'ignored:unsent') WHERE id = ?", number)
            db.run("DELETE FROM waiting WHERE conversation = ? AND id = ?", row[0], number)
        db.run("UPDATE turn SET text = '' WHERE conversation = ? AND (message_id = ? OR id IN "
               "(SELECT turn FROM part WHERE message_id = ?))", *here, event.message_id)
        db.run("UPDATE part SET text = '' WHERE conversation = ? AND message_id = ?", *here)
    return int(rows[0][0]) if rows else 0  # whoever is answering it may stop


# What each event does; the number is a conversation that wants a worker now, or 0.
ACTIONS: dict[type, Callable[[Database, Any, int], int]] = {
    Receipt: _receipt, Echo: _echo, Handover: _handover, Erase: _erase, Rekey: _rekeyed, Presence: _presence}
