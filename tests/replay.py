"""Stored payloads, posted to a running bot as the platforms would post them today, and what came of each.

Every payload is rewritten for people of its own, so that a hundred can be under way at once and none changes another's
fate. Not here: any expectation (`test_payloads.py`). The law: only ids, our own names and addresses of files are
rewritten; whatever a payload says or leaves out stays as it is.

Next: `test_payloads.py`.
"""

from __future__ import annotations

import base64
import concurrent.futures
import hashlib
import json
import os
import re
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from minibot.desk.simulator import Webhook
from tests.botprocess import BotProcess

OWN = Path(__file__).parent / "payloads"
SHARED = Path(os.environ["MINIBOT_SHARED"]) / "platforms" if os.environ.get("MINIBOT_SHARED") else None
OUR_APP, OUR_NAME = "424242424242", "Mini_Test_Bot"
OUR_BOT_THERE, OUR_APP_THERE = 7000000001, ("424242424242", "1821152484774199")  # as the payloads call us
STAND_INS = (1087968824, 136817688, 777000)
PLATFORM_FILE = re.compile(r"https://([\w.-]+\.(fbcdn\.net|fbsbx\.com|cdninstagram\.com)/|example\.com/bot/)")
TESTERS = ("12334", "16315551181")


def _chunk(kind: bytes, content: bytes) -> bytes:
    return len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")


PNG = b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", bytes([0, 0, 0, 1, 0, 0, 0, 1, 8, 0, 0, 0, 0])) + _chunk(
    b"IDAT", zlib.compress(b"\0\x7f")) + _chunk(b"IEND", b"")
OGG = b"OggS\0\x02" + bytes(200)
AS_DATA_URL = "data:image/png;base64," + base64.b64encode(PNG).decode()
Rule = Callable[[tuple[str, ...], Any], Any]


def rewritten(value: Any, rule: Rule, path: tuple[str, ...] = ()) -> Any:
    """`value` with every leaf replaced by rule(names that lead to it, leaf)."""
    if isinstance(value, dict):
        return {name: rewritten(inner, rule, (*path, name)) for name, inner in value.items()}
    if isinstance(value, list):
        return [rewritten(inner, rule, path) for inner in value]
    return rule(("", "", *path), value)


@dataclass
class Play:
    """One payload on its way through the program. `names` maps ids in the file to those it was posted with."""

    platform: str
    file: str
    document: Any
    owners: tuple[str, ...] = ()  # our own ids in it, where the payload's source tells them
    names: dict[Any, Any] = field(default_factory=dict)
    salt: str = ""  # part of every message id in it
    wanted: list[Any] = field(default_factory=list)
    earlier: list[Webhook] = field(default_factory=list)  # what happened before in the same chats
    status: int = 0

    def chats(self) -> list[str]:
        """Everyone in it, by the new names."""
        return [str(name) for name in self.names.values()]


class Stage:
    """A bot and what it takes to follow many payloads at once: each answer of the model names the prompt it is for."""

    def __init__(self, bot: BotProcess) -> None:
        self.bot, self.world = bot, bot.world
        self.prompts: dict[str, list[dict[str, Any]]] = {}
        self.unreadable: list[str] = []  # why, of each item that was kept as it came
        self._numbers = count(1)
        self.world.model.reply = self._answer

    def _answer(self, messages: list[dict[str, Any]]) -> str:
        key = hashlib.sha256(json.dumps(messages).encode()).hexdigest()[:12]
        self.prompts[key] = messages
        return f"answer {key}"

    # Before: people of its own

    def cast(self, play: Play) -> Play:
        """Rewrite a payload for people of its own and let the far ends know them and their files."""
        rule = {"telegram": self._telegram, "whatsapp": self._whatsapp}.get(play.platform, self._page)
        play.salt = f"x{next(self._numbers):07d}"
        play.document = rewritten(play.document, rule(play, play.salt))
        people = self.world.people[play.platform]
        for old, new in play.names.items():
            if play.platform == "telegram":
                people.chats[str(new)] = {"id": new, "type": "private" if new > 0 else "supergroup"}
                threads = (0, *all_called(play.document, "message_thread_id"))
                people.known |= {("topic", str(new), thread) for thread in threads}
            elif isinstance(new, str):
                people.chats[new] = self.world.now()
        return play

    def _name(self, play: Play, old: Any, new: Callable[[int], Any]) -> Any:
        if old not in play.names:
            play.names[old] = new(next(self._numbers))
        return play.names[old]

    def _telegram(self, play: Play, salt: str) -> Rule:
        ours, people = self.world.telegram.me["id"], self.world.telegram

        def rule(path: tuple[str, ...], value: Any) -> Any:
            if path[-1] == "update_id" and type(value) is int:
                return 500_000_000 + next(self._numbers)
            if path[-1] == "file_id" and isinstance(value, str):
                people.files[value] = PNG if path[-2] in ("photo", "document", "thumbnail") else OGG
            is_id = path[-1] in ("id", "migrate_to_chat_id", "migrate_from_chat_id") and type(value) is int
            if not is_id or value in STAND_INS:
                return value
            if value == OUR_BOT_THERE:
                return ours
            far = -1_009_000_000_000 if str(value).startswith("-100") else -700_000_000
            return self._name(play, value, lambda number: 600_000_000_000 + number if value >= 0 else far - number)
        return rule

    def _whatsapp(self, play: Play, salt: str) -> Rule:
        account = self.world.graph.account
        ours = play.owners[:1] or (all_called(play.document, "phone_number_id") or ("",))[:1]

        def rule(path: tuple[str, ...], value: Any) -> Any:
            name, kind = path[-1], path[-2]
            if name == "phone_number_id" and (value,) == ours:
                return account.phone_number_id
            if name == "id" and kind in ("image", "audio", "voice", "video", "document", "sticker"):
                account.files[value + salt] = ("image/png", PNG) if kind == "image" else ("audio/ogg", OGG)
                return value + salt
            if isinstance(value, str) and "wamid" in value:
                account.senders[f"{value}{salt}"] = ""
                return value + salt
            who = name in ("from", "wa_id", "to", "recipient_id") or name.endswith("user_id")
            if not who or not isinstance(value, str) or value in TESTERS or not value:
                return value
            if name.endswith("user_id") or re.match(r"[A-Z]{2}\.", value):
                return self._name(play, value, lambda number: f"DE.{number:018d}")
            return self._name(play, value.lstrip("+"), lambda number: f"49151{number:08d}")
        return rule

    def _page(self, play: Play, salt: str) -> Rule:
        entries = play.document.get("entry") if isinstance(play.document.get("entry"), list) else []
        accounts = {str(entry.get("id")) for entry in entries if isinstance(entry, dict)}
        graph = self.world.graph

        def rule(path: tuple[str, ...], value: Any) -> Any:
            if path[-1] == "mid" or path[-1] == "mids":
                return f"{value}{salt}" if isinstance(value, str) else value
            if path[-1] == "url" and PLATFORM_FILE.match(str(value)):
                mime, data = ("audio/mp4", OGG) if re.search("audio|voice", json.dumps(play.document)) else (
                    "image/png", PNG)
                return f"{graph.account.media_url}/ig_messaging_cdn/?asset_id={graph.account.keep(data, mime)}"
            if path[-1] == "id" and path[-2] in ("sender", "recipient") and str(value) not in (*accounts, *TESTERS):
                return self._name(play, str(value), lambda number: f"77{number:012d}")
            return OUR_APP if path[-1].endswith("app_id") and str(value) in OUR_APP_THERE else value
        return rule

    def renamed(self, play: Play, old: Any) -> str:
        """An id of the file as it was posted; also "chat/topic"."""
        chat, slash, topic = str(old).partition("/")
        names = {str(known): str(new) for known, new in play.names.items()}
        ours = {str(OUR_BOT_THERE): str(self.world.telegram.me["id"])}
        return (names | ours).get(chat.lstrip("+"), chat) + slash + topic

    def before(self, play: Play, wanted: list[dict[str, Any]], text: str) -> None:
        """What must have happened for an event to have an effect: erased is what was said, blocked who has written."""
        for want in wanted:
            chat = self.renamed(play, want.get("old", want.get("chat", "")))
            if want["type"] in ("Erase", "Rekey", "Presence"):
                ids = all_called(play.document, "original_message_id") or all_called(play.document, "mid")
                play.earlier.append(self._said(play, chat, ids[0] if ids else f"wamid.{play.salt}", text))
            elif want["type"] == "Handover" and not want["human"]:
                (item,) = play.document["entry"][0]["messaging"]
                taken = {**item, "take_thread_control": {"new_owner_app_id": "263902037430900"}}
                del taken["pass_thread_control"]
                play.earlier.append(self.webhook(play, {**play.document, "entry": [
                    {**play.document["entry"][0], "messaging": [taken]}]}))

    def _said(self, play: Play, chat: str, mid: str, text: str) -> Webhook:
        """The same person wrote this before."""
        if play.platform == "telegram":
            made: Webhook = self.world.telegram.text(chat, f"/ask {text}")
            return made
        if play.platform == "whatsapp":
            who = {("from_user_id" if "." in chat else "from"): chat}
            value = {"metadata": {"phone_number_id": self.world.graph.account.phone_number_id}, "messages": [
                {**who, "id": mid, "timestamp": "1763800000", "type": "text", "text": {"body": text}}]}
            change = {"field": "messages", "value": value}
            return self.webhook(play, {**play.document, "entry": [{"changes": [change]}]})
        entry = play.document["entry"][0]
        item = {"sender": {"id": chat}, "recipient": {"id": entry["id"]}, "message": {"mid": mid, "text": text}}
        return self.webhook(play, {**play.document, "entry": [{"id": entry["id"], "messaging": [item]}]})

    # The post

    def webhook(self, play: Play, document: Any = None) -> Webhook:
        """A document as this platform delivers it."""
        document = play.document if document is None else document
        if play.platform != "telegram":
            made: Webhook = self.world.people[play.platform].sign(document)
            return made
        fields = {"Content-Type": "application/json", "X-Telegram-Bot-Api-Secret-Token": self.world.telegram.secret}
        return Webhook("/telegram/webhook", fields, json.dumps(document).encode())

    def run(self, plays: Iterable[Play]) -> None:
        """Post what happened earlier, then everything, and wait each time until nothing is pending."""
        plays = list(plays)
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            earlier = [webhook for play in plays for webhook in play.earlier]
            assert {self.bot.post(webhook) for webhook in earlier} <= {200}
            self.bot.settled(30)
            for play, status in zip(plays, pool.map(lambda play: self.bot.post(self.webhook(play)), plays)):
                play.status = status
        self.bot.settled(60)
        self.bot.until(lambda: not any(people.outgoing for people in self.world.people.values()), 30, "all is reported")
        self.bot.settled(60)
        self.unreadable = [why for why, in self.bot.rows("SELECT notice FROM inbound WHERE kind = 'unreadable'")]

    # Afterwards: what came of it

    def stored(self, play: Play) -> list[dict[str, Any]]:
        """The messages of its people, in order."""
        names = ("id", "chat", "kind", "text", "notice", "media", "outcome", "message_id")
        rows = self.bot.rows(f"SELECT {', '.join(names)} FROM inbound ORDER BY id")
        return [dict(zip(names, row)) for row in rows if row[1].split("/")[0] in play.chats()]

    def conversations(self, play: Play) -> dict[str, tuple[int, int]]:
        """chat -> (paused until, blocked)"""
        return {row[0]: row[1:] for row in self.bot.rows("SELECT chat, paused_until, blocked FROM conversation")
                if row[0].split("/")[0] in play.chats()}

    def shown(self, play: Play) -> dict[str, list[str]]:
        """Every text that its people were sent, by chat, those of before included."""
        people = self.world.people[play.platform]
        return {chat: people.texts(chat) for chat in play.chats()}

    def asked(self, text: str) -> dict[str, Any] | None:
        """The last message of the prompt that was answered with this text; None if the model did not make it."""
        messages = self.prompts.get(text.removeprefix("answer "))
        return messages[-1] if messages else None


def all_called(value: Any, name: str) -> tuple[Any, ...]:
    """Every value that is called `name`, anywhere."""
    if isinstance(value, list):
        return tuple(found for inner in value for found in all_called(inner, name))
    if not isinstance(value, dict):
        return ()
    here = (value[name],) if name in value and not isinstance(value[name], (dict, list)) else ()
    return here + tuple(found for inner in value.values() for found in all_called(inner, name))


def own_plays(platform: str) -> list[tuple[Play, list[dict[str, Any]]]]:
    """The project's own payloads and the events that their manifest wants of each."""
    plays = []
    for entry in json.loads((OWN / platform / "manifest.json").read_text("utf-8")):
        document = json.loads((OWN / platform / entry["file"]).read_text("utf-8"))
        wanted = entry["events"] if "events" in entry else [{**entry["want"], "type": entry["want"]["event"]}]
        plays.append((Play(platform, entry["file"], document, ("200300400500600",)), wanted))
    return plays


def shared_plays() -> list[tuple[Play, dict[str, Any]]]:
    """The payloads of the folder that MINIBOT_SHARED names, and their manifest's entries."""
    if SHARED is None:
        return []
    entries = json.loads((SHARED / "payloads" / "manifest.json").read_text("utf-8"))
    return [(Play(entry["platform"], entry["file"].split("/")[1], json.loads(
        (SHARED / "payloads" / entry["file"]).read_text("utf-8")), tuple(entry.get("account_ids", ()))), entry)
        for entry in entries if (SHARED / "payloads" / entry["file"]).is_file()]
