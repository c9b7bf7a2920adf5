"""A day in a second: the real store, channels, intake and workers on a clock that jumps whenever everybody waits.

Not here: sockets, the SDK, the command line; the far ends are the same simulators as everywhere, called directly. The
law: real objects, fakes only for the far ends; virtual time stands still while the store's real thread works, so a
commit takes no time at all, and the same seed gives the same run.

Next: `days.py`, what is done with it.
"""

from __future__ import annotations

import asyncio
import random
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from minibot.ai import fit
from minibot.app import CHANNELS
from minibot.config import Settings, load
from minibot.desk.simulator import Answered, Screen, Webhook
from minibot.desk.simulator_graph import GraphSide
from minibot.desk.simulator_meta import Account
from minibot.desk.simulator_telegram import TelegramSide
from minibot.errors import AiFailed, AiRemedy, NoAnswer
from minibot.flow.breaker import Breaker
from minibot.flow.dispatch import Dispatcher
from minibot.flow.guard import Purse
from minibot.flow.intake import Intake
from minibot.flow.kit import Kit
from minibot.model import PLATFORMS, Call, Reply, Request
from minibot.promise import Promise
from minibot.store.sqlite import SqliteStore
from minibot.work import Answer, Said
from tests.drill.house import PATIENT
from tests.fakes import SECRETS

START = 1_800_000_000_000 // 86_400_000 * 86_400_000  # a midnight, UTC


class VirtualLoop(asyncio.SelectorEventLoop):
    """`busy` counts what real threads still owe an answer for."""

    def __init__(self) -> None:
        super().__init__()
        self.passed, self.busy = 0.0, 0
        self._selector: Any = _Leaping(self, self._selector)

    def time(self) -> float:
        """Seconds since the loop began."""
        return self.passed


class _Leaping:
    """A selector that does not wait: it moves the clock instead."""

    def __init__(self, loop: VirtualLoop, real: Any) -> None:
        self._loop, self._real = loop, real

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def select(self, timeout: float | None = None) -> Any:
        if self._loop.busy:
            return self._real.select(timeout and 10.0)
        events = self._real.select(0)
        if not events:
            assert timeout is not None, "everybody waits for ever"
            self._loop.passed += max(timeout, 0.0)
        return events


class _Counted:
    """The store, with the loop told of every verb that its thread works on."""

    def __init__(self, store: SqliteStore, loop: VirtualLoop) -> None:
        self._store, self._loop, self.asleep = store, loop, False

    def __getattr__(self, name: str) -> Any:
        verb = getattr(self._store, name)

        def ask(*args: Any, **named: Any) -> Any:
            self._loop.busy += 1
            if self.asleep and args[:1] == ("drill",):  # claims and heartbeats of an instance that is frozen
                return asyncio.ensure_future(self._nothing())
            asked = verb(*args, **named)
            if isinstance(asked, Promise):
                kept: Promise[Any] = Promise()
                asked.add_done_callback(lambda done: self._keep(done, kept))
                return kept
            future: asyncio.Future[Any] = asyncio.ensure_future(asked)
            future.add_done_callback(lambda done: self._count())
            return future

        return ask

    async def _nothing(self) -> list[Any]:
        self._count()
        return []

    def _count(self) -> None:
        self._loop.busy -= 1

    def _keep(self, done: Promise[Any], kept: Promise[Any]) -> None:
        self._count()
        if fault := done.exception():
            return kept.set_exception(fault)
        kept.set_result(done.result())


class VirtualModel(Screen):
    """A model that takes `latency` seconds; `down` is the code of its outage, or ""."""

    name = "virtual"

    def __init__(self, now: Callable[[], int], settings: Settings) -> None:
        super().__init__(now)
        self.settings = settings
        self.latency, self.down, self.calls, self.busy, self.most = 1.0, "", list[int](), 0, 0
        self.reply: Callable[[list[dict[str, Any]]], str] = lambda messages: "an answer"

    async def answer(self, said: Sequence[Said], person: str) -> Answer:
        self.calls.append(self.now())
        self.busy += 1
        self.most = max(self.most, self.busy)
        try:
            await asyncio.sleep(self.latency)
        finally:
            self.busy -= 1
        if self.down:
            raise AiFailed(AiRemedy.WAIT, self.down)
        text = self.reply([{"role": item.role, "content": item.text} for item in fit(said, self.settings)])
        return Answer(text, self.name, 100, 20, round(self.latency * 1000))

    async def transcribe(self, audio: bytes, mime: str) -> str:
        return "spoken words"

    async def warm(self) -> None:
        """Nothing to load."""


class VirtualWire:
    """What performs calls: the simulators answer after `latency` seconds, unless their platform is in `down`."""

    def __init__(self, sides: dict[str, Any]) -> None:
        self.sides, self.latency, self.down = sides, 0.2, set[str]()

    async def perform(self, call: Call, pool: str) -> Reply:
        await asyncio.sleep(self.latency)
        if pool.partition(":")[0] in self.down:
            raise NoAnswer(f"{call.name}: refused while connecting", unsure=False)
        url = urlsplit(call.url)
        fields = {name.lower(): value for name, value in call.fields.items()}
        answered: Answered = self.sides[str(url.hostname)].answer(call.method, url.path, url.query, fields, call.body)
        if answered.trouble:
            raise NoAnswer(f"{call.name}: {answered.trouble}", unsure=not answered.trouble.startswith("refused"))
        return Reply(answered.status, {name.lower(): value for name, value in answered.headers.items()}, answered.body)


class VirtualWorld:
    """One bot without its sockets. `people`, `model` and `changed` are what a Crowd needs."""

    def __init__(self, loop: VirtualLoop, folder: Path, seed: int = 1, **settings: str) -> None:
        self.loop, self.ahead, self.changed = loop, 0, threading.Condition()
        environ = {**SECRETS, **PATIENT, "META_PHONE_NUMBER_ID": Account.phone_number_id,
                   "DATABASE_URL": f"sqlite:///{folder}/minibot.db", "TELEGRAM_API_URL": "http://telegram",
                   "META_GRAPH_URL": "http://graph", "INSTAGRAM_GRAPH_URL": "http://instagram", **settings}
        self.settings, _ = load(environ)
        self.database = Path(self.settings.sqlite_path)
        self.telegram = TelegramSide(SECRETS["TELEGRAM_BOT_TOKEN"], SECRETS["TELEGRAM_WEBHOOK_SECRET"], self.now)
        self.graph = GraphSide(SECRETS["META_ACCESS_TOKEN"], SECRETS["META_PAGE_ACCESS_TOKEN"],
                               SECRETS["META_APP_SECRET"], self.now, instagram_token=SECRETS["INSTAGRAM_ACCESS_TOKEN"])
        self.people: dict[str, Any] = {"telegram": self.telegram, "whatsapp": self.graph.whatsapp,
                                       "messenger": self.graph.messenger, "instagram": self.graph.instagram}
        self.wire = VirtualWire({"telegram": self.telegram, "graph": self.graph, "instagram": self.graph})
        self.model = VirtualModel(self.now, self.settings)
        self.point: Callable[[str], None] = lambda name: None  # what happens before and after a commit
        self.store: Any = _Counted(
            SqliteStore(self.settings, self.now(), floor=0, point=lambda name: self.point(name)), loop)
        self.channels = {name: make(self.settings) for name, make in CHANNELS.items()}
        self.counts = Counter[tuple[str, str]]()
        wire: Any = self.wire
        self.kit = Kit(self.settings, self.store, self.channels, wire, self.model, self.now, random.Random(seed).random,
                       Purse(self.settings), {name: Breaker() for name in (*PLATFORMS, "model")}, self.counts)
        self.dispatcher = Dispatcher(self.kit, "drill")
        self.intake = Intake(self.store, self.now, self.dispatcher.wake, lambda event: None, self.counts,
                             expect=self.dispatcher.expect)
        self.doors = {f"/{name}/webhook": self.intake.webhook(channel, True) for name, channel in self.channels.items()}

    def now(self) -> int:
        """Milliseconds since 1970, as the machine's clock shows them; `ahead` is how far somebody has set it."""
        return START + round(self.loop.time() * 1000) + self.ahead

    async def post(self, webhook: Webhook) -> int:
        """Deliver a webhook; the status."""
        fields = tuple((name.lower().encode(), value.encode()) for name, value in webhook.headers.items())
        answer = self.doors[webhook.path](Request("POST", webhook.path, "", fields, webhook.body))
        return (await answer if isinstance(answer, Promise) else answer).status

    async def say(self, platform: str, chat: str, text: str) -> None:
        """A person writes."""
        assert await self.post(self.people[platform].text(chat, text)) == 200

    async def pending(self) -> int:
        """Messages and parts that wait."""
        health = await self.store.health(self.now())
        return int(health.pending)

    async def until_settled(self, seconds: float) -> float:
        """Wait until nothing is pending, at most `seconds`; how long it took."""
        begun = self.loop.time()
        while await self.pending() and self.loop.time() < begun + seconds:
            await asyncio.sleep(1.0)
        return self.loop.time() - begun

    async def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """What the database says."""
        import sqlite3

        connection = sqlite3.connect(f"{self.database.as_uri()}?mode=ro", uri=True)
        try:
            return connection.execute(sql).fetchall()
        finally:
            connection.close()

    async def _chores(self) -> None:
        """What app.py does beside the work: looking after the store, and the platforms' receipts and echoes."""
        minute = 0.0
        while True:
            await asyncio.sleep(1.0)
            for people in self.people.values():
                while people.outgoing:
                    await self.post(people.outgoing.popleft())
            if self.loop.time() >= minute + 60:
                minute = self.loop.time()
                await self.store.maintain(self.now())


Life = Callable[[VirtualWorld], Coroutine[Any, Any, None]]


def live(life: Life, seed: int = 1, **settings: str) -> VirtualWorld:
    """Let a bot live through `life`; the world afterwards."""
    loop = VirtualLoop()
    with tempfile.TemporaryDirectory(prefix="drill-") as folder:
        world = VirtualWorld(loop, Path(folder), seed, **settings)

        async def whole() -> None:
            chores = asyncio.ensure_future(world._chores())
            running = asyncio.ensure_future(world.dispatcher.run())
            try:
                await life(world)
            finally:
                await world.dispatcher.stop()
                await running
                chores.cancel()
                await world.store.close(world.now())

        try:
            loop.run_until_complete(whole())
        finally:
            loop.close()
        return world
