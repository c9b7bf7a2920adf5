"""What `check` finds out on this machine: settings, database, the running server, its public address, the model.

Not here: the platforms (`check_platforms.py`). The law: a secret is looked at for its shape and never shown; that the
public address leads to *this* process is proved by the number that /healthz shows, another one after each start.

Next: `check_platforms.py`.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import fields, replace
from typing import Any, NamedTuple
from urllib.parse import quote

from minibot.ai import OpenAiModel, retires
from minibot.config import KEYS, Settings
from minibot.desk.graph import Graph
from minibot.desk.report import age
from minibot.desk.startup import state
from minibot.desk.tunnel import Tunnel
from minibot.errors import AiFailed, MinibotError, NoAnswer, SettingsFault
from minibot.model import PLATFORMS, Call, Secret
from minibot.store.opening import open_reader
from minibot.store.sqlite_file import free
from minibot.web.calls import Caller
from minibot.web.server import tls
from minibot.work import Said

KINDS = {  # what a value is by its looks: its name, where it belongs
    r"[0-9]{6,12}:[\w-]{30,}": ("a Telegram bot token", "telegram_bot_token"),
    r"sk-.{16,}": ("an OpenAI key", "ai_api_key"),
    r"IG[A-Z]{2}.{16,}": ("a token of Instagram Login", "instagram_access_token"),
    r"EAA.{16,}": ("a Meta token", "meta_access_token meta_page_access_token")}
SAMPLE = re.compile(r"x{6}|your[-_]|change-?me|<.*>|…|\.\.\.|my-secret-verify|^123456789012345$|AAHdqTcvCH1vG", re.I)
LATE = 300  # seconds a message may wait before that is worth a warning
SCARCE = 200 << 20  # bytes of free disk
CHALLENGE = "1158201444"
Say = Callable[..., None]  # of a Report


class Case(NamedTuple):
    """What an examination has at hand; `now`: seconds since 1970."""

    settings: Settings
    caller: Caller
    graph: Graph
    public: Tunnel
    now: float


def shapes(settings: Settings, say: Say) -> Settings:
    """Values that are missing, or cannot be right by their looks: told, and left out of the settings returned."""
    half, unset = [name for name in PLATFORMS if state(settings, name) == "wrong"], dict[str, Any]()
    for line in fields(Settings):
        key, held = KEYS[line.name], getattr(settings, line.name)
        needy = [platform for platform in half if key in settings.missing(platform)]
        say("settings", (needy, "error", f"{key}: not set, and {', '.join(needy)} cannot do without it",
                         line.metadata["help"]))
        for value in held if isinstance(held, tuple) else (held,):
            text = value.reveal() if isinstance(value, Secret) else value if isinstance(value, str) else ""
            kind, home = next((KINDS[shape] for shape in KINDS if re.fullmatch(shape, text)), ("", line.name))
            number = line.name == "meta_phone_number_id" and re.fullmatch("[0-9]{1,13}", text)
            sample = line.name != "system_prompt" and SAMPLE.search(text)
            say("settings", (line.name not in home, "error", f"{key}: holds {kind}", f"it belongs into {home.upper()}"),
                (number, "error", f"{key}: that is a phone number", "take the id below it on WhatsApp > API Setup"),
                (sample, "error", f"{key}: still holds the placeholder of an example", "put your own value there"))
            if line.name not in home or number or sample:
                unset |= {line.name: line.default} | ({"openai_base_url": ""} if line.name == "ai_api_key" else {})
    return replace(settings, **unset)


async def database(case: Case, say: Say) -> None:
    """Whether the database file can be written, or the server answers."""
    if path := case.settings.sqlite_path:
        folder = os.path.dirname(path) or "."
        closed = not all(os.access(each, os.W_OK) for each in (folder, path)[:1 + os.path.exists(path)])
        room = 0 if closed else free(path) >> 20
        return say(
            "database", (closed, "error", f"{path} cannot be written", "its folder must exist and belong to this user; "
                         "or set DATABASE_URL"),
            (room < SCARCE >> 20, "warning", f"only {room} MiB of disk are left for {path}", "make room: without it no "
             "message is taken any more"), (True, "ok", f"{path} can be written", ""))
    try:
        with closing(await asyncio.to_thread(open_reader, case.settings)) as reader:
            waiting = reader.execute("SELECT COUNT(*) FROM waiting", ()).fetchone()[0]
        say("database", (True, "ok", f"the PostgreSQL server answers; {waiting} messages wait", ""))
    except MinibotError as fault:
        what, _, remedy = str(fault).partition("; ")
        say("database", (True, "error", what, remedy or "correct DATABASE_URL, or see to the server"))


async def server(case: Case, say: Say) -> None:
    """The running minibot, and whether the world reaches it."""
    settings, public, health = case.settings, case.public, dict[str, Any]()
    try:
        health = await ask_health(settings, case.caller)
        say("server", (health, "ok", f"minibot runs on port {settings.port}", ""),
            (True, "error", f"another program answers on port {settings.port}", "stop it, or set PORT in .env"))
    except NoAnswer as fault:
        say("server", (settings.tls_cert, "error", str(fault), "does minibot run, and does PUBLIC_URL lead to it?"),
            (True, "error", f"minibot does not run on port {settings.port}", "start it: python run.py"))
    except SettingsFault as fault:
        what, _, remedy = str(fault).partition("; ")
        say("settings", (True, "error", what, remedy))
    oldest, dead = health.get("oldest_pending_seconds", 0), health.get("dead", 0)
    say("queue", (health.get("status", "ok") != "ok", "error", "the running minibot cannot use its database",
                  "its log says why: disk full, permissions, another program that locks it?"),
        (oldest > LATE, "warning", f"{health.get('pending')} wait, the oldest for {age(oldest)}",
         "its log says what for: the model, a platform or a token is out of order"),
        (dead, "warning", f"{dead} messages were given up on", "python run.py dead lists them with their reasons"))
    what, _, remedy = public.problem.partition("; ")
    say("address", (what and settings.platforms != ("telegram",) * settings.telegram_polling, "error", what, remedy))
    if public.url and health:
        await _reached(case, say, health)


async def ask_health(settings: Settings, caller: Caller) -> dict[str, Any]:
    """What the minibot of this machine tells of itself; {} if somebody else answers. Raises NoAnswer, SettingsFault."""
    host, scheme = "127.0.0.1" if settings.host in ("0.0.0.0", "::") else settings.host, "http"
    if settings.tls_cert:  # only the public name fits it, and it may be of our own making
        tls(settings.tls_cert, settings.tls_key)
        caller.trust(settings.tls_cert)
        scheme = "https"
    own = settings.public_url if settings.tls_cert else ""
    return await _health(caller, own or f"{scheme}://{host}:{settings.port}")


async def _health(caller: Caller, origin: str) -> dict[str, Any]:
    reply = await caller.perform(Call(origin, "GET", f"{origin}/healthz", timeout=10.0), "server")
    try:
        told = json.loads(reply.body)
    except ValueError:
        return {}
    return told if isinstance(told, dict) and "id" in told else {}


async def _reached(case: Case, say: Say, health: dict[str, Any]) -> None:
    """Does the public address lead to the process that runs here, and has that the settings we have?"""
    settings, (url, _, source) = case.settings, case.public
    try:
        there = await _health(case.caller, url)
    except NoAnswer as fault:
        return say("address", (True, "error", str(fault), "does ngrok or the proxy run, does the name lead here, is"
                               " the certificate good?"))
    astray = not there or health and there["id"] != health["id"]
    who, port = "another minibot" if there else "something else than minibot", settings.port
    say("address", (astray, "error", f"{url} leads to {who}", f"lead it to port {port} of this machine"),
        (True, "ok", f"{url} ({source}) leads here", ""))
    asked = next((name for name in settings.platforms if name != "telegram"), "")
    if there and asked and settings.verify_token:
        word = quote(settings.verify_token.reveal(), safe="")
        question = f"{url}/{asked}/webhook?hub.mode=subscribe&hub.challenge={CHALLENGE}&hub.verify_token={word}"
        reply = await case.caller.perform(Call("the handshake", "GET", question, timeout=10.0), "server")
        say("address", (reply.body != CHALLENGE.encode(), "error", "the running minibot has another VERIFY_TOKEN than "
                        ".env", "start it again"))


async def model(case: Case, say: Say) -> None:
    """Whether the model answers, and until when it will."""
    settings = case.settings
    if not settings.ai_api_key and not settings.openai_base_url:
        return  # a fault of the settings, told there
    for key in ("openai_model", "openai_transcribe_model"):
        if not settings.openai_base_url and (end := retires(getattr(settings, key))):
            say("model", (True, "warning", f"{getattr(settings, key)} is switched off on {end[0]}",
                          f"set {KEYS[key]}={end[1]}"))
    asked = OpenAiModel(replace(settings, max_output_tokens=16, system_prompt="Say OK."), clock=time.monotonic,
                        perform=case.caller.perform)
    try:
        answer = await asked.answer([Said("user", "Are you there?")], "check")
        say("model", (True, "ok", f"{settings.openai_model} answers, in {answer.milliseconds / 1000:.1f} s", ""))
    except AiFailed as fault:  # empty: a reasoning model spent the few tokens on thinking, so it lives
        say("model", (fault.code != "empty_answer", "error", f"{settings.openai_model}: {fault.code}", fault.help))
