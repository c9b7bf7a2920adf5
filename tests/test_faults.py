"""Faults of clock, host and upstreams, in minutes of virtual or seconds of real time; the long runs are in `drill/`."""

from __future__ import annotations

import asyncio
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
