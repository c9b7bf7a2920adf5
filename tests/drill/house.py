"""A crowd that writes numbered questions, and an audit of what became of each of them.

Not here: the disasters (the other files of this folder). The law: the fakes are the witnesses. A question carries a
token, the model's answer repeats the tokens it was asked, so that every delivered text says which questions it
answers; the audit compares that with the database, message by message, part by part.

Next: `crash.py`.
"""

from __future__ import annotations

import random
import re
import shutil
import sqlite3
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from minibot.desk.simulator import Webhook
from minibot.model import PLATFORMS
from tests.botprocess import ROOT, BotProcess
from tests.fakes import FakeWorld, text_of

TOKEN = re.compile(r"\[\d+\.\d+\]")
PATIENT = {"MESSAGES_PER_MINUTE": "1000000", "DAILY_TOKENS": "1000000000", "DAILY_TOKENS_PER_USER": "1000000000"}


class Verdict(NamedTuple):
    """One line of the table: what was measured, and what (if anything) breaks the pass mark."""

    figures: str
    complaints: list[str]


class Skipped(Exception):
    """This machine cannot run the drill; the argument says why."""


Say = Callable[[str], None]  # shows progress


class Crowd:
    """People spread over the platforms. `acked` holds the tokens of the questions that the bot took with 200."""

    def __init__(self, world: Any, chats: int, seed: int = 1, platforms: tuple[str, ...] = PLATFORMS) -> None:
        self.world, self.random = world, random.Random(seed)
        self.chats = [(platforms[number % len(platforms)], str(49_151_000_000 + number)) for number in range(chats)]
        self.written: Counter[int] = Counter()
        self.acked: set[str] = set()
        self.old: list[Webhook] = []
        self.long: frozenset[int] = frozenset(range(0, chats, 3))  # whose answers take several parts
        self._lock = threading.Lock()
        self.stopped = threading.Event()
        world.model.reply = self.answer

    def answer(self, messages: list[dict[str, Any]]) -> str:
        """The tokens of the questions that wait, in one paragraph or three that need parts of their own."""
        words = " ".join(TOKEN.findall(text_of(messages[-1])))
        if not words or int(words[1:].partition(".")[0]) not in self.long:
            return f"answer to {words}"
        mark = words[1:].partition("]")[0]  # no two parts of any answers are alike
        thirds = (", ".join(f"{part} {number} of {mark}" for number in range(48)) for part in ("one", "two", "three"))
        return f"long answer to {words}: " + "\n\n".join(thirds)

    def webhook(self, number: int) -> tuple[str, Webhook]:
        """The next question of person `number`: its token, and what the platform posts."""
        platform, chat = self.chats[number]
        with self._lock:
            self.written[number] += 1
            token = f"[{number}.{self.written[number]}]"
        with self.world.changed:
            return token, self.world.people[platform].text(chat, f"question {token}")

    def write(self, number: int, timeout: float = 60.0) -> str:
        """Person `number` writes, and the platform delivers until the bot has taken it."""
        token, webhook = self.webhook(number)
        self.world.deliver(webhook, timeout)
        with self._lock:
            self.acked.add(token)
            self.old.append(webhook)
        return token

    def post_for_ever(self, repeats: float = 0.1, pause: float = 0.0) -> None:
        """Write at random until `stopped`; every tenth delivery is a repeat of an old one."""
        while not self.stopped.wait(pause):
            if self.old and self.random.random() < repeats:
                self.world.deliver(self.random.choice(self.old))
            self.write(self.random.randrange(len(self.chats)))

    def answered_tokens(self) -> set[str]:
        """The tokens in all that people have been sent."""
        return {token for platform, chat in self.chats for text in self.world.people[platform].texts(chat)
                for token in TOKEN.findall(text)}

    def answered(self) -> bool:
        """Everybody has an answer to everything."""
        return self.acked <= self.answered_tokens()

    @contextmanager
    def writing(self, posters: int = 4, pause: float = 0.0) -> Iterator[None]:
        """While it lasts, `posters` threads write."""
        self.stopped.clear()
        threads = [threading.Thread(target=self.post_for_ever, kwargs={"pause": pause}) for _ in range(posters)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self.stopped.set()
            for thread in threads:
                thread.join()


@dataclass
class Audit:
    """What a run left behind, compared with what people saw. `complaints` says what is wrong."""

    messages: int = 0
    parts: int = 0
    extra: int = 0  # deliveries of a part after its first
    copies: int = 0  # the most that one part was delivered
    maybe: int = 0
    lost: int = 0  # parts that nobody ever saw
    outcomes: Counter[str] = field(default_factory=Counter)
    complaints: list[str] = field(default_factory=list)

    def demand(self, holds: object, complaint: str) -> None:
        """Note a complaint unless `holds`."""
        if not holds:
            self.complaints.append(complaint)


def audit(crowd: Crowd, database: Path, bound: int, fates: tuple[str, ...] = ("replied", "merged")) -> Audit:
    """The promises, checked on a settled bot. `bound`: how many repeated deliveries are excused; `fates`: outcomes."""
    found = Audit()
    connection = sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True, timeout=5)
    try:
        _audit_messages(found, crowd, connection, fates)
        _audit_parts(found, crowd, connection)
        found.demand(connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)], "the database is damaged")
    finally:
        connection.close()
    found.demand(found.extra <= bound, f"{found.extra} repeated deliveries, {bound} excused")
    found.demand(found.copies <= 2, f"a part was delivered {found.copies} times")
    return found


def _audit_messages(found: Audit, crowd: Crowd, connection: sqlite3.Connection, fates: tuple[str, ...]) -> None:
    """Promises 1 to 3: what was acknowledged is there once, has one outcome, and stands in one answer."""
    rows = connection.execute("SELECT text, outcome, turn FROM inbound WHERE kind = 'ask'").fetchall()
    stored = Counter(token for row in rows for token in TOKEN.findall(row[0]))
    found.messages, found.outcomes = len(rows), Counter(str(row[1]) for row in rows)
    missing = sorted(crowd.acked - stored.keys())
    found.demand(not missing, f"acknowledged and not stored: {missing[:5]}")
    found.demand(all(count == 1 for count in stored.values()), "a message is stored twice")
    wrong = [row[:2] for row in rows if not str(row[1]).startswith(fates)]
    found.demand(not wrong, f"outcomes: {wrong[:5]}")
    answers = connection.execute("SELECT id, text FROM turn WHERE kind = 'answer'").fetchall()
    answered = Counter(token for _, text in answers for token in set(TOKEN.findall(text)))
    turns = dict(answers)
    for text, outcome, turn in rows:
        for token in TOKEN.findall(text) if outcome in ("replied", "merged") else ():
            found.demand(answered[token] == 1, f"{token} stands in {answered[token]} answers")
            found.demand(token in turns.get(turn, ""), f"{token} is said to be answered by turn {turn}")
    waiting, = connection.execute("SELECT count(*) FROM waiting").fetchone()
    due, = connection.execute("SELECT count(*) FROM conversation WHERE due_at IS NOT NULL").fetchone()
    found.demand(waiting == due == 0, f"{waiting} messages and {due} conversations still wait")


def _audit_parts(found: Audit, crowd: Crowd, connection: sqlite3.Connection) -> None:
    """Promises 3 to 5: every part arrived, in order, once, but for the repeats that are excused."""
    parts = connection.execute("SELECT c.platform, c.chat, p.text, p.state FROM part p JOIN conversation c ON c.id = "
                               "p.conversation ORDER BY c.id, p.turn, p.place").fetchall()
    found.parts = len(parts)
    for (platform, chat), group in groupby(parts, key=lambda row: row[:2]):
        texts = {row[2]: row[3] for row in group}
        seen = crowd.world.people[platform].texts(chat)
        copies = Counter(seen)
        found.extra += sum(copies.values()) - len(copies)
        found.copies = max(found.copies, *copies.values(), 0)
        found.maybe += sum(state == "maybe" for state in texts.values())
        found.lost += len(texts.keys() - copies.keys())
        strange = copies.keys() - texts.keys()
        found.demand(not strange, f"{platform}: {len(strange)} texts that no part has: {[*strange][:1]}")
        live = [state for text, state in texts.items() if state not in ("sent", "maybe")]
        found.demand(not live, f"{platform}: parts in the states {live[:5]}")
        unseen = [text for text, state in texts.items() if state == "sent" and text not in copies]
        found.demand(not unseen, f"{platform}: {len(unseen)} parts are called sent and never arrived")
        order = [text for text, _ in groupby(seen)]
        found.demand(order == [text for text in texts if text in copies], f"{platform} {chat}: out of order")


def in_flight(database: Path) -> int:
    """Parts that were being sent when the process died: each may arrive twice."""
    if not database.exists():
        return 0
    connection = sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True, timeout=5)
    try:
        return int(connection.execute("SELECT count(*) FROM part WHERE state = 'sending'").fetchone()[0])
    except sqlite3.OperationalError:
        return 0  # it died before there were tables
    finally:
        connection.close()


@contextmanager
def stage(start: bool = True, program: Path | None = None, folder: Path | None = None, **settings: str | None
          ) -> Iterator[BotProcess]:
    """A world with a bot in it, in a folder of their own; `program` is another copy of minibot's run.py."""
    world, home = FakeWorld(), Path(tempfile.mkdtemp(prefix="drill-", dir=folder))
    bot = BotProcess(world, home, start=False, **{**PATIENT, **settings})
    bot.program = program or bot.program
    try:
        if start:
            bot.start()
        yield bot
        bot.check_secrets()
    finally:
        if not bot.exited:
            bot.kill()
        world.close()
        shutil.rmtree(home, ignore_errors=True)


def settle(bot: BotProcess, timeout: float = 60.0) -> None:
    """Wait until nothing is pending and nobody is looked after any more: a receipt may have woken a conversation."""
    bot.until(lambda: b'"pending": 0' in bot.get("/healthz")[1] and (not bot.database.exists() or bot.rows(
        "SELECT count(*) FROM conversation WHERE due_at IS NOT NULL") == [(0,)]), timeout, "nothing pending")


def seconds_to_start(bot: BotProcess) -> float:
    """Start it and say how long that took until /healthz answered."""
    begun = time.monotonic()
    bot.start()
    return time.monotonic() - begun


def copy_of_minibot(folder: Path, *changes: tuple[str, str, str]) -> Path:
    """A copy of the program with (file, old text, new text) replaced, each exactly once; its run.py."""
    shutil.copytree(ROOT / "minibot", folder / "minibot", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "run.py", folder / "run.py")
    for name, old, new in changes:
        path = folder / "minibot" / name
        source = path.read_text("utf-8")
        assert source.count(old) == 1, f"{name}: {old!r} stands there {source.count(old)} times"
        path.write_text(source.replace(old, new), "utf-8")
    return folder / "run.py"
