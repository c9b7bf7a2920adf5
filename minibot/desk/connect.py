"""`python run.py connect telegram`: register the webhook with its secret, then read back what Telegram thinks of it.

Not here: the calls themselves (`channels/telegram.py`), finding ngrok (`tunnel.py`). The law: nothing that waits at
Telegram is dropped; every failure is one line with its remedy; running it twice does no harm. Telegram sends no
test request when a webhook is set, so what it reports afterwards is the only sign that the address works.

Next: `check.py`.
"""

from __future__ import annotations

import asyncio
import re
import sys
import time
from collections.abc import Callable

from minibot.channels import telegram
from minibot.config import Settings
from minibot.desk import tunnel
from minibot.errors import NoAnswer, SendFailed
from minibot.model import PLATFORMS, Call, Reply
from minibot.text import safe_line
from minibot.web.calls import Caller

PATH = "/telegram/webhook"
USAGE = "usage: python run.py connect telegram [--url https://your.address]"
PORTS = ("443", "80", "88", "8443")  # core.telegram.org/bots/api#setwebhook
ADDRESS = re.compile(r"(https?)://(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:]+\])(?::([0-9]{1,5}))?(?:/[\x21-\x7e]*)?")
ADVICE = (  # what Telegram says -> what to do; the first that occurs counts
    ("resolve", "that host is unknown; is the address right, and does ngrok still run?"),
    ("reserved", "that address is not public; use ngrok or a server of your own"),
    ("too many requests", "Telegram takes one registration a second; run it again"),
    ("401", "the secret was missing; this registration sends it"),
    ("404", "the path is not ours, or ngrok's address has changed"),
    ("403", "something before minibot refuses: a firewall or ngrok's own rules"),
    ("ssl", "the certificate is not valid for that name, or its chain is incomplete"),
    ("certificate", "the certificate is not valid for that name, or its chain is incomplete"),
    ("", "minibot was not reachable there; does it run, and does ngrok or the proxy lead to its port?"),
)


class Stopped(Exception):
    """The registration cannot go on; the text is the line for the operator."""


def main(arguments: list[str], settings: Callable[[], Settings]) -> int:
    """The command. Exit code 0: registered; 1: not, and a line says why; 2: wrong arguments."""
    names, url = _arguments(arguments)
    if names is None:
        print(USAGE, file=sys.stderr)
        return 2
    by_hand = [name for name in names if name != "telegram"]
    if by_hand:
        print(f"connect cannot register {', '.join(by_hand)} yet; enter the webhook in Meta's dashboard, as the README "
              "says", file=sys.stderr)
        return 2
    return asyncio.run(_with_caller(settings(), url))


async def _with_caller(settings: Settings, url: str | None) -> int:
    caller = Caller(clock=time.monotonic)
    try:
        return await connect_telegram(settings, caller, url, time.time)
    finally:
        caller.close()


async def connect_telegram(settings: Settings, caller: Caller, url: str | None, clock: Callable[[], float],
                           agents: tuple[str, ...] = tunnel.AGENTS) -> int:
    """Register the webhook at `url`, PUBLIC_URL or ngrok's address. -> exit code; `clock` gives seconds since 1970."""
    try:
        if not settings.telegram_bot_token:
            raise Stopped("TELEGRAM_BOT_TOKEN: not set; get one from @BotFather and put it into .env")
        if settings.telegram_polling:
            raise Stopped("TELEGRAM_POLLING=1: the bot fetches its messages and needs no webhook; set it to 0 for one")
        address = await _address(settings, caller, url, agents) + PATH
        await _ask(caller, telegram.set_webhook(settings, address), address)
        print(f"telegram: the webhook is registered, with its secret\n  address    {address}")
        return _told(await _ask(caller, telegram.request(settings, "getWebhookInfo"), ""), address, clock())
    except Stopped as stop:
        print(f"telegram: {stop}", file=sys.stderr)
        return 1


def _arguments(arguments: list[str]) -> tuple[list[str] | None, str | None]:
    """-> (platforms, url); (None, None) where they are not understood."""
    names, url, rest = [], None, list(arguments)
    while rest:
        word = rest.pop(0)
        if word.startswith("--url="):
            url = word.removeprefix("--url=")
        elif word == "--url" and rest:
            url = rest.pop(0)
        elif word in PLATFORMS:
            names.append(word)
        else:
            return None, None
    return names or ["telegram"], url


async def _address(settings: Settings, caller: Caller, url: str | None, agents: tuple[str, ...]) -> str:
    """The public address without our path, from the first source that names one. Raises Stopped."""
    given = url if url is not None else settings.public_url
    source = "--url" if url is not None else "PUBLIC_URL"
    if not given:
        found = await tunnel.find(caller, settings.port, agents)
        if not found.url:
            raise Stopped(f"no public address: {found.problem}; or name one with --url or PUBLIC_URL")
        given, source = found.url, "ngrok"
    match = ADDRESS.fullmatch(given)
    if not match or re.search("[?#@]", given):
        raise Stopped(f"{source}: {safe_line(given, 80)} is no address; write it like https://abc.ngrok.app")
    if match[1] != "https":
        raise Stopped(f"{source}: {given} is plain http, and Telegram demands https; with ngrok take its https address")
    if match[2] and match[2] not in PORTS:
        raise Stopped(f"{source}: Telegram calls only the ports {', '.join(PORTS)}, not {match[2]}; put a proxy on one "
                      "of them, or use ngrok")
    return given.rstrip("/").removesuffix(PATH)


async def _ask(caller: Caller, call: Call, address: str) -> Reply:
    """Perform `call`; the reply is a good one. Raises Stopped."""
    try:
        reply = await caller.perform(call, "telegram")
        telegram.result(reply)
        return reply
    except NoAnswer as fault:
        raise Stopped(f"{fault}; is this machine online, and is TELEGRAM_API_URL right?") from None
    except SendFailed as fault:
        advice = f"; {_advice(fault.help)}" if fault.code in ("400", "429") else ""
        raise Stopped(f"{call.name.split()[-1]} was refused ({fault.code}): {safe_line(fault.help)}{advice}") from None


def _told(reply: Reply, address: str, now: float) -> int:
    """Print getWebhookInfo in plain words. -> exit code"""
    info = telegram.result(reply)
    registered, waiting = info.get("url"), info.get("pending_update_count")
    print(f"  waiting    {waiting if isinstance(waiting, int) else 0} at Telegram; nothing is dropped")
    said, since = info.get("last_error_message"), info.get("last_error_date")
    if isinstance(said, str) and said:
        age = f"{_age(now - since)} ago" if isinstance(since, (int, float)) else "at an unknown time"
        print(f"  last error {age}: {safe_line(said)}\n             {_advice(said)}")
    if registered != address:
        print(f"telegram: it reports another address, {safe_line(str(registered or 'none'))}; does a second program "
              "register this bot? Stop it and run this again", file=sys.stderr)
        return 1
    return 0


def _advice(said: str) -> str:
    return next(advice for words, advice in ADVICE if words in said.lower())


def _age(seconds: float) -> str:
    """A span in the largest unit that fits: "41 seconds", "3 minutes", "2 hours", "5 days"."""
    for size, unit in ((86400, "day"), (3600, "hour"), (60, "minute"), (1, "second")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}{'' if seconds < 1.5 * size else 's'}"
    return "a moment"
