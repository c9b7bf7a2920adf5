"""`python run.py connect`: register the webhooks at our public address, then read back what the platform has of it.

Not here: the address (`tunnel.py`), Meta's part (`connect_meta.py`), the calls (`channels/telegram.py`). The law:
nothing that waits at Telegram is dropped; every failure is one line with its remedy; running it twice does no harm.
Telegram sends no test request when a webhook is set, so what it reports afterwards is the only sign that it works.

Next: `connect_meta.py`.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

from minibot.channels import telegram
from minibot.channels.telegram_updates import Object
from minibot.config import Settings
from minibot.desk import connect_meta, tunnel
from minibot.desk.connect_meta import Stopped
from minibot.desk.graph import Graph
from minibot.desk.report import age, moved
from minibot.errors import NoAnswer, SendFailed
from minibot.model import PLATFORMS, Call
from minibot.text import safe_line
from minibot.web.calls import Caller

PATH = "/telegram/webhook"
USAGE = "usage: python run.py connect [telegram] [whatsapp] [messenger] [instagram] [--url https://your.address]"
PORTS = (None, 443, 80, 88, 8443)  # core.telegram.org/bots/api#setwebhook
LOOKS, LOOK_EVERY = 8, 1.0  # seconds: how long what waits at Telegram may take to arrive
ADVICE = (  # what Telegram says -> what to do; the first that occurs counts
    ("resolve", "that host is unknown; is the address right, and does ngrok still run?"),
    ("reserved", "that address is not public; use ngrok or a server of your own"),
    ("too many requests", "Telegram takes one registration a second; run it again"),
    ("401", "the secret was missing or another one: python run.py connect telegram registers ours"),
    ("404", "the path is not ours, or ngrok's address has changed"),
    ("403", "something before minibot refuses: a firewall or ngrok's own rules"),
    ("ssl", "the certificate is not valid for that name, or its chain is incomplete"),
    ("certificate", "the certificate is not valid for that name, or its chain is incomplete"),
    ("", "minibot was not reachable there; does it run, and does ngrok or the proxy lead to its port?"),
)


def main(arguments: list[str], settings: Callable[[], Settings]) -> int:
    """The command. Exit code 0: all registered; 1: something is left, and a line says what; 2: wrong arguments."""
    names, url = _arguments(arguments)
    if names is None:
        print(USAGE, file=sys.stderr)
        return 2
    return asyncio.run(_with_caller(settings(), names, url))


async def _with_caller(settings: Settings, names: list[str], url: str | None) -> int:
    caller = Caller(clock=time.monotonic)
    try:
        return await connect(settings, caller, names, url, time.time)
    finally:
        caller.close()


async def connect(settings: Settings, caller: Caller, names: list[str], url: str | None, clock: Callable[[], float],
                  agents: tuple[str, ...] = tunnel.AGENTS) -> int:
    """Register the platforms `names` (none: all that have a token). -> exit code; `clock`: seconds since 1970."""
    left, public = 0, await tunnel.address(settings, caller, settings.port, url, agents)
    for name in names or settings.platforms or ("telegram",):
        try:
            left |= await _platform(name, settings, caller, public, clock)
        except (Stopped, NoAnswer, SendFailed) as fault:
            help = fault.help if isinstance(fault, SendFailed) else ""
            print(f"{name}: {safe_line(help or str(fault), 500)}", file=sys.stderr)
            left = 1
    return left


async def _platform(name: str, settings: Settings, caller: Caller, public: tunnel.Tunnel, clock: Callable[[], float]
                    ) -> int:
    if name == "telegram" and settings.telegram_polling:
        await _ask(caller, telegram.request(settings, "deleteWebhook", drop_pending_updates=False))
        print("telegram: TELEGRAM_POLLING=1, so no webhook is registered (any more); nothing that waits is dropped")
        return 0
    if not public.url:
        raise Stopped(public.problem)
    if name == "telegram":
        return await connect_telegram(settings, caller, public.url + PATH, clock)
    graph, url = Graph(settings, caller), f"{public.url}/{name}/webhook"
    told = await connect_meta.connect(graph, name, url) if graph.app else connect_meta.by_hand(graph, name, url)
    if graph.product(name).token == "instagram_access_token":
        told.append(await connect_meta.renew(graph))
    print("\n".join(told))
    return int(not graph.app)


async def connect_telegram(settings: Settings, caller: Caller, address: str, clock: Callable[[], float]) -> int:
    """Register `address`, then look until what waits has arrived. -> exit code. Raises Stopped."""
    if not settings.telegram_bot_token:
        raise Stopped("TELEGRAM_BOT_TOKEN: not set; get one from @BotFather and put it into .env")
    if urlsplit(address).port not in PORTS:
        raise Stopped("Telegram calls only the ports 443, 80, 88, 8443; put a proxy on one of them, or use ngrok")
    look = telegram.request(settings, "getWebhookInfo")
    before = await _ask(caller, look)
    await _ask(caller, _with_certificate(telegram.set_webhook(settings, address), settings.tls_cert))
    print("\n".join(["telegram: the webhook is registered, with its secret", *moved(before.get("url"), address),
                     f"  address    {address}"]))
    for _ in range(LOOKS):
        info = await _ask(caller, look)
        fresh = info.get("last_error_date") != before.get("last_error_date")
        if fresh or not info.get("pending_update_count"):
            break
        await asyncio.sleep(LOOK_EVERY)
    return _told(info, address, clock()) or int(fresh)


async def repair(settings: Settings, caller: Caller, port: int) -> str:
    """Telegram delivers without our secret: if it is to our address, register that with the secret; what was done."""
    public = await tunnel.address(settings, caller, port)
    info = await _ask(caller, telegram.request(settings, "getWebhookInfo"))
    if not public.url or info.get("url") != public.url + PATH:
        return ""
    await _ask(caller, _with_certificate(telegram.set_webhook(settings, public.url + PATH), settings.tls_cert))
    return "telegram: the webhook was registered without our secret; it is registered again, with it"


def _arguments(arguments: list[str]) -> tuple[list[str] | None, str | None]:
    """-> (platforms, url); (None, None) where they are not understood."""
    words = " ".join(arguments).replace("--url ", "--url=").split(" ") if arguments else []
    urls = [word.removeprefix("--url=") for word in words if word.startswith("--url=")]
    names = [word for word in words if not word.startswith("--url=")]
    return (names, urls[-1] if urls else None) if {*names} <= {*PLATFORMS} else (None, None)


async def _ask(caller: Caller, call: Call) -> Object:
    """What `call` gives, if it is a good reply. Raises Stopped."""
    try:
        return telegram.result(await caller.perform(call, "telegram"))
    except NoAnswer as fault:
        raise Stopped(f"{fault}; is this machine online, and is TELEGRAM_API_URL right?") from None
    except SendFailed as fault:
        hint = f"; {advice(fault.help)}" if fault.code in ("400", "429") else ""
        raise Stopped(f"{call.name.split()[-1]} was refused ({fault.code}): {safe_line(fault.help)}{hint}") from None


def _with_certificate(call: Call, path: str) -> Call:
    """`call` with our certificate as an upload, if nobody else vouches for it: alone in its file, without a chain."""
    certificate = Path(path).read_bytes() if path else b""
    if certificate.count(b"BEGIN CERTIFICATE") != 1:
        return call
    boundary, values = "minibot-certificate", json.loads(call.body).items()
    form = "".join(f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'
                   f"{value if isinstance(value, str) else json.dumps(value)}\r\n" for name, value in values)
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="certificate"; filename="cert.pem"\r\n\r\n'
    return replace(call, fields={"Content-Type": f"multipart/form-data; boundary={boundary}"},
                   body=f"{form}{head}".encode() + certificate + f"\r\n--{boundary}--\r\n".encode())


def _told(info: Object, address: str, now: float) -> int:
    """Print getWebhookInfo in plain words. -> exit code"""
    registered, waiting = info.get("url"), info.get("pending_update_count")
    print(f"  waiting    {waiting if isinstance(waiting, int) else 0} at Telegram; nothing is dropped")
    said, since = info.get("last_error_message"), info.get("last_error_date")
    if isinstance(said, str) and said:
        past = f"{age(now - since)} ago" if isinstance(since, (int, float)) else "at an unknown time"
        print(f"  last error {past}: {safe_line(said)}\n             {advice(said)}")
    if registered != address:
        print(f"telegram: it reports another address, {safe_line(str(registered or 'none'))}; does a second program "
              "register this bot? Stop it and run this again", file=sys.stderr)
        return 1
    return 0


def advice(said: str) -> str:
    """What to do about an error that Telegram had with our address."""
    return next(advice for words, advice in ADVICE if words in said.lower())
