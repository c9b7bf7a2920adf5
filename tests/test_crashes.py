"""kill -9 between any two steps of a message's way, under load, and clean stops; the long runs are in `drill/`."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.drill import crash

# The steps of a message: taken, claimed, asked, answered, being sent, sent, settled; and start and stop.
# Each line is one bot that dies at one point after the other.
STEPS = (("migrate:commit", "accept:committed", "finish:commit", "call:telegram sendMessage:before", "claim:committed",
          "finish:committed", "call:model:after", "settle:committed", "close:commit"),
         ("migrate:committed", "accept:commit", "call:model:before", "settle:commit",
          "claim:commit", "call:telegram sendMessage:after", "refresh:commit", "close:committed"))


def quiet(words: str) -> None:
    """No progress in a test."""


def test_a_kill_between_any_two_steps_loses_nothing_and_repeats_only_what_was_in_flight() -> None:
    with ThreadPoolExecutor(2) as pool:
        runs = list(pool.map(lambda steps: crash.die_at(*steps, chats=4, rounds=99, platforms=("telegram",)), STEPS))
    assert [run.found.complaints for run in runs] == [[], []]
    assert [tuple(run.points) for run in runs] == [*STEPS]


def test_kills_under_load_lose_nothing() -> None:
    assert not crash.kills_under_load(quiet, kills=4, posters=2, platforms=("telegram",)).complaints


def test_a_message_that_kills_the_process_is_given_up_and_all_others_are_answered() -> None:
    assert not crash.poison(quiet, chats=4, platforms=("telegram",)).complaints


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM")
def test_clean_stops_under_load_lose_and_repeat_nothing() -> None:
    assert not crash.clean_stops(quiet, stops=3).complaints
