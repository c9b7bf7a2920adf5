"""The composition root: the only file where the objects meet, and where clock and chance come from.

Not here: any decision about a message. The law: listen first, then do what takes long (the model's package, the
public address, our name); stop in the order that loses nothing: no new connections, no new claims, what is in
hand is finished, then the store closes.

Next: `web/server.py` for the door, or `flow/intake.py` for the message's way.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import random
import secrets
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

from minibot import logs
from minibot.ai import OpenAiModel
from minibot.channels import instagram, messenger, telegram, whatsapp
from minibot.channels.contract import Channel
from minibot.config import Settings
from minibot.desk import control, metrics, startup, tunnel
from minibot.dotenv import wants_colour
from minibot.errors import MinibotError, SettingsFault, StoreDown
from minibot.flow.breaker import Breaker
from minibot.flow.dispatch import Dispatcher
from minibot.flow.export import Exporter
from minibot.flow.guard import Purse
from minibot.flow.intake import Answer, Intake
from minibot.flow.kit import Kit
from minibot.flow.polling import poll
from minibot.model import PLATFORMS, Acknowledge, Request, Response
from minibot.promise import Promise
from minibot.store.opening import open_store
from minibot.web.routes import Endpoint, Routes
from minibot.web.server import Server, tls
from minibot.work import Health

log = logging.getLogger("minibot")
CHANNELS: dict[str, Callable[[Settings], Channel]] = {
    "telegram": telegram.channel, "whatsapp": whatsapp.channel,
    "messenger": messenger.channel, "instagram": instagram.channel,
}
DRAIN = 10.0  # seconds from the signal to the end, as container hosts allow
MAINTAIN_EVERY = MEND_EVERY = 60.0
FOUND_DEAD = 70  # exit code when the database thread died: better a restart than a silent bot


def serve(settings: Settings, point: Callable[[str], None], rehearse: Callable[[Kit], Kit] = lambda kit: kit) -> int:
    """Run the bot until a signal ends it; the exit code. `rehearse` changes what it is made of, for the demo."""
    logs.setup(settings)
    sys.setswitchinterval(0.0005)  # the database thread need not wait 5 ms for a busy loop at every statement
    gc.set_threshold(20_000)  # what a crowd of webhooks holds for a moment is no garbage to be searched each time
    secure = tls(settings.tls_cert, settings.tls_key) if settings.tls_cert else None
    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:  # on Windows not the usual one
        return runner.run(App(settings, point, rehearse).run(secure))


def now() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000


class App:
    """One running bot."""

    def __init__(self, settings: Settings, point: Callable[[str], None], rehearse: Callable[[Kit], Kit]) -> None:
        self.settings = settings
        self.counts: Counter[tuple[str, str]] = Counter()
        self.meter = metrics.Meter()
        self.caller = metrics.MeteredCaller(clock=time.monotonic, point=point, meter=self.meter)
        store = open_store(settings, now(), point, lambda: os._exit(FOUND_DEAD))
        self.clock = now if settings.sqlite_path else lambda: now() + store.ahead  # instances agree on the time
        self.kit = rehearse(Kit(
            settings, store, {name: make(settings) for name, make in CHANNELS.items()}, self.caller,
            OpenAiModel(settings, clock=time.monotonic, perform=self.caller.perform), self.clock, random.random,
            Purse(settings), {name: Breaker() for name in (*PLATFORMS, "model")}, self.counts, self.meter.observe))
        self.store, self.channels, self.model = self.kit.store, self.kit.channels, self.kit.model
        self._id = secrets.token_hex(8)  # tells this start from every other, on any machine: see desk/check.py
        self.dispatcher, self.exporter = Dispatcher(self.kit, self._id), Exporter(self.kit)
        self.intake = Intake(self.store, self.clock, self.dispatcher.wake, self._acknowledge, self.counts,
                             self._refused, self.dispatcher.expect)
        self.server = Server(self._routes(), clock=time.time, trusted_proxy=settings.trusted_proxy)
        self._background: set[asyncio.Task[None]] = set()
        self._stop, self._mend_at = asyncio.Event(), 0.0

    async def run(self, secure: Any) -> int:
        """Listen, with the TLS context `secure` if there is one; work; stop on a signal."""
        try:
            self.port = await self.server.start(self.settings.host, self.settings.port, secure)
        except OSError as fault:
            print(startup.cannot_listen(self.settings, fault), file=sys.stderr)
            await self.store.close(self.clock())
            return 1
        print(startup.listening(self.settings, self.port), flush=True)
        self._catch_signals()
        self.close_control = await control.listen(self.settings, self.store)
        dispatching = asyncio.create_task(self.dispatcher.run())
        self.exporter.start()
        for chore in (self._announce(), self._warm(), self._maintain(), self._introduce()):
            self._spawn(chore)
        polling = [self._spawn(poll(channel, self.caller, self.intake.take))
                   for name, channel in self.channels.items() if channel.fetch and name in self.settings.platforms]
        await self._stop.wait()
        log.info("stopping: what is in hand is finished first")
        for task in polling:
            task.cancel()
        await asyncio.wait([asyncio.create_task(self._shut_down(dispatching))], timeout=DRAIN)
        return 0

    async def _shut_down(self, dispatching: asyncio.Task[None]) -> None:
        await asyncio.gather(self.server.stop(DRAIN - 1), self.dispatcher.stop(), self.exporter.stop())
        await dispatching
        self.close_control()
        for task in self._background:
            task.cancel()
        self.caller.close()
        await self.store.close(self.clock())

    def _catch_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for name in (signal.SIGTERM, signal.SIGINT):
            try:
                loop.add_signal_handler(name, self._stop.set)
            except NotImplementedError:  # Windows
                signal.signal(name, lambda *_: loop.call_soon_threadsafe(self._stop.set))
        if self.settings.tls_cert and hasattr(signal, "SIGHUP"):
            loop.add_signal_handler(signal.SIGHUP, self._renew_certificate)

    def _renew_certificate(self) -> None:
        try:
            self.server.ssl = tls(self.settings.tls_cert, self.settings.tls_key)  # for connections from now on
            log.info("SIGHUP: the certificate was read again")
        except SettingsFault as fault:
            log.error("SIGHUP: the certificate stays as it was: %s", fault)

    def _routes(self) -> Routes:
        table: dict[tuple[str, str], Endpoint] = {("GET", "/healthz"): self._looking(self._health)}
        if self.settings.admin_token:
            show = self._looking(lambda health: metrics.page(self.counts, self.meter, health))
            table["GET", "/metrics"] = metrics.guarded(self.settings.admin_token, show)
        for name, channel in self.channels.items():
            ready = bool(getattr(self.settings, f"{name}_on"))
            table["POST", f"/{name}/webhook"] = self.intake.webhook(channel, ready)
            if channel.handshake:
                table["GET", f"/{name}/webhook"] = channel.handshake
        return Routes(table)

    def _looking(self, show: Callable[[Health], Response]) -> Endpoint:
        """An endpoint that shows the store's health."""
        def endpoint(request: Request) -> Answer:
            answer: Promise[Response] = Promise()

            async def ask() -> None:
                try:
                    response = show(await self.store.health(self.clock()))
                except StoreDown:
                    response = _json(503, {"status": "store unusable", "id": self._id})
                if not answer.done():
                    answer.set_result(response)

            self._spawn(ask())
            return answer

        return endpoint

    def _health(self, health: Health) -> Response:
        return _json(200, {"status": "ok", "pending": health.pending, "oldest_pending_seconds": health.oldest,
                           "dead": health.dead, "id": self._id})

    def _spawn(self, chore: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(chore)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task

    async def _announce(self) -> None:
        public = await tunnel.address(self.settings, self.caller, self.port)
        try:
            health = await self.store.health(self.clock())
        except StoreDown as fault:
            return log.error("the database cannot be read: %s", fault)
        print("\n".join(startup.lines(self.settings, public, health, wants_colour(sys.stdout))), flush=True)

    def _refused(self, name: str) -> None:
        """A webhook was refused. Telegram's may lack our secret because it was set by hand: mended, if it is ours."""
        if name == "telegram" and time.monotonic() >= self._mend_at:
            self._mend_at = time.monotonic() + MEND_EVERY
            self._spawn(self._mend())

    async def _mend(self) -> None:
        from minibot.desk.connect import repair  # for this rare case only

        try:
            if done := await repair(self.settings, self.caller, self.port):
                log.warning("%s", done)
        except MinibotError as fault:
            log.debug("telegram: the webhook could not be looked at: %s", fault)

    def _acknowledge(self, event: Acknowledge) -> None:
        make = self.channels[event.platform].acknowledge
        if make is not None:
            self._spawn(self._courtesy(event.platform, make(event.query)))

    async def _courtesy(self, platform: str, call: Any) -> None:
        try:
            await self.caller.perform(call, f"{platform}:typing")
        except MinibotError as fault:
            log.debug("%s: a sign of life was lost: %s", platform, fault)

    async def _warm(self) -> None:
        await asyncio.to_thread(self.caller.warm)
        await self.model.warm()

    async def _maintain(self) -> None:
        while True:
            await asyncio.sleep(MAINTAIN_EVERY)
            try:
                await self.store.maintain(self.clock())
            except StoreDown as fault:
                log.error("the store could not be looked after: %s", fault)

    async def _introduce(self) -> None:
        """Learn our own name where a platform tells it; until then only replies and commands address us in groups."""
        for name, channel in self.channels.items():
            wait = 1.0
            while getattr(self.settings, f"{name}_on") and channel.whoami and channel.named:
                try:
                    self.intake.me[name] = channel.named(await self.caller.perform(channel.whoami, name))
                    self._spawn(self._courtesy(name, telegram.set_commands(self.settings)))
                    break
                except MinibotError as fault:
                    log.warning("%s does not tell our name yet: %s", name, fault)
                await asyncio.sleep(wait)
                wait = min(wait * 2, 300.0)


def _json(status: int, facts: dict[str, Any]) -> Response:
    return Response(status, json.dumps(facts).encode() + b"\n", "application/json")
