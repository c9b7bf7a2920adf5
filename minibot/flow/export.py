"""Finished exchanges on their way to the operator's CRM and spreadsheet, beside the work and never in its way.

Not here: what is posted (`records.py`), which exchange is due (`store/sql_export.py`). The law: each destination has
its own loop, threads, breaker and schedule, so that one that hangs delays nobody; an exchange is posted at least
once, under the same `event_id` each time; no redirect is followed with a body or a signature; an address, which may
hold a password, is never shown. What a destination refuses for good is parked for `run.py dead`, never dropped.

Next: `records.py`, what they read; `store/sql_export.py`, what waits.
"""

from __future__ import annotations

import asyncio
import json
import logging
from base64 import b64encode
from contextlib import suppress
from dataclasses import dataclass, field, replace
from urllib.parse import unquote_to_bytes, urljoin, urlsplit

from minibot.config import Settings
from minibot.errors import NoAnswer, Remedy, SendFailed, StoreDown, retry_after
from minibot.flow import retry
from minibot.flow.breaker import FAILURES, Breaker
from minibot.flow.kit import Kit
from minibot.logs import Seldom, mask
from minibot.model import Call, Reply
from minibot.records import crm, row, signed, signing_key
from minibot.work import Export

log = logging.getLogger("minibot.export")
TIMEOUT = 30.0  # seconds for a call; Apps Script takes some when it has slept
LEASE = 90_000  # ms; longer than a POST and the GET that may follow
LOOK_EVERY = 1.0  # seconds
REFUSALS = 5  # tries, over half an hour, until a refusal is believed
GRACE = 3.0  # seconds after a stop for what is on its way; whatever is cut goes again after the next start
BODIES = {"crm": crm, "sheets": row}
ABREAST = {"crm": 2, "sheets": 1}  # posts at a time, each of another conversation
ECHO = ("https", "script.googleusercontent.com")  # where Apps Script keeps its answers
HELP = {"302": "it redirects elsewhere: set its final address; Apps Script is deployed for anyone?",
        "200": 'the answer is not {"ok": true}: is this the script of the README, deployed for anyone?',
        "401": "it wants other credentials", "404": "is the address right?", "410": "that address is gone"}


@dataclass(frozen=True, slots=True)
class Destination:
    """Where exchanges go. `url` is without user and password, which are in `fields`."""

    name: str
    url: str = field(repr=False)
    fields: dict[str, str] = field(repr=False)
    key: bytes = field(repr=False)  # that signs, b"": nothing is signed
    breaker: Breaker


def destination(name: str, settings: Settings) -> Destination:
    """The destination `name`, "crm" or "sheets". Raises SettingsFault for a broken EXPORT_SECRET."""
    parts = urlsplit(settings.destinations[name].reveal())
    user, _, host = parts.netloc.rpartition("@")
    if parts.scheme == "http" and parts.hostname not in ("localhost", "127.0.0.1", "::1"):
        log.warning("%s_WEBHOOK_URL is plain http: everyone on the way can read along; use https", name.upper())
    login = unquote_to_bytes(user if ":" in user else f"{user}:")
    fields = {"Authorization": f"Basic {b64encode(login).decode()}"} if user else {}
    key = signing_key(settings.export_secret.reveal()) if name == "crm" else b""
    return Destination(name, parts._replace(netloc=host).geturl(), fields, key, Breaker())


class Exporter:
    """The loops, one for each destination that the settings name."""

    def __init__(self, kit: Kit) -> None:
        self._kit, self._mask, self._seldom = kit, mask(kit.settings), Seldom()
        self.destinations = [destination(name, kit.settings) for name in kit.settings.destinations]
        self._tasks, self._stopping = list[asyncio.Task[None]](), asyncio.Event()

    def start(self) -> None:
        """Begin; without destinations nothing runs."""
        self._tasks = [asyncio.create_task(self._serve(each)) for each in self.destinations]

    async def stop(self) -> None:
        """No further post; those on their way get a moment."""
        self._stopping.set()
        with suppress(TimeoutError):
            await asyncio.wait_for(asyncio.gather(*self._tasks), GRACE)

    async def _serve(self, to: Destination) -> None:
        while not self._stopping.is_set():
            wait = LOOK_EVERY
            try:
                wait = await self.round(to)
            except StoreDown as fault:
                self._seldom.warning(log, "store", f"the store is out of reach, exports wait: {fault}")
            except Exception:  # a fault of ours in one exchange must not end all: it comes again after its lease
                log.exception("%s: a fault in minibot itself", to.name)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), wait)

    async def round(self, to: Destination) -> float:
        """Post what is due, of each conversation one; how many seconds to wait then."""
        now = self._kit.clock()
        if later := to.breaker.admit(now):
            return (later - now) / 1000
        abreast = ABREAST[to.name] if to.breaker.failures < FAILURES else 1
        due = await self._kit.store.exports(to.name, now, LEASE, abreast)
        if not due:
            to.breaker.pause(0)  # nothing to find out with: the way is free for the next one
            return LOOK_EVERY
        await asyncio.gather(*(self._deliver(to, each) for each in due))
        return 0.0

    async def _deliver(self, to: Destination, export: Export) -> None:
        outage = to.breaker.failures >= FAILURES
        try:
            await self._post(to, replace(export, message=self._mask(export.message), reply=self._mask(export.reply),
                                         name=self._mask(export.name)))
        except (NoAnswer, SendFailed) as fault:
            return await self._failed(to, export, fault)
        to.breaker.worked()
        self._kit.counts[to.name, "sent"] += 1
        await self._kit.store.exported(export.id)
        if outage:
            await self._kit.store.export_at_once(to.name)

    async def _post(self, to: Destination, export: Export) -> None:
        """Raises NoAnswer, or SendFailed with RETRY or REFUSED."""
        reply = await self._kit.caller.perform(post(to, export, self._kit.clock() // 1000), to.name)
        if to.name == "sheets" and (address := echo(to.url, reply)):
            reply = await self._kit.caller.perform(Call("sheets", "GET", address, timeout=TIMEOUT), to.name)
        judge(reply, confirmed=to.name == "sheets")

    async def _failed(self, to: Destination, export: Export, fault: NoAnswer | SendFailed) -> None:
        now, refused = self._kit.clock(), isinstance(fault, SendFailed) and fault.remedy is Remedy.REFUSED
        asked = fault.retry_after if isinstance(fault, SendFailed) else None
        to.breaker.worked() if refused else to.breaker.failed(now)
        to.breaker.pause(now + round((asked or 0) * 1000))
        believed = refused and export.tries >= REFUSALS
        wait = None if believed else retry.delay("export", export.tries, self._kit.chance(), asked)
        what, then = ("parked", "see run.py dead") if wait is None else ("failed", "it goes again later")
        self._seldom.warning(log, f"{to.name} {what}", f"{to.name}: exchange {export.id}, try {export.tries}, {what}: "
                             f"{fault}; {then}")
        self._kit.counts[to.name, what] += 1
        await self._kit.store.export_failed(export.id, str(fault), None if wait is None else now + wait)


def post(to: Destination, export: Export, seconds: int) -> Call:
    """The POST, signed for this second if there is a key."""
    body = json.dumps(BODIES[to.name](export)).encode()
    signature = signed(to.key, export.event_id, seconds, body) if to.key else {}
    fields = {"Content-Type": "application/json", "Idempotency-Key": export.event_id, **to.fields, **signature}
    return Call(to.name, "POST", to.url, fields, body, TIMEOUT)


def echo(url: str, reply: Reply) -> str:
    """Where Apps Script's answer to the POST to `url` is to be fetched; "" if nowhere that we would go.

    The script has run by then. Only Google's own place for answers, or the origin we have just talked to.
    """
    if reply.status not in (302, 303):
        return ""
    with suppress(ValueError):  # no address at all
        address = urljoin(url, reply.fields.get("location", ""))
        return address if urlsplit(address)[:2] in (ECHO, urlsplit(url)[:2]) else ""
    return ""


def judge(reply: Reply, confirmed: bool) -> None:
    """Return if it was taken: 2xx, and if `confirmed` with {"ok": true}; else raise SendFailed, RETRY or REFUSED."""
    status = reply.status
    refused = 400 <= status < 500 and status not in (408, 425, 429)
    if 200 <= status < 300 and (_ok(reply.body) or not confirmed):
        return
    raise SendFailed(Remedy.REFUSED if refused else Remedy.RETRY, str(status), retry_after=retry_after(reply.fields),
                     help=HELP.get("302" if 300 <= status < 400 else "200" if status < 300 else str(status), ""))


def _ok(body: bytes) -> bool:
    try:
        return bool(json.loads(body)["ok"] is True)
    except (ValueError, RecursionError, LookupError, TypeError):
        return False
