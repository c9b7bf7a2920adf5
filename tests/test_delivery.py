"""What becomes of a part on its way out: every error of a platform leads to its action, by real calls and refusals.

Which remedy an error names stands in the tables of `test_telegram.py` and `test_meta.py`; here each row goes through
`deliver`, and what follows is held against the remedy. Where MINIBOT_SHARED names the folder of platform facts, its
error bodies go the same way.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from typing import Any, cast

import pytest

from minibot.app import CHANNELS
from minibot.config import Settings
from minibot.desk.simulator import Answered
from minibot.errors import Remedy
from minibot.flow import wording
from minibot.flow.breaker import Breaker
from minibot.flow.delivery import deliver, start_typing
from minibot.flow.guard import Purse
from minibot.flow.kit import Kit
from minibot.model import PLATFORMS, Secret
from minibot.web.calls import Caller
from minibot.work import Conversation, Fate, Part
from tests.botprocess import BotProcess
from tests.fakes import SECRETS, FakeWorld
from tests.meta_cases import SHARED
from tests.test_meta import ACTIONS
from tests.test_meta import ERRORS as META_ERRORS
from tests.test_telegram import ERRORS as TELEGRAM_ERRORS

TEXT = "First half of it. Second half of it."
_chats = count(1)


class Post:
    """Sends parts to chats that refuse them, and keeps what came of it."""

    def __init__(self, world: FakeWorld) -> None:
        self.world = world
        self.caller = Caller(clock=time.monotonic)
        keys = ("telegram_bot_token", "meta_access_token", "meta_page_access_token")
        self.settings = Settings(
            **{key: Secret(SECRETS[key.upper()]) for key in keys}, telegram_api_url=world.url, meta_graph_url=world.url,
            meta_phone_number_id=world.graph.account.phone_number_id)
        self.now = 1_800_000_000_000

    def send(self, platform: str, answered: Answered, **more: Any) -> tuple[Fate, Breaker]:
        """What becomes of a part that is answered so; `more` are fields of the part."""
        chat, kit = self.someone(platform), self.kit()
        self.world.people[platform].refusing[chat] = answered
        part = Part(1, TEXT, tries=1, expires_at=self.now + 60_000, **more)
        fate = asyncio.run(deliver(kit, Conversation(1, platform, "account", chat), part))
        return fate, kit.breakers[platform]

    def someone(self, platform: str) -> str:
        """A chat that nobody else has."""
        chat = str(4_915_000_000_000 + next(_chats))
        private = {"id": int(chat), "type": "private"}
        self.world.people[platform].chats[chat] = private if platform == "telegram" else self.world.now()
        return chat

    def kit(self, **changes: Any) -> Kit:
        """What delivery needs of a running bot; `changes` are fields of every channel."""
        channels = {name: replace(make(self.settings), **changes) for name, make in CHANNELS.items()}
        breakers = {name: Breaker() for name in (*PLATFORMS, "model")}
        nothing = cast(Any, None)  # no store and no model: delivery asks neither
        return Kit(self.settings, nothing, channels, self.caller, nothing, lambda: self.now, lambda: 0.5,
                   Purse(self.settings), breakers, Counter())


@pytest.fixture(scope="module")
def post() -> Iterator[Post]:
    """A post office beside a world of refusals."""
    world = FakeWorld()
    made = Post(world)
    yield made
    made.caller.close()
    world.close()


# What follows from each remedy: the part's fate, and whether the whole channel waits.

def later(fate: Fate, seconds: float, post: Post) -> bool:
    return fate.state == "pending" and 0 < fate.due_at - post.now <= seconds * 1100 and fate.counted


FATES: dict[Remedy, Callable[[Fate, Post], Any]] = {
    Remedy.RETRY: lambda fate, post: later(fate, 1, post),
    Remedy.WAIT_CHAT: lambda fate, post: later(fate, 8, post),
    Remedy.WAIT_CHANNEL: lambda fate, post: later(fate, 1, post),
    Remedy.STOP: lambda fate, post: later(fate, 60, post) and fate.due_at - post.now >= 30_000,
    Remedy.UNREACHABLE: lambda fate, post: fate.state == "dead" and fate.blocked and fate.rest,
    Remedy.WINDOW: lambda fate, post: fate.state == "expired" and fate.rest and fate.outcome == "window_closed",
    Remedy.REFUSED: lambda fate, post: fate.state == "dead" and not fate.blocked and fate.outcome,
    Remedy.HALVE: lambda fate, post: fate.plain and fate.replace == ("First half of it.", "Second half of it."),
    Remedy.PLAIN: lambda fate, post: fate.plain and fate.replace == (TEXT,),
    Remedy.EMPTY: lambda fate, post: fate.plain and fate.replace == (wording.APOLOGY,),
    Remedy.MOVED: lambda fate, post: fate.state == "pending" and fate.chat == "-1001700000042",
    Remedy.THREADLESS: lambda fate, post: fate.state == "pending" and fate.threadless,
    Remedy.UNSURE: lambda fate, post: fate.state == "pending" and fate.unsure,
    Remedy.DELIVERED: lambda fate, post: fate.state == "sent",
}


def check(post: Post, caplog: pytest.LogCaptureFixture, platform: str, answered: Answered, remedy: Remedy) -> None:
    caplog.clear()
    fate, breaker = post.send(platform, answered)
    assert FATES[remedy](fate, post), fate
    assert bool(breaker.admit(post.now)) is (remedy in (Remedy.WAIT_CHANNEL, Remedy.STOP)), "who else has to wait"
    assert breaker.failures == (remedy in (Remedy.RETRY, Remedy.UNSURE))
    told = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert bool(told) is (remedy is Remedy.STOP), "the operator is told what only they can mend"
    assert fate.outcome in ("", "window_closed") or fate.outcome.startswith("send_failed:")


def test_every_remedy_is_looked_at() -> None:
    assert set(FATES) == set(Remedy)


@pytest.mark.parametrize(("status", "said", "remedy"), TELEGRAM_ERRORS)
def test_every_refusal_of_telegram_leads_to_its_action(
        post: Post, caplog: pytest.LogCaptureFixture, status: int, said: str | None, remedy: Remedy) -> None:
    content = {"ok": False, "error_code": status, "description": said}
    body = b"<html>" if said is None else json.dumps(content).encode()
    check(post, caplog, "telegram", Answered(status, {}, body), remedy)


@pytest.mark.parametrize(("platform", "status", "body", "remedy", "code"), META_ERRORS)
def test_every_error_of_graph_leads_to_its_action(post: Post, caplog: pytest.LogCaptureFixture, platform: str,
                                                  status: int, body: bytes, remedy: Remedy, code: str) -> None:
    check(post, caplog, platform, Answered(status, {}, body), remedy)


@pytest.mark.shared
def test_every_error_body_of_the_facts_leads_to_its_action(post: Post, caplog: pytest.LogCaptureFixture) -> None:
    assert SHARED is not None
    entries = json.loads((SHARED / "graph-error-responses.json").read_text("utf-8"))
    assert len(entries) > 50
    for entry in entries:
        error = entry["body"]["error"]
        remedy = ACTIONS[entry["action"]]
        if error["code"] == 131030:
            remedy = Remedy.REFUSED  # told to the operator, but only this person is concerned
        if "Length of param" in error["message"]:
            remedy = Remedy.HALVE
        for platform in ("whatsapp", "messenger", "instagram") if entry["platform"] == "any" else [entry["platform"]]:
            answered = Answered(entry["http_status"], {}, json.dumps(entry["body"]).encode())
            check(post, caplog, platform, answered, remedy)


def refusal(description: str, **parameters: Any) -> Answered:
    """Telegram's 400 in these words."""
    content = {"ok": False, "error_code": 400, "description": f"Bad Request: {description}", "parameters": parameters}
    return Answered(400, {}, json.dumps(content).encode())


def test_a_group_that_moved_is_written_to_where_it_is_now(post: Post, caplog: pytest.LogCaptureFixture) -> None:
    moved = refusal("group chat was upgraded to a supergroup chat", migrate_to_chat_id=-1001700000042)
    check(post, caplog, "telegram", moved, Remedy.MOVED)


@pytest.mark.parametrize(("words", "more"), [
    ("can't parse entities: x", {"plain": True}), ("message thread not found", {"threadless": True})])
def test_what_helps_once_is_not_tried_twice(post: Post, words: str, more: dict[str, Any]) -> None:
    fate, _ = post.send("telegram", refusal(words), **more)
    assert (fate.state, fate.outcome) == ("dead", "send_failed:400")


def test_a_send_that_stays_unsure_is_repeated_once_and_then_shown_to_the_operator(post: Post) -> None:
    for platform, wait in (("telegram", 1.0), ("whatsapp", 15.0)):
        fate, _ = post.send(platform, Answered(200, {}, b"<html>welcome to this wifi"))
        assert (fate.state, fate.unsure, fate.due_at - post.now) == ("pending", True, wait * 1000)
        fate, _ = post.send(platform, Answered(200, {}, b"<html>welcome to this wifi"), unsure=1)
        assert fate.state == "maybe"


@pytest.mark.parametrize("platform", PLATFORMS)
def test_a_wait_that_was_asked_for_is_kept_to_the_letter(post: Post, platform: str) -> None:
    fate, _ = post.send(platform, Answered(429, {"retry-after": "40"}, b"{}"))
    assert 40_000 <= fate.due_at - post.now <= 44_001
    hour = {"retry-after": "Sun, 22 Nov 2099 10:00:20 GMT"}  # a date counts from the reply's own Date
    fate, _ = post.send(platform, Answered(429, hour, b"{}"))
    assert 3_600_000 <= fate.due_at - post.now <= 3_960_001


@pytest.mark.parametrize("platform", PLATFORMS)
def test_typing_is_repeated_until_the_work_is_done_and_ends_at_the_first_refusal(post: Post, platform: str) -> None:
    people = post.world.people[platform]

    async def work(kit: Kit, chat: str, until: Callable[[], bool]) -> None:
        post.world.graph.account.senders["wamid.1"] = chat
        stop = start_typing(kit, Conversation(1, platform, "account", chat), "wamid.1")
        async with asyncio.timeout(10):
            while not until():
                await asyncio.sleep(0.01)
        stop()

    chat, kit = post.someone(platform), post.kit(typing_every=0.01)
    asyncio.run(work(kit, chat, lambda: [shown.kind for shown in people.shown[chat]].count("typing") > 3))
    people.plan("403", name="action", times=2)
    calls = len(post.world.calls())
    asyncio.run(work(kit, post.someone(platform), lambda: len(people.planned) == 1))
    assert len(people.planned) == 1 and len(post.world.calls()) == calls + 1
    people.planned.clear()


# The whole program, where the action goes beyond one part.

def test_a_revoked_token_stops_its_channel_alone_tells_the_operator_and_loses_nothing(bot: BotProcess) -> None:
    revoked = Answered(401, {}, b'{"ok":false,"error_code":401,"description":"Unauthorized"}')
    bot.world.telegram.refusing["71"] = revoked
    bot.say("telegram", "71", "first")
    bot.until(lambda: "TELEGRAM_BOT_TOKEN is wrong or revoked" in bot.log, 30)
    bot.say("telegram", "72", "second")
    bot.until(lambda: len(bot.rows("SELECT 1 FROM part WHERE due_at > 0")) == 2, 30, "both wait")
    bot.say("whatsapp", "4915112345678", "and you?")
    assert bot.replies("whatsapp", "4915112345678")
    assert bot.rows("SELECT state FROM part ORDER BY id LIMIT 2") == [("pending",)] * 2
    assert bot.log.count("TELEGRAM_BOT_TOKEN is wrong or revoked") == 1, "told once, not for every message"


def test_a_length_that_is_refused_is_halved_until_it_fits(bot: BotProcess) -> None:
    said = {"ok": False, "error_code": 400, "description": "Bad Request: message is too long"}
    bot.world.telegram.plan("400", body=said, times=2)
    bot.world.model.reply = lambda messages: "one two three four five six seven eight."
    bot.say("telegram", "71", "count")
    bot.settled()
    parts = bot.world.telegram.texts("71")
    assert len(parts) > 2 and " ".join(parts) == "one two three four five six seven eight."
    assert bot.rows("SELECT outcome FROM inbound") == [("replied",)]


def test_a_topic_that_is_gone_is_answered_beside_it(bot: BotProcess) -> None:
    said = {"ok": False, "error_code": 400, "description": "Bad Request: message thread not found"}
    bot.world.telegram.plan("400", body=said)
    bot.post(bot.world.telegram.message("71", text="in a topic", message_thread_id=9, is_topic_message=True))
    assert bot.replies("telegram", "71") == ["answer 1 to: in a topic"]
    threads = [seen.json().get("message_thread_id") for seen in bot.world.calls("telegram", "sendMessage")]
    assert threads == [9, None]


def test_an_error_after_which_the_message_was_sent_all_the_same_is_not_repeated(bot: BotProcess) -> None:
    said = {"error": {"message": "Received invalid JSON reply", "code": 1, "error_subcode": 1357046}}
    bot.world.people["messenger"].plan("400", body=said, done=True)
    bot.say("messenger", "71", "once")
    bot.settled()
    assert bot.world.people["messenger"].texts("71") == ["answer 1 to: once"]
    assert bot.rows("SELECT outcome FROM inbound") == [("replied",)]
