"""Faults of clock, host and upstreams, in minutes of virtual or seconds of real time; the long runs are in `drill/`."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable, Coroutine
from typing import Any, cast

from minibot.flow.dispatch import FEWEST, LANES, LONG_TURN, Dispatcher
from tests.drill import days
from tests.drill.days import Lived
from tests.drill.virtual import VirtualWorld, live


def quiet(words: str) -> None:
    """No progress in a test."""


def lived(life: Callable[[VirtualWorld, Lived], Coroutine[Any, Any, None]], **settings: Any) -> list[str]:
    found = Lived()
    live(lambda world: life(world, found), **settings)
    return found.complaints


# Clocks

def test_an_outage_of_the_model_uses_up_nobodys_message_and_tells_everybody_once() -> None:
    assert not days.outage_of_an_hour(quiet, chats=10, seconds=300).complaints


def test_a_clock_that_is_set_back_makes_nobody_wait_for_that_hour() -> None:
    assert not lived(days.set_back)


def test_a_clock_that_is_set_ahead_closes_windows_and_harms_nothing_else() -> None:
    assert not lived(days.set_ahead)


def test_a_machine_that_slept_makes_and_sends_no_answer_twice() -> None:
    assert not lived(days.suspended)


def test_an_instance_that_froze_writes_nothing_after_another_has_taken_over() -> None:
    assert not lived(days.stalled)


def test_over_the_daily_budget_one_polite_sentence_is_said_and_midnight_ends_it() -> None:
    assert not lived(days.a_new_day, DAILY_TOKENS_PER_USER="1000")


def test_what_is_older_than_the_retention_goes_and_the_rest_stays() -> None:
    assert not lived(days.retention, RETENTION_DAYS="1")


# The dispatcher

def test_while_the_store_refuses_to_hand_out_work_it_is_asked_once_a_second() -> None:
    refused = list[int]()

    async def full_disk(world: VirtualWorld) -> None:
        def point(name: str) -> None:
            if name == "claim:commit" and len(refused) < 5:
                refused.append(world.now())
                raise sqlite3.OperationalError("database or disk is full")

        await asyncio.sleep(0.3)  # the first look for work is over
        world.point = point
        await world.say("telegram", "5", "hello")
        await asyncio.sleep(10)
        assert not await world.pending()

    live(full_disk)
    assert all(later - earlier >= 1000 for earlier, later in zip(refused, refused[1:])) and len(refused) == 5


def test_a_conversation_that_is_claimed_again_before_its_first_worker_has_ended_keeps_the_second() -> None:
    faults = list[Any]()

    async def forgotten(world: VirtualWorld) -> None:
        world.loop.set_exception_handler(lambda loop, context: faults.append(context))
        world.model.latency, world.wire.latency = 0.1, 5.0
        await world.say("telegram", "5", "hello")
        await asyncio.sleep(1)
        await world.store.forget("5")  # while its answer is being sent
        world.model.latency = 20.0
        await world.say("telegram", "5", "again")
        await asyncio.sleep(10)
        assert [worker.asking is not None for worker in world.dispatcher.workers.values()] == [True]
        await world.until_settled(60)

    live(forgotten)
    assert not faults


def test_a_claim_that_leaves_somebody_out_is_not_taken_for_all_there_is() -> None:
    waits = list[int]()

    async def paused(world: VirtualWorld) -> None:
        world.model.latency = world.wire.latency = 0.05
        people = [("whatsapp", "4917011"), *[("telegram", str(100 + number)) for number in range(20)],
                  ("whatsapp", "4917022"), *[("telegram", str(200 + number)) for number in range(40)],
                  ("whatsapp", "4917033")]
        world.kit.breakers["telegram"].pause(world.now() + 3_600_000)
        for platform, chat in people:
            await world.say(platform, chat, "hi")
        await asyncio.sleep(5)
        asked, begun = len(world.model.calls), world.now()
        await asyncio.gather(*[world.say(platform, chat, "hi") for platform, chat in people])
        await asyncio.sleep(5)
        waits.extend(at - begun for at in world.model.calls[asked:])

    live(paused)
    assert len(waits) == 3 and max(waits) < 500


# Load

def test_a_busy_event_loop_gets_fewer_conversations_to_work_on_until_it_has_time_again() -> None:
    async def busy_then_idle() -> int:
        dispatcher = Dispatcher(cast(Any, None), "test")
        asyncio.get_running_loop().call_soon(time.sleep, 2 * LONG_TURN)
        await dispatcher.ease()
        lanes = dispatcher.lanes
        async with asyncio.timeout(30):
            while dispatcher.lanes < LANES:
                await dispatcher.ease()
        return lanes

    assert asyncio.run(busy_then_idle()) == FEWEST
