"""Promises of `flow/guard.py`: who is answered, how often, and for how much."""

import dataclasses

from minibot.config import Settings
from minibot.flow import wording
from minibot.flow.guard import LOOP_REPEATS, Purse, judge
from minibot.model import Inbound
from minibot.work import Conversation, Step, Usage, Waiting

NOW = 1_800_000_000_000
SETTINGS = Settings(messages_per_minute=3, daily_tokens_per_user=1000, daily_tokens=1500)


def waiting(count: int, person: str = "anna") -> tuple[Waiting, ...]:
    return tuple(Waiting(number, Inbound("telegram", "1", "chat", f"message:{number}", person=person), NOW)
                 for number in range(1, count + 1))


def step(messages: tuple[Waiting, ...], **usage: int) -> Step:
    conversation = Conversation(1, "telegram", "1", "chat")
    return Step(conversation, waiting=messages, usage=Usage(**{"recent": len(messages), **usage}))


def test_an_ordinary_message_is_answered() -> None:
    verdict = judge(step(waiting(1)), waiting(1), SETTINGS, NOW)
    assert len(verdict.answer) == 1 and not verdict.refused and not verdict.say


def test_messages_over_the_rate_are_refused_and_the_first_ones_answered() -> None:
    verdict = judge(step(waiting(5)), waiting(5), SETTINGS, NOW)
    assert [item.id for item in verdict.answer] == [1, 2, 3]
    assert verdict.refused == {4: "rate_limited", 5: "rate_limited"}
    assert verdict.say == wording.TOO_MANY


def test_the_polite_sentence_is_not_said_twice_a_day() -> None:
    told = dataclasses.replace(step(waiting(5)), usage=Usage(recent=5, told=True))
    assert judge(told, waiting(5), SETTINGS, NOW).say == ""


def test_messages_already_answered_in_this_minute_count() -> None:
    verdict = judge(step(waiting(2), recent=4), waiting(2), SETTINGS, NOW)
    assert [item.id for item in verdict.answer] == [1] and verdict.refused == {2: "rate_limited"}


def test_only_listed_people_are_answered_once_there_is_a_list() -> None:
    closed = dataclasses.replace(SETTINGS, allowed_users=frozenset({"berta"}))
    assert judge(step(waiting(1)), waiting(1), closed, NOW).refused == {1: "ignored:not_allowed"}
    assert judge(step(waiting(1, "berta")), waiting(1, "berta"), closed, NOW).answer


def test_a_listed_chat_lets_everybody_in_it_be_answered() -> None:
    closed = dataclasses.replace(SETTINGS, allowed_users=frozenset({"chat"}))
    assert judge(step(waiting(1)), waiting(1), closed, NOW).answer


def test_a_paused_conversation_is_left_to_the_person_who_took_over() -> None:
    paused = dataclasses.replace(step(waiting(1)), conversation=Conversation(1, "telegram", "1", "chat",
                                                                             paused_until=NOW + 1))
    assert judge(paused, waiting(1), SETTINGS, NOW).refused == {1: "paused"}


def test_two_bots_talking_to_each_other_fall_silent() -> None:
    assert judge(step(waiting(1), repeats=LOOP_REPEATS), waiting(1), SETTINGS, NOW).refused == {1: "ignored:bot_loop"}
    assert judge(step(waiting(1), repeats=LOOP_REPEATS - 1), waiting(1), SETTINGS, NOW).answer


def test_the_worst_case_of_a_call_is_checked_before_it_is_made() -> None:
    purse = Purse(SETTINGS)
    assert purse.reserve(step(waiting(1), person_tokens=900), "anna", 100)
    assert not purse.reserve(step(waiting(1), person_tokens=901), "berta", 100)


def test_calls_in_flight_count_against_the_days_budget() -> None:
    purse = Purse(SETTINGS)
    assert purse.reserve(step(waiting(1)), "anna", 900)
    assert not purse.reserve(step(waiting(1)), "anna", 200)
    assert not purse.reserve(step(waiting(1)), "berta", 700)
    assert purse.reserve(step(waiting(1)), "berta", 600)


def test_a_finished_call_gives_its_reservation_back() -> None:
    purse = Purse(SETTINGS)
    assert purse.reserve(step(waiting(1)), "anna", 1000)
    purse.give_back("anna", 1000)
    assert purse.reserve(step(waiting(1)), "anna", 1000)
