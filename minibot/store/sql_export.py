"""What waits for the CRM and the spreadsheet: one row for each finished exchange and destination, until it is there.

Not here: posting and the times of the next try (`flow/export.py`). The law: a row is written in the transaction that
ends the exchange, so none is lost; it is handed out when the reply's parts have met their fate or their window is
over; of one conversation and destination only the first row goes, and those behind it wait as long as it does. What
it says is read when it goes, so that what was erased meanwhile does not leave.

Next: `upkeep.py`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from minibot.store.schema import LIVE, Database
from minibot.work import Export, Finish


def enqueue(db: Database, conversation: int, turn: int, end: Finish, now: int) -> None:
    """Called by `finish`. An exchange is what the model was asked, answered or failed."""
    if end.answer or any(outcome.startswith("ai_failed") for outcome in end.outcomes.values()):
        for destination in db.destinations:
            db.run("INSERT INTO export (id, destination, conversation, turn, created_at, due_at) SELECT ?, ?, ?, ?, ?, "
                   "COALESCE(MAX(due_at), 0) FROM export WHERE conversation = ? AND destination = ? AND state = "
                   "'pending'", db.new_id(), destination, conversation, turn, now, conversation, destination)


def exports(db: Database, destination: str, now: int, lease: int, limit: int) -> list[Export]:
    """See `contract.Store`."""
    rows = db.all(f"""UPDATE export SET due_at = ?, tries = tries + 1 WHERE id IN (SELECT e.id FROM export e
        WHERE e.destination = ? AND e.state = 'pending' AND e.due_at <= ? AND NOT EXISTS (SELECT 1 FROM export o WHERE
        o.conversation = e.conversation AND o.destination = e.destination AND o.state = 'pending' AND o.id < e.id)
        AND NOT EXISTS (SELECT 1 FROM part p WHERE p.turn = e.turn AND p.{LIVE} AND p.expires_at > ?)
        ORDER BY e.due_at, e.id LIMIT ?{db.skip_locked}) RETURNING id, tries, conversation, turn""",
                  now + lease, destination, now, now, limit)
    found = [_export(db, *row) for row in sorted(rows)]
    return [export for export in found if export is not None]


def exported(db: Database, number: int) -> None:
    """See `contract.Store`."""
    _settle(db, number, "DELETE FROM export", 0)


def export_failed(db: Database, number: int, error: str, due_at: int | None) -> None:
    """See `contract.Store`."""
    change = "UPDATE export SET state = ?, error = ?", "parked" if due_at is None else "pending", error
    _settle(db, number, change[0], due_at or 0, *change[1:])


def export_at_once(db: Database, destination: str) -> None:
    """See `contract.Store`."""
    db.run("UPDATE export SET due_at = 0 WHERE destination = ? AND state = 'pending'", destination)


def retry_export(db: Database, number: int) -> bool:
    """An exchange that was given up on goes again, before the later ones of its conversation."""
    return bool(db.run("UPDATE export SET state = 'pending', tries = 0, due_at = 0 WHERE id = ? AND state = 'parked'",
                       number))


def _settle(db: Database, number: int, change: str, due_at: int, *values: object) -> None:
    """Change the row, if it is still there; what waits behind it is due when it is, or now that it is gone."""
    row = db.one("SELECT conversation, destination FROM export WHERE id = ?", number)
    if row:
        db.run(f"{change} WHERE id = ?", *values, number)
        db.run("UPDATE export SET due_at = ? WHERE conversation = ? AND destination = ? AND state = 'pending'",
               due_at, *row)


def _export(db: Database, number: int, tries: int, conversation: int, turn: int) -> Export | None:
    """The exchange as it is now; None, and its row is gone, if a retry has taken its messages or they were erased."""
    messages = db.all("SELECT person, name, username, phone, text, media, outcome, message_id, received_at FROM "
                      "inbound WHERE turn = ? ORDER BY sent_at, id", turn)
    if not messages:
        exported(db, number)
        return None
    platform, chat, reply, said_at = db.one(
        "SELECT c.platform, c.chat, t.text, t.created_at FROM turn t JOIN conversation c ON c.id = t.conversation "
        "WHERE t.conversation = ? AND t.id = ?", conversation, turn)
    parts = db.all("SELECT message_id, done_at FROM part WHERE turn = ? AND state = 'sent' ORDER BY place", turn)
    person, name, username, phone = messages[-1][:4]
    outcome = next((row[6] for row in reversed(messages) if row[6] != "merged"), "")
    return Export(number, tries, f"minibot-{db.name}-{turn}-{said_at}", platform, chat, person or chat, name, username,
                  phone, "\n".join(map(_words, messages)), reply, outcome, min(row[8] for row in messages),
                  max((row[1] for row in parts), default=0), tuple(row[7] for row in messages if row[7]),
                  tuple(row[0] for row in parts if row[0]))


def _words(message: Sequence[Any]) -> str:
    """What was said; pictures, and voice that nobody could read, by a note."""
    text, media = message[4], json.loads(message[5]) if message[5] else []
    return "\n".join([f"[{item[0]}]" for item in media if item[0] != "voice" or not text] + [text] * bool(text))
