"""The process dies: at every point where something becomes true, at random under load, and on request.

Not here: the disk (`disk.py`). The law: the platforms deliver again until they get a 200, the bot is started again,
and then the audit of `house.py` must find nothing; a repeated delivery is excused for each part that was in flight
when the process died, and for each injected fault that left a send unsure.

Next: `disk.py`.
"""

from __future__ import annotations

import json
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

from minibot.desk.simulator import AFTER, Answered, Fault
from minibot.model import PLATFORMS
from tests.botprocess import BotProcess
from tests.drill.house import (
    Audit, Crowd, Say, Verdict, audit, copy_of_minibot, in_flight, seconds_to_start, settle, stage)

ROUNDS = 2
REACHED = re.compile(r"CRASH_AT reached: (\S.*)")


class Killed:
    """What one run with planned deaths showed."""

    def __init__(self, points: list[str], bound: int, found: Audit) -> None:
        self.points, self.bound, self.found = points, bound, found


def die_at(*points: str, program: Path | None = None, chats: int = 4, rounds: int = ROUNDS,
           platforms: tuple[str, ...] = PLATFORMS) -> Killed:
    """A few conversations; each life of the process ends at one of `points`, the last life goes on to the end."""
    with stage(start=False, program=program) as bot:
        crowd, bound, reached = Crowd(bot.world, chats, platforms=platforms), 0, list[str]()
        talk = threading.Thread(target=_talk, args=(crowd, rounds))
        bot.world.bot_url = "http://127.0.0.1:9"  # where nobody listens yet
        bot.world.model.delay = 0.02
        for life, point in enumerate([*points, ""]):
            _start(bot, point)
            if life + 1 >= len(points):
                crowd.stopped.set()  # the conversations come to their end
            if life == 0:
                talk.start()
            while point and not bot.exited and (talk.is_alive() or not crowd.answered()):
                time.sleep(0.02)
            if point and not bot.exited and bot.term() == 0:  # it was not reached: neither before nor in the stop
                bot.start()
                break
            reached += REACHED.findall(bot.log)[len(reached):]
            bound += in_flight(bot.database) if point else 0
        talk.join()
        settle(bot)
        assert bot.term() == 0, bot.log[-2000:]
        found = audit(crowd, bot.database, bound)
        found.demand(len(crowd.acked) == sum(crowd.written.values()), "a message was not acknowledged")
        found.demand("Traceback" not in bot.log, f"a traceback: {bot.log[-1500:]}")
        return Killed(reached, bound, found)


def _start(bot: BotProcess, point: str) -> None:
    """Start it; it may die before it listens."""
    try:
        bot.start({"CRASH_AT": point} if point else None)
    except AssertionError:
        if not bot.exited:
            raise


def _talk(crowd: Crowd, rounds: int) -> None:
    """In each round everybody writes, half of them only after their last answer; then a delivery is repeated."""
    for turn in range(rounds):
        if turn >= ROUNDS and crowd.stopped.is_set():
            return
        for number in range(len(crowd.chats)):
            if number % 2:
                crowd.world.wait(lambda: turn == 0 or f"[{number}.{turn}]" in crowd.answered_tokens(), 60)
            crowd.write(number)
            if turn:
                crowd.world.deliver(crowd.old[number])


def every_point(say: Say, workers: int = 4, program: Path | None = None) -> Verdict:
    """T3: n = 1, 2, 3 ... until runs end without reaching n."""
    complaints, seen, extra, bound, missed = list[str](), Counter[str](), 0, 0, 0
    for number, killed in enumerate(_in_order(workers, lambda number: die_at(str(number), program=program)), 1):
        missed = missed + 1 if not killed.points else 0
        seen.update(re.sub(r"\d+", "", point) for point in killed.points)
        extra, bound = extra + killed.found.extra, bound + killed.bound
        complaints += [f"point {number} ({killed.points}): {each}" for each in killed.found.complaints]
        say(f"{number} runs, {sum(seen.values())} points of {len(seen)} kinds, {len(complaints)} complaints")
        if missed == 3:
            break
    return Verdict(f"{sum(seen.values())} points of {len(seen)} kinds, {extra} repeated sends (excused {bound})",
                   complaints)


def _in_order(workers: int, run: Callable[[int], Killed]) -> Iterator[Killed]:
    """`run(1)`, `run(2)`, ... for ever; several at once, their results in order."""
    numbers = count(1)
    with ThreadPoolExecutor(workers) as pool:
        ahead = deque(pool.submit(run, next(numbers)) for _ in range(3 * workers))
        try:
            while True:
                yield ahead.popleft().result()
                ahead.append(pool.submit(run, next(numbers)))
        finally:
            for future in ahead:
                future.cancel()


def pairs_of_points(say: Say, pairs: int = 100, workers: int = 3, seed: int = 1) -> Verdict:
    """T3, take-over: the process dies at one point, and the next one at another while it takes over."""
    random_, complaints, extra, bound = random.Random(seed), list[str](), 0, 0
    chosen = [(str(random_.randint(1, 120)), str(random_.randint(1, 60))) for _ in range(pairs)]
    twice = 0
    with ThreadPoolExecutor(workers) as pool:
        for at, killed in enumerate(pool.map(lambda pair: die_at(*pair), chosen), 1):
            twice += len(killed.points) == 2
            extra, bound = extra + killed.found.extra, bound + killed.bound
            complaints += [f"{chosen[at - 1]} ({killed.points}): {each}" for each in killed.found.complaints]
            say(f"{at}/{pairs} pairs, {len(complaints)} complaints")
    return Verdict(f"{pairs} pairs, {twice} died twice, {extra} repeated sends (excused {bound})", complaints)


def kills_under_load(say: Say, kills: int = 200, faults: float = 0.0, seed: int = 1, posters: int = 4,
                     platforms: tuple[str, ...] = PLATFORMS, program: Path | None = None) -> Verdict:
    """T1 and (with faults) T2: kill -9 at random moments while 25 people write."""
    random_, ready, bound, limited = random.Random(seed), list[float](), 0, Limits()
    with stage(start=False, program=program, AI_TIMEOUT_SECONDS="3") as bot:
        crowd = Crowd(bot.world, 25, seed, platforms)
        limited.watch(bot)
        injected = inject(bot, faults, seed) if faults else Counter[str]()
        bot.world.delay = 0.01
        bot.start()
        with crowd.writing(posters, pause=0.02):
            for number in range(kills):
                if number % 3:  # two lives of three end at work, the third anywhere, also while it starts
                    _at_work(bot)
                time.sleep(random_.uniform(0.15, 1.5))
                bot.kill()
                bound += in_flight(bot.database)
                ready.append(seconds_to_start(bot))
                say(f"{number + 1}/{kills} kills, {len(crowd.acked)} acknowledged")
        calm(bot)
        settle(bot, 300)
        assert bot.term() == 0
        unsure = sum(injected[kind] for kind in AFTER)
        found = audit(crowd, bot.database, bound + unsure)
        found.demand("Traceback" not in bot.log, "a traceback in the log")
        found.complaints += limited.complaints()
        found.demand(found.lost <= min(found.maybe, 0.005 * found.parts), f"{found.lost} parts were never delivered")
        if found.maybe:  # in flight at two deaths: they are shown to the operator, who may have them sent again
            again = _retried(bot, crowd)
            found.demand(not again.lost, f"{again.lost} parts were never delivered, although tried again")
        return Verdict(
            f"{kills} kills, {len(crowd.acked)} acknowledged, {found.messages} stored, {found.parts} parts, "
            f"{found.extra} repeated (excused {bound} in flight + {unsure} unsure), at most {found.copies} copies, "
            f"{found.maybe} maybe, {found.lost} never delivered, ready in {statistics.median(ready):.2f} s (median)",
            [f"seed {seed}: {each}" for each in found.complaints])


def _at_work(bot: BotProcess) -> None:
    """Wait until this life asks the model; on a busy machine loading it takes longer than a life should last."""
    asked = bot.world.model.count
    bot.world.wait(lambda: bot.world.model.count > asked, 10)


def _retried(bot: BotProcess, crowd: Crowd) -> Audit:
    """`retry --all`, and what then is left."""
    bot.start()
    subprocess.run([sys.executable, str(bot.program), "retry", "--all"], cwd=bot.folder, env=bot.settings, check=True,
                   stdout=subprocess.DEVNULL)
    settle(bot)
    bot.term()
    return audit(crowd, bot.database, bound=0)


def inject(bot: BotProcess, share: float, seed: int) -> Counter[str]:
    """A `share` of all calls to model and platforms fails in one of many ways; counts the faults by kind."""
    random_, injected = random.Random(seed + 1), Counter[str]()
    kinds = ["429", "500", "reset", "reset_after", "half", "garbage", "html"] * 6 + ["hang", "hang_after"]

    def rule(name: str) -> Fault | None:
        if name not in ("send", "transcribe") or random_.random() >= share:
            return None
        kind = random_.choice(kinds)
        injected[kind] += 1
        return Fault(kind)

    def rule_of_the_model(name: str) -> Fault | None:
        kind = random_.choice(kinds)
        return Fault(kind) if random_.random() < share else None

    for people in bot.world.people.values():
        people.rule = rule
    bot.world.model.rule = rule_of_the_model
    return injected


def calm(bot: BotProcess) -> None:
    """No more faults."""
    for side in (*bot.world.people.values(), bot.world.model):
        side.rule = lambda name: None


class Limits:
    """Telegram's 429s and the sends after them: nobody may be written to again before the time is over."""

    def __init__(self) -> None:
        self.calls: list[tuple[float, str, float]] = []  # (when, chat, seconds to wait)

    def watch(self, bot: BotProcess) -> None:
        """Listen in on the fake Telegram."""
        answer = bot.world.telegram.answer

        def listening(method: str, path: str, query: str, headers: dict[str, str], body: bytes) -> Answered:
            replied = answer(method, path, query, headers, body)
            if path.endswith("/sendMessage"):
                wait = float(replied.headers.get("retry-after", 0)) if replied.status == 429 else 0.0
                self.calls.append((time.monotonic(), str(json.loads(body)["chat_id"]), wait))
            return replied

        bot.world.telegram.answer = listening  # type: ignore[method-assign, assignment]

    def complaints(self) -> list[str]:
        """Chats that were written to too early."""
        until: dict[str, float] = {}
        early = []
        for at, chat, wait in self.calls:
            if at < until.get(chat, 0.0):
                early.append(f"telegram {chat} was written to {until[chat] - at:.2f} s too early after a 429")
            until[chat] = at + wait
        return early


def poison(say: Say, chats: int = 12, seed: int = 1, platforms: tuple[str, ...] = PLATFORMS, pause: float = 0.01
           ) -> Verdict:
    """T12: one message kills the process whenever the model is about to be asked; it is started again each time."""
    with tempfile.TemporaryDirectory(prefix="drill-") as folder:
        program = copy_of_minibot(Path(folder), ("flow/conversation.py", "            prompt = list(step.history)", """\
            if any("poison" in item.inbound.text for item in run):
                __import__("os").kill(__import__("os").getpid(), 9)
            prompt = list(step.history)"""))
        with stage(start=False, program=program) as bot:
            crowd, deaths = Crowd(bot.world, chats, seed, platforms), 0
            bot.start()
            bot.world.model.delay = 0.02
            bot.say("telegram", "666", "poison")
            with crowd.writing(2, pause=pause):
                while "Sorry" not in "".join(bot.world.telegram.texts("666")) and deaths < 12:
                    if bot.exited:
                        deaths += 1
                        _start(bot, "")
                    say(f"{deaths} deaths, {len(crowd.acked)} acknowledged")
                    time.sleep(0.02)
            settle(bot)
            outcome = bot.rows("SELECT outcome FROM inbound WHERE text = 'poison'")
            given_up = sum(outcome.startswith("ai_failed") for outcome, in bot.rows("SELECT outcome FROM inbound"))
            bot.term()
            found = audit(crowd, bot.database, 10 * chats, fates=("replied", "merged", "ai_failed:poison"))
            found.demand(deaths <= 5, f"{deaths} deaths until it was given up")
            found.demand(outcome == [("ai_failed:poison",)] and given_up == 1, f"{outcome}, {given_up} given up")
            return Verdict(f"given up after {deaths} deaths, {len(crowd.acked)} others answered",
                           [f"seed {seed}: {each}" for each in found.complaints])


def clean_stops(say: Say, stops: int = 50, seed: int = 1) -> Verdict:
    """T6: SIGTERM and SIGINT under load: exit 0 within 10 s, nothing repeated, nothing lost."""
    random_, took = random.Random(seed), list[float]()
    with stage(start=False) as bot:
        crowd = Crowd(bot.world, 25, seed)
        bot.world.model.delay, bot.world.delay = 0.2, 0.05
        bot.start()
        codes = Counter[int]()
        with crowd.writing(4, pause=0.002):
            for number in range(stops):
                if number % 3:
                    _at_work(bot)
                time.sleep(random_.uniform(0.1, 0.8))
                begun = time.monotonic()
                assert bot.process
                bot.process.send_signal((signal.SIGTERM, signal.SIGINT)[number % 2])
                if number % 5 == 0:  # an impatient operator
                    bot.process.send_signal(signal.SIGTERM)
                codes[bot.wait(30)] += 1
                took.append(time.monotonic() - begun)
                bot.start()
                say(f"{number + 1}/{stops} stops, {len(crowd.acked)} acknowledged")
        settle(bot)
        codes[bot.term()] += 1
        found = audit(crowd, bot.database, bound=0)
        found.demand(codes.keys() == {0}, f"exit codes {dict(codes)}")
        found.demand(max(took) <= 10.0, f"a stop took {max(took):.1f} s")
        found.demand(not found.lost and "Traceback" not in bot.log, f"{found.lost} parts lost, or a traceback")
        return Verdict(f"{stops} stops, {len(crowd.acked)} acknowledged, {found.extra} repeated, {max(took):.2f} s",
                       [f"seed {seed}: {each}" for each in found.complaints])
