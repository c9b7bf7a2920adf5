"""`why`, `dead`, `retry`, `forget`, `backup`: what became of a message, and what the operator can do about it.

Not here: the queries (`store/ledger.py`), reaching the running bot (`control.py`). The law: reading never disturbs a
running server; whatever came from a chat is printed without anything that could move the cursor; tokens that people
pasted are masked.

Next: `check.py`.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from contextlib import closing

from minibot.config import Settings
from minibot.desk import control
from minibot.errors import MinibotError
from minibot.logs import mask
from minibot.records import moment
from minibot.store import ledger
from minibot.store.ledger import Hop
from minibot.store.opening import open_reader
from minibot.text import safe_line

Load = Callable[[], Settings]
NAMES = {"inbound": "message in", "turn": "answer", "part": "sent part", "export": "export"}
SHOWN = 80  # characters of a text


def why(arguments: list[str], settings: Load) -> int:
    """`why ID`: every hop of a message, a chat, a phone number, a reply. Exit code 1 if nothing is known of it."""
    if len(arguments) != 1 or not arguments[0].strip():
        return _usage("why ID   (a message's id, ours or the platform's; a chat; a phone number)")
    return _list(settings(), arguments[0].strip().lstrip("+"), f"nothing is stored about {arguments[0]}")


def dead(arguments: list[str], settings: Load) -> int:
    """`dead`: what was given up on. Exit code 0 also when there is nothing."""
    if arguments:
        return _usage("dead")
    _list(settings(), "", "nothing was given up on")
    return 0


def retry(arguments: list[str], settings: Load) -> int:
    """`retry ID… | --all [--force]`: try again; `--force` also past the 24-hour window."""
    force, every = "--force" in arguments, "--all" in arguments
    ids = [word for word in arguments if word not in ("--force", "--all")]
    if every == bool(ids) or not all(word.isascii() and word.isdigit() and len(word) < 19 for word in ids):
        return _usage("retry ID … [--force]   or   retry --all [--force]   (`python run.py dead` lists the ids)")
    done = _do(settings(), "retry", ids=[int(word) for word in ids], force=force)
    if done is not None:
        left = "" if done or force else "; past the 24-hour window only --force tries again"
        print(f"{done} will be tried again{left}")
    return 1 if done is None or (ids and not done) else 0


def forget(arguments: list[str], settings: Load) -> int:
    """`forget CHAT`: erase a person's conversation, by chat id, phone number or other identifier."""
    if len(arguments) != 1 or not arguments[0].strip():
        return _usage("forget CHAT   (a chat id or phone number, as `python run.py why` and the log show it)")
    done = _do(settings(), "forget", chat=arguments[0].strip().lstrip("+"))
    if done:
        print("erased: messages, answers, media notes, pending exports; backups and exported copies keep theirs")
    elif done is not None:
        print(f"no conversation is called {safe_line(arguments[0])}", file=sys.stderr)
    return 0 if done else 1


def backup(arguments: list[str], settings: Load) -> int:
    """`backup FILE`: a checked copy of the database, made while the bot runs."""
    if len(arguments) != 1 or not arguments[0]:
        return _usage("backup FILE")
    path = os.path.abspath(arguments[0])
    if os.path.exists(path):
        print(f"{arguments[0]} exists already: name a new file", file=sys.stderr)
        return 1
    done = _do(settings(), "backup", path=path)
    if done:
        print(f"copied and checked. To restore: stop the bot, remove its database with -wal and .id, put {path} in its "
              "place, start")
    return 0 if done else 1


def _usage(text: str) -> int:
    print(f"usage: python run.py {text}", file=sys.stderr)
    return 2


def _do(settings: Settings, verb: str, **wish: object) -> int | None:
    """How many it concerned; None, and a line on stderr, where it could not be done."""
    try:
        return asyncio.run(control.ask(settings, verb, **wish))
    except MinibotError as fault:
        print(f"{verb}: {fault}", file=sys.stderr)
        return None


def _list(settings: Settings, query: str, nothing: str) -> int:
    masked = mask(settings)
    with closing(open_reader(settings)) as reader:
        hops = ledger.why(reader, query) if query else ledger.dead(reader)
    for hop in hops:
        print(masked(_line(hop)))
    if not hops:
        print(safe_line(nothing), file=sys.stderr)
    return 0 if hops else 1


def _line(hop: Hop) -> str:
    """`time  what id  platform chat  state  details  "text"`; the id is what `retry` and `why` take."""
    told = [f"{hop.tries} tries" if hop.tries > 1 else "", f"{hop.unsure} unsure" if hop.unsure else "",
            f"error {hop.error}" if hop.error else "", hop.note if hop.row == "turn" else "",
            f"platform id {hop.message_id}" if hop.message_id else "",
            *(f"{word} {moment(at)}" for word, at in zip(("sent", "delivered", "read"), _times(hop)) if at),
            f"next try {moment(hop.due_at)}" if hop.due_at and hop.state in ("pending", "") else ""]
    text = safe_line(hop.text, SHOWN)
    columns = (moment(hop.at), f"{NAMES[hop.row]} {hop.id}", f"{hop.platform} {safe_line(hop.chat)}",
               hop.state or "waiting", safe_line(hop.person) if hop.row == "export" else "",
               safe_line(", ".join(filter(None, told))), f'"{text}"' if text else "")
    return "  ".join(filter(None, columns))


def _times(hop: Hop) -> tuple[int, ...]:
    return (hop.done_at, hop.delivered_at, hop.read_at) if hop.row == "part" else ()
