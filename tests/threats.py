"""A stage for the table of threats: one running bot for each set of settings, and what a stranger can send it.

Not here: any expectation (`threats_in.py`, `threats_out.py`). The law: everything is posted over real sockets to the
running program, nobody writes twice, and no answer to a stranger may be a 5xx.

Next: `threats_in.py`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO
from itertools import count
from pathlib import Path
from typing import Any

from minibot.config import load
from minibot.desk import ledger
from minibot.desk.simulator import Webhook, json_answer
from tests.botprocess import BotProcess
from tests.door import Client
from tests.fakes import FakeWorld
from tests.test_mutated import webhook

CRM_LOGIN = "agent:canary-crm-password-1732050807"
ALLOWED = "424242"
NUMBERS = count(700_000_001)
SETTINGS: dict[str, dict[str, str | None]] = {
    "usual": {"CRM_WEBHOOK_URL": "{login}/crm"},
    "bare": {"TELEGRAM_WEBHOOK_SECRET": None, "VERIFY_TOKEN": None, "ALLOWED_USERS": ALLOWED,
             "AI_TIMEOUT_SECONDS": "0.5"},
    "poor": {"DAILY_TOKENS": "2000"},
    "loud": {"LOG_LEVEL": "debug", "LOG_FORMAT": "json", "OPENAI_LOG": "debug", "CRM_WEBHOOK_URL": "{login}/crm"},
    "failing": {"LOG_LEVEL": "debug"},
}


class Scene:
    """The bots, started when a row first asks for them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.bots, self._people = folder, dict[str, BotProcess](), count(1)

    def bot(self, name: str = "usual") -> BotProcess:
        """The bot with these settings, in a world of its own."""
        if name not in self.bots:
            (self.folder / name).mkdir()
            world = FakeWorld()
            world.pages["/crm"] = lambda seen: json_answer(200, {"ok": True})
            login = world.url.replace("://", f"://{CRM_LOGIN}@")
            settings: dict[str, Any] = {key: value and value.format(login=login)
                                        for key, value in SETTINGS[name].items()}
            self.bots[name] = BotProcess(world, self.folder / name, **settings)
        return self.bots[name]

    def somebody(self) -> str:
        """A chat that nobody has written from; good on every platform."""
        return f"49151{next(self._people):08d}"

    def close(self) -> None:
        for bot in self.bots.values():
            bot.close()
            bot.world.close()


Check = Callable[[Scene], None]
ROWS: dict[int, tuple[str, Check]] = {}


def row(number: int) -> Callable[[Check], Check]:
    """This is the check of threat `number`; its name is the promise."""
    def add(check: Check) -> Check:
        assert number not in ROWS
        ROWS[number] = check.__name__.replace("_", " "), check
        return check
    return add


# What a stranger can do

def send(bot: BotProcess, made: Webhook, **fields: str) -> int:
    """POST once; the status, which is never the program's own failure."""
    status = bot.post(made, **fields)
    assert status < 500, status
    return status


def authentic(bot: BotProcess, platform: str, body: bytes | str | Any) -> int:
    """POST these octets (or this as JSON) as the platform itself would: with the right secret or signature."""
    octets = body if isinstance(body, bytes) else (body if isinstance(body, str) else json.dumps(body)).encode()
    return send(bot, webhook(bot.world, platform, octets))


def octets(bot: BotProcess, sent: bytes, close: bool = False) -> bytes:
    """Send octets over a connection of their own, and read until the bot closes it; `close`: our half first."""
    client = Client(bot.port).send(sent)
    try:
        return (client.no_more() if close else client).read_to_end()
    finally:
        client.close()


def statuses(answers: bytes) -> list[int]:
    """The statuses of the answers in what a connection brought."""
    return [int(found) for found in re.findall(rb"HTTP/1\.1 (\d{3}) ", answers) if found != b"100"]


# What has become of it

def rows(bot: BotProcess) -> int:
    """How many messages are stored."""
    return int(bot.rows("SELECT count(*) FROM inbound")[0][0])


def unreadable(bot: BotProcess) -> int:
    """How many bodies or items were kept because nobody could read them."""
    return int(bot.rows("SELECT count(*) FROM inbound WHERE kind = 'unreadable'")[0][0])


def questions(bot: BotProcess) -> int:
    """How often the model was asked, once it is asked nothing any more."""
    bot.settled()
    return int(bot.world.model.count)


def counted(bot: BotProcess, source: str, event: str) -> int:
    """What /metrics says of it."""
    page = bot.get("/metrics", Authorization=f"Bearer {bot.settings['ADMIN_TOKEN']}")[1].decode()
    found = re.search(rf'^minibot_events_total{{source="{source}",event="{event}"}} (\d+)', page, re.M)
    return int(found[1]) if found else 0


def outcomes(bot: BotProcess, chat: str) -> list[str]:
    """The outcomes of a chat's messages, in order, once all have one."""
    def ended() -> list[str] | None:
        found = [outcome for outcome, in bot.rows("SELECT outcome FROM inbound WHERE chat = ? ORDER BY id", chat)]
        return found if found and None not in found else None
    found: list[str] = bot.until(ended, 15, f"outcomes of {chat}")
    return found


def prompt(bot: BotProcess, platform: str, chat: str, text: str, replies: int = 1) -> list[dict[str, Any]]:
    """Somebody writes and is answered; what the model was asked."""
    bot.say(platform, chat, text)
    bot.replies(platform, chat, replies, 20)
    return next(messages for messages in reversed(bot.world.model.prompts) if text[:50] in json.dumps(
        messages, ensure_ascii=False))


def why(bot: BotProcess, query: str) -> str:
    """What `python run.py why QUERY` prints."""
    settings = load({"DATABASE_URL": f"sqlite:///{bot.database}"}, complete=False)[0]
    with redirect_stdout(StringIO()) as printed:
        assert ledger.why([query], lambda: settings) == 0
    return printed.getvalue()


def taken(bot: BotProcess, platform: str, bodies: list[Any], kept: bool | None = True) -> None:
    """Each body gets its 200; it is kept as unreadable (`kept`), answered by nobody, and asks the model nothing."""
    asked = questions(bot)
    for body in bodies:
        before = counted(bot, platform, "unreadable")
        assert authentic(bot, platform, body) == 200, body
        assert kept is None or (counted(bot, platform, "unreadable") > before) == kept, body
    assert bot.world.model.count == asked


def whatsapp(bot: BotProcess, *messages: Any, **more: Any) -> dict[str, Any]:
    """The document of a delivery of WhatsApp with these messages."""
    metadata = {"display_phone_number": "1", "phone_number_id": bot.world.graph.account.phone_number_id}
    value = {"messaging_product": "whatsapp", "metadata": metadata, "messages": [*messages], **more}
    return {"object": "whatsapp_business_account", "entry": [
        {"id": "1", "changes": [{"field": "messages", "value": value}]}]}


def update(bot: BotProcess, chat: str, text: Any = "hello", **more: Any) -> dict[str, Any]:
    """The document of a Telegram update with a message, its number never given before."""
    return {"update_id": next(NUMBERS), "message": {
        "message_id": 1, "date": bot.world.now() // 1000, "chat": {"id": int(chat), "type": "private"},
        "from": {"id": int(chat), "is_bot": False, "first_name": "Ada"}, "text": text, **more}}
