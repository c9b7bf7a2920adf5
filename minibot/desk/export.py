"""`python run.py export`: the conversations written out, as JSON or as CSV for a spreadsheet, however many they are.

Not here: posting to the CRM (`flow/export.py`), the query (`store/ledger.py`). The law: reading only, beside a
running server or without one, a row at a time; a file appears whole or not at all, readable by its owner alone; a
cell is never a formula; tokens that people pasted into a chat are masked.

Next: `check.py`.
"""

from __future__ import annotations

import csv
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from datetime import datetime, timezone
from heapq import merge
from typing import IO, NamedTuple

from minibot.config import Settings
from minibot.logs import mask
from minibot.model import PLATFORMS
from minibot.records import cell, moment
from minibot.store import ledger
from minibot.store.opening import open_reader

USAGE = "usage: python run.py export [--since 2027-01-31] [--platform P] [--json FILE | --csv FILE]"
COLUMNS = ("id", "received_at", "platform", "conversation_id", "person_id", "name", "username", "phone", "message",
           "reply", "outcome", "sent_at", "replied_at", "message_id")
TELL_EVERY = 0.2  # seconds
Record = dict[str, str]


class Wish(NamedTuple):
    """What is to be written. `since` in ms; without a `file` it goes to the standard output."""

    since: int = 0
    platform: str = ""
    file: str = ""
    cells: bool = False  # CSV


def main(arguments: list[str], settings: Callable[[], Settings]) -> int:
    """The command. Exit code 0: written; 1: it could not be, and a line says why; 2: wrong arguments."""
    try:
        wish = understand(arguments)
    except ValueError as fault:
        print(fault, file=sys.stderr)
        return 2
    known = settings()
    masked = mask(known)
    try:
        with closing(open_reader(known)) as reader:
            found = merge(ledger.exchanges(reader, wish.since, wish.platform),
                          ledger.interventions(reader, wish.since, wish.platform))
            count = _written(wish, _counted(record(each, masked) for each in found))
    except OSError as fault:
        print(f"export: {wish.file or 'the output'}: {fault.strerror}", file=sys.stderr)
        return 1
    if wish.file:
        print(f"export: {count} messages in {wish.file}", file=sys.stderr)
    return 0


def understand(arguments: list[str]) -> Wish:
    """The command line as a wish. Raises ValueError, one line."""
    words = [part for word in arguments for part in (word.split("=", 1) if word.startswith("--") else [word])]
    given = dict(zip(words[::2], words[1::2]))
    since, platform = given.pop("--since", "1970-01-01"), given.pop("--platform", "")
    if len(words) % 2 or given.keys() not in (set(), {"--json"}, {"--csv"}) or "" in words:
        raise ValueError(USAGE)
    if platform not in ("", *PLATFORMS):
        raise ValueError(f"--platform {platform}: one of {', '.join(PLATFORMS)}")
    try:
        midnight = datetime.strptime(since, "%Y-%m-%d").replace(tzinfo=timezone.utc)
    except ValueError:
        raise ValueError(f"--since {since}: a day like 2027-01-31") from None
    return Wish(round(midnight.timestamp() * 1000), platform, "".join(given.values()), "--csv" in given)


def record(message: ledger.Exchange, masked: Callable[[str], str]) -> Record:
    """One message with its answer, by column; ids are texts, for spreadsheets round long numbers."""
    values = (str(message.id), moment(message.received_at), message.platform, message.chat, message.person,
              masked(message.name), message.username, message.phone, masked(message.text), masked(message.answer),
              message.outcome, moment(message.sent_at), moment(message.answered_at), message.message_id)
    return dict(zip(COLUMNS, values, strict=True))


def _counted(records: Iterator[Record]) -> Iterator[Record]:
    """The same records; a person at a terminal sees how far it has come."""
    count, tell_at, watched = 0, 0.0, sys.stderr.isatty()
    for count, each in enumerate(records, 1):
        if watched and time.monotonic() >= tell_at:
            tell_at = time.monotonic() + TELL_EVERY
            print(f"\rexport: {count} messages, up to {each['received_at'][:10]} ", end="", file=sys.stderr, flush=True)
        yield each
    print("\r\x1b[K" if watched else "", end="", file=sys.stderr, flush=True)


def _written(wish: Wish, records: Iterator[Record]) -> int:
    """How many were written. Raises OSError; the file is then as it was before."""
    write = _csv if wish.cells else _json
    if not wish.file:
        return write(sys.stdout, records)
    draft = f"{wish.file}.part"
    code = "utf-8-sig" if wish.cells else "utf-8"  # Excel takes UTF-8 for such only with the mark
    try:
        with open(os.open(draft, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600), "w", newline="", encoding=code) as file:
            count = write(file, records)
        os.replace(draft, wish.file)
    except BaseException:
        with suppress(OSError):
            os.unlink(draft)
        raise
    return count


def _json(file: IO[str], records: Iterator[Record]) -> int:
    """A list, a line for each record."""
    count = 0
    for count, each in enumerate(records, 1):
        file.write(("[\n" if count == 1 else ",\n") + json.dumps(each, ensure_ascii=file is sys.stdout))
    file.write("\n]\n" if count else "[]\n")
    return count


def _csv(file: IO[str], records: Iterator[Record]) -> int:
    """Every cell in quotes: where a semicolon parts cells, none may begin in the middle of a text."""
    sheet, count = csv.writer(file, quoting=csv.QUOTE_ALL), 0
    sheet.writerow(COLUMNS)
    for count, each in enumerate(records, 1):
        sheet.writerow([cell(text) for text in each.values()])
    return count
