"""The disk fails: the power goes, a write or a sync returns an error, a migration is cut off, in every place.

Not here: a full, locked or damaged disk (`host.py`). The law: what was answered 200 survives a power cut at any
moment; no error of the disk becomes a false 200; a migration happens whole or not at all, and only once. All of it
rests on `shim.c`, which needs a C compiler and a system that knows LD_PRELOAD; elsewhere the drills are skipped.

Next: `host.py`.
"""

from __future__ import annotations

import errno
import random
import shutil
import socket
import sqlite3
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from minibot.errors import MinibotError
from minibot.store import sqlite_file
from minibot.store.schema import MIGRATIONS
from tests.botprocess import BotProcess
from tests.drill.house import (
    TOKEN, Crowd, Say, Skipped, Verdict, audit, copy_of_minibot, in_flight, settle, stage)

SECTOR = 512
NEXT_MIGRATION = ('""")\n\n\nHOUR', '''""", """
ALTER TABLE conversation ADD COLUMN mood TEXT NOT NULL DEFAULT 'calm';
CREATE TABLE moods (id BIGINT NOT NULL PRIMARY KEY, mood TEXT NOT NULL);
INSERT INTO moods SELECT id, text FROM inbound;
CREATE INDEX mood_text ON moods (mood)
""")\n\n\nHOUR''')


class Op(NamedTuple):
    """One operation on the disk, see `shim.c`."""

    op: str
    file: int
    offset: int
    content: bytes


@contextmanager
def shim() -> Iterator[str]:
    """The compiled shim's path."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if not compiler or not sys.platform.startswith("linux"):
        raise Skipped("needs Linux and a C compiler")
    with tempfile.TemporaryDirectory(prefix="drill-") as folder:
        made = f"{folder}/shim.so"
        subprocess.run([compiler, "-shared", "-fPIC", "-O2", "-o", made, str(Path(__file__).with_name("shim.c")),
                        "-ldl", "-lpthread"], check=True)
        yield made


def operations(log: bytes) -> Iterator[Op]:
    """The log of the shim, read."""
    at = 0
    while at + 17 <= len(log):
        op, file, offset, length = struct.unpack_from("<ciqI", log, at)
        yield Op(op.decode(), file, offset, log[at + 17:at + 17 + length])
        at += 17 + length


@dataclass
class File:
    """A file on the disk: what is safe there, and what was done since the last sync."""

    safe: bytearray = field(default_factory=bytearray)
    since: list[Op] = field(default_factory=list)

    def sync(self) -> None:
        """Everything is safe."""
        for op in self.since:
            carry_out(self.safe, op)
        self.since.clear()

    def after_the_cut(self, chance: random.Random | None) -> bytes:
        """What is there when power is back: what was synced; with `chance` also a part of the rest, by sectors."""
        content = bytearray(self.safe)
        for op in self.since if chance else ():
            assert chance
            if op.op == "T" and chance.random() < 0.5:
                carry_out(content, op)
            for at in range(0, len(op.content), SECTOR):
                if chance.random() < 0.5:
                    carry_out(content, op._replace(offset=op.offset + at, content=op.content[at:at + SECTOR]))
        return bytes(content)


def carry_out(content: bytearray, op: Op) -> None:
    """Write or truncate."""
    if op.op == "T":
        content[op.offset:] = b"\0" * max(0, op.offset - len(content))
    else:
        if len(content) < op.offset:
            content += b"\0" * (op.offset - len(content))
        content[op.offset:op.offset + len(op.content)] = op.content


def disks(log: bytes, cuts: list[int]) -> Iterator[tuple[int, dict[str, File]]]:
    """At each of the `cuts` (numbers of operations, ascending): webhooks answered, and every file by its path."""
    paths, files, answered, left = dict[int, str](), dict[str, File](), 0, list(cuts)
    for number, op in enumerate(operations(log)):
        while left and left[0] <= number:
            left.pop(0)
            yield answered, files
        if op.op == "O":
            paths[op.file] = op.content.decode()
            files.setdefault(paths[op.file], File())
        elif op.op == "A":
            answered += op.offset
        elif op.op == "U":
            files.pop(op.content.decode(), None)
        elif op.op == "R":
            old, new = op.content.decode().split("\0")
            files[new] = files.pop(old, File())
        elif op.op == "S":
            files[paths[op.file]].sync()
        else:
            files[paths[op.file]].since.append(op)


def power_cuts(say: Say, cuts: int = 200, messages: int = 3000, seed: int = 1, program: Path | None = None) -> Verdict:
    """T4: one life is recorded, then the disk is rebuilt as a power cut would leave it, at `cuts` moments."""
    chance = random.Random(seed)
    with shim() as made, tempfile.TemporaryDirectory(prefix="drill-") as folder:
        record = Path(folder) / "record"
        with stage(start=False, program=program) as bot:
            bot.settings |= {"LD_PRELOAD": made, "SHIM_DIR": str(bot.folder / "minibot.db"), "SHIM_LOG": str(record)}
            bot.world.reports = False  # only the messages are answered
            bot.start()
            before = sum(op.offset for op in operations(record.read_bytes()) if op.op == "A")  # looks at /healthz
            tokens = pipelined(bot, messages)
            bot.kill()
        log = record.read_bytes()
        total, complaints, answered, most = sum(1 for _ in operations(log)), list[str](), 0, 0
        at = sorted(chance.randrange(total) for _ in range(cuts))
        for number, (heard, files) in enumerate(disks(log, at)):
            answered = max(0, heard - before)
            for model, luck in (("only what was synced", None), ("and some sectors", chance)):
                lost, wrong = after_the_cut(files, luck, tokens[:answered], Path(folder) / "disk")
                most = max(most, lost)
                complaints += [f"seed {seed}, cut {at[number]} of {total} ({model}): {each}" for each in wrong]
            say(f"{number + 1}/{cuts} cuts, {len(complaints)} complaints")
    return Verdict(f"2 x {cuts} cuts in {total} disk operations, {answered} answered at the last one, {most} lost",
                   complaints)


def pipelined(bot: BotProcess, messages: int, ahead: int = 64) -> list[str]:
    """Post over one connection, many at a time: the n-th answer is that to the n-th message. Their tokens."""
    crowd, tokens = Crowd(bot.world, 50), list[str]()
    with socket.create_connection(("127.0.0.1", bot.port)) as link:
        stream, waiting = link.makefile("rb"), 0
        for number in range(messages):
            if number and number % 900 == 0:  # the bot closes a connection after a thousand requests
                _answers(stream, waiting)
                waiting = 0
                link = socket.create_connection(("127.0.0.1", bot.port))
                stream = link.makefile("rb")
            token, webhook = crowd.webhook(number % 50)
            tokens.append(token)
            head = "".join(f"{name}: {value}\r\n" for name, value in webhook.headers.items())
            link.sendall(f"POST {webhook.path} HTTP/1.1\r\nHost: a\r\nContent-Length: {len(webhook.body)}\r\n{head}\r\n"
                         .encode() + webhook.body)
            waiting += 1
            if waiting >= ahead:
                _answers(stream, ahead // 2)
                waiting -= ahead // 2
        _answers(stream, waiting)
    return tokens


def _answers(stream: object, count: int) -> None:
    for _ in range(count):
        line = stream.readline()  # type: ignore[attr-defined]
        assert line.startswith(b"HTTP/1.1 200"), line
        while stream.readline().strip():  # type: ignore[attr-defined]
            pass


def after_the_cut(files: dict[str, File], chance: random.Random | None, acknowledged: list[str], folder: Path
                  ) -> tuple[int, list[str]]:
    """(messages lost, complaints) of the database as a power cut left it, opened as minibot opens it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for path, file in files.items():
        if not path.endswith(("-shm", ".lock", ".sock")):
            (folder / Path(path).name).write_bytes(file.after_the_cut(chance))
    try:
        lock, connection = sqlite_file.open_writer(str(folder / "minibot.db"), lambda name: None)
    except MinibotError as fault:
        return 0, [f"it does not open: {fault}"]
    try:
        stored = {token for text, in connection.execute("SELECT text FROM inbound") for token in TOKEN.findall(text)}
        verdict = connection.execute("PRAGMA integrity_check").fetchall()
    except sqlite3.Error as fault:
        return 0, [f"it cannot be read: {fault}"]
    finally:
        connection.close()
        lock.close()
    lost = set(acknowledged) - stored
    return len(lost), ([f"{len(lost)} of {len(acknowledged)} acknowledged are lost"] if lost else []) + (
        [] if verdict == [("ok",)] else [f"damaged: {verdict[:1]}"])


def failing_writes(say: Say, most: int = 80, seed: int = 1, workers: int = 3) -> Verdict:
    """T5: the n-th write, truncation or sync fails, once or from then on; then the disk is well again.

    After a failed sync nobody knows what is on the disk: the process has to end.
    """
    chance, complaints, died = random.Random(seed), list[str](), 0
    codes = (errno.EIO, errno.ENOSPC)
    with shim() as made:
        plans = [f"{n}:{codes[n % 2]}{':on' if n % 3 == 0 else ''}" for n in sorted(chance.sample(range(1, 400), most))]
        with ThreadPoolExecutor(workers) as pool:
            for number, (plan, (ended, wrong)) in enumerate(zip(plans, pool.map(lambda one: _fails(made, one), plans))):
                died += ended
                complaints += [f"failure {plan}: {each}" for each in wrong]
                say(f"{number + 1}/{most} failures, {died} ended the process, {len(complaints)} complaints")
    return Verdict(f"{most} failures, {died} ended the process", complaints)


def _fails(made: str, plan: str) -> tuple[bool, list[str]]:
    """One life with a failing disk and one without: (whether the first ended by itself, complaints)."""
    with stage(start=False) as bot:
        crowd = Crowd(bot.world, 4, platforms=("telegram",))
        preload = {"LD_PRELOAD": made, "SHIM_DIR": str(bot.folder / "minibot.db"), "SHIM_FAIL": plan}
        try:
            bot.start(preload)
        except AssertionError:
            pass  # it said why and ended, or answers 503
        for number in range(8):
            token, webhook = crowd.webhook(number % 4)
            try:
                if bot.world.bot_url and bot.post(webhook) == 200:
                    crowd.acked.add(token)
            except OSError:
                pass
        bot.world.wait(lambda: bot.exited or crowd.answered(), 3)
        ended, went_on = bot.exited, "shim: a sync failed" in bot.log
        if not bot.exited:
            bot.kill()
        bound = in_flight(bot.database)
        bot.start()
        settle(bot)
        bot.term()
        found = audit(crowd, bot.database, bound + 8)
        found.demand(ended or not went_on, "it went on after a failed sync")
        return ended, found.complaints


def cut_migrations(say: Say, every: int = 1) -> Verdict:
    """T24: killed before each write of a migration, from nothing and from the schema of today to one of tomorrow."""
    complaints, tried = list[str](), 0
    with shim() as made, tempfile.TemporaryDirectory(prefix="drill-") as folder:
        tomorrow = copy_of_minibot(Path(folder), ("store/schema.py", *NEXT_MIGRATION))
        for old in (False, True):
            for number in range(1, 500, every):
                reached, wrong = _migrates(made, tomorrow, number, old)
                complaints += [f"killed at write {number}, {'with' if old else 'without'} an old database: {each}"
                               for each in wrong]
                tried += reached
                say(f"{tried} kills, {len(complaints)} complaints")
                if not reached:
                    break
    return Verdict(f"{tried} kills within migrations", complaints)


def _migrates(made: str, tomorrow: Path, number: int, old: bool) -> tuple[bool, list[str]]:
    """One migration, killed at its n-th write and then done again: (whether it came that far, complaints)."""
    with stage(start=False) as bot:
        today, wrong = bot.program, list[str]()
        if old:
            bot.start()
            bot.say("telegram", "77", "kept")
            settle(bot)
            bot.kill()
        bot.program = tomorrow
        begun = len(bot.log)
        try:
            bot.start({"LD_PRELOAD": made, "SHIM_DIR": str(bot.folder / "minibot.db"), "SHIM_KILL": str(number)})
        except AssertionError:
            pass
        reached = bot.exited and "minibot listens" not in bot.log[begun:]
        if not bot.exited:
            bot.kill()
        bot.start()
        if bot.rows("SELECT v FROM meta WHERE k = 'schema'") != [(str(len(MIGRATIONS) + 1),)]:
            wrong.append("the schema is not the new one")
        if old and bot.rows("SELECT mood FROM moods") != [("kept",)]:
            wrong.append(f"the new table holds {bot.rows('SELECT mood FROM moods')}")
        bot.say("telegram", "77", "new")
        settle(bot)
        bot.term()
        if not reached:  # once is enough: the old program refuses the new schema
            bot.program = today
            bot.start(wait=False)
            if bot.wait() != 78 or "newer minibot" not in bot.log.splitlines()[-1]:
                wrong.append(f"the old program took the new schema: {bot.log[-300:]}")
        return reached, wrong
