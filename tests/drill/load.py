"""Much at once: slow neighbours, a backlog, repeats in disorder, a million broken payloads.

Not here: the door's own limits (`host.py`, `garbage.py`). The law: whoever is slow waits alone; what was delivered five
times is answered once; a backlog costs disk, not memory; and nothing that a payload may hold is a fault of ours.

Next: `mutants.py`.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

from minibot.app import CHANNELS
from minibot.config import load
from minibot.desk.simulator import Answered, Fault, Webhook
from minibot.errors import Unreadable
from minibot.model import PLATFORMS, Ignored, Inbound, Me, Odd
from minibot.store.sqlite import SqliteStore
from tests.botprocess import ROOT, BotProcess
from tests.drill.host import memory
from tests.drill.house import TOKEN, Crowd, Say, Verdict, audit, settle, stage
from tests.fakes import SECRETS
from tests.platforms import batch
from tests.replay import own_plays, rewritten

OTHERS = ("telegram", "whatsapp")


def slow_neighbours(say: Say, rounds: int = 150, slow: float = 60.0) -> Verdict:
    """T11: an answer that takes a minute, a platform that says nothing, a CRM at a byte a second; the others go on."""
    with stage(AI_TIMEOUT_SECONDS="90") as bot:
        usual = _latencies(bot, rounds, say)
    with stage(start=False, AI_TIMEOUT_SECONDS="90") as bot:
        bot.settings["CRM_WEBHOOK_URL"] = f"{bot.world.url}/crm"
        bot.world.pages["/crm"] = lambda seen: Answered(200, {}, b"thank you, " * 100, "drip")
        bot.start()
        lazy = _lazy(bot, slow)
        bot.world.people["instagram"].rule = lambda name: Fault("hang", name)
        bot.say("messenger", "1", "slow")
        for number in range(40):
            bot.say("instagram", str(900 + number), "hello")
        disturbed = _latencies(bot, rounds, say)
        lazy.set()
        bot.world.people["instagram"].rule = lambda name: None
        late = bot.until(lambda: bot.world.people["messenger"].texts("1"), slow + 30, "the slow answer")
    ratio = disturbed[99] / usual[99]
    fine = ratio <= 1.2 or disturbed[99] - usual[99] < 0.02
    return Verdict(f"p50 {1000 * usual[50]:.0f} -> {1000 * disturbed[50]:.0f} ms, p99 {1000 * usual[99]:.0f} -> "
                   f"{1000 * disturbed[99]:.0f} ms ({ratio:.2f} times)",
                   ([] if fine else [f"p99 is {ratio:.2f} times the usual"]) + ([] if late else ["no slow answer"]))


def _lazy(bot: BotProcess, seconds: float) -> threading.Event:
    """The model takes its time for whoever says "slow"; set the event to end that."""
    over, answer = threading.Event(), bot.world.model.open
    wait = answer.wait

    def waiting(timeout: float | None = None) -> bool:
        asked = json.dumps(bot.world.model.prompts[-1]) if bot.world.model.prompts else ""
        if "slow" in asked:
            over.wait(seconds)
        return wait(timeout)

    answer.wait = waiting  # type: ignore[method-assign]
    return over


def _latencies(bot: BotProcess, rounds: int, say: Say) -> dict[int, float]:
    """Seconds from a message to its answer: the median and the 99th percentile."""
    took = []
    for number in range(rounds):
        platform, chat = OTHERS[number % 2], str(50_000 + number % 20)
        people = bot.world.people[platform]
        before, begun = len(people.texts(chat)), time.monotonic()
        bot.say(platform, chat, f"question {number}")
        assert bot.world.wait(lambda: len(people.texts(chat)) > before, 30), "no answer"
        took.append(time.monotonic() - begun)
        say(f"{number + 1}/{rounds} messages")
    took.sort()
    return {50: took[len(took) // 2], 99: took[int(len(took) * 0.99)]}


def repeats_in_disorder(say: Say, chats: int = 60, each: int = 20, seed: int = 1) -> Verdict:
    """T14: every event one to five times, shuffled within a minute of platform time, in batches of up to 1,000."""
    chance = random.Random(seed)
    with stage(start=False) as bot:
        crowd = Crowd(bot.world, chats, seed)
        deliveries = list[tuple[float, str, Webhook]]()
        for turn in range(each):
            for number, (platform, _) in enumerate(crowd.chats):
                bot.world.clock_ahead = -60_000 + turn * 60_000 // each
                token, webhook = crowd.webhook(number)
                crowd.acked.add(token)
                deliveries += [(chance.random(), platform, webhook) for _ in range(chance.randint(1, 5))]
        bot.world.clock_ahead = 0
        deliveries.sort(key=lambda one: one[0])
        posts = [webhook for _, platform, webhook in deliveries if platform == "telegram"]
        for platform in PLATFORMS[1:]:
            queue = [webhook for _, name, webhook in deliveries if name == platform]
            while queue:
                size = chance.choice((1, 1, 10, 100, 1000))
                posts.append(batch(bot.world.people[platform], queue[:size]))
                del queue[:size]
        chance.shuffle(posts)
        bot.world.model.hold()
        bot.start()
        with ThreadPoolExecutor(8) as pool:
            for number, _ in enumerate(pool.map(bot.world.deliver, posts), 1):
                say(f"{number}/{len(posts)} posts of {len(deliveries)} deliveries")
        bot.world.model.release()
        settle(bot, 120)
        bot.term()
        found = audit(crowd, bot.database, bound=0)
        found.demand(found.messages == chats * each, f"{found.messages} messages are stored")
        answers = bot.rows("SELECT text FROM turn WHERE kind = 'answer'")
        tokens = [[float(token[1:-1].split(".")[1]) for token in TOKEN.findall(text)] for text, in answers]
        found.demand(all(one == sorted(one) for one in tokens), "a turn is not in the order of the platform's time")
        return Verdict(f"{len(deliveries)} deliveries of {chats * each} messages in {len(posts)} posts, {len(answers)} "
                       "answers", [f"seed {seed}: {each_}" for each_ in found.complaints])


def backlog(say: Say, chats: int = 5000, each: int = 20, stuck: int = 50_000) -> Verdict:
    """T13: 100,000 messages wait in 5,000 chats and 50,000 more in one; then the bot is started."""
    with stage(start=False) as bot:
        crowd = Crowd(bot.world, chats + 1, platforms=("telegram",))
        crowd.long = frozenset()
        claim = asyncio.run(_stored(bot, crowd, chats, each, stuck, say))
        bot.world.reports = False
        begun = time.monotonic()
        bot.start()
        most, total = 0, chats * each + stuck
        while b'"pending": 0' not in bot.get("/healthz")[1]:
            most = max(most, memory(bot))
            say(f"{memory(bot)} MB, {len(bot.world.model.bodies)} answers")
            time.sleep(0.5)
            bot.world.model.bodies.clear()
            bot.world.model.prompts.clear()
            bot.world.seen.clear()
        rate = total / (time.monotonic() - begun)
        bot.term()
        found = audit(crowd, bot.database, bound=0)
        found.demand(most < 200, f"{most} MB")
        found.demand(claim < 0.005, f"a claim takes {1000 * claim:.1f} ms")
        found.demand(rate >= 200, f"{rate:.0f} messages a second")
        return Verdict(f"{total} messages: {most} MB, a claim {1000 * claim:.1f} ms, {rate:.0f} messages a second",
                       found.complaints)


async def _stored(bot: BotProcess, crowd: Crowd, chats: int, each: int, stuck: int, say: Say) -> float:
    """Store the backlog; seconds that claiming one conversation then takes (median)."""
    settings, _ = load({**bot.settings, "DATABASE_URL": f"sqlite:///{bot.database}"})
    now = time.time_ns() // 1_000_000
    store = SqliteStore(settings, now, floor=0)
    waiting = [(number, turn) for turn in range(each) for number in range(chats)]
    waiting += [(chats, turn) for turn in range(stuck)]
    account = settings.telegram_bot_token.reveal().split(":")[0]
    for at in range(0, len(waiting), 5000):
        events = [_message(crowd, account, number, turn, now) for number, turn in waiting[at:at + 5000]]
        await store.accept(events, now)
        say(f"{at} stored")
    took = []
    for _ in range(21):
        begun = time.perf_counter()
        await store.claim("drill", now + 1000, 1, 1)
        took.append(time.perf_counter() - begun)
    await store.close(now)
    return sorted(took)[10]


def _message(crowd: Crowd, account: str, number: int, turn: int, now: int) -> Inbound:
    token, chat = f"[{number}.{turn + 1}]", crowd.chats[number][1]
    crowd.acked.add(token)
    crowd.world.telegram.chats[chat] = {"id": int(chat), "type": "private", "first_name": "Ada"}
    return Inbound("telegram", account, chat, f"update:{number}-{turn}", "ask", f"question {token}", person=chat,
                   message_id=str(turn), sent_at=now - 1000)


def fuzz(say: Say, payloads: int = 1_000_000, over_http: int = 50_000) -> Verdict:
    """T16: payloads with wrong values everywhere, read in this process and posted to a running bot."""
    with ProcessPoolExecutor(2) as pool:
        counted, complaints, slowest = Counter[str](), list[str](), 0.0
        step = 10_000
        for number, (kinds, wrong, longest) in enumerate(pool.map(_read_mutants, *zip(*(
                (platform, seed, step // 4) for seed in range(payloads // step) for platform in PLATFORMS))), 1):
            counted += kinds
            complaints += wrong
            slowest = max(slowest, longest)
            say(f"{number * step // 4} read, {len(complaints)} complaints")
    say(f"{over_http} over HTTP")
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", "tests/test_mutated.py"], cwd=ROOT, text=True,
                          env={**os.environ, "MINIBOT_MUTATIONS": str(over_http // 4)}, capture_output=True)
    if done.returncode:
        complaints.append(f"over HTTP: {done.stdout[-1500:]}")
    if slowest > 0.05:
        complaints.append(f"one payload took {slowest:.2f} s")
    return Verdict(f"{payloads} payloads, {counted.total()} events ({counted['Odd']} odd, {counted['Ignored']} "
                   f"ignored), at most {1000 * slowest:.0f} ms; {over_http} over HTTP", complaints)


def _read_mutants(platform: str, seed: int, count: int) -> tuple[Counter[str], list[str], float]:
    """Read `count` mutants: how many events of which kind, complaints, the longest time."""
    from tests.test_mutated import mutated

    settings, _ = load({**SECRETS, "META_PHONE_NUMBER_ID": "106540352242922"})
    channel, dice = CHANNELS[platform](settings), random.Random(f"{platform}{seed}")
    plays = [play.document for play, _ in own_plays(platform)]
    kinds, complaints, longest = Counter[str](), list[str](), 0.0
    for _ in range(count):
        body = mutated(rewritten(dice.choice(plays), lambda path, value: value), dice)
        begun = time.thread_time()  # of a busy machine's waits none is ours
        try:
            events = channel.parse(body, Me(channel.account, "Mini_Test_Bot"))
        except Unreadable:
            events = [Odd(platform, "", "", "")]
        except Exception as fault:  # that there is none is the promise
            complaints.append(f"{platform}, seed {seed}: {type(fault).__name__}: {fault} for {body[:300]!r}")
            continue
        longest = max(longest, time.thread_time() - begun)
        kinds.update(type(event).__name__ for event in events)
        assert all(isinstance(event.why, str) for event in events if isinstance(event, Odd | Ignored))
    return kinds, complaints, longest
