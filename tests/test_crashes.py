"""kill -9 between the steps of a message's way, under load, and clean stops; the long runs are in `drill/`.

Most of the time of a life goes by while it loads the model's package, so all the drills of this file run side by side.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from tests.drill import crash

# The steps of a message: taken, asked, answered, being sent, sent. Each line is one bot that dies at one
# point after the other; `python -m tests.drill points` enumerates all there are.
STEPS = (("migrate:committed", "accept:committed", "finish:commit", "call:telegram sendMessage:before"),
         ("call:model:after", "call:telegram sendMessage:after", "settle:commit"))
LITTLE: dict[str, Any] = {"posters": 2, "platforms": ("telegram",)}


def quiet(words: str) -> None:
    """No progress in a test."""


@pytest.fixture(scope="module")
def runs() -> Iterator[dict[str, Future[Any]]]:
    """All of it, under way."""
    with ThreadPoolExecutor(3) as pool:
        yield {"poison": pool.submit(crash.poison, quiet, chats=4, platforms=("telegram",), pause=0.1),
               **{f"steps {at}": pool.submit(crash.die_at, *steps, rounds=99, platforms=("telegram",))
                  for at, steps in enumerate(STEPS)},
               "kills": pool.submit(crash.kills_under_load, quiet, kills=2, **LITTLE),
               **({"stops": pool.submit(crash.clean_stops, quiet, stops=2)} if sys.platform != "win32" else {})}


def test_a_kill_between_two_steps_loses_nothing_and_repeats_only_what_was_in_flight(runs: dict[str, Any]) -> None:
    ended = [runs[f"steps {at}"].result() for at in range(len(STEPS))]
    assert [run.found.complaints for run in ended] == [[], []]
    assert [tuple(run.points) for run in ended] == [*STEPS]


def test_a_message_that_kills_the_process_is_given_up_and_all_others_are_answered(runs: dict[str, Any]) -> None:
    assert not runs["poison"].result().complaints


def test_kills_under_load_lose_nothing(runs: dict[str, Any]) -> None:
    assert not runs["kills"].result().complaints


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM")
def test_clean_stops_under_load_lose_and_repeat_nothing(runs: dict[str, Any]) -> None:
    assert not runs["stops"].result().complaints
