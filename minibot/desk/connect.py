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
from minibot.channels.fields import Item
from minibot.config import Settings
from minibot.desk import connect_meta, report, tunnel
from minibot.desk.connect_meta import Stopped
from minibot.desk.graph import Graph
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
    ("", "minibot was not reachable there; does it run, and does ngrok or the proxy lead to its port?"))


def main(arguments: list[str], settings: Callable[[], Settings]) -> int:
    """The command. Exit code 0: all registered; 1: something is left, and a line says what; 2: wrong arguments."""
    words = " ".join(arguments).replace("--url ", "--url=").split(" ") if arguments else []
    urls = [word.removeprefix("--url=") for word in words if word.startswith("--url=")]
    names = [word for word in words if not word.startswith("--url=")]
    if {*names} - {*PLATFORMS}:
        print(USAGE, file=sys.stderr)
        return 2
    loaded = settings()
    return report.run(lambda caller: connect(loaded, caller, names, urls[-1] if urls else None, time.time))


async def connect(settings: Settings, caller: Caller, names: list[str], url: str | None, clock: Callable[[], float],
                  agents: tuple[str, ...] = tunnel.AGENTS) -> int:
    """Register the platforms `names` (none: all that have a token). -> exit code; `clock`: seconds since 1970."""
    public, left = await tunnel.address(settings, caller, settings.port, url, agents), 0
    for name in names or settings.platforms or ("telegram",):
        try:
            if name not in settings.platforms:
                raise Stopped(f"missing in .env: {', '.join(settings.missing(name))}; README.md says where to get it")
            if not public.url and not (name == "telegram" and settings.telegram_polling):
                raise Stopped(public.problem)
            hook = f"{public.url}/{name}/webhook"
            told, failed = await (connect_telegram(settings, caller, hook, clock) if name == "telegram" else
                                  connect_meta.connect(Graph(settings, caller), name, hook))
            print("\n".join(told))
            left |= failed
        except (Stopped, NoAnswer, SendFailed) as fault:
            print(f"{name}: {safe_line(getattr(fault, 'help', '') or str(fault), 500)}", file=sys.stderr)
            left = 1
    return left


async def connect_telegram(settings: Settings, caller: Caller, address: str, clock: Callable[[], float]
                           ) -> tuple[list[str], int]:
    """Register `address`, then look until what waits has arrived. -> (lines, exit code). Raises Stopped."""
    if settings.telegram_polling:
        await _ask(caller, telegram.request(settings, "deleteWebhook", drop_pending_updates=False))
        return ["telegram: TELEGRAM_POLLING=1, so no webhook is registered any more; nothing that waits is dropped"], 0
    if urlsplit(address).port not in PORTS:
        raise Stopped("Telegram calls only the ports 443, 80, 88, 8443; put a proxy on one of them, or use ngrok")
    look = telegram.request(settings, "getWebhookInfo")
    before = await _ask(caller, look)
    await _ask(caller, _registration(settings, address))
    for _ in range(LOOKS):
        info = await _ask(caller, look)
        fresh, waiting = info.get("last_error_date") != before.get("last_error_date"), info.get("pending_update_count")
        if fresh or not waiting:
            break
        await asyncio.sleep(LOOK_EVERY)
    if info.get("url") != address:
        raise Stopped(f"Telegram reports another address, {info.get('url') or 'none'}; does a second program register "
                      "this bot? Stop it and run this again")
    told = ["telegram: the webhook is registered, with its secret", *report.moved(before.get("url"), address),
            f"  address    {address}",
            f"  waiting    {waiting if isinstance(waiting, int) else 0} at Telegram; nothing is dropped"]
    said, since = info.get("last_error_message"), info.get("last_error_date")
    if isinstance(said, str) and said:
        past = f"{report.age(clock() - since)} ago" if isinstance(since, (int, float)) else "at an unknown time"
        told.append(f"  last error {past}: {safe_line(said)}\n             {advice(said)}")
    return told, int(fresh)


async def repair(settings: Settings, caller: Caller, port: int) -> str:
    """Telegram delivers without our secret: if it is to our address, register that with the secret; what was done."""
    public = await tunnel.address(settings, caller, port)
    info = await _ask(caller, telegram.request(settings, "getWebhookInfo"))
    if not public.url or info.get("url") != public.url + PATH:
        return ""
    await _ask(caller, _registration(settings, public.url + PATH))
    return "telegram: the webhook was registered without our secret; it is registered again, with it"


async def _ask(caller: Caller, call: Call) -> Item:
    """What `call` gives, if it is a good reply. Raises Stopped."""
    try:
        return telegram.result(await caller.perform(call, "telegram"))
    except NoAnswer as fault:
        raise Stopped(f"{fault}; is this machine online, and is TELEGRAM_API_URL right?") from None
    except SendFailed as fault:
        hint = f"; {advice(fault.help)}" if fault.code in ("400", "429") else ""
        raise Stopped(f"{call.name.split()[-1]} was refused ({fault.code}): {safe_line(fault.help)}{hint}") from None


def _registration(settings: Settings, address: str) -> Call:
    """setWebhook, with our certificate as an upload if nobody else vouches for it: alone in its file, no chain."""
    call = telegram.set_webhook(settings, address)
    certificate = Path(settings.tls_cert).read_bytes() if settings.tls_cert else b""
    if certificate.count(b"BEGIN CERTIFICATE") != 1:
        return call
    head = '--minibot-part\r\nContent-Disposition: form-data; name="'
    form = "".join(f'{head}{name}"\r\n\r\n{value if isinstance(value, str) else json.dumps(value)}\r\n'
                   for name, value in json.loads(call.body).items())
    return replace(call, fields={"Content-Type": "multipart/form-data; boundary=minibot-part"},
                   body=f'{form}{head}certificate"; filename="cert.pem"\r\n\r\n'.encode() + certificate
                   + b"\r\n--minibot-part--\r\n")


def advice(said: str) -> str:
    """What to do about an error that Telegram had with our address."""
    return next(advice for words, advice in ADVICE if words in said.lower())
