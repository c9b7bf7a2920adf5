"""Telegram by long polling: the same promises as with the webhook, and no public address."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from minibot.channels.contract import Channel
from minibot.channels.telegram import channel
from minibot.config import load
from minibot.flow.polling import poll
from minibot.model import Response
from minibot.web.calls import Caller
from tests.botprocess import BotProcess
from tests.fakes import FakeWorld

Start = Callable[..., BotProcess]
CHAT = "4815162342"


@pytest.fixture
def bot(start_bot: Start) -> BotProcess:
    """Polls; nothing of Meta is configured."""
    return start_bot(TELEGRAM_POLLING="1", META_ACCESS_TOKEN=None, META_PAGE_ACCESS_TOKEN=None,
                     INSTAGRAM_ACCESS_TOKEN=None, META_PHONE_NUMBER_ID=None)


def write(bot: BotProcess, text: str) -> int:
    """A person writes; nothing is posted. -> the update's number"""
    with bot.world.changed:
        made = bot.world.telegram.text(CHAT, text)
        bot.world.changed.notify_all()
    assert made.path == "/telegram/webhook"
    return int(bot.world.telegram.pending[-1]["update_id"])


def polls(bot: BotProcess) -> list[dict[str, int]]:
    return [seen.json() for seen in bot.world.calls("telegram", "/getUpdates")]


def offset(bot: BotProcess) -> int:
    """What the newest poll confirms."""
    return max((poll["offset"] for poll in polls(bot)), default=0)


def test_a_message_is_fetched_and_answered(bot: BotProcess) -> None:
    write(bot, "Do you open on Sunday?")
    assert bot.replies("telegram", CHAT) == ["answer 1 to: Do you open on Sunday?"]
    assert "fetches its messages" in bot.log and polls(bot)[0] == {
        "offset": 0, "timeout": 50, "allowed_updates": ["message", "my_chat_member", "callback_query"]}


def test_the_offset_moves_only_past_what_is_stored(bot: BotProcess) -> None:
    first = write(bot, "one")
    bot.until(lambda: offset(bot) == first + 1, what="the first is confirmed")
    assert bot.rows("SELECT count(*) FROM inbound") == [(1,)]
    numbers = [write(bot, text) for text in ("two", "three")]
    bot.until(lambda: offset(bot) == numbers[-1] + 1, what="the others are confirmed")
    assert bot.rows("SELECT count(*) FROM inbound") == [(3,)]


def test_what_was_not_confirmed_comes_again_after_a_crash_and_is_answered_once(bot: BotProcess) -> None:
    write(bot, "once, please")
    update = bot.world.telegram.pending[-1]
    bot.replies("telegram", CHAT)
    bot.settled()
    bot.kill()
    if update not in bot.world.telegram.pending:
        bot.world.telegram.pending.appendleft(update)  # as if the poll that confirms it had not been heard
    bot.start()
    write(bot, "and this")
    texts = bot.replies("telegram", CHAT, 2)
    bot.settled()
    assert [text.partition(": ")[2] for text in texts] == ["once, please", "and this"]
    assert len(bot.world.telegram.texts(CHAT)) == 2


def test_an_update_that_nobody_can_read_does_not_stop_the_others(bot: BotProcess) -> None:
    with bot.world.changed:
        bot.world.telegram.update("message", {"message_id": "not a number", "chat": 7})
    write(bot, "still there?")
    assert bot.replies("telegram", CHAT)[0].endswith("still there?")


def test_a_registered_webhook_is_explained_and_polling_goes_on_without_it(start_bot: Start) -> None:
    bot = start_bot(start=False, TELEGRAM_POLLING="1")
    bot.world.telegram.webhook["url"] = "https://bot.example.org/telegram/webhook"
    bot.start()
    bot.until(lambda: "python run.py connect telegram" in bot.log, what="the conflict is told")
    bot.world.telegram.webhook["url"] = ""
    write(bot, "now?")
    assert bot.replies("telegram", CHAT)[0].endswith("now?")
    bot.until(lambda: "polling works again" in bot.log, what="the end is told")


@pytest.mark.parametrize("trouble", ["500", "reset", "html"])
def test_a_poll_that_fails_is_asked_again(start_bot: Start, trouble: str) -> None:
    bot = start_bot(start=False, TELEGRAM_POLLING="1")
    bot.world.telegram.plan(trouble, name="getUpdates")
    bot.start()
    write(bot, "hello")
    assert bot.replies("telegram", CHAT)[0].endswith("hello")
    assert bot.log.count("polling failed") == 1


def test_a_stop_does_not_wait_for_the_poll(bot: BotProcess) -> None:
    bot.until(lambda: polls(bot), what="a poll is under way")
    begun = time.monotonic()
    assert bot.term() == 0
    assert time.monotonic() - begun < 10  # the poll itself would take 50 s


def test_the_menu_is_set_at_the_start(bot: BotProcess) -> None:
    bot.until(lambda: bot.world.telegram.commands, what="setMyCommands")
    assert {"start", "help", "reset", "privacy", "forget", "human", "bot"} <= {
        each["command"] for each in bot.world.telegram.commands}


# --- the loop by itself --------------------------------------------------------------------------------------


async def polled(world: FakeWorld, take: Callable[[Channel, bytes], Response], until: Callable[[], bool],
                 timeout: float = 60.0) -> None:
    """Run the loop against `world` until something holds."""
    settings = load(world.settings(TELEGRAM_POLLING="1"))[0]
    made, caller = channel(settings), Caller(clock=time.monotonic)
    assert made.fetch and made.fetch(0).timeout > 55  # Telegram may hold the question for 50 s
    patient = replace(made, fetch=lambda offset: replace(made.fetch(offset), timeout=timeout))  # type: ignore[misc]
    loop = asyncio.ensure_future(poll(patient, caller, take))
    try:
        await asyncio.wait_for(asyncio.to_thread(world.wait, until, 15), 20)
    finally:
        loop.cancel()
        caller.close()
    assert until()


def offsets(world: FakeWorld) -> list[int]:
    return [seen.json()["offset"] for seen in world.calls("telegram", "/getUpdates")]


def test_what_the_store_does_not_take_is_fetched_again(world: FakeWorld) -> None:
    for text in ("one", "two", "three"):
        world.telegram.text(CHAT, text)
    numbers, taken = [update["update_id"] for update in world.telegram.pending], list[int]()

    def take(channel: Channel, body: bytes) -> Response:
        taken.append(json.loads(body)["update_id"])
        return Response(503 if taken.count(numbers[1]) == 1 and taken[-1] == numbers[1] else 200)

    asyncio.run(polled(world, take, lambda: numbers[-1] + 1 in offsets(world)))
    assert offsets(world)[:3] == [0, numbers[0] + 1, numbers[2] + 1]
    assert taken == [*numbers, *numbers[1:]]


def test_a_poll_that_stalls_is_noticed_and_asked_again(world: FakeWorld, caplog: pytest.LogCaptureFixture) -> None:
    world.telegram.plan("hang", name="getUpdates")
    world.telegram.text(CHAT, "hello")
    taken: list[bytes] = []

    def take(channel: Channel, body: bytes) -> Response:
        taken.append(body)
        return Response(200)

    asyncio.run(polled(world, take, lambda: bool(taken), timeout=0.5))
    assert "polling failed" in caplog.text and "waiting for the answer" in caplog.text
