"""No secret is ever seen outside its own upstream: every secret setting holds a canary, and everything that a bot
leaves behind in hard lives is searched for all of them, whole, in part, quoted and encoded.

The secrets stand in `.env`, so not even the process's environment may show them.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from minibot.config import KEYS, Settings, load
from minibot.model import PLATFORMS, Secret
from tests.botprocess import BotProcess
from tests.drill.house import copy_of_minibot
from tests.fakes import SECRETS, FakeWorld
from tests.platforms import forged
from tests.replay import OGG, PNG

CHATS = [f"49151700000{number:02d}" for number in range(100)]
LOUD = {"LOG_LEVEL": "debug", "OPENAI_LOG": "debug"}
LOUD_JSON = {**LOUD, "LOG_FORMAT": "json"}
COMMANDS = (["check"], ["status"], ["audit"], ["why", CHATS[0]], ["dead"], ["unit"], ["export", "--json", "out.json"],
            ["backup", "copy.db"], ["connect", "telegram", "--url", "https://bot.example.org"], ["retry", "--all"])
# A fault of ours that has secrets in its words and in its variables: in a conversation, and at the very end.
CLUMSY = ("""
def clumsy(settings):
    every = [getattr(settings, name) for name in settings.__dataclass_fields__]
    told = [one.reveal() for value in every for one in (value if isinstance(value, tuple) else (value,))
            if hasattr(one, "reveal")]
    raise RuntimeError(f"{told} {settings!r} {every}")
""")


def canaries(world: FakeWorld) -> dict[str, str]:
    """The secrets of `.env`, by key."""
    there = world.url.removeprefix("http://")
    urls = {f"{name}_WEBHOOK_URL": f"http://agent:canary-{name}-password-57721566@{there}/{name.lower()}/"
            f"canary-{name}-path-49015328/x" for name in ("CRM", "SHEETS")}
    return {**SECRETS, **urls}


def needles(secrets: Mapping[str, str]) -> dict[bytes, str]:
    """What must not be found, and whose it is. A part of a secret is as bad as all of it."""
    parts = {**secrets, "derived secret": load({"TELEGRAM_BOT_TOKEN": secrets["TELEGRAM_BOT_TOKEN"]}, complete=False)[
        0].telegram_webhook_secret.reveal()}
    for name in ("CRM", "SHEETS"):
        parts |= {f"{name} {what}": f"canary-{name}-{what}" for what in ("password-57721566", "path-49015328")}
        del parts[f"{name}_WEBHOOK_URL"]
    found: dict[bytes, str] = {}
    for key, secret in parts.items():
        for form in (secret[-16:], quote(secret, safe="")[-16:], secret[-32:-12], secret[::-1], secret.upper()[-16:],
                     base64.b64encode(secret.encode()).decode().rstrip("=")[:-1], secret.encode().hex()):
            found[form.encode()] = key
    return found


class Life:
    """A bot that has its secrets from `.env`, and all that can be seen of it."""

    def __init__(self, folder: Path) -> None:
        self.world = FakeWorld()
        self.secrets = canaries(self.world)
        self.needles = needles(self.secrets)
        (folder / "home").mkdir()
        env = folder / "home" / ".env"
        env.write_text("".join(f"{key}={value}\n" for key, value in self.secrets.items()))
        env.chmod(0o600)
        none: dict[str, Any] = dict.fromkeys(self.secrets)
        self.bot = BotProcess(self.world, folder / "home", start=False, **none, MESSAGES_PER_MINUTE="1000")
        self.bot.program = copy_of_minibot(
            folder, ("flow/conversation.py", "            prompt = list(step.history)", """\
            if any("explode" in item.inbound.text for item in run):
                clumsy(self.kit.settings)
            prompt = list(step.history)"""),
            ("flow/conversation.py", "\n\nclass Worker:", f"\n{CLUMSY}\n\nclass Worker:"),
            ("app.py", "        await self._stop.wait()\n", """\
        await self._stop.wait()
        from minibot.flow.conversation import clumsy
        clumsy(self.settings)
"""))
        self.told: dict[str, bytes] = {}
        self._chats = iter(CHATS)

    def talk(self) -> None:
        """An exchange on every platform, pictures and voice notes, commands, refusals; then faults of every kind."""
        bot, world = self.bot, self.world
        asked = list[tuple[str, str]]()
        for platform, people in world.people.items():
            for way, what in (("text", ("hello",)), ("text", ("/privacy",)), ("media", (PNG, "image/png")),
                              ("media", (OGG, "audio/ogg"))):
                asked.append((platform, next(self._chats)))
                assert bot.post(getattr(people, way)(asked[-1][1], *what)) == 200
            assert bot.post(forged(people.text(next(self._chats), "hello"))) == 401
        assert world.request("GET", "/messenger/webhook?hub.mode=subscribe&hub.verify_token=wrong")[0] == 403
        bot.until(lambda: all(world.people[platform].texts(chat) for platform, chat in asked), 20, "all are answered")
        for platform, kinds in zip(PLATFORMS, (("404",), ("500", "401"), ("half", "403"), ("garbage", "401"))):
            for kind in kinds:
                world.people[platform].plan(kind)
                bot.say(platform, next(self._chats), "hello")
        for kind in ("401", "404", "reset", "garbage", "html"):
            world.model.plan(kind)
            bot.say("instagram", next(self._chats), "hello")
        bot.say("telegram", next(self._chats), "explode")
        sides = (*world.people.values(), world.model)
        bot.until(lambda: not any(side.planned for side in sides), 20, "all has failed")
        bot.until(lambda: "a fault in minibot itself" in bot.log, 30, "the fault is told")
        self.look()

    def look(self) -> None:
        """What the running process shows."""
        token = self.secrets["ADMIN_TOKEN"]
        self.told["/healthz"], self.told["/metrics"] = (
            self.bot.get(path, Authorization=f"Bearer {token}")[1] for path in ("/healthz", "/metrics"))
        assert self.bot.process and b"minibot_events_total" in self.told["/metrics"]
        for name in ("cmdline", "environ", "comm"):
            if (path := Path(f"/proc/{self.bot.process.pid}/{name}")).exists():
                self.told[f"/proc {name}"] = path.read_bytes()

    def command(self, *arguments: str) -> None:
        """What a command prints, whatever it says."""
        inherited = {"PATH": os.environ["PATH"], "NO_PROXY": "127.0.0.1", "HTTPS_PROXY": "http://127.0.0.1:9"}
        done = subprocess.run([sys.executable, str(self.bot.program), *arguments], cwd=self.bot.folder, timeout=60,
                              env={**inherited, **self.bot.settings, "PORT": str(self.bot.port)},
                              stdin=subprocess.DEVNULL, capture_output=True)
        self.told[" ".join(arguments)] = done.stdout + done.stderr
        assert b"Traceback" not in done.stderr and (done.stdout or done.stderr), done

    def found(self) -> list[str]:
        """Where a secret was seen."""
        seen = {**self.told, **{path.name: path.read_bytes() for path in self.bot.folder.rglob("*")
                                if path.is_file() and path.name != ".env"}}
        prompts = json.dumps(self.world.model.bodies).encode()
        return self.world.leaks + [f"{key} in {name}" for name, content in {**seen, "prompts": prompts}.items()
                                   for needle, key in self.needles.items() if needle in content]


@pytest.fixture
def life(tmp_path: Path) -> Iterator[Life]:
    made = Life(tmp_path)
    yield made
    if not made.bot.exited:
        made.bot.kill()
    made.world.close()


def test_no_secret_is_seen_anywhere_whatever_happens(life: Life) -> None:
    bot = life.bot
    bot.start(LOUD)
    life.talk()
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda arguments: life.command(*arguments), COMMANDS))
    assert bot.term() == 1  # it ends with a fault that names every secret
    assert bot.log.count("[secret]") > 20 and "unexpected fault" in bot.log
    bot.start(LOUD_JSON)
    life.talk()
    assert bot.process
    bot.process.send_signal(6)  # SIGABRT, with faulthandler
    bot.wait()
    assert "Fatal Python error: Aborted" in bot.log
    life.command("status")
    life.command("forget", CHATS[0])
    assert life.found() == []


def test_every_secret_setting_has_a_canary() -> None:
    world = FakeWorld()
    try:
        settings = load(world.settings(**canaries(world)))[0]
        secret = {line.name for line in fields(Settings) if "Secret" in str(line.type)}
        assert len(secret) >= 12 and {KEYS[name] for name in secret} == canaries(world).keys()
        assert all(isinstance(getattr(settings, name), (Secret, tuple)) and getattr(settings, name) for name in secret)
    finally:
        world.close()


def test_the_search_finds_what_is_there(tmp_path: Path) -> None:
    world = FakeWorld()
    try:
        known = needles(canaries(world))
        for key, secret in SECRETS.items():
            for shown in (f"the key is {secret}!", repr(secret), quote(secret, safe=""), f"…{secret[-20:]}",
                          base64.b64encode(secret.encode()).decode()):
                assert any(needle in shown.encode() for needle in known), (key, shown)
    finally:
        world.close()
