"""Several instances on one PostgreSQL: killed each second, frozen longer than a lease; their server crashes.

Not here: what needs no minutes (`test_postgres.py`). The law: the platforms deliver to any instance that takes it, a
killed one is started again, and then the audit of `house.py` must find nothing; a repeated delivery is excused for each
part that the killed or frozen instance was just sending, and for nothing else.

Next: `crash.py`.
"""

from __future__ import annotations

import asyncio
import json
import random
import shutil
import signal
import sqlite3
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from minibot.config import Settings
from minibot.model import Inbound
from minibot.store.opening import open_store
from minibot.work import Answer, Fate, Finish
from tests.botprocess import BotProcess
from tests.drill.house import PATIENT, Audit, Crowd, Say, Skipped, Verdict, audit
from tests.fakes import FakeWorld
from tests.postgres import Absent, PostgresServer

LEASE = 18.0  # seconds
REFUSED = "a conversation was taken over by another worker"


class BalancedWorld(FakeWorld):
    """Posts to any of the bots that `urls` names, chosen anew for each post."""

    def __init__(self) -> None:
        self.urls, self.chance = list[str](), random.Random(1)
        super().__init__()

    @property
    def bot_url(self) -> str:
        """Where this thread posts to just now."""
        return str(getattr(self._local, "chosen", "") if hasattr(self, "_local") else "")

    @bot_url.setter
    def bot_url(self, url: str) -> None:
        if url:
            self._local.chosen = url
            if url not in self.urls:
                self.urls.append(url)

    def post(self, webhook: Any, **fields: str) -> tuple[int, bytes]:
        """To any of them; OSError if it is away."""
        self._local.chosen = self.chance.choice(self.urls) if self.urls else "http://127.0.0.1:9"
        return super().post(webhook, **fields)

    def _post_reports(self) -> None:
        self._local.chosen = "http://127.0.0.1:9"  # until the first post chooses
        super()._post_reports()


class House:
    """A server, a world, and instances that share them."""

    def __init__(self, instances: int) -> None:
        try:
            self.server = PostgresServer()
        except Absent as reason:
            raise Skipped(str(reason)) from None
        self.home, self.world = Path(tempfile.mkdtemp(prefix="drill-")), BalancedWorld()
        self.bots, self.excused = list[BotProcess](), 0
        for number in range(instances):
            folder = self.home / str(number)
            folder.mkdir()
            self.bots.append(BotProcess(self.world, folder, start=False, DATABASE_URL=self.server.url(),
                                        AI_TIMEOUT_SECONDS="10", **PATIENT))
        for bot in self.bots:
            bot.start()

    def ask(self, bot: BotProcess) -> bytes:
        """What /healthz of this one says; {} if it is away."""
        self.world._local.chosen = f"http://127.0.0.1:{bot.port}"
        return bot.get("/healthz")[1] or b"{}"

    def freeze(self, bot: BotProcess) -> None:
        """SIGSTOP; each part that it is just sending may arrive twice."""
        name = json.loads(self.ask(bot)).get("id")
        assert bot.process
        bot.process.send_signal(signal.SIGSTOP)
        rows = self.server.sql(self.server.url(), "SELECT COUNT(*) FROM part p JOIN conversation c ON c.id = "
                               "p.conversation WHERE p.state = 'sending' AND c.lease_owner = %s", name)
        self.excused += int(rows[0][0])

    def kill(self, bot: BotProcess) -> None:
        """kill -9: frozen first, so that what it is sending can be counted."""
        self.freeze(bot)
        bot.kill()

    def settle(self, crowd: Crowd, say: Say, timeout: float = 120.0) -> None:
        """Wait until everybody has an answer and nothing waits any more."""
        end = time.monotonic() + timeout
        while not (crowd.answered() and b'"pending": 0' in self.ask(self.bots[0])):
            assert time.monotonic() < end, f"not settled: {self.ask(self.bots[0])!r} {self.bots[0].log[-1500:]}"
            say(f"settling, {len(crowd.acked)} acknowledged")
            time.sleep(0.2)

    def audit(self, crowd: Crowd) -> Audit:
        """The promises, on a copy that the audit can read."""
        copy = self.home / "copy.db"
        with sqlite3.connect(copy) as target:
            for table in ("inbound", "conversation", "waiting", "turn", "part"):
                names = [row[0] for row in self.server.sql(
                    self.server.url(), "SELECT column_name FROM information_schema.columns WHERE table_name = %s "
                    "ORDER BY ordinal_position", table)]
                target.execute(f"CREATE TABLE {table} ({', '.join(names)})")
                target.executemany(f"INSERT INTO {table} VALUES ({', '.join('?' * len(names))})",
                                   self.server.sql(self.server.url(), f"SELECT * FROM {table}"))
        target.close()
        return audit(crowd, copy, self.excused)

    def close(self) -> None:
        """End everything, whatever became of it."""
        for bot in self.bots:
            if not bot.exited:
                bot.kill()
        self.world.close()
        self.server.close()
        shutil.rmtree(self.home, ignore_errors=True)


@contextmanager
def house(instances: int) -> Iterator[House]:
    """A house, closed at the end."""
    made = House(instances)
    try:
        yield made
    finally:
        made.close()


def killed_each_second(say: Say, seconds: int = 60, seed: int = 1) -> Verdict:
    """T19: three instances under load, one of them killed each second; then one is frozen, then the server crashes."""
    chance = random.Random(seed)
    with house(3) as here:
        crowd, kills = Crowd(here.world, 25, seed), 0
        here.world.model.delay = 0.05
        with crowd.writing(4, pause=0.05):
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                begun, bot = time.monotonic(), chance.choice(here.bots)
                here.kill(bot)
                bot.start(wait=False)  # it may be killed again before it listens
                kills += 1
                time.sleep(max(0.0, begun + 1.0 - time.monotonic()))
                say(f"{kills} kills, {len(crowd.acked)} acknowledged")
            for bot in here.bots:
                bot.until(lambda: here.ask(bot) != b"{}", 30, "it is back")
            refused = _frozen(here, say)
            say("the server crashes")
            here.server.stop("immediate")
            time.sleep(1.0)
            here.server.start()
            time.sleep(3.0)
        here.settle(crowd, say)
        codes = [bot.term() for bot in here.bots]
        found = here.audit(crowd)
        found.demand(codes == [0, 0, 0], f"exit codes {codes}")
        found.demand(refused, "no stale write was refused")
        found.demand(not found.lost or found.lost <= found.maybe, f"{found.lost} parts were never delivered")
        for bot in here.bots:
            found.demand("Traceback" not in bot.log, f"a traceback: {bot.log[bot.log.find('Traceback'):][:1500]}")
            bot.check_secrets()
        return Verdict(
            f"{kills} kills, {len(crowd.acked)} acknowledged, {found.messages} stored, {found.parts} parts, "
            f"{found.extra} repeated (excused {here.excused}), {found.maybe} maybe, {found.lost} never delivered, "
            f"{refused} stale writes refused", [f"seed {seed}: {each}" for each in found.complaints])


def _frozen(here: House, say: Say) -> int:
    """One instance stands still for longer than a lease, with work in hand; how many of its writes were refused."""
    bot = here.bots[0]
    assert bot.process
    url, name = f"http://127.0.0.1:{bot.port}", json.loads(here.ask(bot)).get("id")
    here.world.model.hold()
    bot.until(lambda: here.server.sql(here.server.url(), "SELECT id FROM conversation WHERE lease_owner = %s AND id IN "
                                      "(SELECT conversation FROM waiting)", name), 30, "something is in hand")
    here.world.urls.remove(url)
    here.freeze(bot)
    here.world.model.release()
    end = time.monotonic() + LEASE + 5
    while time.monotonic() < end:
        say(f"frozen for {end - time.monotonic():.0f} s more")
        time.sleep(0.5)
    bot.process.send_signal(signal.SIGCONT)
    here.world.urls.append(url)
    time.sleep(5.0)
    return bot.log.count(REFUSED)


def throughput(say: Say, seconds: float = 8.0, chats: int = 200) -> Verdict:
    """How many messages a second 1, 2 and 3 processes take in, answer and send, without a model and platforms."""
    figures = []
    try:
        server = PostgresServer(shared_buffers="256MB")
    except Absent as reason:
        raise Skipped(str(reason)) from None
    try:
        for instances in (1, 2, 3):
            url = server.fresh()
            with ProcessPoolExecutor(instances, get_context("spawn")) as pool:
                done = list(pool.map(_hammer, [url] * instances, range(instances), [seconds] * instances,
                                     [chats] * instances))
            figures.append(f"{instances}: {sum(count / took for count, took in done):.0f}/s")
            say(", ".join(figures))
        missed, = server.sql(url, "SELECT COUNT(*) FROM inbound WHERE outcome IS NULL")
        return Verdict("messages a second with 1, 2, 3 instances: " + ", ".join(figures),
                       [f"{missed[0]} without an outcome"] if missed[0] else [])
    finally:
        server.close()


def _hammer(url: str, number: int, seconds: float, chats: int) -> tuple[int, float]:
    """One instance at full speed: (messages answered here, seconds)."""
    sys.setswitchinterval(0.0005)  # as the app does
    return asyncio.run(Hammer(url, number, chats).run(seconds))


class Hammer:
    """A store under the hands of people and workers without any model or platform behind them."""

    def __init__(self, url: str, number: int, chats: int) -> None:
        self.store: Any = open_store(Settings(database_url=url), now())
        self.number, self.chats, self.written, self.answered = number, chats, 0, 0

    async def run(self, seconds: float) -> tuple[int, float]:
        """(messages answered, seconds)"""
        begun = time.monotonic()
        working = asyncio.create_task(self.dispatch(begun + seconds))
        await asyncio.gather(*(self.talk(f"{self.number}-{chat}", begun + seconds) for chat in range(self.chats)))
        await working
        took = time.monotonic() - begun
        await self.store.close(now())
        return self.answered, took

    async def talk(self, chat: str, end: float) -> None:
        """A person who writes on, but not while too much waits."""
        count = 0
        while time.monotonic() < end:
            if self.written - self.answered > self.chats:
                await asyncio.sleep(0.002)
                continue
            count, self.written = count + 1, self.written + 1
            await self.store.accept([Inbound("telegram", "1", chat, f"m:{count}.{chat}", text="question",
                                             sent_at=now())], now())

    async def dispatch(self, end: float) -> None:
        """Claim until nothing is left; whichever instance stored it."""
        tasks = set[asyncio.Task[None]]()
        while time.monotonic() < end or tasks or await self.store.next_due(now()) is not None:
            steps = await self.store.claim(f"{self.number}", now(), 18_000, max(1, 128 - len(tasks)))
            for step in steps:
                task = asyncio.create_task(self.work(step))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
            await asyncio.sleep(0.0 if steps else 0.005)

    async def work(self, step: Any) -> None:
        """Answer and send, until nothing is left."""
        while step.waiting or step.part:
            if step.part:
                step = await self.store.settle(step.conversation, step.part.id, Fate("sent", f"{step.part.id}"), now())
            else:
                self.answered += len(step.waiting)
                step = await self.store.finish(step.conversation, Finish(
                    {item.id: "replied" for item in step.waiting}, ("answer",), Answer("answer")), now())


def now() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000
