"""The host misbehaves: a full disk, a locked or damaged database, ten thousand connections.

Not here: disk errors and power cuts (`disk.py`). The law: an answer always comes in time, 503 if it must be; the
process lives; what was acknowledged is answered as soon as the host allows; a database that must not be used is
never replaced by an empty one.

Next: `load.py`.
"""

from __future__ import annotations

import os
import random
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from tests.botprocess import BotProcess
from tests.drill.house import Crowd, Say, Skipped, Verdict, audit, in_flight, settle, stage

FULL_IN = 30.0  # seconds after which everything must be answered once there is room again
ANSWER_IN = 4.0  # seconds that a webhook may take


@contextmanager
def small_disk(megabytes: int) -> Iterator[Path]:
    """A file system of that size."""
    with tempfile.TemporaryDirectory(prefix="drill-") as folder:
        command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "drill", folder]
        try:
            subprocess.run(command, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            raise Skipped("needs the right to mount a tmpfs") from None
        try:
            yield Path(folder)
        finally:
            subprocess.run(["umount", "-l", folder], check=True)


class Asker:
    """Posts one message after the other in a thread of its own and notes each status and how long it took."""

    def __init__(self, crowd: Crowd, every: float) -> None:
        self.crowd, self.every = crowd, every
        self.answers: list[tuple[float, int, float]] = []  # (when, status, seconds); 0: no answer
        self.unanswered: list[tuple[str, object]] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Asker:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        number = 0
        while not self._over.wait(self.every):
            number += 1
            token, webhook = self.crowd.webhook(number % len(self.crowd.chats))
            begun = time.monotonic()
            try:
                status = self.crowd.world.post(webhook)[0]
            except OSError:
                status = 0
            self.answers.append((begun, status, time.monotonic() - begun))
            if status == 200:
                self.crowd.acked.add(token)
            else:  # the platform repeats it later
                self.unanswered.append((token, webhook))

    def repeat(self) -> None:
        """Deliver again what was not taken."""
        for token, webhook in self.unanswered:
            self.crowd.world.deliver(webhook)
            self.crowd.acked.add(token)

    def since(self, begun: float) -> Counter[int]:
        """How often each status came since then."""
        return Counter(status for at, status, _ in self.answers if at >= begun)

    @property
    def slowest(self) -> float:
        """Seconds that the slowest answer took."""
        return max(seconds for _, _, seconds in self.answers)


def disk_full(say: Say, chats: int = 12, pause: float = 1.0) -> Verdict:
    """T7: the disk fills up, to below the floor and then wholly, while answers are made; a kill and a start on it."""
    with small_disk(90) as disk, stage(start=False, DATABASE_URL=f"sqlite:///{disk}/minibot.db") as bot:
        bot.database = disk / "minibot.db"
        crowd, complaints = Crowd(bot.world, chats), list[str]()
        bot.start()
        with Asker(crowd, 0.02) as asker:
            time.sleep(pause)
            say("below the floor")
            low = _fill(disk, leave=30 << 20)
            time.sleep(pause)
            low_statuses = asker.since(low)
            bot.world.model.hold()
            asker_full = _fill(disk, leave=0)
            bot.world.model.release()
            say("no byte left")
            time.sleep(3 * pause)
            full_statuses = asker.since(asker_full)
            alive = not bot.exited
            bot.kill()
            bound = in_flight(bot.database)
            try:
                bot.start(wait=False)
                time.sleep(2 * pause)
            finally:
                (disk / "ballast").unlink()
            say("room again")
            if bot.exited:
                complaints.append(f"it does not start on a full disk: {bot.log.splitlines()[-1]}")
                bot.start()
            bot.until(lambda: bot.get("/healthz")[0] == 200, 20, "healthy again")
            begun = time.monotonic()
            time.sleep(pause)
        asker.repeat()
        settle(bot, 120)
        took = time.monotonic() - begun
        bot.term()
        found = audit(crowd, bot.database, bound)
        found.demand(alive, "the process died of the full disk")
        found.demand(set(low_statuses) == {503}, f"below the floor: {low_statuses}")
        found.demand(set(full_statuses) <= {503}, f"on the full disk: {full_statuses}")
        found.demand(took <= FULL_IN, f"all answered {took:.0f} s after there was room")
        found.demand(asker.slowest <= ANSWER_IN, f"an answer took {asker.slowest:.1f} s")
        return Verdict(f"{sum(low_statuses.values())} x 503 below the floor, {sum(full_statuses.values())} on the full "
                       f"disk, {len(crowd.acked)} acknowledged in all, all answered {took:.0f} s after",
                       complaints + found.complaints)


def _fill(disk: Path, leave: int) -> float:
    """Leave only so many bytes free; the time when that was done."""
    with open(disk / "ballast", "ab") as file:
        try:
            while (room := shutil.disk_usage(disk).free - leave) > 0:
                file.write(b"\0" * min(room, 1 << 20))
                file.flush()
        except OSError:
            pass  # full: that was the aim
    return time.monotonic()


def locked(say: Say, spans: tuple[float, ...] = (3.0, 12.0, 60.0)) -> Verdict:
    """T8: an outsider holds the write lock."""
    complaints, figures = list[str](), list[str]()
    for span in spans:
        with stage() as bot:
            crowd = Crowd(bot.world, 8)
            with Asker(crowd, 0.1) as asker, closing(sqlite3.connect(bot.database, isolation_level=None)) as outsider:
                time.sleep(0.5)
                outsider.execute("BEGIN IMMEDIATE")
                end = time.monotonic() + span
                while (left := end - time.monotonic()) > 0:
                    say(f"locked for another {left:.0f} s")
                    time.sleep(min(left, 1.0))
                outsider.execute("ROLLBACK")
                begun = time.monotonic()
                bot.until(lambda: asker.since(begun)[200], 20, "a 200 again")
                recovered = time.monotonic() - begun
                time.sleep(0.5)
            asker.repeat()
            settle(bot)
            bot.term()
            found = audit(crowd, bot.database, bound=0)
            found.demand(asker.slowest <= ANSWER_IN, f"an answer took {asker.slowest:.1f} s")
            found.demand(recovered <= 2.5, f"the first 200 came {recovered:.1f} s after the lock was gone")
            found.demand(set(asker.since(0)) <= {200, 503}, f"statuses {asker.since(0)}")
            complaints += [f"locked for {span:.0f} s: {each}" for each in found.complaints]
            figures.append(f"{span:.0f} s: {asker.since(0)[503]} x 503, slowest {asker.slowest:.1f} s, again after "
                           f"{recovered:.1f} s")
    return Verdict("; ".join(figures), complaints)


def _overwrite(path: Path, at: int, content: bytes) -> None:
    with open(path, "r+b") as file:
        file.seek(at)
        file.write(content)


def _newer(database: Path) -> None:
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("UPDATE meta SET v = '999' WHERE k = 'schema'")
        connection.commit()


def _foreign(database: Path) -> None:
    database.unlink()
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("CREATE TABLE recipes (id INTEGER PRIMARY KEY, name TEXT)")
        connection.commit()


def _noise(database: Path) -> None:
    chance = random.Random(1)
    size = database.stat().st_size
    for page in chance.sample(range(1, size // 4096), min(6, size // 4096 - 1)):
        _overwrite(database, 4096 * page, chance.randbytes(4096))


# kind -> (what is done to the database, exit code; 0: it must start and know what was there)
DAMAGES: dict[str, tuple[Callable[[Path], object], int]] = {
    "garbage header": (lambda database: _overwrite(database, 0, b"this is no database at all, sorry"), 78),
    "zero length": (lambda database: os.truncate(database, 0), 78),
    "gone": (lambda database: database.unlink(), 78),
    "truncated": (lambda database: os.truncate(database, database.stat().st_size // 2), 78),
    "pages of noise": (_noise, 78),
    "a newer schema": (_newer, 78),
    "another program's": (_foreign, 78),
    "noise in -shm": (lambda database: Path(f"{database}-shm").write_bytes(os.urandom(32768)), 0),
    "an empty .id": (lambda database: Path(f"{database}.id").write_bytes(b""), 0),
}


def damaged(say: Say, kinds: tuple[str, ...] = tuple(DAMAGES)) -> Verdict:
    """T9: the database is not what it should be; minibot must not make a new one."""
    complaints = list[str]()
    with stage() as bot:
        for number in range(200):
            bot.say("telegram", "77", f"message {number}, " + "words " * 50)
        settle(bot)
        bot.term()
        rows = len(bot.rows("SELECT id FROM inbound"))
        for kind in kinds:
            say(kind)
            complaints += [f"{kind}: {each}" for each in _starts_on(bot, rows, *DAMAGES[kind])]
    return Verdict(f"{len(kinds)} kinds of damage", complaints)


def _starts_on(bot: BotProcess, rows: int, damage: Callable[[Path], object], code: int) -> list[str]:
    """Complaints about what minibot does with a damaged copy of its database."""
    with tempfile.TemporaryDirectory(prefix="drill-") as folder, stage(start=False, folder=Path(folder)) as other:
        for name in ("minibot.db", "minibot.db.id"):
            shutil.copy(bot.folder / name, other.folder)
        damage(other.database)
        before = other.database.read_bytes() if other.database.exists() else None
        if not code:
            other.start()
            other.term()
            found = len(other.rows("SELECT id FROM inbound"))
            return [] if found == rows else [f"{found} of {rows} rows"]
        other.start(wait=False)
        ended, wrong = other.wait(20), list[str]()
        after = other.database.read_bytes() if other.database.exists() else None
        if ended != code or other.log.count("\n") != 1:
            wrong.append(f"exit code {ended}: {other.log}")
        if before != after:
            wrong.append("the file was changed")
        return wrong


def crowded(say: Say, connections: int = 10_000, seconds: float = 20.0) -> Verdict:
    """T15: connections that idle, send half a head or half a body, or never read; good requests must not notice."""
    raised = _raise_limit(connections + 500)
    with stage() as bot:
        assert bot.process
        before, held = memory(bot), list[socket.socket]()
        try:
            for number in range(connections):
                held.append(_nuisance(bot.port, number))
                if number % 500 == 0:
                    say(f"{number} connections")
            took = []
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                begun = time.monotonic()
                assert bot.get("/healthz")[0] == 200
                took.append(time.monotonic() - begun)
                time.sleep(0.02)
            grown = memory(bot) - before
            bot.say("telegram", "77", "And I?")
            bot.replies("telegram", "77")
            open_ = Counter(number % 4 for number, link in enumerate(held) if _is_open(link))
        finally:
            for one in held:
                one.close()
        took.sort()
        p99 = took[int(len(took) * 0.99)]
        complaints = [] if raised >= connections else [f"this machine allows only {raised} descriptors"]
        complaints += [f"p99 of good requests {1000 * p99:.0f} ms"] if p99 > 0.25 else []
        complaints += [f"memory grew by {grown} MB"] if grown > 100 else []
        half = open_[1] + open_[2]  # the others idle politely, for 75 s at most
        complaints += [f"{half} connections with half a request are still open"] if half else []
        return Verdict(f"{connections} connections: good requests p50 {1000 * took[len(took) // 2]:.1f} ms, p99 "
                       f"{1000 * p99:.0f} ms, +{grown} MB; after {seconds:.0f} s {half} with half a request and "
                       f"{open_[0] + open_[3]} idle ones are open", complaints)


def _nuisance(port: int, number: int) -> socket.socket:
    link = socket.create_connection(("127.0.0.1", port))
    head = b"POST /telegram/webhook HTTP/1.1\r\nHost: a\r\n"
    good = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"
    link.sendall((b"", head, head + b"Content-Length: 1000\r\n\r\nsome", good * 3)[number % 4])
    return link


def _raise_limit(wanted: int) -> int:
    try:
        import resource
    except ImportError:
        raise Skipped("needs limits on descriptors") from None
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard), hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def memory(bot: BotProcess) -> int:
    """Resident megabytes of the bot."""
    if not sys.platform.startswith("linux"):
        return 0
    assert bot.process
    status = Path(f"/proc/{bot.process.pid}/status").read_text("ascii")
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) // 1024


def _is_open(link: socket.socket) -> bool:
    link.setblocking(False)
    try:
        while link.recv(4096):
            pass
        return False
    except BlockingIOError:
        return True
    except OSError:
        return False
