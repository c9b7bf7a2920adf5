"""What a step carries for the model: the messages that wait, what was said before them, what has been used.

Not here: what the worker does with it (`sql.py` hands it out). The law: reading only; every query is bounded, so
that a conversation of a million messages costs no more than one of fifty; nothing before a /reset is shown.

Next: `sqlite.py`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from minibot.model import Inbound, Media
from minibot.store.schema import DAY, FIELDS, Database
from minibot.work import Conversation, Said, Step, Usage, Waiting, said

MOST_WAITING = 100  # messages in one step; the rest comes with the next
MOST_SEEN = 1000  # messages looked back at, at most
WHOSE = "FROM history h JOIN inbound i ON i.id = h.id WHERE h.conversation = ? ORDER BY h.id DESC LIMIT ?"
MINUTE = 60_000
PACE = 2_000  # ms: who answers faster than this, in the same few words again and again, is a machine
SHORT = 200  # characters
MESSAGE = "i." + FIELDS.replace(", ", ", i.") + ", i.turn"


def step(db: Database, held: Conversation, now: int) -> Step:
    """The step of a conversation without unsent parts."""
    rows = db.all(f"SELECT {MESSAGE} FROM waiting w JOIN inbound i ON i.id = w.id WHERE w.conversation = ? "
                  "ORDER BY w.id LIMIT ?", held.id, MOST_WAITING)
    if not rows:
        return Step(held)
    waiting = sorted((Waiting(row[0], _quoting(db, held, _inbound(held, row)), row[19]) for row in rows),
                     key=lambda item: (item.inbound.sent_at, item.id))
    reset_id, = db.one("SELECT reset_id FROM conversation WHERE id = ?", held.id)
    turns = db.many("id, text, created_at", "FROM turn WHERE conversation = ? AND kind <> 'notice' AND id > ? "
                    "ORDER BY id DESC LIMIT ?", held.id, reset_id, db.turns)
    earlier, recent, repeats = _look_back(db, held, {row[0]: row[2] for row in turns}, reset_id, now)
    lines = earlier + [((row[0], 1, 0), Said("assistant", row[1])) for row in turns]
    history = tuple(line for _, line in sorted(lines, key=lambda item: item[0]) if line.text)
    person = f"{held.platform}:{waiting[-1].inbound.person or held.chat}"
    spent = {row[0]: row[1:] for row in db.all("SELECT person, tokens, told FROM spend WHERE day = ? AND person IN "
                                               "(?, '')", now // DAY, person)}
    (mine, told), (all_, _) = spent.get(person, (0, 0)), spent.get("", (0, 0))
    return Step(held, None, tuple(waiting), history, Usage(recent, mine, all_, bool(told), repeats))


def _look_back(db: Database, held: Conversation, made: dict[int, int], reset_id: int, now: int
               ) -> tuple[list[tuple[tuple[int, int, int], Said]], int, int]:
    """(messages answered in the turns `made` or left to a person, each with its place before the turn; how many of
    all came in the last minute; how many times in a row the same few words came at machine pace)."""
    oldest = min(made, default=0)
    for most in (2 * db.turns + 10, MOST_SEEN):  # mostly the few are enough
        earlier, recent, repeats = list[tuple[tuple[int, int, int], Said]](), 0, 0
        paced, newer = True, ("", 0)
        rows = db.many("i.id, i.text, i.received_at, i.sent_at, i.turn, i.outcome, i.chat, i.person, i.name, i.media, "
                       "i.forwarded, i.quoted", WHOSE, held.id, most)
        for number, text, received_at, sent_at, turn, outcome, *rest in rows:
            if paced and newer[1]:
                paced = (text == newer[0] and len(text) <= SHORT
                         and newer[1] - max(received_at, made.get(turn, 0)) <= PACE)
                repeats += paced
            newer = text, received_at
            recent += received_at > now - MINUTE and outcome != "rate_limited"  # what was refused uses up nothing
            if turn in made or outcome == "paused" and number > reset_id:
                earlier.append(((turn or number, 0, sent_at), Said("user", _said(text, rest))))
            if len(earlier) > 3 * db.turns:
                break
        if len(rows) < most or rows[-1][0] < oldest or len(earlier) > 3 * db.turns:
            break
    if len(rows) == most and rows[-1][2] > now - MINUTE and db.pace < MOST_SEEN:  # a minute has more than was seen
        recent, = db.one(f"SELECT COUNT(*) FROM (SELECT i.received_at, i.outcome {WHOSE}) AS seen WHERE received_at > "
                         "? AND COALESCE(outcome, '') <> 'rate_limited'", held.id, MOST_SEEN, now - MINUTE)
    return earlier, recent, repeats


def _said(text: str, rest: Sequence[Any]) -> str:
    chat, person, name, media, forwarded, quoted = rest
    if not (media or forwarded or quoted) and person in ("", chat):  # plain words of somebody alone with us: as most
        return text
    return said(Inbound("", "", chat, "", text=text, person=person, name=name, media=_media(media),
                        forwarded=bool(forwarded), quoted=quoted))


def _inbound(held: Conversation, row: Sequence[Any]) -> Inbound:
    event = row[2].removeprefix(f"{held.platform}:{held.account}:")
    return Inbound._make((held.platform, held.account, row[3], event, *row[4:12], _media(row[12]), bool(row[13]),
                          *row[14:19]))


def _media(stored: str) -> tuple[Media, ...]:
    return tuple(Media(*item) for item in json.loads(stored)) if stored else ()


def _quoting(db: Database, held: Conversation, inbound: Inbound) -> Inbound:
    """With the text of the message it answers to, where only that one's id was told."""
    if not inbound.quotes or inbound.quoted:
        return inbound
    here = held.id, inbound.quotes
    row = db.one("SELECT text FROM part WHERE conversation = ? AND message_id = ? AND message_id <> ''", *here)
    row = row or db.one("SELECT i.text FROM history h JOIN inbound i ON i.id = h.id WHERE h.conversation = ? AND "
                        "i.message_id = ? ORDER BY h.id DESC LIMIT 1", *here)
    row = row or db.one("SELECT text FROM turn WHERE conversation = ? AND message_id = ?", *here)  # a person of ours
    return inbound._replace(quoted=row[0]) if row else inbound
