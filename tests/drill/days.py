"""What takes hours: an outage of an hour, the 24-hour window, budgets, retention, and clocks that jump.

Not here: the virtual clock itself (`virtual.py`). The law: an outage uses up nobody's message, nothing is sent after
the window, and nobody waits longer than the longest wait there is, however the clock is set.

Next: `load.py`.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from functools import partial

from minibot.flow import wording
from minibot.flow.dispatch import LANES, Dispatcher
from minibot.flow.guard import Purse
from tests.drill.house import Audit, Crowd, Say, Verdict, audit
from tests.drill.virtual import VirtualModel, VirtualWorld, live

HOUR = 3600.0


def outage_of_an_hour(say: Say, chats: int = 500, seed: int = 1, seconds: float = HOUR) -> Verdict:
    """T10: the model is away for an hour while `chats` people write three times each."""
    complaints, figures = list[str](), list[str]()

    async def life(world: VirtualWorld) -> None:
        crowd = Crowd(world, chats, seed)
        crowd.long = frozenset()
        world.model.down = "http_500"
        for third in range(3):
            for number in range(chats):
                token, webhook = crowd.webhook(number)
                assert await world.post(webhook) == 200
                crowd.acked.add(token)
                await asyncio.sleep(10 / chats)
            await asyncio.sleep(seconds / 3 - 10)
            say(f"{seconds / 180 * (third + 1):.0f} minutes, {len(world.model.calls)} calls")
        calls, world.model.most, world.model.down = len(world.model.calls), 0, ""
        took = await world.until_settled(HOUR)
        polite = Counter(text for platform, chat in crowd.chats for text in world.people[platform].texts(chat)
                         if text == wording.PLEASE_WAIT)
        found = audit(crowd, world.database, bound=chats, fates=("replied", "merged"))
        found.demand(calls <= 300, f"{calls} calls during the hour")
        found.demand(took <= 300, f"all answered {took:.0f} s after the return")
        found.demand(world.model.most <= LANES, f"{world.model.most} calls at once")
        found.demand(polite.total() == chats, f"{polite.total()} notices for {chats} chats")
        found.demand(found.extra == 0, f"{found.extra} repeated deliveries")
        complaints.extend(f"seed {seed}: {each}" for each in found.complaints)
        figures.append(f"{chats} chats x 3: {calls} calls in the hour, {polite.total()} notices, all answered "
                       f"{took:.0f} s after it, at most {world.model.most} calls at once")

    live(life, seed)
    return Verdict(figures[0], complaints)


def a_day(say: Say, seed: int = 1) -> Verdict:
    """T18: the window closes, budgets begin anew at midnight, old data goes, and the clock is set to and fro."""
    complaints, figures = list[str](), list[str]()
    lives = ((the_window_closes, {}), (a_new_day, {"DAILY_TOKENS_PER_USER": "1000"}),
             (retention, {"RETENTION_DAYS": "1"}),
             *((life, {}) for life in (set_back, set_ahead, suspended, stalled)))
    for life, settings in lives:
        say(f"{life.__name__}, {len(complaints)} complaints")
        found = Lived()
        live(partial(life, found=found), seed, **settings)
        complaints += [f"{life.__name__}, seed {seed}: {each}" for each in found.complaints]
        figures.append(f"{life.__name__}: {found.figures}")
    return Verdict("; ".join(figures), complaints)


class Lived(Audit):
    """What a life showed, with a word for the table."""

    figures = "ok"


async def the_window_closes(world: VirtualWorld, found: Lived) -> None:
    """One answer cannot be sent, one cannot be made, for a day and more: both end, and nothing is sent any more."""
    world.wire.down = {"whatsapp"}
    await world.say("whatsapp", "4915100001", "hello")
    await asyncio.sleep(30)
    world.model.down = "http_500"
    await world.say("telegram", "1001", "hello")
    await asyncio.sleep(23.5 * HOUR)
    waited = await world.pending()
    await asyncio.sleep(0.5 * HOUR)
    world.wire.down, world.model.down = set(), ""
    await asyncio.sleep(600)
    rows = await world.rows("SELECT outcome FROM inbound")
    found.demand(waited == 2, f"{waited} waited after 23.5 hours")
    found.demand(rows == [("window_closed",)] * 2, f"outcomes {rows}")
    found.demand(world.telegram.texts("1001") == [wording.PLEASE_WAIT], "something was sent to Telegram after the end")
    found.demand(not world.people["whatsapp"].texts("4915100001"), "something was sent to WhatsApp after the end")
    found.demand(await world.pending() == 0, "something still waits")
    found.figures = f"{len(world.model.calls)} model calls in a day"


async def a_new_day(world: VirtualWorld, found: Lived) -> None:
    """Over budget: one polite sentence a day, and answers again from midnight on."""
    world.ahead = round(23.9 * HOUR * 1000)
    for number in range(6):
        await world.say("messenger", "2001", f"question {number}")
        await asyncio.sleep(20)
    said = world.people["messenger"].texts("2001")
    found.demand(said.count(wording.OVER_BUDGET) == 1 and len(said) < 6, f"before midnight: {said}")
    await asyncio.sleep(0.1 * HOUR)
    await world.say("messenger", "2001", "good morning")
    await asyncio.sleep(60)
    found.demand(world.people["messenger"].texts("2001")[len(said):] == ["an answer"], "no answer on the new day")


async def retention(world: VirtualWorld, found: Lived) -> None:
    """What is older than RETENTION_DAYS goes; what is younger stays."""
    await world.say("instagram", "3001", "an old secret")
    await asyncio.sleep(60)
    world.ahead += round(12 * HOUR * 1000)
    await world.say("instagram", "3001", "a young one")
    await asyncio.sleep(60)
    world.ahead += round(13 * HOUR * 1000)
    await asyncio.sleep(180)
    texts = [text for text, in await world.rows("SELECT text FROM inbound")]
    found.demand("an old secret" not in texts, "the old message is still there")
    found.demand("a young one" in texts, "the young message is gone")
    turns, = (await world.rows("SELECT count(*) FROM turn"))[0]
    found.demand(turns == 1, f"{turns} turns are left")


async def set_back(world: VirtualWorld, found: Lived) -> None:
    """The clock is set back an hour in the middle of an outage: nobody waits for that hour."""
    world.model.down = "http_500"
    for number in range(8):
        await world.say("telegram", str(4001 + number), "hello")
    await asyncio.sleep(300)
    world.ahead -= round(HOUR * 1000)
    world.model.down = ""
    took = await world.until_settled(2 * HOUR)
    found.demand(took <= 180, f"answered only {took:.0f} s after the end of the outage")
    found.demand(all("an answer" in world.telegram.texts(str(4001 + number)) for number in range(8)), "no answer")
    found.figures = f"answered after {took:.0f} s"


async def set_ahead(world: VirtualWorld, found: Lived) -> None:
    """The clock is set ahead by 25 hours while two messages wait: their windows are over, new ones are answered."""
    world.model.down = "http_500"
    await world.say("telegram", "5001", "hello")
    await asyncio.sleep(120)
    world.ahead += round(25 * HOUR * 1000)
    await asyncio.sleep(120)
    world.model.down = ""
    await world.say("telegram", "5002", "hello")
    took = await world.until_settled(HOUR)
    found.demand(took <= 180, f"settled only after {took:.0f} s")
    rows = dict(await world.rows("SELECT chat, outcome FROM inbound"))
    found.demand(rows == {"5001": "window_closed", "5002": "replied"}, f"outcomes {rows}")


async def stalled(world: VirtualWorld, found: Lived) -> None:
    """One instance freezes while the model thinks, its lease passes, another takes over; then the first wakes up."""
    slow = VirtualModel(world.now, world.settings)
    other = replace(world.kit, model=slow, purse=Purse(world.settings))
    world.model.latency = slow.latency = 60.0
    world.model.reply = lambda messages: "too late"
    second = Dispatcher(other, "second")
    await world.say("telegram", "7001", "hello")
    await asyncio.sleep(5)
    world.store.asleep = True  # the first one's heartbeat stops
    running = asyncio.ensure_future(second.run())
    await asyncio.sleep(120)
    await second.stop()
    await running
    world.store.asleep = False
    texts, turns = world.telegram.texts("7001"), await world.rows("SELECT text FROM turn")
    found.demand(texts == ["an answer"] and turns == [("an answer",)], f"texts {texts}, turns {turns}")
    found.demand(len(world.model.calls) == 1, f"the first instance asked {len(world.model.calls)} times")


async def suspended(world: VirtualWorld, found: Lived) -> None:
    """The machine sleeps for ten minutes while answers are made and sent: none is made or sent twice."""
    world.model.latency, world.wire.latency = 5.0, 5.0
    for number in range(8):
        await world.say("telegram", str(6001 + number), "hello")
        await asyncio.sleep(1)
    for nap in range(6):
        world.ahead += 600_000
        await world.say("telegram", str(6101 + nap), "hello")  # wakes the dispatcher
        await asyncio.sleep(1)
    await world.until_settled(HOUR)
    texts = [len(world.telegram.texts(chat)) for chat in world.telegram.chats]
    found.demand(texts == [1] * 14, f"texts by chat: {texts}")
    found.demand(len(world.model.calls) == 14, f"{len(world.model.calls)} model calls for 14 messages")
