"""What a webhook brings, written down before the 200.

Not here: transactions and threads (`sqlite.py`), the platform's words about our own messages (`sql_events.py`).
The law: a message costs one row in `inbound`; everything else about it follows behind the door, in
`sql_chat.file`, which runs before any verb looks at a conversation. An event key is stored once, whatever is
delivered, and however often.

Next: `sql_events.py`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from itertools import chain
from typing import Any

from minibot.model import Aside, Event, Inbound, Media, Odd
from minibot.store.schema import DAY, FIELDS, Database
from minibot.store.sql_chat import find, in_waiting_album
from minibot.store.sql_events import ACTIONS
from minibot.work import Accepted

PAST, FUTURE = 7 * DAY, 5 * 60_000  # how far from now a platform's time is believed
WINDOW = DAY  # a message older than this is not answered any more
MOST_KEPT = 65_536  # characters of a body that nobody could read
MOST_ROWS = 32  # a statement


def accept(db: Database, batch: Sequence[tuple[Sequence[Event], int]]) -> list[Accepted]:
    """Store what several webhooks brought, each with its time, in the order given."""
    rows: list[tuple[Any, ...]] = []
    known: set[int] = set()
    spans: list[tuple[int, int, tuple[int, ...]]] = []
    stored = 0
    for events, now in batch:
        start, woken = len(rows), tuple[int, ...]()
        for event in events:
            chat = db.known.get(event[:3]) if isinstance(event, Inbound) else None
            if chat is not None and isinstance(event, Inbound) and event.alias in ("", chat[2]):
                rows.append(_row(db, event, chat, now))
                continue
            known |= _insert(db, rows[stored:])  # what follows may merge conversations: no row may be in the air
            stored = len(rows)
            if isinstance(event, Aside) and in_waiting_album(db, event.inbound):
                event = event.inbound
            if isinstance(event, Inbound):
                chat = find(db, event.platform, event.account, event.chat, event.alias, now)
                rows.append(_row(db, event, chat, now))
            elif isinstance(event, Odd):
                rows.append(_unreadable(db, event, now))
            elif type(event) in ACTIONS:
                woken += ACTIONS[type(event)](db, event, now),
        spans.append((start, len(rows), woken))
    known |= _insert(db, rows[stored:])
    return [_accepted(rows[start:end], known, woken) for start, end, woken in spans]


def _accepted(rows: list[tuple[Any, ...]], known: set[int], woken: tuple[int, ...]) -> Accepted:
    fresh = [row for row in rows if row[0] not in known] if known else rows
    due = [row[1] for row in fresh if row[20] is None] + [number for number in woken if number]
    return Accepted(len(fresh), len(rows) - len(fresh), tuple(dict.fromkeys(due)) if due else ())


def _row(db: Database, event: Inbound, chat: tuple[int, int, str], now: int) -> tuple[Any, ...]:
    sent_at, media, outcome = event[11], event[12], None
    if not now - PAST <= sent_at <= now + FUTURE:
        sent_at = now
    if now - sent_at > WINDOW:
        outcome = "window_closed"
    elif chat[1] > now and event[4] in ("ask", "unsupported"):  # commands work in a pause too
        outcome = "paused"
    return (db.new_id(), chat[0], f"{event[0]}:{event[1]}:{event[3]}", event[2], *event[4:11], sent_at,
            _media(media) if media else "", *event[13:], now, outcome)


def _media(media: tuple[Media, ...]) -> str:
    return json.dumps([[item.kind, item.ref, item.url, item.mime, item.size] for item in media])


def _unreadable(db: Database, event: Odd, now: int) -> tuple[Any, ...]:
    """A row of conversation 0, for `run.py dead`."""
    blank = Inbound(event.platform, "", "", event.event, "unreadable", event.body[:MOST_KEPT], event.why)
    return (db.new_id(), 0, f"{event.platform}::{event.event}", "", *blank[4:11], now, "", *blank[13:], now,
            "ignored:unreadable")


@cache
def _inserting(rows: int) -> str:
    """Many rows a statement: each statement gives the interpreter's lock away, and a busy loop is slow to return it."""
    return (f"INSERT INTO inbound ({FIELDS}) VALUES {', '.join(['(' + '?, ' * 20 + '?)'] * rows)} "
            "ON CONFLICT (event) DO NOTHING")


def _insert(db: Database, rows: list[tuple[Any, ...]]) -> set[int]:
    """Store the rows, and say which were known already."""
    added = at = 0
    while at < len(rows):
        some = rows[at:at + MOST_ROWS]
        added += db.execute(_inserting(len(some)), list(chain.from_iterable(some))).rowcount
        at += len(some)
    if added == len(rows):
        return set()
    there = {row[0] for row in db.all("SELECT id FROM inbound WHERE id BETWEEN ? AND ?", rows[0][0], rows[-1][0])}
    return {row[0] for row in rows} - there
